//! Step two: from values that can be read to a machine that makes sense.
//!
//! One module for each table of the file. Each reports what it finds to the same [`Faults`] and goes on with a value
//! that keeps the others going; the result counts only if nobody reported anything. What would follow from a mistake
//! already reported is not reported again.
//!
//! Whether tables, stack and the guest's segments fit together is not known here: `vmm_core::layout` checks that when
//! the guest's file has been read.

mod boot;
mod cpuid;
mod devices;
mod expect;
mod files;
mod guest;
mod layout;
mod limits;
mod memory;
mod paging;
mod platform;
mod processors;
mod ranges;
mod registers;
mod test;
mod tss;
mod virtio;

use std::path::Path;

use vmm_core::Gva;
use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{BootSpec, EntryPoint, GdtLayout, HaltPolicy, MachineSpec, ResetPolicy, UnmappedPolicy};
use vmm_loader::Loading;
use vmm_loader::boot::Protocol;

use super::fault::{Fault, Faults};
use super::raw::{self, At, Document};
use super::source::Span;
use super::test_plan::TestPlan;
use super::values::{EntryChoice, RingLevel};
use super::{Expect, File, FwCfgSource, Module, Start};
use memory::Regions;
pub(super) use test::MOST_CASES;

/// The result, without the texts.
pub(super) struct Lowered {
    pub(super) machine: MachineSpec,
    pub(super) entry: EntryChoice,
    pub(super) start: Start,
    pub(super) guest: File,
    pub(super) command_line: Option<String>,
    pub(super) modules: Vec<Module>,
    pub(super) loads: Vec<File>,
    pub(super) loading: Loading,
    pub(super) fw_cfg: Vec<FwCfgSource>,
    pub(super) expect: Option<Expect>,
    pub(super) test: Option<TestPlan>,
}

/// What the tables need to know of each other.
struct Context<'a> {
    raw: &'a Document,
    /// The mode, or `None` where the file decides on it, or where it cannot be read: then nothing that depends on it is
    /// checked.
    mode: Option<Mode>,
    /// How the guest is started, or `None` where the file decides.
    protocol: Option<Protocol>,
    ring: Ring,
    regions: Regions,
    faults: &'a mut Faults,
}

impl Context<'_> {
    fn fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// The value of a key that has to be there; a missing one is reported at its table, unless it is there and wrong.
    fn required<'v, T>(
        &mut self,
        value: &'v Option<At<T>>,
        table: &Span,
        key: &Key<'_>,
    ) -> Option<&'v At<T>> {
        if value.is_none() && !self.faults.is_unread(&key.path) {
            let missing = format!("`{}` is missing", key.name);
            self.fault(Fault::new(table, missing).help(format!("add it, such as `{}`", key.example)));
        }
        value.as_ref()
    }

    /// Whether the guest expects a PC around its CPU: all that have a boot protocol do. It decides on defaults.
    fn is_pc(&self) -> bool {
        self.protocol.is_some_and(|protocol| !protocol.is_plain())
    }

    fn mode_name(&self) -> &'static str {
        self.mode.map_or("this", Mode::name)
    }
}

/// A key that has to be there.
struct Key<'k> {
    path: String,
    name: &'k str,
    example: &'k str,
}

/// The value, or `default` where the key is left out.
fn or<T: Copy>(value: &Option<At<T>>, default: T) -> T {
    value.as_ref().map_or(default, |at| at.value)
}

/// Lowers the whole file. `directory` is what its paths are relative to; `decided` is what the guest's file has decided,
/// once it has been read.
pub(super) fn lower(
    raw: &Document,
    directory: &Path,
    decided: Option<Start>,
    faults: &mut Faults,
) -> Option<Lowered> {
    let start = boot::start(raw, decided, faults);
    let Start { protocol, mode } = start;
    let ring = raw.ring.as_ref().map_or(Ring::Kernel, |at| at.value.0);
    let mut cx = Context { raw, mode, protocol, ring, regions: Regions::default(), faults };

    check_ring(&mut cx, raw.ring.as_ref());
    boot::check(&mut cx);
    let memory = memory::lower(&mut cx);
    let (devices, windows, fw_cfg) = devices::lower(&mut cx, directory);
    let tss_address = tss::lower(&mut cx, &windows);
    let paging = paging::lower(&mut cx);
    let guest::Program { file: guest, entry, stack_top, arguments, command_line, modules } =
        guest::lower(&mut cx, directory);
    let loads = files::loads(&mut cx, directory);
    let loading = files::loading(&cx);
    let placement = layout::lower(&mut cx, stack_top);
    let registers = registers::presets(&mut cx);
    let limits = limits::lower(&mut cx);
    let expect = expect::lower(&mut cx);
    let test = test::lower(&mut cx);

    let boot_entry = match &entry {
        EntryChoice::Address(address) => EntryPoint::Address(*address),
        EntryChoice::Segmented { segment, offset } => {
            EntryPoint::Segmented { segment: *segment, offset: *offset }
        }
        EntryChoice::FromFile | EntryChoice::Symbol(_) => EntryPoint::Address(Gva(0)),
    };
    let (vcpus, interrupts) = processors::lower(&mut cx);
    let (cpuid, cpuid_changes) = cpuid::lower(&mut cx);
    let machine = MachineSpec {
        memory,
        tss_address,
        vcpus,
        interrupts,
        boot: BootSpec {
            // Nobody looks at it before it is known.
            mode: mode.unwrap_or(Mode::Long),
            ring,
            entry: boot_entry,
            paging,
            sse: raw.sse.as_ref().map(|at| at.value),
            registers,
            gdt_layout: match protocol {
                Some(Protocol::Linux) => GdtLayout::Linux,
                Some(_) | None => GdtLayout::Sysret,
            },
        },
        pinned: placement,
        devices,
        unmapped: match or(&raw.unmapped, raw::Unmapped::Ones) {
            raw::Unmapped::Ones => UnmappedPolicy::ReadOnes,
            raw::Unmapped::Stop => UnmappedPolicy::Stop,
        },
        halt: match or(&raw.halt, if cx.is_pc() { raw::Halt::Hung } else { raw::Halt::Success }) {
            raw::Halt::Success => HaltPolicy::Success,
            raw::Halt::Hung => HaltPolicy::Hung,
        },
        reset: match or(&raw.reset, raw::Reset::Failure) {
            raw::Reset::Failure => ResetPolicy::Failure,
            raw::Reset::Success => ResetPolicy::Success,
        },
        limits,
        cpuid,
        cpuid_changes,
        arguments,
    };
    let guest = guest?;
    Some(Lowered {
        machine,
        entry,
        start,
        guest,
        command_line,
        modules,
        loads,
        loading,
        fw_cfg,
        expect,
        test,
    })
}

/// Real mode has no privilege levels (SDM vol. 3, 5.5: they are a matter of protected mode).
fn check_ring(cx: &mut Context<'_>, ring: Option<&At<RingLevel>>) {
    if let (Some(ring), Some(Mode::Real)) = (ring, cx.mode)
        && ring.value.0 == Ring::User
    {
        let fault = Fault::new(&ring.span, "real mode has no rings");
        cx.fault(fault.help("leave `ring` out, or choose another mode"));
    }
}
