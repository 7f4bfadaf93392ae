//! One vCPU from a resumption to the next stop, on its thread: running freely, or one instruction at a time.
//!
//! A single step sets the trap flag in the guest's RFLAGS. Where the host can hold interrupts back meanwhile, it does; elsewhere
//! a pending interrupt comes first, and its handler runs within the step. Handlers of exceptions get no breakpoints as they do
//! on a machine without interrupts: those bytes would stop the other vCPUs too. A step over HLT is not executed but emulated;
//! the vCPU is halted then.

use iced_x86::Mnemonic;
use kvm_sys_wrap::{BreakpointCondition, Exit, GuestDebug};

use super::super::debug_target::{DebugStop, ResumeAction};
use super::inserted_breakpoints::DebugExitCause;
use super::resume::ResumeRound;
use crate::debugger::guest_int3::skip_failed_int3;
use crate::debugger::linear_memory::LinearMemory;
use crate::debugger::trap_flag::StateBeforeStep;
use crate::machine::board::Board;
use crate::machine::error::Error;
use crate::machine::processor::Processor;
use crate::machine::smp::{IdleTimer, index};
use crate::machine::stepper::{SingleStep, StepOutcome, can_step};
use crate::machine::turn::{DebugEvent, ExitHooks, ExitOutcome};

/// A vCPU and its thread's part of a round.
pub(super) struct Worker<'a, 'b> {
    pub(super) processor: &'b mut Processor,
    pub(super) hooks: WorkerHooks<'a, 'b>,
}

/// Handling of the exits of one vCPU in a round.
pub(super) struct WorkerHooks<'a, 'b> {
    pub(super) round: &'a ResumeRound<'a>,
    /// Timer of the idle check, on the caller's thread only.
    pub(super) idle_timer: Option<&'b mut IdleTimer>,
}

/// Reason of a worker to stop at an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WorkerInterception {
    /// Reason of this vCPU to stop all.
    Stop(DebugStop),
    /// All vCPUs are stopping.
    AllStop,
}

impl ExitHooks for WorkerHooks<'_, '_> {
    type Interception = WorkerInterception;

    fn intercept(
        &mut self,
        processor: &mut Processor,
        board: &Board,
        exit: &Exit,
    ) -> Result<Option<ExitOutcome<WorkerInterception>>, Error> {
        let stop = |stop| Some(ExitOutcome::Intercepted(WorkerInterception::Stop(stop)));
        if matches!(exit, Exit::Interrupted | Exit::Retry) {
            let reason = self.round.after_signal(processor, self.idle_timer.as_deref_mut())?;
            return Ok(match reason {
                Some(reason) => stop(reason),
                None if self.round.barrier.is_stopping() => {
                    Some(ExitOutcome::Intercepted(WorkerInterception::AllStop))
                }
                None => Some(ExitOutcome::Ignored),
            });
        }
        Ok(match self.round.breakpoints.identify(board, &mut processor.vcpu, exit)? {
            DebugExitCause::Breakpoint => stop(DebugStop::Breakpoint),
            DebugExitCause::Watchpoint(watchpoint) => stop(DebugStop::Watchpoint(watchpoint)),
            DebugExitCause::GuestInt3 => Some(ExitOutcome::Ignored),
            DebugExitCause::Unknown => DebugEvent::from_exit(exit).map(ExitOutcome::Debug),
            DebugExitCause::NotDebug if skip_failed_int3(&processor.vcpu, exit)? => {
                stop(DebugStop::GuestInt3)
            }
            DebugExitCause::NotDebug => None,
        })
    }
}

impl Worker<'_, '_> {
    /// Does what is asked for until all vCPUs stop.
    pub(super) fn work(mut self, action: ResumeAction) {
        if let Err(error) = self.run(action) {
            self.hooks.round.barrier.stop_with(Err(error));
        }
    }

    fn run(&mut self, action: ResumeAction) -> Result<(), Error> {
        let round = self.hooks.round;
        let number = index(self.processor);
        self.processor.vcpu.set_guest_debug(&round.breakpoints.debug)?;
        let mut over = false;
        while !round.barrier.is_stopping() {
            let stop = match action {
                ResumeAction::Hold => return Ok(()),
                ResumeAction::Run => self.turn()?,
                ResumeAction::Step => self.step()?,
                ResumeAction::Range(start, end) => self.step_within(start, end)?,
            };
            if let Some(stop) = stop {
                over = matches!(stop, DebugStop::Ended(_));
                round.barrier.stop_with(Ok((number, stop)));
            }
        }
        if !over && let Some(stop) = self.finish_instruction()? {
            round.barrier.stop_with(Ok((number, stop)));
        }
        Ok(self.processor.vcpu.set_guest_debug(&GuestDebug::default())?)
    }

    /// Runs the vCPU to its next exit.
    fn turn(&mut self) -> Result<Option<DebugStop>, Error> {
        let outcome = self.processor.turn(self.hooks.round.board, &mut self.hooks)?;
        Ok(stop_of(outcome))
    }

    /// Executes one instruction: [`DebugStop::Step`] if it is done, `None` if all stop before.
    fn step(&mut self) -> Result<Option<DebugStop>, Error> {
        let round = self.hooks.round;
        let registers = self.processor.cpu_state()?;
        if !can_step(&registers.sregs) {
            return Ok(Some(DebugStop::CannotStep));
        }
        let instruction = LinearMemory::from_board(round.board, &registers).next_instruction(&registers);
        // kvm-pvm halts one instruction too late if it steps over HLT, and that may be a handler's.
        if instruction.mnemonic() == Mnemonic::Hlt && registers.cpl() == 0 {
            self.processor.vcpu.emulate_hlt(instruction.next_ip())?;
            return Ok(Some(DebugStop::Step));
        }
        let mut debug = GuestDebug {
            single_step: true,
            block_interrupts: round.capabilities.block_interrupts,
            ..round.breakpoints.debug
        };
        // The register of the instruction itself would fire before it.
        let pc = registers.linear_rip();
        for register in &mut debug.breakpoints {
            *register = register
                .filter(|wanted| wanted.condition != BreakpointCondition::Execute || wanted.address.0 != pc);
        }
        let before = StateBeforeStep { registers, instruction };
        let step = SingleStep { debug, after: Some(round.breakpoints.debug), hlt_end: None };
        let stop = match self.processor.step(round.board, &step, &mut self.hooks)? {
            StepOutcome::Reported(_) | StepOutcome::Finished => DebugStop::Step,
            StepOutcome::Intercepted(WorkerInterception::Stop(stop)) => stop,
            StepOutcome::Intercepted(WorkerInterception::AllStop) => return Ok(None),
            StepOutcome::Ended(end) => return Ok(Some(DebugStop::Ended(end))),
        };
        if let DebugStop::Ended(_) = stop {
            return Ok(Some(stop));
        }
        let after = self.processor.cpu_state()?;
        let memory = LinearMemory::from_board(round.board, &after);
        before.clear_stored_trap_flag(&self.processor.vcpu, &memory, &after)?;
        Ok(Some(stop))
    }

    /// Executes one instruction of a range: `None` if the next one is in the range too.
    fn step_within(&mut self, start: u64, end: u64) -> Result<Option<DebugStop>, Error> {
        let stop = self.step()?;
        if stop != Some(DebugStop::Step) {
            return Ok(stop);
        }
        let pc = self.processor.linear_rip()?;
        if self.hooks.round.breakpoints.has_register_at(pc) {
            return Ok(Some(DebugStop::Breakpoint));
        }
        Ok(stop.filter(|_| !(start..end).contains(&pc)))
    }

    /// Finishes the instruction of the last exit.
    fn finish_instruction(&mut self) -> Result<Option<DebugStop>, Error> {
        let is_stop = |outcome: &_| {
            let stop = ExitOutcome::Intercepted(WorkerInterception::AllStop);
            matches!(outcome, ExitOutcome::Ended(_) | ExitOutcome::Intercepted(_)) && *outcome != stop
        };
        let board = self.hooks.round.board;
        Ok(self.processor.finish_instruction(board, &mut self.hooks, is_stop)?.and_then(stop_of))
    }
}

/// Reason to stop in the outcome of a turn, if there is one.
fn stop_of(outcome: ExitOutcome<WorkerInterception>) -> Option<DebugStop> {
    match outcome {
        ExitOutcome::Served
        | ExitOutcome::Ignored
        | ExitOutcome::Debug(_)
        | ExitOutcome::Intercepted(WorkerInterception::AllStop) => None,
        ExitOutcome::Ended(end) => Some(DebugStop::Ended(end)),
        ExitOutcome::Intercepted(WorkerInterception::Stop(stop)) => Some(stop),
    }
}
