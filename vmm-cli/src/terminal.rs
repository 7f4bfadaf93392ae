//! The guest's console on our standard streams.
//!
//! Output goes to standard output exactly as the guest writes it: at once where a person watches, else line by line. If
//! the configuration checks it, a copy is kept. Input is what standard input has right now; nobody waits for it.

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_core::devices::console::{self, Console, Input};
use vmm_core::spec::{Interrupts, MachineSpec};

use crate::raw_terminal::RawTerminal;

/// No check looks at more output than this.
const MAX_COPY: usize = 16 << 20;
/// Who types, or pastes, more than this to a guest that reads nothing loses the rest.
const MAX_TYPE_AHEAD: usize = 1 << 20;

/// What the guest printed, as far as it is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct OutputCopy(Arc<Mutex<Vec<u8>>>);

impl OutputCopy {
    /// The bytes so far, at most 16 MiB.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets them.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Adds what was printed.
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

/// Standard output.
pub(crate) struct StdoutOutput {
    /// Buffers lines by itself.
    stdout: Stdout,
    /// Whether a person watches: then no byte waits for the end of its line.
    terminal: bool,
    copy: Option<OutputCopy>,
}

impl StdoutOutput {
    /// Standard output, with a copy kept in `copy`.
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

/// Standard input, until it ends.
#[derive(Debug, Default)]
pub(crate) struct StdinInput {
    ended: bool,
    /// The terminal, if it is one and the guest has it for itself; given back when this is dropped.
    keys: Option<RawTerminal>,
    /// Keys that the guest has no room for yet. They are taken all the same, since ours may be behind them.
    ahead: VecDeque<u8>,
}

/// The guest's console on our standard streams.
///
/// A machine with interrupts has a kernel that edits lines by itself, so it gets every key as it is typed; one
/// without is a program, and gets lines.
pub(crate) fn console(output: StdoutOutput, spec: &MachineSpec) -> Console {
    let interactive = spec.interrupts != Interrupts::None;
    let output = console::Output::new(output);
    let keys = if interactive { RawTerminal::enter() } else { None };
    // A machine without this copy of the descriptor finds its input when it looks for it.
    let arrival = if interactive { rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).ok() } else { None };
    Console { output, input: Box::new(StdinInput { keys, ..StdinInput::default() }), arrival }
}

impl StdinInput {
    /// Takes what is there, without waiting.
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
        // Not through `Stdin::lock`: its buffer would hide from the next poll what it has read ahead.
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
