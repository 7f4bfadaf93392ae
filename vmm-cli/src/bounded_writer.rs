//! Writes to a descriptor whose reader may never read, such as a pipe to a program that sleeps.
//!
//! A plain `write` would wait for the reader as long as it takes, and neither a time limit nor a signal would end the run.
//! Here a wait ends at a deadline, or soon after the termination of the run is requested.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_core::kvm_sys_wrap::termination_requested;

/// Maximum number of bytes of one `write`. A pipe that is ready takes as many without blocking (`PIPE_BUF`, pipe(7)).
const MAX_WRITE: usize = 4096;
/// Time that the reader has once termination is requested or a limit has ended the run.
pub(crate) const READER_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval at which a wait checks for a termination request. A signal between the check and `poll` does not end `poll`.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Writer that gives up at a deadline or on a termination request, with [`ErrorKind::TimedOut`].
#[derive(Debug)]
pub(crate) struct BoundedWriter<F> {
    descriptor: F,
    deadline: Option<Instant>,
}

impl<F: AsFd> BoundedWriter<F> {
    /// Creates a writer that waits at most until `deadline`.
    pub(crate) fn new(descriptor: F, deadline: Option<Instant>) -> Self {
        Self { descriptor, deadline }
    }

    /// Waits until the descriptor takes bytes.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            if termination_requested() {
                let end = Instant::now() + READER_TIMEOUT;
                self.deadline = Some(self.deadline.map_or(end, |deadline| deadline.min(end)));
            }
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let time = left.map_or(POLL_INTERVAL, |left| left.min(POLL_INTERVAL));
            let timeout = Timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.descriptor, PollFlags::OUT)], Some(&timeout)) {
                Ok(0) if time.is_zero() => return Err(ErrorKind::TimedOut.into()),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl<F: AsFd> Write for BoundedWriter<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = bytes.get(..MAX_WRITE).unwrap_or(bytes);
        loop {
            self.wait()?;
            match rustix::io::write(&self.descriptor, bytes) {
                // Not ready after all: another process wrote to the same pipe.
                Err(Errno::INTR | Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_full_pipe_is_waited_for_until_the_deadline() {
        let (_reader, writer) = io::pipe().unwrap();
        let mut writer = BoundedWriter::new(writer, Some(Instant::now() + Duration::from_millis(150)));
        let mut written = 0;
        let error = loop {
            match writer.write(&[0; 1000]) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        // The default size of a pipe, in whole writes.
        assert!(written >= 60_000, "{written}");
    }

    #[test]
    fn all_bytes_arrive_at_a_slow_reader() {
        let (mut reader, writer) = io::pipe().unwrap();
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        let sent: Vec<u8> = (0..500_000u32).map(|number| number.to_le_bytes()[0]).collect();
        let mut writer = BoundedWriter::new(writer, None);
        writer.write_all(&sent).unwrap();
        drop(writer);
        assert_eq!(reader.join().unwrap(), sent);
    }

    #[test]
    fn a_closed_reader_is_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = BoundedWriter::new(writer, None).write(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
