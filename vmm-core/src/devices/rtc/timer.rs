//! Host timer for the clock's next event: its descriptor becomes readable then.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// Timer of the host's real-time clock (timerfd), which follows changes of that clock.
#[derive(Debug)]
pub(super) struct Timer(OwnedFd);

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Realtime, flags)?))
    }

    /// Sets the timer to a time since the epoch, or off. A time in the past fires at once; an earlier expiry is cleared.
    pub(super) fn set(&self, when: Option<Duration>) -> io::Result<()> {
        // A time of 0 would disarm the timer.
        let when = when.map(|when| when.max(Duration::from_nanos(1))).unwrap_or_default();
        let value = Timespec::try_from(when).map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value: value };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    /// Returns another descriptor of the timer, to poll.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::devices::rtc::now;

    #[test]
    fn it_goes_off_and_is_silent_again() {
        let timer = Timer::new().unwrap();
        let fd = timer.descriptor().unwrap();
        let ready = |seconds: i64| {
            let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time)).unwrap() == 1
        };
        assert!(!ready(0));
        timer.set(Some(now() + Duration::from_millis(5))).unwrap();
        assert!(ready(60));
        timer.set(None).unwrap();
        assert!(!ready(0));
        timer.set(Some(Duration::ZERO)).unwrap();
        assert!(ready(60), "long past");
    }
}
