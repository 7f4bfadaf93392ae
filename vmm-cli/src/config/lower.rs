//! Step two: from values that can be read to a machine that makes sense.
//!
//! One module for each table of the file. Each reports what it finds to the same [`Faults`] and goes on with a value
//! that keeps the others going; the result counts only if nobody reported anything. What would follow from a mistake
//! already reported is not reported again.
//!
//! Whether tables, stack and the guest's segments fit together is not known here: `vmm_core::layout` checks that when
//! the guest's file has been read.

mod devices;
mod expect;
mod files;
mod guest;
mod layout;
mod limits;
mod memory;
mod paging;
mod ranges;
mod registers;
mod tss;

use std::path::Path;

use vmm_core::Gva;
use vmm_core::mode::{Mode, Ring};
use vmm_core::spec::{BootSpec, CpuidPolicy, Entry, HaltMeaning, MachineSpec, Unmapped};

use super::fault::{Fault, Faults};
use super::raw::{self, At, Document};
use super::source::Span;
use super::values::{EntryChoice, RingLevel};
use super::{Expect, File};
use memory::Regions;

/// The result, without the texts.
pub(super) struct Lowered {
    pub(super) machine: MachineSpec,
    pub(super) entry: EntryChoice,
    pub(super) guest: File,
    pub(super) loads: Vec<File>,
    pub(super) expect: Option<Expect>,
}

/// What the tables need to know of each other.
struct Context<'a> {
    raw: &'a Document,
    /// The mode, or `None` where it is missing: then nothing that depends on it is checked.
    mode: Option<Mode>,
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

/// Lowers the whole file. `directory` is what its paths are relative to.
pub(super) fn lower(raw: &Document, directory: &Path, faults: &mut Faults) -> Option<Lowered> {
    let mode = mode(raw, faults);
    let ring = raw.ring.as_ref().map_or(Ring::Kernel, |at| at.value.0);
    let mut cx = Context { raw, mode, ring, regions: Regions::default(), faults };

    check_ring(&mut cx, raw.ring.as_ref());
    let memory = memory::lower(&mut cx);
    let (devices, windows) = devices::lower(&mut cx);
    let tss_address = tss::lower(&mut cx, &windows);
    let paging = paging::lower(&mut cx);
    let (guest, entry, stack_top, arguments) = guest::lower(&mut cx, directory);
    let loads = files::loads(&mut cx, directory);
    let placement = layout::lower(&mut cx, stack_top);
    let registers = registers::presets(&mut cx);
    let limits = limits::lower(&mut cx);
    let expect = expect::lower(&mut cx);

    let boot_entry = match &entry {
        EntryChoice::Address(address) => Entry::Address(*address),
        EntryChoice::Segmented { segment, offset } => Entry::Segmented { segment: *segment, offset: *offset },
        EntryChoice::FromFile | EntryChoice::Symbol(_) => Entry::Address(Gva(0)),
    };
    let machine = MachineSpec {
        memory,
        tss_address,
        boot: BootSpec {
            mode: mode?,
            ring,
            entry: boot_entry,
            paging,
            sse: raw.sse.as_ref().map(|at| at.value),
            registers,
        },
        placement,
        devices,
        unmapped: match or(&raw.unmapped, raw::Unmapped::Ones) {
            raw::Unmapped::Ones => Unmapped::Ones,
            raw::Unmapped::Stop => Unmapped::Stop,
        },
        halt: match or(&raw.halt, raw::Halt::Success) {
            raw::Halt::Success => HaltMeaning::Success,
            raw::Halt::Hung => HaltMeaning::Hung,
        },
        limits,
        cpuid: match or(&raw.cpuid, raw::Cpuid::None) {
            raw::Cpuid::None => CpuidPolicy::None,
            raw::Cpuid::Host => CpuidPolicy::Host,
        },
        arguments,
    };
    Some(Lowered { machine, entry, guest: guest?, loads, expect })
}

fn mode(raw: &Document, faults: &mut Faults) -> Option<Mode> {
    let Some(mode) = &raw.mode else {
        if !faults.is_unread("mode") {
            let names = Mode::ALL.map(|mode| format!("\"{mode}\"")).join(", ");
            faults
                .push(Fault::in_file("`mode` is missing").help(format!("add `mode = ...`, one of {names}")));
        }
        return None;
    };
    Some(match mode.value {
        raw::Mode::Real => Mode::Real,
        raw::Mode::Protected => Mode::Protected,
        raw::Mode::Paged => Mode::Paged,
        raw::Mode::Pae => Mode::Pae,
        raw::Mode::Long => Mode::Long,
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
