//! Records gdb's resume requests. The guest runs when gdbstub waits for a stop reason.

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::reverse_exec::{ReverseCont, ReverseContOps, ReverseStep, ReverseStepOps};
use vmm_core::debugger::{ResumeAction, ResumeRequest};
use vmm_core::machine::error::Error;

use super::target::{Session, vcpu_of};

impl Session<'_> {
    /// Sets the action for the vCPU of a thread.
    fn set_action(&mut self, thread: Tid, action: ResumeAction) {
        if let ResumeRequest::Forward(actions) = &mut self.request
            && let Some(own) = actions.get_mut(vcpu_of(thread))
        {
            *own = action;
        }
        self.named.insert(vcpu_of(thread));
    }
}

impl MultiThreadResume for Session<'_> {
    fn resume(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), Error> {
        self.request = ResumeRequest::Forward(vec![ResumeAction::Run; self.debugger.vcpu_count()]);
        self.named.clear();
        Ok(())
    }

    fn set_resume_action_continue(&mut self, thread: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.set_action(thread, ResumeAction::Run);
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

impl MultiThreadSingleStep for Session<'_> {
    fn set_resume_action_step(&mut self, thread: Tid, _: Option<Signal>) -> Result<(), Error> {
        self.set_action(thread, ResumeAction::Step);
        Ok(())
    }
}

impl MultiThreadSchedulerLocking for Session<'_> {
    /// Holds all vCPUs that gdb has not named. gdb sends this after the actions.
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Error> {
        if let ResumeRequest::Forward(actions) = &mut self.request {
            for (vcpu, action) in actions.iter_mut().enumerate() {
                if !self.named.contains(&vcpu) {
                    *action = ResumeAction::Hold;
                }
            }
        }
        Ok(())
    }
}

impl MultiThreadRangeStepping for Session<'_> {
    fn set_resume_action_range_step(&mut self, thread: Tid, start: u64, end: u64) -> Result<(), Error> {
        self.set_action(thread, ResumeAction::Range(start, end));
        Ok(())
    }
}

impl ReverseStep<Tid> for Session<'_> {
    fn reverse_step(&mut self, _: Tid) -> Result<(), Error> {
        self.request = ResumeRequest::StepBack;
        Ok(())
    }
}

impl ReverseCont<Tid> for Session<'_> {
    fn reverse_cont(&mut self) -> Result<(), Error> {
        self.request = ResumeRequest::RunBack;
        Ok(())
    }
}
