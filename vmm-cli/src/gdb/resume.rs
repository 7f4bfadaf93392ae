//! What gdb wants the guest to do next. All of it is only noted here: the guest runs when gdbstub asks why it stopped.

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::reverse_exec::{ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps};
use vmm_core::debugger::Direction;
use vmm_core::error::Error;

use super::target::{Action, Session};

impl MultiThreadResume for Session<'_, '_> {
    fn resume(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Error> {
        self.action = Action::Run(Direction::Forward);
        Ok(())
    }

    fn set_resume_action_continue(&mut self, _: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.action = Action::Run(Direction::Forward);
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, Tid, Self>> {
        Some(self)
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, Tid, Self>> {
        Some(self)
    }
}

impl MultiThreadSingleStep for Session<'_, '_> {
    fn set_resume_action_step(&mut self, _: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.action = Action::Step(Direction::Forward);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Session<'_, '_> {
    /// Asks that the other vCPUs stand still; there are none.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl MultiThreadRangeStepping for Session<'_, '_> {
    fn set_resume_action_range_step(&mut self, _: Tid, start: u64, end: u64) -> Result<(), Error> {
        self.action = Action::Range(start, end);
        Ok(())
    }
}

impl ReverseStep<Tid> for Session<'_, '_> {
    fn reverse_step(&mut self, _: Tid) -> Result<(), Error> {
        self.action = Action::Step(Direction::Back);
        Ok(())
    }
}

impl ReverseCont<Tid> for Session<'_, '_> {
    fn reverse_cont(&mut self) -> Result<(), Error> {
        self.action = Action::Run(Direction::Back);
        Ok(())
    }
}
