//! Times of the idle check: soon at first, then less and less often.

use std::time::{Duration, Instant};

use kvm_sys_wrap::KickTimer;

use crate::machine::error::Error;

/// Timer that ends the `KVM_RUN` of the thread that created it.
pub(crate) struct IdleTimer {
    alarm: KickTimer,
    due: Instant,
    interval: Duration,
    /// True if the last check found the machine idle forever. A second check confirms it: an interrupt may have been on its
    /// way.
    suspected: bool,
}

impl IdleTimer {
    const MIN_INTERVAL: Duration = Duration::from_millis(10);
    const MAX_INTERVAL: Duration = Duration::from_millis(500);

    pub(crate) fn start() -> Result<Self, Error> {
        let interval = Self::MIN_INTERVAL;
        // The clock is read first, here and below: an alarm that went off before it is due would be the last one.
        let due = Instant::now() + interval;
        Ok(Self { alarm: KickTimer::new(interval)?, due, interval, suspected: false })
    }

    pub(crate) fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    pub(crate) fn is_suspected(&self) -> bool {
        self.suspected
    }

    pub(crate) fn suspect(&mut self) -> Result<(), Error> {
        self.suspected = true;
        self.wait(Self::MIN_INTERVAL)
    }

    pub(crate) fn relax(&mut self) -> Result<(), Error> {
        self.suspected = false;
        self.interval = Self::MAX_INTERVAL.min(self.interval * 2);
        self.wait(self.interval)
    }

    fn wait(&mut self, time: Duration) -> Result<(), Error> {
        self.due = Instant::now() + time;
        Ok(self.alarm.reset(time)?)
    }
}
