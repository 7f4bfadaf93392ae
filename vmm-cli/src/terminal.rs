//! Connects the guest's console to our standard streams.
//!
//! Output goes to standard output as the guest writes it: byte by byte on a terminal, else line by line. If the
//! configuration checks the output, a copy is kept. Input is read from standard input without waiting.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_core::devices::console::{self, Console, Input};
use vmm_core::spec::{Interrupts, MachineSpec};

use crate::bounded_writer::BoundedWriter;
use crate::raw_terminal::RawTerminal;
use crate::stderr;

/// Maximum size of the copy of the output, in bytes.
const MAX_COPY: usize = 16 << 20;
/// Length of a line from which on it is written before it ends, in bytes.
const MAX_LINE: usize = 1024;
/// Maximum number of bytes of output that are kept for a reader that does not read. More are an error.
const MAX_PENDING: usize = 1 << 20;
/// Maximum number of typed bytes that the guest has not read. Further input is dropped.
const MAX_TYPE_AHEAD: usize = 1 << 20;

/// Copy of the guest's output.
#[derive(Debug, Clone, Default)]
pub(crate) struct OutputCopy(Arc<Mutex<Vec<u8>>>);

impl OutputCopy {
    /// Returns the bytes so far, at most [`MAX_COPY`].
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Clears the copy.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds output.
    pub(crate) fn add(&self, bytes: &[u8]) {
        let mut copy = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_COPY.saturating_sub(copy.len()).min(bytes.len());
        copy.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }
}

impl Write for OutputCopy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Console output to standard output.
///
/// Bytes that the reader does not take before the end of the run are kept, so that a limit or a signal can end the run. They are
/// written at the end if the reader takes them then, else their number is reported.
pub(crate) struct StdoutOutput {
    stdout: BoundedWriter<BorrowedFd<'static>>,
    /// Bytes that are not written yet.
    pending: Vec<u8>,
    /// True if standard output is a terminal: then each byte is written at once. Else lines are.
    terminal: bool,
    copy: Option<OutputCopy>,
}

impl StdoutOutput {
    /// Writes to standard output, and to `copy`. `limit` is the time limit of the run.
    pub(crate) fn new(copy: Option<OutputCopy>, limit: Option<Duration>) -> Self {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let stdout = rustix::stdio::stdout();
        Self {
            terminal: stdout.is_terminal(),
            stdout: BoundedWriter::new(stdout, deadline),
            pending: Vec::new(),
            copy,
        }
    }

    /// Writes the pending bytes up to `end`.
    fn write_pending(&mut self, end: usize) -> io::Result<()> {
        let mut done = 0;
        let result = loop {
            let Some(rest) = self.pending.get(done..end).filter(|rest| !rest.is_empty()) else {
                break Ok(());
            };
            match self.stdout.write(rest) {
                Ok(count) => done += count,
                Err(error) => break Err(error),
            }
        };
        self.pending.drain(..done);
        result
    }
}

impl Write for StdoutOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Whole lines before are written already, unless their reader does not read.
        let newline = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole_lines = newline.map_or(0, |at| self.pending.len() + at + 1);
        self.pending.extend_from_slice(bytes);
        if let Some(copy) = &self.copy {
            copy.add(bytes);
        }
        let end =
            if self.terminal || self.pending.len() >= MAX_LINE { self.pending.len() } else { whole_lines };
        match self.write_pending(end) {
            // The run ends at its next exit.
            Err(error) if error.kind() == ErrorKind::TimedOut && self.pending.len() < MAX_PENDING => {}
            result => result?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_pending(self.pending.len())
    }
}

impl Drop for StdoutOutput {
    fn drop(&mut self) {
        if let Err(error) = self.flush()
            && error.kind() == ErrorKind::TimedOut
        {
            stderr::print_line(format_args!(
                "warning: the last {} bytes of the guest's output were not read from standard output",
                self.pending.len()
            ));
        }
    }
}

/// Console input from standard input.
#[derive(Debug, Default)]
pub(crate) struct StdinInput {
    ended: bool,
    /// The terminal in raw mode, if it is one and the guest has interrupts. Restored on drop.
    keys: Option<RawTerminal>,
    /// Keys that the guest has not read. They are read early, since an escape may follow.
    ahead: VecDeque<u8>,
}

/// Creates a console on our standard streams.
///
/// A machine with interrupts has a kernel that edits lines by itself, so it gets every key as it is typed. A machine without
/// interrupts gets whole lines. With `has_signal_keys`, Ctrl-C ends the run in both cases.
pub(crate) fn console(output: StdoutOutput, spec: &MachineSpec, has_signal_keys: bool) -> Console {
    let interactive = spec.interrupts != Interrupts::None;
    let output = console::Output::new(output);
    let keys = if interactive { RawTerminal::enter(has_signal_keys) } else { None };
    // Without this descriptor a machine polls its input.
    let input_fd = if interactive { rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).ok() } else { None };
    Console { output, input: Box::new(StdinInput { keys, ..StdinInput::default() }), input_fd }
}

impl StdinInput {
    /// Reads what is available, without waiting.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let stdin = io::stdin();
        let mut ready = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) | Err(Errno::INTR) => return Ok(0),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        // Not through `Stdin::lock`, whose buffer would hide bytes from the next poll.
        match rustix::io::read(&stdin, &mut *buffer) {
            Ok(0) => {
                self.ended = true;
                Ok(0)
            }
            Ok(count) => Ok(count),
            Err(Errno::INTR | Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl Input for StdinInput {
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.keys.is_none() {
            return self.read(buffer);
        }
        let mut typed = [0; 256];
        let count = self.read(&mut typed)?;
        let count = self.keys.as_mut().map_or(count, |keys| keys.filter(&mut typed, count));
        let room = MAX_TYPE_AHEAD.saturating_sub(self.ahead.len());
        self.ahead.extend(typed.iter().take(count.min(room)));
        let count = buffer.len().min(self.ahead.len());
        for (byte, key) in buffer.iter_mut().zip(self.ahead.drain(..count)) {
            *byte = key;
        }
        Ok(count)
    }

    fn has_ended(&self) -> bool {
        self.ended && self.ahead.is_empty()
    }
}
