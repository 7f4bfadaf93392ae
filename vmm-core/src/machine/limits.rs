//! Limits of a run: time, number of exits, Ctrl-C.
//!
//! Limits are checked at exits. For a guest that makes none, the time limit sets an [`Alarm`], and Ctrl-C is a signal: both
//! end `KVM_RUN`. That works with a guest that spins, and with one at an instruction which the host's KVM never finishes.

use std::time::{Duration, Instant};

use kvm_sys_wrap::{Exit, KickTimer, termination_requested};

use crate::machine::end::End;
use crate::spec;

/// Limits of one run, being watched.
pub(crate) struct Limits {
    deadline: Option<(Instant, Duration)>,
    exits: Option<u64>,
    /// Timer at the deadline; dropping it disarms it.
    _alarm: Option<KickTimer>,
}

impl Limits {
    /// Starts to watch the limits, on the thread that runs the vCPU.
    ///
    /// # Errors
    /// [`kvm_sys_wrap::Error::Kick`] where the host has no timer for us.
    pub(crate) fn start(limits: spec::LimitSpec) -> Result<Self, kvm_sys_wrap::Error> {
        // A limit too far away for the clock is none.
        let deadline = limits.time.and_then(|time| Some((Instant::now().checked_add(time)?, time)));
        let alarm = deadline.map(|(_, time)| KickTimer::with_retries(time)).transpose()?;
        Ok(Self { deadline, exits: limits.exits, _alarm: alarm })
    }

    /// Returns the end of the run if a limit is reached at this exit. `total` gives the number of exits of all vCPUs.
    pub(crate) fn check(&self, exit: &Exit, total: impl FnOnce() -> u64) -> Option<End> {
        if matches!(exit, Exit::Interrupted | Exit::Retry) {
            if termination_requested() {
                return Some(End::Interrupted);
            }
            if let Some((deadline, limit)) = self.deadline
                && Instant::now() >= deadline
            {
                return Some(End::TimeLimit(limit));
            }
        }
        let limit = self.exits?;
        (total() > limit).then_some(End::ExitLimit(limit))
    }
}
