//! A machine in a debugged run: for the first time, or once more along the record.
//!
//! The first time, each exit is served by the devices and recorded. In a replay it is compared with the record, and the guest
//! reads the recorded answers. In both cases the exits that breakpoints cause are taken out: neither the record nor the
//! counts show that the run was debugged.

use iced_x86::Mnemonic;
use kvm_sys_wrap::Exit;

use super::DebugCapabilities;
use super::guest_int3::skip_failed_int3;
use super::handler_breakpoints::handler_breakpoints;
use super::inserted_breakpoints::InsertedBreakpoints;
use super::interrupt_handle::StopCheck;
use super::linear_memory::LinearMemory;
use super::next_pc::next_pcs;
use super::trap_flag::StateBeforeStep;
use crate::Gva;
use crate::cpu::cpu_state::CpuState;
use crate::cpu::exit_counts::is_guest_exit;
use crate::cpu::ring3_trap;
use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::error::Error;
use crate::machine::observer::ExitView;
use crate::machine::processor::Processor;
use crate::machine::stepper::{SingleStep, StepOutcome};
use crate::machine::turn::{DebugEvent, ExitHooks, ExitOutcome};
use crate::record::Recording;
use crate::record::position::RecordPosition;

/// Use of the record during an execution.
#[derive(Debug)]
pub(super) enum RecordMode<'a> {
    /// Devices answer, and the record grows.
    Record(&'a mut Recording),
    /// The record answers.
    Replay(&'a Recording),
}

/// A machine and its position in the record.
#[derive(Debug)]
pub(super) struct Execution {
    pub(super) machine: Machine,
    pub(super) position: RecordPosition,
    pub(super) capabilities: DebugCapabilities,
    pub(super) stop_check: StopCheck,
}

/// Reason of the debugger to stop at an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExecutionInterception {
    /// A signal, after which a stop is requested.
    Signal,
    /// An inserted breakpoint was reached; the vCPU stands before its instruction.
    Breakpoint,
    /// The guest executed an `int3` of its own that KVM could not execute; the vCPU stands after it.
    GuestInt3,
    /// The exit is not the recorded one.
    Diverged,
}

/// Result of one turn or step.
pub(super) type ExecutionOutcome = ExitOutcome<ExecutionInterception>;

/// Handling of the exits of a debugged run.
struct ExecutionHooks<'a, 'r> {
    mode: &'a mut RecordMode<'r>,
    position: &'a mut RecordPosition,
    breakpoints: &'a InsertedBreakpoints,
    /// Checked after each signal. `None` ignores signals.
    stop_check: Option<&'a StopCheck>,
}

impl ExitHooks for ExecutionHooks<'_, '_> {
    type Interception = ExecutionInterception;

    fn intercept(
        &mut self,
        processor: &mut Processor,
        board: &Board,
        exit: &Exit,
    ) -> Result<Option<ExecutionOutcome>, Error> {
        if let Some(event) = DebugEvent::from_exit(exit) {
            return Ok(Some(ExitOutcome::Debug(event)));
        }
        let reason = if !is_guest_exit(exit) {
            if self.stop_check.and_then(StopCheck::stop).is_none() {
                return Ok(Some(ExitOutcome::Ignored));
            }
            ExecutionInterception::Signal
        } else if self.breakpoints.undo(processor, board, exit)? {
            ExecutionInterception::Breakpoint
        } else if skip_failed_int3(&processor.vcpu, exit)? {
            ExecutionInterception::GuestInt3
        } else if let RecordMode::Replay(recording) = self.mode
            && self.position.divergence(recording, exit).is_some()
        {
            ExecutionInterception::Diverged
        } else {
            return Ok(None);
        };
        Ok(Some(ExitOutcome::Intercepted(reason)))
    }

    fn after_serve(&mut self, view: &ExitView<'_>, answer: &mut [u8]) {
        match self.mode {
            RecordMode::Record(recording) => recording.push(view.exit, answer),
            RecordMode::Replay(recording) => self.position.replay_answer(recording, answer),
        }
        self.position.advance(answer);
    }
}

impl Execution {
    /// Runs the guest up to its next exit, and handles that.
    pub(super) fn turn(
        &mut self,
        mode: &mut RecordMode<'_>,
        breakpoints: &InsertedBreakpoints,
    ) -> Result<ExecutionOutcome, Error> {
        let Self { machine: Machine { board, processors, .. }, position, stop_check, .. } = self;
        let mut hooks = ExecutionHooks { mode, position, breakpoints, stop_check: Some(stop_check) };
        processors.bsp_mut().turn(board, &mut hooks)
    }

    /// Finishes the instruction of the last exit. `Some` if the run ended or diverged with that.
    pub(super) fn finish_instruction(
        &mut self,
        mode: &mut RecordMode<'_>,
    ) -> Result<Option<ExecutionOutcome>, Error> {
        let Self { machine: Machine { board, processors, .. }, position, .. } = self;
        let breakpoints = &InsertedBreakpoints::none();
        let mut hooks = ExecutionHooks { mode, position, breakpoints, stop_check: None };
        processors.bsp_mut().finish_instruction(board, &mut hooks, |outcome| {
            let diverged = ExitOutcome::Intercepted(ExecutionInterception::Diverged);
            matches!(outcome, ExitOutcome::Ended(_)) || *outcome == diverged
        })
    }

    /// Executes one instruction, with the exits that it takes. The outcome is [`ExitOutcome::Served`] if it is done, and
    /// [`ExecutionInterception::Breakpoint`] if the vCPU stands at the start of a handler. It is
    /// [`ExecutionInterception::Signal`] if a stop was requested before the instruction was done.
    pub(super) fn step(&mut self, mode: &mut RecordMode<'_>) -> Result<ExecutionOutcome, Error> {
        if self.capabilities.single_step {
            return self.single_step(mode);
        }
        let next: Vec<Gva> = next_pcs(&self.machine)?;
        if next.is_empty() {
            // The next address is not known: the guest runs to its next exit.
            return self.run_to_event(mode, &InsertedBreakpoints::none());
        }
        let breakpoints = InsertedBreakpoints::at(&self.machine, &next)?;
        let outcome = self.run_to_event(mode, &breakpoints);
        breakpoints.remove(&self.machine)?;
        outcome
    }

    /// Executes one instruction with the trap flag.
    fn single_step(&mut self, mode: &mut RecordMode<'_>) -> Result<ExecutionOutcome, Error> {
        let registers = self.machine.processors.bsp().cpu_state()?;
        let memory = LinearMemory::with_registers(&self.machine, &registers);
        let before = StateBeforeStep { instruction: memory.next_instruction(&registers), registers };
        let handlers = match self.capabilities.handlers.opcode() {
            Some(opcode) => {
                let handlers = handler_breakpoints(&self.machine, &memory, &before);
                InsertedBreakpoints::in_ring_0(&self.machine, &memory, opcode, &handlers)?
            }
            None => InsertedBreakpoints::none(),
        };
        let length = u64::try_from(before.instruction.len()).unwrap_or(0);
        let is_hlt = before.instruction.mnemonic() == Mnemonic::Hlt;
        let step = SingleStep::new(is_hlt.then(|| before.registers.linear_rip().wrapping_add(length)));
        let Self { machine: Machine { board, processors, .. }, position, stop_check, .. } = self;
        let mut hooks =
            ExecutionHooks { mode, position, breakpoints: &handlers, stop_check: Some(stop_check) };
        let outcome = processors.bsp_mut().step(board, &step, &mut hooks);
        handlers.remove(&self.machine)?;
        let outcome = match outcome? {
            StepOutcome::Reported(_) | StepOutcome::Finished => ExitOutcome::Served,
            StepOutcome::Intercepted(ExecutionInterception::Breakpoint) => {
                ExitOutcome::Intercepted(ExecutionInterception::Breakpoint)
            }
            StepOutcome::Ended(end) => return Ok(ExitOutcome::Ended(end)),
            StepOutcome::Intercepted(reason) => return Ok(ExitOutcome::Intercepted(reason)),
        };
        let bsp = self.machine.processors.bsp();
        let after = bsp.cpu_state()?;
        // The trap page below a guest in ring 3 ends the run with a HLT.
        if outcome == ExitOutcome::Served && self.is_on_trap_page(&after) {
            return self.run_to_event(mode, &InsertedBreakpoints::none());
        }
        before.clear_stored_trap_flag(
            &bsp.vcpu,
            &LinearMemory::with_registers(&self.machine, &after),
            &after,
        )?;
        Ok(outcome)
    }

    fn is_on_trap_page(&self, registers: &CpuState) -> bool {
        let Some(trap_page) = self.machine.board.trap_page else { return false };
        let offset = registers.linear_rip().checked_sub(trap_page.address.0);
        offset.is_some_and(|offset| offset < ring3_trap::SIZE.into())
    }

    /// Runs until an exit is more than served.
    fn run_to_event(
        &mut self,
        mode: &mut RecordMode<'_>,
        breakpoints: &InsertedBreakpoints,
    ) -> Result<ExecutionOutcome, Error> {
        loop {
            let outcome = self.turn(mode, breakpoints)?;
            if !matches!(outcome, ExitOutcome::Served | ExitOutcome::Ignored) {
                return Ok(outcome);
            }
        }
    }
}
