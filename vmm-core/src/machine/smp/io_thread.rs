//! The I/O thread: waits for console input and for the clock's timer, and lets the devices raise their interrupts.
//!
//! It waits in `poll(2)` until something is readable or the run is over. A device whose buffer is full is polled again a
//! little later, and less and less often: the guest may never read.

use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use kvm_sys_wrap::block_vcpu_signals;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::devices::device::InputStatus;
use crate::machine::board::InputSource;
use crate::machine::error::Error;

const MIN_RETRY_DELAY: Duration = Duration::from_millis(1);
const MAX_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Number of attempts to stop the I/O thread. The run ends only with it.
const MAX_STOP_ATTEMPTS: u32 = 1000;

/// Event that ends the I/O thread.
pub(crate) struct StopEvent(std::os::fd::OwnedFd);

impl StopEvent {
    pub(crate) fn new() -> Result<Self, Error> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| Error::Console(error.into()))?;
        Ok(Self(fd))
    }

    pub(crate) fn stop(&self) {
        // An eventfd with no other writer always accepts this, unless a signal comes first.
        let attempt = || rustix::io::write(&self.0, &1_u64.to_ne_bytes());
        let _ = (0..MAX_STOP_ATTEMPTS).find(|_| attempt().is_ok());
    }
}

/// Device whose source is polled.
struct PolledSource<'a> {
    source: &'a InputSource,
    /// Time to wait the next time that the device is full.
    retry_delay: Duration,
    /// Time until which a full device is not polled.
    paused_until: Option<Instant>,
}

/// Polls the devices until `stop` is signalled, or all sources are closed.
pub(crate) fn run(input_sources: &[InputSource], stop: &StopEvent) -> io::Result<()> {
    // Otherwise Ctrl-C could be delivered here, and no vCPU would stop.
    block_vcpu_signals().map_err(io::Error::other)?;
    let waiting = |source| PolledSource { source, retry_delay: MIN_RETRY_DELAY, paused_until: None };
    let mut devices: Vec<_> = input_sources.iter().map(waiting).collect();
    while !devices.is_empty() {
        let now = Instant::now();
        let mut wake: Option<Instant> = None;
        let mut polled = vec![PollFd::new(&stop.0, PollFlags::IN)];
        for device in &mut devices {
            device.paused_until = device.paused_until.filter(|until| *until > now);
            wake = [wake, device.paused_until].into_iter().flatten().min();
            // Instead of a paused source, `stop` is polled a second time.
            let source = device.paused_until.map_or(device.source.fd.as_fd(), |_| stop.0.as_fd());
            polled.push(PollFd::from_borrowed_fd(source, PollFlags::IN));
        }
        poll_until(&mut polled, wake.map(|wake| wake - now))?;
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            return Ok(());
        }
        let ready: Vec<bool> = ready.collect();
        let mut open_sources = Vec::with_capacity(devices.len());
        for (mut device, ready) in devices.into_iter().zip(ready) {
            let open = !ready || device.poll_input()?;
            open_sources.extend(open.then_some(device));
        }
        devices = open_sources;
    }
    Ok(())
}

impl PolledSource<'_> {
    /// Polls the device; returns true if there may be more input.
    fn poll_input(&mut self) -> io::Result<bool> {
        let mut device = self.source.device.lock().unwrap_or_else(PoisonError::into_inner);
        match device.poll_input()? {
            InputStatus::Consumed => self.retry_delay = MIN_RETRY_DELAY,
            InputStatus::Full => {
                self.retry_delay = MAX_RETRY_DELAY.min(self.retry_delay * 2);
                self.paused_until = Some(Instant::now() + self.retry_delay);
            }
            InputStatus::Closed => return Ok(false),
        }
        Ok(true)
    }
}

fn poll_until(polled: &mut [PollFd<'_>], time: Option<Duration>) -> io::Result<()> {
    let time = time.and_then(|time| Timespec::try_from(time).ok());
    match poll(polled, time.as_ref()) {
        // Signals are for the vCPUs' threads.
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
