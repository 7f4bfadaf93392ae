//! The thread that waits for the console's input, so that the guest is interrupted when there is some.
//!
//! It sleeps in `poll` until something arrives or the run is over. A device whose buffer is full is asked again a little
//! later, and less and less often: the guest may never read.

use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::Duration;

use kvm_sys_wrap::leave_signals_to_others;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::board::Receiver;
use crate::device::Reception;
use crate::error::Error;

const SHORTEST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// Ends the thread.
pub(crate) struct Stop(std::os::fd::OwnedFd);

impl Stop {
    pub(crate) fn new() -> Result<Self, Error> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| Error::Console(error.into()))?;
        Ok(Self(fd))
    }

    pub(crate) fn stop(&self) {
        // An eventfd that nobody else writes takes this always.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }
}

/// Passes on what arrives until it is stopped, or there is no more.
pub(crate) fn listen(receiver: &Receiver, stop: &Stop) -> io::Result<()> {
    // Else Ctrl-C could end up here, and no vCPU would hear of it.
    leave_signals_to_others().map_err(io::Error::other)?;
    let mut wait = SHORTEST_WAIT;
    loop {
        if wait_for(&[receiver.source.as_fd(), stop.0.as_fd()], None)?[1] {
            return Ok(());
        }
        let mut device = receiver.device.lock().unwrap_or_else(PoisonError::into_inner);
        let reception = device.receive()?;
        drop(device);
        match reception {
            Reception::Taken => wait = SHORTEST_WAIT,
            Reception::Full => wait = LONGEST_WAIT.min(wait * 2),
            Reception::Over => return Ok(()),
        }
        if reception == Reception::Full && wait_for(&[stop.0.as_fd()], Some(wait))?[0] {
            return Ok(());
        }
    }
}

/// Which of the descriptors are readable.
fn wait_for(descriptors: &[std::os::fd::BorrowedFd<'_>], time: Option<Duration>) -> io::Result<[bool; 2]> {
    let mut polled: Vec<_> = descriptors.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    match poll(&mut polled, time.as_ref()) {
        // Signals are for the vCPUs' threads.
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = |index: usize| polled.get(index).is_some_and(|fd| !fd.revents().is_empty());
    Ok([ready(0), ready(1)])
}
