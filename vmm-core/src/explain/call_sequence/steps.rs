//! Steps of the call sequence, in the order of [`Machine::build`](crate::machine::Machine::build).

use std::borrow::Cow;
use std::convert::Infallible;

use kvm_sys_wrap::bindings::{kvm_dtable, kvm_segment};
use kvm_sys_wrap::{Call, FileRange, Gpa};

use super::{Argument, ArgumentDirection, CallAction, CallFrequency, Field, SequenceStep, Value};
use super::{interrupts, memory};
use crate::initial_state::InitialState;
use crate::layout::{Layout, RangeOwner};
use crate::machine::build::{self, BuildSteps};
use crate::machine::host;
use crate::spec::mode::Ring;
use crate::spec::register::{Register, RegisterFile};
use crate::spec::{CpuidPolicy, Interrupts, MachineSpec, MemoryRegion};

/// Returns the call sequence of a machine. `mapped` are the files that its guest maps ([`crate::machine::image::GuestImage::mapped`]), `state` its initial
/// state ([`crate::initial_state::initial_state`]).
#[must_use]
pub fn flow(
    spec: &MachineSpec,
    layout: &Layout,
    mapped: &[(Gpa, FileRange)],
    state: &InitialState,
) -> Vec<SequenceStep> {
    let description = Description { spec, layout, mapped, state, steps: Vec::from(open()) };
    let Ok(mut steps) = build::build(description);
    steps.extend(run(spec));
    steps.extend(memory::fetch(spec, mapped));
    steps.extend(interrupts::idle_check(spec));
    steps
}

/// Executor of the build that describes each step instead of making its calls.
struct Description<'a> {
    spec: &'a MachineSpec,
    layout: &'a Layout,
    mapped: &'a [(Gpa, FileRange)],
    state: &'a InitialState,
    steps: Vec<SequenceStep>,
}

impl Description<'_> {
    fn add(&mut self, steps: impl IntoIterator<Item = SequenceStep>) -> Result<(), Infallible> {
        self.steps.extend(steps);
        Ok(())
    }
}

impl BuildSteps for Description<'_> {
    type Vm = ();
    type Vcpu = ();
    type Machine = Vec<SequenceStep>;
    type Error = Infallible;

    fn spec(&self) -> &MachineSpec {
        self.spec
    }

    fn create_vm(&mut self) -> Result<(), Infallible> {
        self.add([create_vm()])
    }

    fn set_tss_addr(&mut self, (): &(), address: Gpa) -> Result<(), Infallible> {
        self.add([set_tss_addr(address)])
    }

    fn add_slot(&mut self, (): &(), number: u32, region: &MemoryRegion) -> Result<(), Infallible> {
        self.add(memory::slot(number, region))
    }

    fn map_files(&mut self, (): &()) -> Result<(), Infallible> {
        self.add(self.mapped.iter().flat_map(|(address, range)| memory::overlay(*address, range)))
    }

    fn load_guest(&mut self, (): &()) -> Result<(), Infallible> {
        self.add(guest(self.layout))
    }

    fn create_interrupt_controllers(&mut self, (): &()) -> Result<(), Infallible> {
        self.add(interrupts::controllers(self.spec))
    }

    fn create_bsp(&mut self, (): &()) -> Result<(), Infallible> {
        self.add(create_bsp())
    }

    fn initial_state(&mut self, (): &()) -> Result<InitialState, Infallible> {
        self.add([reset_state_read()])?;
        Ok(self.state.clone())
    }

    fn write_tables(&mut self, (): &(), state: &InitialState) -> Result<(), Infallible> {
        self.add(tables(state))
    }

    fn set_cpuid(&mut self, (): &(), state: &InitialState) -> Result<(), Infallible> {
        self.add(cpuid(self.spec, state))
    }

    fn enter_mode(&mut self, (): &(), state: &InitialState) -> Result<(), Infallible> {
        self.add(mode(self.spec, state))
    }

    fn set_regs(&mut self, (): &(), state: &InitialState) -> Result<(), Infallible> {
        self.add([registers(self.spec, state)])
    }

    fn create_ap(&mut self, (): &(), id: u32, state: &InitialState) -> Result<(), Infallible> {
        self.add(interrupts::ap(self.spec, state, id))
    }

    fn attach_devices(
        mut self,
        (): (),
        (): (),
        _aps: Vec<()>,
        _state: InitialState,
    ) -> Result<Vec<SequenceStep>, Infallible> {
        self.add(interrupts::bios_pics(self.spec))?;
        self.add(interrupts::lines(self.spec))?;
        Ok(self.steps)
    }
}

impl SequenceStep {
    pub(super) fn call(call: Call, direction: ArgumentDirection, argument: Argument) -> Self {
        Self {
            act: CallAction::Call(call),
            argument,
            direction,
            returns: "0".into(),
            why: "".into(),
            times: CallFrequency::Once,
        }
    }

    /// Returns a check for an extension that the machine requires.
    pub(super) fn capability(name: &str, why: &'static str) -> Self {
        Self::call(Call::CheckExtension, ArgumentDirection::Into, value(name)).returns("1 or more").why(why)
    }

    pub(super) fn returns(mut self, returns: impl Into<Cow<'static, str>>) -> Self {
        self.returns = returns.into();
        self
    }

    pub(super) fn why(mut self, why: impl Into<Cow<'static, str>>) -> Self {
        self.why = why.into();
        self
    }

    pub(super) fn each_time(mut self, event: &'static str) -> Self {
        self.times = CallFrequency::Whenever(event);
        self
    }
}

pub(super) fn value(text: impl Into<String>) -> Argument {
    Argument::Value(text.into())
}

/// Returns step 1: /dev/kvm.
fn open() -> [SequenceStep; 2] {
    [
        SequenceStep::call(Call::OpenDevKvm, ArgumentDirection::Into, value("O_RDWR | O_CLOEXEC"))
            .returns("the descriptor of the subsystem")
            .why("all other calls need it; permission to open it is permission to run machines"),
        SequenceStep::call(Call::GetApiVersion, ArgumentDirection::None, Argument::None)
            .returns("12")
            .why("every kernel since 2.6.22 has version 12; any other is refused"),
    ]
}

/// Returns step 2: the VM.
fn create_vm() -> SequenceStep {
    SequenceStep::call(Call::CreateVm, ArgumentDirection::Into, value("type 0"))
        .returns("the descriptor of the VM")
        .why("an empty machine: no memory, no CPU")
}

/// Returns step 3: the TSS pages.
fn set_tss_addr(address: Gpa) -> SequenceStep {
    SequenceStep::call(Call::SetTssAddr, ArgumentDirection::Into, value(address.to_string())).why(
        "three pages for KVM's own use: Intel hosts without \"unrestricted guest\" run real mode as \
         virtual-8086 code and need a TSS there; other hosts accept and ignore it",
    )
}

/// Returns the copy of the guest's files to memory.
fn guest(layout: &Layout) -> Option<SequenceStep> {
    let owned = |owner: &RangeOwner| match owner {
        RangeOwner::Guest(name) => Some(name.clone()),
        RangeOwner::Memory(_)
        | RangeOwner::TssPages
        | RangeOwner::IdentityMap
        | RangeOwner::Device(_)
        | RangeOwner::Firmware(_)
        | RangeOwner::Part(_) => None,
    };
    let written: Vec<String> = layout
        .ranges()
        .iter()
        .filter_map(|placed| Some(format!("{} at {}", owned(&placed.owner)?, placed.range.start())))
        .collect();
    (!written.is_empty()).then(|| SequenceStep {
        act: CallAction::WriteMemory,
        argument: value(written.join(", ")),
        direction: ArgumentDirection::Into,
        returns: "".into(),
        why: "the program: the segments of the guest's files".into(),
        times: CallFrequency::Once,
    })
}

/// Returns steps 5 and 6: the vCPU and its struct kvm_run.
fn create_bsp() -> [SequenceStep; 3] {
    [
        SequenceStep::call(Call::CreateVcpu, ArgumentDirection::Into, value("id 0"))
            .returns("the descriptor of the vCPU")
            .why("a CPU in its reset state: real mode, about to execute at f000:fff0"),
        SequenceStep::call(Call::GetVcpuMmapSize, ArgumentDirection::None, Argument::None)
            .returns("a size in bytes: struct kvm_run and what follows it")
            .why("how much to map in the next call"),
        SequenceStep::call(
            Call::MmapRun,
            ArgumentDirection::Into,
            Argument::Later("that size, shared, on the vCPU's descriptor".to_owned()),
        )
        .returns("the address of struct kvm_run")
        .why("struct kvm_run: exit reason and I/O data, shared with the kernel"),
    ]
}

/// Returns the read of the reset state.
fn reset_state_read() -> SequenceStep {
    let fields = vec![
        words("cs", "f000, base 0xffff0000"),
        number_field("cr0", crate::cpu::reset_state::sregs().cr0),
        words("...", "reset values"),
    ];
    SequenceStep::call(
        Call::GetSregs,
        ArgumentDirection::OutOf,
        Argument::Struct { name: "kvm_sregs", fields },
    )
    .why("registers that the mode does not decide keep the host's values, such as the APIC base")
}

/// Returns the copy of the tables to memory.
fn tables(state: &InitialState) -> Option<SequenceStep> {
    let written: Vec<String> =
        state.images.iter().map(|image| format!("{} at {}", image.name, image.gpa)).collect();
    (!written.is_empty()).then(|| SequenceStep {
        act: CallAction::WriteMemory,
        argument: value(written.join(", ")),
        direction: ArgumentDirection::Into,
        returns: "".into(),
        why: "the tables that the special registers will point at".into(),
        times: CallFrequency::Once,
    })
}

/// Returns the steps for CPUID; none for a machine without.
fn cpuid(spec: &MachineSpec, state: &InitialState) -> Vec<SequenceStep> {
    if !host::sets_cpuid(spec, &state.needs) {
        return Vec::new();
    }
    let features: Vec<&str> = state.needs.iter().map(|feature| feature.name()).collect();
    let has_apics = spec.interrupts != Interrupts::None;
    let (given, why) = match spec.cpuid {
        CpuidPolicy::Host => {
            ("all leaves".to_owned(), "cpuid = \"host\": the guest sees this host's CPU".to_owned())
        }
        CpuidPolicy::None if features.is_empty() && has_apics => (
            "the leaf that announces a local APIC".to_owned(),
            "without it KVM gives the APIC's timer no periodic and no deadline mode".to_owned(),
        ),
        CpuidPolicy::None if features.is_empty() => (
            "the leaves with the width of an address".to_owned(),
            "memory beyond 64 GiB needs addresses of more than the 36 bits that a CPU without CPUID has"
                .to_owned(),
        ),
        CpuidPolicy::None => (
            format!("the leaves that announce {}", features.join(" and ")),
            format!(
                "the page tables use {}, which KVM allows only if the guest's CPUID announces it",
                features.join(" and ")
            ),
        ),
    };
    let supported =
        SequenceStep::call(Call::GetSupportedCpuid, ArgumentDirection::Both, value("room for 256 leaves"))
            .returns("0, and the leaves that this host supports")
            .why("tells if the host has the features, and their leaves");
    let given = SequenceStep::call(Call::SetCpuid2, ArgumentDirection::Into, Argument::Later(given)).why(why);
    [supported].into_iter().chain(interrupts::deadline_timer(spec)).chain([given]).collect()
}

/// Returns step 7: the special registers.
fn mode(spec: &MachineSpec, state: &InitialState) -> [SequenceStep; 2] {
    let sregs = &state.sregs;
    let table = |table: &kvm_dtable| format!("{:#x}, limit {:#x}", table.base, table.limit);
    let fields = vec![
        words("cs", segment(&sregs.cs)),
        words("ds", segment(&sregs.ds)),
        words("ss", segment(&sregs.ss)),
        words("tr", segment(&sregs.tr)),
        words("gdt", table(&sregs.gdt)),
        words("idt", table(&sregs.idt)),
        number_field("cr0", sregs.cr0),
        number_field("cr3", sregs.cr3),
        number_field("cr4", sregs.cr4),
        number_field("efer", sregs.efer),
    ];
    let start = if !spec.boot.mode.is_protected() {
        "real mode at the entry's segment, not at the reset vector".to_owned()
    } else {
        let ring = if spec.boot.ring == Ring::User { ", ring 3" } else { "" };
        format!("{} mode{ring} in one step: a kernel would need dozens of instructions", spec.boot.mode)
    };
    [
        SequenceStep::call(
            Call::SetSregs,
            ArgumentDirection::Into,
            Argument::Struct { name: "kvm_sregs", fields },
        )
        .why(start),
        SequenceStep::call(
            Call::GetSregs,
            ArgumentDirection::OutOf,
            Argument::Struct {
                name: "kvm_sregs",
                fields: vec![words("...", "the same values, if the host accepted them")],
            },
        )
        .why(
            "a host that does not support the mode may silently clear a bit: compared before the guest runs",
        ),
    ]
}

/// Returns step 8: the general registers.
fn registers(spec: &MachineSpec, state: &InitialState) -> SequenceStep {
    let presets = Register::ALL.iter().filter(|register| {
        spec.boot.registers.iter().any(|(preset, _)| preset == *register)
            || matches!(register, Register::Rip | Register::Rsp | Register::Rflags)
    });
    let general = presets.map(|register| number_field(register.name(), state.regs.get(*register))).collect();
    SequenceStep::call(
        Call::SetRegs,
        ArgumentDirection::Into,
        Argument::Struct { name: "kvm_regs", fields: general },
    )
    .why("instruction pointer, stack pointer, flags and presets")
}

/// What a run begins and ends with where the kernel collects what the guest prints ([`crate::collect`]).
fn collect(spec: &MachineSpec) -> Option<([SequenceStep; 3], SequenceStep)> {
    let range = format!("port {}, 1 bytes", crate::machine::coalesced_pio::port(spec)?);
    let begin = [
        SequenceStep::capability(
            "KVM_CAP_COALESCED_MMIO",
            "which page of the area shared with the vCPU holds the ring",
        ),
        SequenceStep::capability("KVM_CAP_COALESCED_PIO", "coalesced port writes are an extension"),
        SequenceStep::call(Call::RegisterCoalescedMmio, ArgumentDirection::Into, value(range.clone()))
            .why("OUT to the debug console does not exit: bytes stay in the ring until the next exit"),
    ];
    let end = SequenceStep::call(Call::UnregisterCoalescedMmio, ArgumentDirection::Into, value(range))
        .why("from now on each OUT exits")
        .each_time("the run is over");
    Some((begin, end))
}

/// Returns step 9: the run.
fn run(spec: &MachineSpec) -> Vec<SequenceStep> {
    let mut steps = Vec::new();
    if let Some(time) = spec.limits.time {
        steps.push(SequenceStep {
            act: CallAction::SetTimer,
            argument: value(format!("{time:?}")),
            direction: ArgumentDirection::Into,
            returns: "".into(),
            why: "a guest in a loop makes no exits: the timer's signal ends KVM_RUN".into(),
            times: CallFrequency::Once,
        });
    }
    steps.extend(interrupts::idle_timer(spec));
    let (collect, end) = collect(spec).unzip();
    steps.extend(collect.into_iter().flatten());
    let mut run = SequenceStep::call(Call::Run, ArgumentDirection::None, Argument::None)
        .returns("0; the exit reason is in kvm_run")
        .why("the guest runs until it exits: port I/O, an address without memory, HLT or a shutdown");
    run.times = CallFrequency::UntilTheEnd;
    steps.push(run);
    steps.extend(end);
    if spec.devices.hypercall.is_some() {
        let fields = vec![
            words("linear_address", "the guest's pointer"),
            words("physical_address", "its translation"),
        ];
        steps.push(
            SequenceStep::call(
                Call::Translate,
                ArgumentDirection::Both,
                Argument::Struct { name: "kvm_translation", fields },
            )
            .why("hypercalls take virtual addresses, which are translated page by page through the guest's tables")
            .each_time("a hypercall is given an address"),
        );
    }
    let regs = Argument::Struct {
        name: "kvm_regs",
        fields: vec![words("rip", "where it halted"), words("rflags", "whether interrupts are on")],
    };
    let why = match spec.boot.ring {
        Ring::Kernel => "distinguishes a guest that has finished from one that waits for an interrupt",
        Ring::User => "ring 3 cannot execute HLT: the stub of the trap page that halted tells the vector",
    };
    let when = "the vCPU halts, if the kernel is older than 4.17: a newer one has them in kvm_run";
    steps.push(SequenceStep::call(Call::GetRegs, ArgumentDirection::OutOf, regs).why(why).each_time(when));
    steps
}

pub(super) fn number_field(name: &'static str, number: u64) -> Field {
    Field { name, value: Value::Number(number) }
}

pub(super) fn words(name: &'static str, words: impl Into<String>) -> Field {
    Field { name, value: Value::Words(words.into()) }
}

/// Describes a segment in a few words.
fn segment(segment: &kvm_segment) -> String {
    if segment.unusable != 0 || segment.present == 0 {
        return "unusable".to_owned();
    }
    let kind = match (segment.s, segment.type_ & 8, segment.l, segment.db) {
        (0, ..) => "TSS",
        (_, 0, ..) => "data",
        (_, _, 1, _) => "64-bit code",
        (_, _, _, 1) => "32-bit code",
        (..) => "16-bit code",
    };
    format!("{:#x} ({kind}, base {:#x})", segment.selector, segment.base)
}
