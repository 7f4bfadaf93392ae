//! Messages of a worker process to its parent: a length of four bytes, and the encoded message.
//!
//! The parent trusts a worker with the results of its own cases and with nothing else: the length has a maximum, and bytes that are
//! no message end the worker.

use std::io::{self, PipeWriter, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vmm_core::encoding;

use super::outcome::{CaseFailure, CaseRun};
use crate::status::Status;

/// Maximum size of an encoded message, in bytes.
const MAX_MESSAGE: usize = 4 << 20;
/// Size of messages that are sent together, in bytes. A pipe takes as many at once.
const MAX_PENDING: usize = 4096;
/// Run time of passed cases whose messages are sent together. Each write wakes the parent, which takes as long as a short case.
const MAX_DELAY: Duration = Duration::from_millis(2);
/// Size of the length before a message, in bytes.
const LENGTH: usize = size_of::<u32>();

/// Message of a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The cases start from no snapshot: other workers can run cases of the group too.
    NoSnapshot,
    /// The files of the boot snapshot are complete.
    Booted,
    /// The boot snapshot cannot be taken.
    BootFailed(CaseFailure),
    /// A case was run once.
    Finished {
        /// Number of the case.
        case: usize,
        /// Time of the run.
        elapsed: Duration,
        /// Result of the run.
        run: CaseRun,
        /// True if the worker runs no more cases, but has to close its machine.
        is_last: bool,
    },
    /// The worker found no more cases, and has to close its machine.
    Leaving,
}

/// Sending end of a worker.
#[derive(Debug)]
pub(super) struct MessageSender<'a> {
    pipe: &'a PipeWriter,
    pending: Vec<u8>,
    delay: Duration,
}

impl<'a> MessageSender<'a> {
    pub(super) const fn new(pipe: &'a PipeWriter) -> Self {
        Self { pipe, pending: Vec::new(), delay: Duration::ZERO }
    }

    /// Sends a message. Short runs of passed cases are sent together.
    ///
    /// # Errors
    /// The parent has ended.
    pub(super) fn send(&mut self, message: &Message) -> io::Result<()> {
        let bytes = encode(message).or_else(|| encode(&shortened(message)));
        let bytes = bytes.ok_or(io::ErrorKind::InvalidData)?;
        self.pending.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.pending.extend(bytes);
        if let Message::Finished { elapsed, run: CaseRun::Passed, is_last: false, .. } = message {
            self.delay = self.delay.saturating_add(*elapsed);
            if self.delay < MAX_DELAY && self.pending.len() < MAX_PENDING {
                return Ok(());
            }
        }
        self.delay = Duration::ZERO;
        let pending = std::mem::take(&mut self.pending);
        self.pipe.write_all(&pending)
    }
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    encoding::to_bytes(message).ok().filter(|bytes| bytes.len() <= MAX_MESSAGE)
}

/// Returns what is left of a message that is too large.
fn shortened(message: &Message) -> Message {
    let failure = |status| {
        let line = "the report of this failure is too large".to_owned();
        CaseFailure::without_run(status, line)
    };
    match message {
        Message::Finished { case, elapsed, run, is_last } => {
            let status = if let CaseRun::Failed(failure) = run { failure.status } else { Status::Bug };
            let run = failure(status).into();
            Message::Finished { case: *case, elapsed: *elapsed, run, is_last: *is_last }
        }
        Message::BootFailed(boot) => Message::BootFailed(failure(boot.status)),
        Message::NoSnapshot => Message::NoSnapshot,
        Message::Booted => Message::Booted,
        Message::Leaving => Message::Leaving,
    }
}

/// Receiving end in the parent: bytes that came, and are not taken yet.
#[derive(Debug, Default)]
pub(super) struct MessageBuffer(Vec<u8>);

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidMessage;

impl MessageBuffer {
    /// Adds bytes that came, and returns the messages that are complete now.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<Vec<Message>, InvalidMessage> {
        self.0.extend_from_slice(bytes);
        let mut messages = Vec::new();
        let mut rest = &self.0[..];
        while let Some((length, after)) = rest.split_first_chunk::<LENGTH>() {
            let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| InvalidMessage)?;
            if length > MAX_MESSAGE {
                return Err(InvalidMessage);
            }
            let Some((message, after)) = after.split_at_checked(length) else { break };
            messages.push(encoding::from_bytes(message).map_err(|_| InvalidMessage)?);
            rest = after;
        }
        let taken = self.0.len() - rest.len();
        self.0.drain(..taken);
        Ok(messages)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn finished(case: usize, run: CaseRun) -> Message {
        Message::Finished { case, elapsed: Duration::from_micros(50), run, is_last: false }
    }

    #[test]
    fn messages_arrive_in_pieces_of_any_size() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sender = MessageSender::new(&writer);
        for case in 0..3 {
            sender.send(&finished(case, CaseRun::Passed)).unwrap();
        }
        sender.send(&Message::Leaving).unwrap();
        drop(writer);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        for size in 1..bytes.len() {
            let mut buffer = MessageBuffer::default();
            let parts = bytes.chunks(size).flat_map(|part| buffer.add(part).unwrap());
            let all: Vec<Message> = parts.collect();
            assert!(matches!(all[..], [.., Message::Finished { case: 2, .. }, Message::Leaving]), "{all:?}");
            assert_eq!((all.len(), buffer.0.len()), (4, 0));
        }
    }

    #[test]
    fn other_bytes_are_no_message() {
        let too_long = [0xff; LENGTH];
        let unknown = [1, 0, 0, 0, 77];
        let trailing = [2, 0, 0, 0, 0, 0];
        for bytes in [&too_long[..], &unknown, &trailing] {
            assert_eq!(MessageBuffer::default().add(bytes).unwrap_err(), InvalidMessage, "{bytes:?}");
        }
    }

    #[test]
    fn a_failure_that_is_too_large_is_shortened() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sender = MessageSender::new(&writer);
        let mut failure = CaseFailure::without_run(Status::Hung, "hangs".to_owned());
        failure.report = Some("x".repeat(MAX_MESSAGE));
        sender.send(&finished(7, failure.into())).unwrap();
        drop(writer);
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        let messages = MessageBuffer::default().add(&bytes).unwrap();
        let [Message::Finished { case: 7, run: CaseRun::Failed(failure), .. }] = &messages[..] else {
            panic!("{messages:?}")
        };
        assert_eq!((failure.status, failure.report.as_ref()), (Status::Hung, None));
    }
}
