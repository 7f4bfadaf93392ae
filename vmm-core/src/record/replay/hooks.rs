//! Handling of exits in a replay: each is held against the record, and the guest reads what it read the first time.

use std::time::Instant;

use kvm_sys_wrap::{Exit, KickTimer, termination_requested};

use super::step::{HandlerTrap, is_at_handler};
use crate::cpu::exit_counts::is_guest_exit;
use crate::machine::board::Board;
use crate::machine::error::Error;
use crate::machine::observer::ExitView;
use crate::machine::processor::Processor;
use crate::machine::turn::{DebugEvent, ExitHooks, ExitOutcome};
use crate::record::position::RecordPosition;
use crate::record::{Divergence, Recording};

/// Hooks of a replay, for one call.
pub(super) struct ReplayHooks<'a> {
    pub(super) recording: &'a Recording,
    pub(super) position: &'a mut RecordPosition,
    pub(super) divergence: &'a mut Option<Divergence>,
    pub(super) deadline: Option<&'a (Instant, KickTimer)>,
    /// Settings of a single step, if this is one.
    pub(super) step: Option<StepHooks>,
}

/// Goal of a single step.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepHooks {
    /// Handler that the instruction is expected to end in.
    pub(super) handler: Option<HandlerTrap>,
}

/// Reason of a replay to stop at an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplayInterception {
    /// A signal.
    Signal,
    /// The budget is used up, or Ctrl-C.
    OutOfTime,
    /// The exit is not the recorded one.
    Diverged,
    /// Step only: the vCPU stands before the first instruction of the expected handler.
    AtHandler,
    /// Step only: the exit belongs to a HLT that was stepped over before, so the instruction is done.
    StaleHlt,
}

/// Returns true if a replay has to stop now: Ctrl-C, or its deadline has passed.
pub(super) fn is_over(deadline: Option<&(Instant, KickTimer)>) -> bool {
    termination_requested() || deadline.is_some_and(|(at, _)| Instant::now() >= *at)
}

impl ExitHooks for ReplayHooks<'_> {
    type Interception = ReplayInterception;

    fn intercept(
        &mut self,
        processor: &mut Processor,
        board: &Board,
        exit: &Exit,
    ) -> Result<Option<ExitOutcome<ReplayInterception>>, Error> {
        let stop = |reason| Ok(Some(ExitOutcome::Intercepted(reason)));
        if let Some(StepHooks { handler }) = self.step {
            if let Some(handler) = handler
                && matches!(exit, Exit::Hlt | Exit::Debug { .. })
                && is_at_handler(processor, handler)?
            {
                if *exit != Exit::Hlt {
                    // The HLT at the handler was stepped over (`machine/stepper.rs`).
                    processor.vcpu.forbid_reuse();
                }
                return stop(ReplayInterception::AtHandler);
            }
            if *exit == Exit::Hlt && !processor.is_after_hlt(board)? {
                return stop(ReplayInterception::StaleHlt);
            }
        }
        if let Some(event) = DebugEvent::from_exit(exit) {
            return Ok(Some(ExitOutcome::Debug(event)));
        }
        if !is_guest_exit(exit) {
            return stop(if is_over(self.deadline) {
                ReplayInterception::OutOfTime
            } else {
                ReplayInterception::Signal
            });
        }
        if let Some(divergence) = self.position.divergence(self.recording, exit) {
            *self.divergence = Some(divergence);
            return stop(ReplayInterception::Diverged);
        }
        Ok(None)
    }

    fn after_serve(&mut self, _: &ExitView<'_>, answer: &mut [u8]) {
        self.position.replay_answer(self.recording, answer);
        self.position.advance(answer);
    }
}
