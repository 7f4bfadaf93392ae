//! When the VMM stops a guest that does not stop by itself: after some time, after some exits, on Ctrl-C.
//!
//! All three are checked at exits. A guest that makes none is brought to one: the time limit by an [`RtcAlarm`], Ctrl-C by
//! its signal, both of which end `KVM_RUN`. That works with a guest that spins, and with one that sits in an
//! instruction which the host's KVM never finishes.

use std::time::{Duration, Instant};

use kvm_sys_wrap::{Exit, KickTimer, termination_requested};

use crate::machine::end::End;
use crate::spec;

/// What ends a run from outside.
pub(crate) struct Limits {
    deadline: Option<(Instant, Duration)>,
    exits: Option<u64>,
    /// Goes off at the deadline; dropped, and with it disarmed, when the run is over.
    _alarm: Option<KickTimer>,
}

impl Limits {
    /// Begins to watch. On the thread that runs the vCPU.
    ///
    /// # Errors
    /// [`kvm_sys_wrap::Error::Kick`] where the host has no timer for us.
    pub(crate) fn start(limits: spec::LimitSpec) -> Result<Self, kvm_sys_wrap::Error> {
        // A limit too far away for the clock is none.
        let deadline = limits.time.and_then(|time| Some((Instant::now().checked_add(time)?, time)));
        let alarm = deadline.map(|(_, time)| KickTimer::new(time)).transpose()?;
        Ok(Self { deadline, exits: limits.exits, _alarm: alarm })
    }

    /// Whether the run is over: asked after each exit. `total` gives the number of exits of all vCPUs.
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
