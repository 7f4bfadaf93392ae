//! Connects the guest's console to our standard streams.
//!
//! Output goes to standard output as the guest writes it: byte by byte on a terminal, else line by line. If the
//! configuration checks the output, a copy is kept. Input is read from standard input without waiting.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_core::devices::console::{self, Console, Input};
use vmm_core::spec::{Interrupts, MachineSpec};

use crate::raw_terminal::RawTerminal;

/// Maximum size of the copy of the output, in bytes.
const MAX_COPY: usize = 16 << 20;
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
pub(crate) struct StdoutOutput {
    /// Line-buffered.
    stdout: Stdout,
    /// True if standard output is a terminal: then each byte is flushed.
    terminal: bool,
    copy: Option<OutputCopy>,
}

impl StdoutOutput {
    /// Writes to standard output, and to `copy`.
    pub(crate) fn new(copy: Option<OutputCopy>) -> Self {
        let stdout = io::stdout();
        Self { terminal: stdout.is_terminal(), stdout, copy }
    }
}

impl Write for StdoutOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.stdout.write(bytes)?;
        if self.terminal {
            self.stdout.flush()?;
        }
        if let Some(copy) = &self.copy {
            copy.add(bytes.get(..count).unwrap_or_default());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
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
/// interrupts gets whole lines.
pub(crate) fn console(output: StdoutOutput, spec: &MachineSpec) -> Console {
    let interactive = spec.interrupts != Interrupts::None;
    let output = console::Output::new(output);
    let keys = if interactive { RawTerminal::enter() } else { None };
    // Without this descriptor a machine polls its input.
    let arrival = if interactive { rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).ok() } else { None };
    Console { output, input: Box::new(StdinInput { keys, ..StdinInput::default() }), arrival }
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

    fn is_over(&self) -> bool {
        self.ended && self.ahead.is_empty()
    }
}
