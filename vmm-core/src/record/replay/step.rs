//! Single steps of a replay for callers that know what comes next: which exceptions a step raises, and which handler takes
//! them.

use kvm_sys_wrap::Gpa;
use vm_memory::Bytes;

use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::processor::Processor;
use crate::machine::stepper::{HLT, SingleStep, StepOutcome};

use super::Replayer;
use super::hooks::{ReplayHooks, ReplayInterception, StepHooks};

/// Trap at the first instruction of an exception handler, whose first byte is replaced for one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandlerTrap {
    /// Guest-physical address of the replaced byte.
    pub gpa: Gpa,
    /// Linear address of the handler's first instruction.
    pub linear: u64,
}

/// Result of one single step of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplayStep {
    /// The instruction was executed.
    Done,
    /// The instruction raised an exception: the vCPU is before the first instruction of the handler.
    AtHandler,
    /// A signal came before the instruction was executed.
    Interrupted,
    /// The replayed run ended with the instruction.
    Ended(End),
    /// The run differs from the recorded one.
    Diverged,
    /// The time budget is used up.
    OutOfTime,
}

impl Replayer<'_> {
    /// Executes one instruction of the guest. `hlt_end` is the linear address of its end if it is a HLT, and `handler` the
    /// handler of the exception that it will raise.
    ///
    /// An exception is delivered within the step, and clears the trap flag that single-stepping uses: on most hosts the
    /// handler would run on unseen. So a HLT stands at its beginning for this step.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn step(&mut self, hlt_end: Option<u64>, handler: Option<HandlerTrap>) -> Result<ReplayStep, Error> {
        // The next step sets guest debugging again.
        let step = SingleStep { after: None, ..SingleStep::new(hlt_end) };
        let Some(trap) = handler else { return self.step_to_end(&step, None) };
        let memory = self.machine.board.memory.clone();
        let Ok(byte) = memory.read_obj::<u8>(trap.gpa.into()) else { return self.step_to_end(&step, None) };
        // The page was just read. Slots that the guest cannot write can be written here.
        let _ = memory.write_obj(HLT, trap.gpa.into());
        let result = self.step_to_end(&step, handler);
        let _ = memory.write_obj(byte, trap.gpa.into());
        result
    }

    fn step_to_end(&mut self, step: &SingleStep, handler: Option<HandlerTrap>) -> Result<ReplayStep, Error> {
        self.moved = true;
        let mut hooks = ReplayHooks {
            recording: self.recording,
            position: &mut self.position,
            divergence: &mut self.divergence,
            deadline: self.deadline.as_ref(),
            step: Some(StepHooks { handler }),
        };
        let Machine { board, processors, stopped_vcpu, .. } = &mut self.machine;
        let outcome = processors.get_mut(*stopped_vcpu).step(board, step, &mut hooks)?;
        Ok(match outcome {
            StepOutcome::Finished if self.is_late() => ReplayStep::OutOfTime,
            StepOutcome::Reported(_)
            | StepOutcome::Finished
            | StepOutcome::Intercepted(ReplayInterception::StaleHlt) => ReplayStep::Done,
            StepOutcome::Ended(end) => ReplayStep::Ended(end),
            StepOutcome::Intercepted(ReplayInterception::AtHandler) => ReplayStep::AtHandler,
            StepOutcome::Intercepted(ReplayInterception::Signal) => ReplayStep::Interrupted,
            StepOutcome::Intercepted(ReplayInterception::OutOfTime) => ReplayStep::OutOfTime,
            StepOutcome::Intercepted(ReplayInterception::Diverged) => ReplayStep::Diverged,
        })
    }
}

/// Returns true if the vCPU stands at the handler, or just after the HLT that was put there; then it is set back.
pub(super) fn is_at_handler(processor: &Processor, handler: HandlerTrap) -> Result<bool, Error> {
    let state = processor.cpu_state()?;
    let linear = state.linear_rip();
    if linear == handler.linear.wrapping_add(1) {
        let mut regs = state.regs;
        regs.rip = regs.rip.wrapping_sub(1);
        processor.vcpu.set_regs(&regs)?;
        return Ok(true);
    }
    Ok(linear == handler.linear)
}
