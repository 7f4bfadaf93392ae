//! The steps that a machine with interrupts has on top: its controllers, its other vCPUs, the lines of its devices, and
//! what stops the vCPUs that sleep in the kernel.

use kvm_sys_wrap::Call;

use super::steps::value;
use super::{Argument, ArgumentDirection, CallAction, CallFrequency, SequenceStep};
use crate::initial_state::InitialState;
use crate::machine::board;
use crate::machine::host;
use crate::spec::{Interrupts, MachineSpec};

/// Returns the query for the TSC deadline timer, for a machine with local APICs.
pub(super) fn deadline_timer(spec: &MachineSpec) -> Option<SequenceStep> {
    (spec.kernel_irqchip() != Interrupts::None).then(|| {
        let why = "whether the local APICs take deadlines: the leaves do not say, since it depends on whose they are";
        SequenceStep::capability("KVM_CAP_TSC_DEADLINE_TIMER", why)
    })
}

/// The controllers, before the first vCPU.
pub(super) fn controllers(spec: &MachineSpec) -> Vec<SequenceStep> {
    if spec.interrupts == Interrupts::None {
        return Vec::new();
    }
    let mut steps = match spec.kernel_irqchip() {
        // Those in this process need no call.
        Interrupts::None => Vec::new(),
        Interrupts::Split => vec![
            SequenceStep::capability("KVM_CAP_SPLIT_IRQCHIP", "local APICs alone are an extension"),
            SequenceStep::call(Call::EnableCapVm, ArgumentDirection::Into, value("KVM_CAP_SPLIT_IRQCHIP, 24 routes"))
                .why("each vCPU gets a local APIC with its timer; from now on HLT sleeps in the kernel"),
        ],
        Interrupts::Pc => vec![
            SequenceStep::capability("KVM_CAP_IRQCHIP", "interrupt controllers in the kernel are an extension"),
            SequenceStep::call(Call::CreateIrqchip, ArgumentDirection::None, Argument::None).why(
                "two PICs, an IOAPIC, and a local APIC for each vCPU to come; from now on HLT sleeps in the kernel",
            ),
            SequenceStep::capability("KVM_CAP_PIT2", "so is the timer of a PC"),
            SequenceStep::call(Call::CreatePit2, ArgumentDirection::Into, value("KVM_PIT_SPEAKER_DUMMY"))
                .why("the 8254 timer on interrupt input 0, and its speaker port"),
        ],
    };
    steps.push(SequenceStep::capability("KVM_CAP_X86_USER_SPACE_MSR", "whether unknown MSRs can be shown"));
    steps.push(
        SequenceStep::call(
            Call::EnableCapVm,
            ArgumentDirection::Into,
            value(if spec.has_userspace_irqchip() {
                "KVM_CAP_X86_USER_SPACE_MSR, unknown and refused MSRs"
            } else {
                "KVM_CAP_X86_USER_SPACE_MSR, unknown MSRs"
            }),
        )
        .why("a kernel that asks for an MSR which KVM does not have gets #GP; this way we learn of it"),
    );
    steps
}

/// Returns the steps for the application processor with this number.
pub(super) fn ap(spec: &MachineSpec, state: &InitialState, id: u32) -> Vec<SequenceStep> {
    let maximum = if id == 1 {
        SequenceStep::capability("KVM_CAP_MAX_VCPU_ID", "how high the numbers of vCPUs go")
            .returns("the first number that is too high")
    } else {
        SequenceStep::capability("KVM_CAP_MAX_VCPU_ID", "the same for this one")
    };
    let mut steps = vec![
        maximum,
        SequenceStep::call(Call::CreateVcpu, ArgumentDirection::Into, value(format!("id {id}")))
            .returns("the descriptor of the vCPU")
            .why("its number is its APIC ID; it waits until the guest starts it with INIT and SIPI"),
        SequenceStep::call(Call::GetVcpuMmapSize, ArgumentDirection::None, Argument::None)
            .returns("a size in bytes"),
        SequenceStep::call(
            Call::MmapRun,
            ArgumentDirection::Into,
            Argument::Later("that size, shared, on the vCPU's descriptor".to_owned()),
        )
        .returns("the address of its struct kvm_run"),
    ];
    if host::sets_cpuid(spec, &state.needs) {
        let given = Argument::Later(format!("the same, with APIC ID {id}"));
        steps.push(
            SequenceStep::call(Call::SetCpuid2, ArgumentDirection::Into, given)
                .why("a vCPU knows itself by it"),
        );
    }
    steps
}

/// The PICs as a BIOS leaves them.
pub(super) fn bios_pics(spec: &MachineSpec) -> Vec<SequenceStep> {
    let mut steps = Vec::new();
    if board::needs_bios_pics(spec) && spec.kernel_irqchip() == Interrupts::Pc {
        for (chip, base) in [(0, "0x8"), (1, "0x70")] {
            steps.push(
                SequenceStep::call(Call::GetIrqchip, ArgumentDirection::OutOf, value(format!("chip {chip}")))
                    .why("a PIC as it is after reset"),
            );
            steps.push(
                SequenceStep::call(
                    Call::SetIrqchip,
                    ArgumentDirection::Into,
                    value(format!("chip {chip}, vectors from {base}")),
                )
                .why("as a BIOS leaves it: kvm-unit-tests count on that"),
            );
        }
    }
    steps
}

/// The lines of the devices.
pub(super) fn lines(spec: &MachineSpec) -> Vec<SequenceStep> {
    let line = |(input, device): (u32, &str)| {
        SequenceStep::call(Call::Irqfd, ArgumentDirection::Into, value(format!("gsi {input}")))
            .why(format!("{device}: each write to the eventfd is an interrupt"))
    };
    board::lines(spec).into_iter().map(line).collect()
}

/// Returns the steps that stop a vCPU which halts in the kernel.
pub(super) fn idle_timer(spec: &MachineSpec) -> Vec<SequenceStep> {
    if spec.kernel_irqchip() == Interrupts::None {
        return Vec::new();
    }
    let mut steps: Vec<SequenceStep> = (0..spec.vcpus)
        .map(|_| {
            SequenceStep::capability(
                "KVM_CAP_IMMEDIATE_EXIT",
                "so that a signal to its thread stops the vCPU",
            )
        })
        .collect();
    steps.push(SequenceStep {
        act: CallAction::SetTimer,
        argument: value("10ms, then less and less often"),
        direction: ArgumentDirection::Into,
        returns: "".into(),
        why: "a machine that can never wake again makes no exits: now and then we look at it".into(),
        times: CallFrequency::Once,
    });
    steps
}

/// Returns the queries of the idle check.
pub(super) fn idle_check(spec: &MachineSpec) -> Vec<SequenceStep> {
    let chip = |call, why: &'static str| {
        SequenceStep::call(call, ArgumentDirection::Both, Argument::Later("a structure to fill".to_owned()))
            .why(why)
            .each_time("the first vCPU does not wake")
    };
    match spec.kernel_irqchip() {
        Interrupts::None => Vec::new(),
        Interrupts::Split => vec![
            chip(Call::GetMpState, "whether it halts"),
            chip(Call::GetLapic, "whether its timer will wake it"),
        ],
        Interrupts::Pc => vec![
            chip(Call::GetMpState, "whether it halts"),
            chip(Call::GetIrqchip, "whether a device could wake it"),
            chip(Call::GetLapic, "whether its timer will wake it"),
        ],
    }
}
