//! Diagnosis: derives the cause and the notes from the state before the last instruction and from the instruction trace.

use crate::layout::LayoutPart;
use crate::machine::Machine;
use crate::machine::end::{End, Verdict};
use crate::{Gpa, Gva};

use super::delivery::IdtEntry;
use super::emulation_failure;
use super::exception::Exception;
use super::exception_chain::ExceptionChain;
use super::fetch::FetchResult;
use super::instruction_trace::{InstructionTrace, TracedInstruction};
use super::tables;
use super::{Autopsy, AutopsyNote, Cause, InstructionBytes};
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

impl Autopsy {
    /// Derives the cause from the state before the end.
    pub(super) fn diagnose(&mut self, machine: &Machine, state: &CpuState, trace: Option<&InstructionTrace>) {
        let guest = GuestState::from_machine(machine, state);
        let fetched = guest.fetch();
        self.record_state(&guest, &fetched, trace);
        let fault = guest.predict_fault(&fetched);
        self.cause = match &self.end {
            End::Shutdown => {
                let suspected = match &fetched {
                    FetchResult::Instruction(instruction, _) => guest.suspected_fault(instruction),
                    FetchResult::Invalid(_) | FetchResult::Fault(_) | FetchResult::Unmapped => None,
                };
                self.chain = fault.or(suspected).map(|fault| guest.exception_chain(fault));
                if self.chain.is_some() { Cause::Exception } else { Cause::Unknown }
            }
            End::Exception { vector, frame } => {
                let code = frame.and_then(|frame| frame.error_code);
                self.chain = Some(ring3_chain(&guest, fault, *vector, code));
                Cause::Exception
            }
            End::InternalError { .. } => match &fetched {
                FetchResult::Instruction(instruction, _)
                    if fault.as_ref().is_none_or(|fault| fault.software) =>
                {
                    Cause::EmulationFailure(emulation_failure::explain(&guest, instruction))
                }
                FetchResult::Unmapped => Cause::UnmappedFetch,
                FetchResult::Instruction(..) | FetchResult::Invalid(_) | FetchResult::Fault(_) => {
                    self.chain = fault.map(|fault| guest.exception_chain(fault));
                    if self.chain.is_some() { Cause::Exception } else { Cause::Unknown }
                }
            },
            End::FailEntry { reason, .. } => Cause::FailEntry { reason: *reason },
            End::Halt { .. } if machine.verdict(&self.end) == Verdict::Success => Cause::GuestExit,
            End::Halt { interrupts } => {
                Cause::Halt { interrupts: *interrupts, controllers: machine.board.spec.interrupts }
            }
            End::Unmapped(access) => Cause::UnmappedAccess(*access),
            End::Ring3Exit
            | End::Exit { .. }
            | End::PowerOff
            | End::Reset
            | End::Suspend(_)
            | End::SystemEvent { .. } => Cause::GuestExit,
            End::TimeLimit(_) | End::ExitLimit(_) | End::Interrupted | End::Unserved(_) => Cause::Unknown,
        };
        self.add_notes(&guest, machine, trace);
    }

    /// Fallback: describes the last known state if the final one was not reached.
    pub(super) fn describe_last_known(&mut self, machine: &Machine, state: &CpuState) {
        let guest = GuestState::from_machine(machine, state);
        self.record_state(&guest, &guest.fetch(), None);
    }

    /// Sets the fields of the report that do not depend on the cause.
    pub(super) fn record_state(
        &mut self,
        guest: &GuestState<'_>,
        fetched: &FetchResult,
        trace: Option<&InstructionTrace>,
    ) {
        let registers = guest.registers;
        let bytes = match fetched {
            FetchResult::Instruction(_, bytes) | FetchResult::Invalid(bytes) => bytes.clone(),
            FetchResult::Fault(_) | FetchResult::Unmapped => Vec::new(),
        };
        self.instruction =
            Some(InstructionBytes { linear: registers.linear_rip(), bytes, width: registers.width() });
        self.registers = Some(*registers);
        self.stack = tables::read_stack(guest);
        self.tables = Some(tables::read_descriptor_tables(guest));
        if let Some(trace) = trace {
            self.record_trace(trace);
        }
    }

    /// Sets the instructions and exceptions before the end.
    pub(super) fn record_trace(&mut self, trace: &InstructionTrace) {
        self.previous_instructions = trace.instructions.iter().cloned().collect();
        self.active_exceptions = trace.active_exceptions.clone();
    }

    /// Adds notes about writers of faulty entries, table addresses in RIP and RSP, and a new CR3.
    fn add_notes(&mut self, guest: &GuestState<'_>, machine: &Machine, trace: Option<&InstructionTrace>) {
        if let Some(part) = layout_part_at(machine, guest, guest.registers.linear_stack()) {
            self.notes.push(AutopsyNote::RspInTable(part));
        }
        if let Some(part) = layout_part_at(machine, guest, guest.registers.linear_rip()) {
            let jump = trace.and_then(|trace| trace.last_jump.clone());
            let jump = jump.zip(trace).map(|((by, step), trace)| (by, trace.steps.saturating_sub(step)));
            self.notes.push(AutopsyNote::RipInTable { part, jump });
        }
        let (Some(trace), Some(chain)) = (trace, &self.chain) else { return };
        let mut notes = Vec::new();
        for link in &chain.links {
            if let Some(step) = link.fault.walk.as_ref().and_then(|walk| walk.steps.last()) {
                notes.extend(last_writer_note(trace, "page table entry", step.at, step.scheme.entry_bytes()));
            }
            if let Some(IdtEntry::Gate { at, .. } | IdtEntry::Vector { at, .. }) = link.delivery.gate
                && let Some(to) = guest.walker().walk(guest.memory, Gva(at)).translation()
            {
                let size = if guest.registers.is_long() { 16 } else { 4 };
                notes.extend(last_writer_note(trace, "gate", to.gpa, size));
            }
        }
        notes.truncate(1);
        self.notes.extend(notes);
        let loads_root = |traced: &&TracedInstruction| tables::writes_cr3(traced);
        let paged = chain.links.first().is_some_and(|link| link.fault.vector == 14);
        if let Some(by) = trace.instructions.iter().rev().take(3).find(loads_root).filter(|_| paged) {
            self.notes.push(AutopsyNote::Cr3Changed { by: by.clone(), cr3: guest.registers.sregs.cr3 });
        }
    }
}

/// Name of the table, made by the machine, that a linear address maps to.
fn layout_part_at(machine: &Machine, guest: &GuestState<'_>, linear: u64) -> Option<&'static str> {
    let gpa = guest.walker().walk(guest.memory, Gva(linear)).translation().map_or(Gpa(linear), |to| to.gpa);
    let placed = machine
        .board
        .layout
        .ranges()
        .iter()
        .find(|placed| placed.range.start() <= gpa && gpa < placed.range.end())?;
    match placed.part()? {
        LayoutPart::Stack | LayoutPart::KernelStack | LayoutPart::TrapPage => None,
        part @ (LayoutPart::Gdt | LayoutPart::Idt | LayoutPart::Tss | LayoutPart::PageTables) => {
            Some(part.name())
        }
    }
}

fn last_writer_note(
    trace: &InstructionTrace,
    what: &'static str,
    gpa: Gpa,
    size: u64,
) -> Option<AutopsyNote> {
    let (by, ago) = trace.last_writer(gpa, size)?;
    Some(AutopsyNote::LastWriter { what, by: by.clone(), ago, stack: tables::is_push(by) })
}

/// Chain of the exception that reached the trap page: the predicted one if the vector matches, else that of the frame.
fn ring3_chain(
    guest: &GuestState<'_>,
    predicted: Option<Exception>,
    vector: u8,
    code: Option<u64>,
) -> ExceptionChain {
    if let Some(fault) = predicted {
        let chain = guest.exception_chain(fault);
        if chain.links.last().is_some_and(|link| link.fault.vector == vector) {
            return chain;
        }
    }
    let code = code.and_then(|code| u32::try_from(code).ok());
    let mut fault =
        Exception::new(vector, code, "the CPU says so, and the state before it does not show why");
    if vector == 14 {
        let at = guest.registers.sregs.cr2;
        let walk = guest.walker().walk(guest.memory, Gva(at));
        fault =
            Exception { address: Some(at), reason: format!("it touched {at:#x}"), walk: Some(walk), ..fault };
    }
    guest.exception_chain(fault)
}
