//! The verdict: from the state before the last instruction to the cause, and what else the state and the trail show.

use crate::layout::LayoutPart;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::spec::HaltPolicy;
use crate::{Gpa, Gva};

use super::delivery::GateFound;
use super::emulation_failure;
use super::exception::Exception;
use super::exception_chain::ExceptionChain;
use super::fetch::Fetched;
use super::instruction_trace::{InstructionTrace, TracedInstruction};
use super::tables;
use super::{Autopsy, AutopsyNote, Cause, Code};
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

impl Autopsy {
    /// Works out the cause from the state before the end.
    pub(super) fn judge(&mut self, machine: &Machine, state: &CpuState, trail: Option<&InstructionTrace>) {
        let moment = GuestState::from_machine(machine, state);
        let fetched = moment.fetch();
        self.describe(&moment, &fetched, trail);
        let fault = moment.fault_of(&fetched);
        self.cause = match &self.end {
            End::Shutdown => {
                let suspected = match &fetched {
                    Fetched::Instruction(instruction, _) => moment.suspicion(instruction),
                    Fetched::Invalid(_) | Fetched::Fault(_) | Fetched::NoMemory => None,
                };
                self.chain = fault.or(suspected).map(|fault| moment.chain(fault));
                if self.chain.is_some() { Cause::Exception } else { Cause::Unknown }
            }
            End::Exception { vector, frame } => {
                let code = frame.and_then(|frame| frame.error_code);
                self.chain = Some(ring3_chain(&moment, fault, *vector, code));
                Cause::Exception
            }
            End::InternalError { .. } => match &fetched {
                Fetched::Instruction(instruction, _) if fault.as_ref().is_none_or(|fault| fault.software) => {
                    Cause::Refused(emulation_failure::of(&moment, instruction))
                }
                Fetched::NoMemory => Cause::NoCode,
                Fetched::Instruction(..) | Fetched::Invalid(_) | Fetched::Fault(_) => {
                    self.chain = fault.map(|fault| moment.chain(fault));
                    if self.chain.is_some() { Cause::Exception } else { Cause::Unknown }
                }
            },
            End::FailEntry { reason, .. } => Cause::FailEntry { reason: *reason },
            End::Halt { interrupts } => match machine.board.spec.halt {
                HaltPolicy::Hung => Cause::Halt { interrupts: *interrupts },
                HaltPolicy::Success => Cause::Ended,
            },
            End::Unmapped(access) => Cause::UnmappedAccess(*access),
            End::Ring3Exit
            | End::Exit { .. }
            | End::PowerOff
            | End::Reset
            | End::Suspend(_)
            | End::SystemEvent { .. } => Cause::Ended,
            End::TimeLimit(_) | End::ExitLimit(_) | End::Interrupted | End::Unserved(_) => Cause::Unknown,
        };
        self.look_around(&moment, machine, trail);
    }

    /// A state before the end that has to do, since nothing nearer was found.
    pub(super) fn seen_last(&mut self, machine: &Machine, state: &CpuState) {
        let moment = GuestState::from_machine(machine, state);
        self.describe(&moment, &moment.fetch(), None);
    }

    /// Fills in what every report shows.
    fn describe(&mut self, moment: &GuestState<'_>, fetched: &Fetched, trail: Option<&InstructionTrace>) {
        let registers = moment.registers;
        let bytes = match fetched {
            Fetched::Instruction(_, bytes) | Fetched::Invalid(bytes) => bytes.clone(),
            Fetched::Fault(_) | Fetched::NoMemory => Vec::new(),
        };
        self.instruction = Some(Code { linear: registers.linear_rip(), bytes, width: registers.width() });
        self.registers = Some(*registers);
        self.stack = tables::stack(moment);
        self.tables = Some(tables::found(moment));
        if let Some(trail) = trail {
            self.before = trail.past.iter().cloned().collect();
            self.open = trail.open.clone();
        }
    }

    /// Who wrote what turned out to be wrong, and where the stack points.
    fn look_around(&mut self, moment: &GuestState<'_>, machine: &Machine, trail: Option<&InstructionTrace>) {
        if let Some(part) = table_at(machine, moment, moment.registers.linear_stack()) {
            self.notes.push(AutopsyNote::RspInTable(part));
        }
        if let Some(part) = table_at(machine, moment, moment.registers.linear_rip()) {
            let jump = trail.and_then(|trail| trail.last_jump.clone());
            let jump = jump.zip(trail).map(|((by, step), trail)| (by, trail.steps.saturating_sub(step)));
            self.notes.push(AutopsyNote::RipInTable { part, jump });
        }
        let (Some(trail), Some(chain)) = (trail, &self.chain) else { return };
        let mut notes = Vec::new();
        for link in &chain.links {
            if let Some(step) = link.fault.walk.as_ref().and_then(|walk| walk.steps.last()) {
                notes.extend(writer(trail, "page table entry", step.at, step.scheme.entry_bytes()));
            }
            if let Some(GateFound::Gate { at, .. } | GateFound::Vector { at, .. }) = link.delivery.gate
                && let Some(to) = moment.walker().walk(moment.memory, Gva(at)).translation()
            {
                let size = if moment.registers.is_long() { 16 } else { 4 };
                notes.extend(writer(trail, "gate", to.gpa, size));
            }
        }
        notes.truncate(1);
        self.notes.extend(notes);
        let loads_root = |past: &&TracedInstruction| tables::writes_cr3(past);
        let paged = chain.links.first().is_some_and(|link| link.fault.vector == 14);
        if let Some(by) = trail.past.iter().rev().take(3).find(loads_root).filter(|_| paged) {
            self.notes.push(AutopsyNote::RootChanged { by: by.clone(), cr3: moment.registers.sregs.cr3 });
        }
    }
}

/// The table of ours that a linear address leads to.
fn table_at(machine: &Machine, moment: &GuestState<'_>, linear: u64) -> Option<&'static str> {
    let gpa = moment.walker().walk(moment.memory, Gva(linear)).translation().map_or(Gpa(linear), |to| to.gpa);
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

fn writer(trail: &InstructionTrace, what: &'static str, gpa: Gpa, size: u64) -> Option<AutopsyNote> {
    let (by, ago) = trail.writer(gpa, size)?;
    Some(AutopsyNote::Writer { what, by: by.clone(), ago, stack: tables::is_push(by) })
}

/// The exception that the trap page took: as predicted if that fits, else from what the CPU pushed.
fn ring3_chain(
    moment: &GuestState<'_>,
    predicted: Option<Exception>,
    vector: u8,
    code: Option<u64>,
) -> ExceptionChain {
    if let Some(fault) = predicted {
        let chain = moment.chain(fault);
        if chain.links.last().is_some_and(|link| link.fault.vector == vector) {
            return chain;
        }
    }
    let code = code.and_then(|code| u32::try_from(code).ok());
    let mut fault =
        Exception::new(vector, code, "the CPU says so, and the state before it does not show why");
    if vector == 14 {
        let at = moment.registers.sregs.cr2;
        let walk = moment.walker().walk(moment.memory, Gva(at));
        fault =
            Exception { address: Some(at), why: format!("it touched {at:#x}"), walk: Some(walk), ..fault };
    }
    moment.chain(fault)
}
