//! Connection to one gdb.
//!
//! A thread reads from it, so that Ctrl-C in gdb is noticed while the guest runs: the thread interrupts the debugger,
//! which checks [`Inbox::wants_attention`]. Everything else happens on the thread of the vCPU.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use gdbstub::conn::{Connection, ConnectionExt};
use vmm_core::debugger::InterruptHandle;
use vmm_core::kvm_sys_wrap::termination_requested;

use super::listener::GdbStream;
use crate::bounded_writer::BoundedWriter;

/// Number of received bytes at which the reader thread waits until some are read: gdb must not fill the memory of this process.
const MAX_INBOX: usize = 64 << 10;
/// Interval at which a wait checks for termination requests.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Connection for gdbstub.
pub(super) struct GdbConnection {
    stream: GdbStream,
    inbox: Inbox,
    reader: Option<JoinHandle<()>>,
}

/// Received bytes that were not read yet.
#[derive(Clone, Default)]
pub(super) struct Inbox(Arc<(Mutex<InboxState>, Condvar)>);

#[derive(Default)]
struct InboxState {
    bytes: VecDeque<u8>,
    /// True if gdb closed the connection.
    closed: bool,
    /// True if the session is over, so that nobody reads.
    abandoned: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true if there are bytes to read, or the connection was closed.
    pub(super) fn wants_attention(&self) -> bool {
        let contents = self.lock();
        contents.closed || !contents.bytes.is_empty()
    }

    /// Adds received bytes when there is room. An empty slice means that the connection was closed.
    fn add(&self, bytes: &[u8]) {
        let mut contents = self.lock();
        while contents.bytes.len() >= MAX_INBOX && !contents.abandoned {
            contents = self.0.1.wait(contents).unwrap_or_else(PoisonError::into_inner);
        }
        contents.closed |= bytes.is_empty();
        contents.bytes.extend(bytes);
        drop(contents);
        self.0.1.notify_all();
    }

    /// Ends the wait of the reader thread, and lets it add bytes that nobody reads.
    fn abandon(&self) {
        self.lock().abandoned = true;
        self.0.1.notify_all();
    }

    fn peek(&self) -> io::Result<Option<u8>> {
        let contents = self.lock();
        match contents.bytes.front() {
            None if contents.closed => Err(ErrorKind::UnexpectedEof.into()),
            byte => Ok(byte.copied()),
        }
    }

    fn take(&self) -> io::Result<u8> {
        let mut contents = self.lock();
        loop {
            if let Some(byte) = contents.bytes.pop_front() {
                if contents.bytes.len() + 1 == MAX_INBOX {
                    self.0.1.notify_all();
                }
                return Ok(byte);
            }
            if contents.closed {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if termination_requested() {
                return Err(ErrorKind::Interrupted.into());
            }
            let woken =
                self.0.1.wait_timeout(contents, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner);
            contents = woken.0;
        }
    }
}

impl GdbConnection {
    /// Starts the reader thread.
    pub(super) fn new(stream: GdbStream, interrupt_handle: InterruptHandle) -> io::Result<Self> {
        let inbox = Inbox::default();
        let (mut source, sink) = (stream.try_clone()?, inbox.clone());
        let reader = thread::Builder::new().name("gdb reader".to_owned()).spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let count = match source.read(&mut buffer) {
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(_) => 0,
                };
                sink.add(buffer.get(..count).unwrap_or_default());
                interrupt_handle.interrupt();
                if count == 0 {
                    return;
                }
            }
        })?;
        Ok(Self { stream, inbox, reader: Some(reader) })
    }

    /// Returns a handle to the received bytes.
    pub(super) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }
}

impl Drop for GdbConnection {
    fn drop(&mut self) {
        self.stream.shut_down();
        self.inbox.abandon();
        if let Some(reader) = self.reader.take() {
            // A panic of the reader is already reported.
            let _ = reader.join();
        }
    }
}

impl Connection for GdbConnection {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.write_all(&[byte])
    }

    /// Writes all bytes. A gdb that does not read holds up no signal that ends the run.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        BoundedWriter::new(&self.stream, None).write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ConnectionExt for GdbConnection {
    fn read(&mut self) -> io::Result<u8> {
        self.inbox.take()
    }

    fn peek(&mut self) -> io::Result<Option<u8>> {
        self.inbox.peek()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_waits_for_the_session_and_arrives_in_order() {
        let (inbox, total) = (Inbox::default(), 4 * MAX_INBOX);
        let sink = inbox.clone();
        let all: Vec<u8> = (0..=250).cycle().take(total).collect();
        let sent = all.clone();
        let sender = thread::spawn(move || sent.chunks(4096).for_each(|bytes| sink.add(bytes)));
        let mut received = Vec::new();
        while received.len() < total {
            assert!(inbox.lock().bytes.len() < MAX_INBOX + 4096);
            received.push(inbox.take().unwrap());
        }
        sender.join().unwrap();
        assert!(received == all);
    }

    #[test]
    fn the_reader_does_not_wait_after_the_session() {
        let inbox = Inbox::default();
        inbox.add(&[0; MAX_INBOX]);
        let sink = inbox.clone();
        let reader = thread::spawn(move || sink.add(b"more"));
        inbox.abandon();
        reader.join().unwrap();
        assert_eq!(inbox.lock().bytes.len(), MAX_INBOX + 4);
    }
}
