//! Finds mistakes that kill a guest at once, without running it.
//!
//! The initial state is computed as for a run, and the guest's files are laid over the initial memory. Then the checks
//! of an autopsy run on it: the first instruction can be fetched and executed, the stack is writable, there is no SSE
//! code while SSE is off, and interrupts are not enabled without an IDT.
//!
//! Only findings that are certain, or nearly so, are reported, and always as warnings. The wrong class of an ELF file
//! is an error of `prepare.rs`.

use vmm_core::Gpa;
use vmm_core::autopsy::preflight::{EntryCheck, Reachability};
use vmm_core::cpu::control_regs::{Cr0, Cr4};
use vmm_core::cpu::cpu_state::CpuState;
use vmm_core::cpu::reset_state;
use vmm_core::initial_state::{HostQuirks, StateError, StateProblem, TableImage, initial_state};
use vmm_core::layout::{Layout, LayoutPart, RangeOwner};
use vmm_core::machine::guest_state::GuestState;
use vmm_core::paging::walk::ReadMemory;
use vmm_core::spec::mode::{Mode, Ring};
use vmm_loader::{LoadPlan, SymbolKind};

use crate::config::Config;
use crate::diagnostic::Diagnostic;
use crate::prepare::{Files, Prepared};

/// Guest memory at the first instruction.
struct PlannedMemory<'a> {
    layout: &'a Layout,
    files: &'a Files,
    images: Vec<TableImage>,
}

impl ReadMemory for PlannedMemory<'_> {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Option<()> {
        let last = gpa.checked_add(u64::try_from(bytes.len().max(1)).ok()? - 1)?;
        if !self.layout.is_memory(gpa) || !self.layout.is_memory(last) {
            return None;
        }
        bytes.fill(0);
        for (file, plan) in self.files.contents() {
            for segment in plan.segments() {
                let start = usize::try_from(segment.file_offset).ok()?;
                let size = usize::try_from(segment.file_size).ok()?;
                let content = file.get(start..start.checked_add(size)?).unwrap_or_default();
                overlay(gpa, bytes, Gpa(segment.phys.0), content);
            }
        }
        for image in &self.images {
            overlay(gpa, bytes, image.gpa, &image.bytes);
        }
        Some(())
    }
}

/// Copies the overlap of `content` at `from` with `bytes` at `at`.
fn overlay(at: Gpa, bytes: &mut [u8], from: Gpa, content: &[u8]) {
    let offset = |high: u64, low: u64| usize::try_from(high.saturating_sub(low)).unwrap_or(usize::MAX);
    let (skip, into) = (offset(at.0, from.0), offset(from.0, at.0));
    let source = content.get(skip..).unwrap_or_default();
    for (byte, new) in bytes.iter_mut().skip(into).zip(source) {
        *byte = *new;
    }
}

/// Returns all warnings.
pub(crate) fn warnings(config: &Config, prepared: &Prepared) -> Vec<Diagnostic> {
    let Prepared { machine, layout, files, .. } = prepared;
    let state = match initial_state(&reset_state::sregs(), machine, layout, HostQuirks::default()) {
        Ok(state) => state,
        Err(StateError { problems }) => {
            let entry = |problem: &StateProblem| {
                let help = crate::help::for_state(problem);
                config.error_at("guest.entry", problem.to_string()).with_help(help)
            };
            return problems.iter().map(entry).collect();
        }
    };
    let registers = CpuState { regs: state.regs, sregs: state.sregs };
    let memory = PlannedMemory { layout, files, images: state.images };
    let moment = GuestState::new(&registers, &memory);
    let warn = |key: &str, message: String, help: &str| {
        Diagnostic::warning(message).at(config.location(key)).with_help(Some(help))
    };
    let mut list = prepared.notes.clone();
    let at = |linear: u64| {
        files.describe(linear).map_or_else(|| format!("{linear:#x}"), |name| format!("{linear:#x} <{name}>"))
    };
    let entry = at(registers.linear_rip());
    let first = moment.check_entry();
    match &first {
        EntryCheck::Executable => {}
        EntryCheck::Zeros => list.push(warn(
            "guest",
            format!("there are only zeros at the entry {entry}: nothing is loaded there"),
            "give another `entry`, or load the guest where it is linked",
        )),
        EntryCheck::Fault(text, fault) => list.push(warn(
            "guest",
            format!(
                "the first instruction, `{text}` at {entry}, raises {}: {}",
                fault.mnemonic(),
                fault.reason
            ),
            match machine.boot.ring {
                Ring::Kernel => "no handler can exist yet, so this is a triple fault",
                Ring::User => "ring 3 has no handler, so the run ends there",
            },
        )),
    }
    list.extend(stack(&moment, prepared).map(|(message, help)| warn("guest", message, help)));
    let found = moment.scan_reachable(&functions(files, machine.boot.mode));
    let off = !registers.cr4().contains(Cr4::OSFXSR) || registers.cr0().contains(Cr0::EM);
    let said = |linear| matches!(first, EntryCheck::Fault(..)) && linear == registers.linear_rip();
    if let (Reachability { sse: Some(spot), writes_cr4: false, .. }, true) = (&found, off)
        && !said(spot.linear)
    {
        let message = format!(
            "`{}` at {} is an SSE instruction, and SSE is off (CR4.OSFXSR is clear): it raises #UD",
            spot.text,
            at(spot.linear)
        );
        list.push(warn(
            "mode",
            message,
            "set `sse = true`, or build the guest without SSE (gcc -mgeneral-regs-only)",
        ));
    }
    if let Reachability { sti: Some(spot), loads_idt: false, .. } = &found
        && machine.boot.mode.is_protected()
    {
        let message = format!(
            "`sti` at {} turns interrupts on, and the guest loads no IDT: the first interrupt is a triple fault",
            at(spot.linear)
        );
        list.push(warn("guest", message, "load an IDT before (LIDT), or leave interrupts off"));
    }
    list
}

/// Returns a message and help if the first push fails or overwrites something.
fn stack(moment: &GuestState<'_>, prepared: &Prepared) -> Option<(String, &'static str)> {
    let top = moment.registers.linear_stack();
    let gpa = match moment.check_first_push() {
        Ok(gpa) => gpa,
        Err(fault) => {
            let message = format!(
                "the stack pointer is {top:#x}, and a push there raises {}: {}",
                fault.mnemonic(),
                fault.reason
            );
            return Some((message, "give another `stack`, or map memory there"));
        }
    };
    let layout = &prepared.layout;
    if !layout.is_memory(gpa) {
        let message = format!("the stack pointer is {top:#x}, and there is no memory below it");
        return Some((message, "give another `stack`, inside a memory region"));
    }
    let placed =
        layout.ranges().iter().find(|placed| placed.range.start() <= gpa && gpa < placed.range.end())?;
    let over = match &placed.owner {
        RangeOwner::Guest(name) => name.clone(),
        RangeOwner::Firmware(name) => (*name).to_owned(),
        RangeOwner::Part(
            part @ (LayoutPart::Gdt
            | LayoutPart::Idt
            | LayoutPart::Tss
            | LayoutPart::TrapPage
            | LayoutPart::PageTables),
        ) => part.name().to_owned(),
        RangeOwner::Part(LayoutPart::Stack | LayoutPart::KernelStack)
        | RangeOwner::Memory(_)
        | RangeOwner::TssPages
        | RangeOwner::IdentityMap
        | RangeOwner::Device(_) => return None,
    };
    let code = |plan: &LoadPlan| {
        plan.segments().iter().any(|segment| {
            let range = segment.phys.0..segment.phys.0.saturating_add(segment.mem_size);
            range.contains(&gpa.0) && segment.flags.execute && !segment.flags.write
        })
    };
    let guest = matches!(placed.owner, RangeOwner::Guest(_));
    if guest && !prepared.files.plans().any(|(_, plan)| code(plan)) {
        // A stack in the guest's own data is the guest's decision.
        return None;
    }
    Some((format!("the stack pointer is {top:#x}: the first push overwrites {over}"), "give another `stack`"))
}

/// Returns the guest's functions as offsets in the code segment. In real mode offsets depend on the segment, so only
/// the entry is checked there.
fn functions(files: &Files, mode: Mode) -> Vec<u64> {
    if !mode.is_protected() {
        return Vec::new();
    }
    let symbols = files.guest().into_iter().flat_map(|plan| plan.symbols().iter());
    symbols.filter(|symbol| symbol.kind == SymbolKind::Function).map(|symbol| symbol.address.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_ranges_have_in_common_is_copied() {
        let read = |at: u64, from: u64, content: &[u8]| {
            let mut bytes = [0; 4];
            overlay(Gpa(at), &mut bytes, Gpa(from), content);
            bytes
        };
        assert_eq!(read(10, 10, &[1, 2, 3, 4, 5]), [1, 2, 3, 4]);
        assert_eq!(read(10, 8, &[1, 2, 3]), [3, 0, 0, 0]);
        assert_eq!(read(10, 12, &[1, 2, 3]), [0, 0, 1, 2]);
        assert_eq!(read(10, 14, &[1]), [0; 4]);
        assert_eq!(read(10, 0, &[1]), [0; 4]);
    }
}
