//! Console of a guest: an output and an input stream of the front-end.
//!
//! Several devices share the output. It is flushed when the guest asks for input and when its run ends.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Input of a console: bytes from a terminal, a file or another source.
pub trait Input: Send {
    /// Reads at most `buffer.len()` bytes without waiting and returns their number; 0 if there are none now.
    ///
    /// A device without room calls it with an empty buffer, because some keys may be commands for the front-end.
    ///
    /// # Errors
    /// Errors of reading. The end of input is not an error: it returns 0 from then on.
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Returns true if the input has ended.
    fn has_ended(&self) -> bool;
}

/// Console input that has no bytes and has ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoInput;

impl Input for NoInput {
    fn poll(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn has_ended(&self) -> bool {
        true
    }
}

/// Output and input of a guest.
pub struct Console {
    /// Stream to which the guest's output goes.
    pub output: Output,
    /// Stream from which the guest's input comes.
    pub input: Box<dyn Input>,
    /// File descriptor that is readable when there is input. Without one, input raises no interrupt and is found when the
    /// guest polls for it.
    pub input_fd: Option<OwnedFd>,
}

impl Console {
    /// Creates a console that prints to `output` and has no input.
    #[must_use]
    pub fn with_output(output: impl Write + Send + 'static) -> Self {
        Self { output: Output::new(output), input: Box::new(NoInput), input_fd: None }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}

/// Output of a console that several devices share.
#[derive(Clone)]
pub struct Output(Arc<Mutex<dyn Write + Send>>);

impl Output {
    /// Creates an output to `sink`, which decides on buffering.
    #[must_use]
    pub fn new(sink: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(sink)))
    }

    /// Flushes what the guest has printed so far. A sink may stop waiting for its reader once the run has to end, with
    /// [`io::ErrorKind::TimedOut`]: it keeps the bytes, and this returns.
    ///
    /// # Errors
    /// Errors of the sink.
    pub fn sync(&self) -> io::Result<()> {
        match self.lock().flush() {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(()),
            result => result,
        }
    }

    /// Flushes the sink at the end of a run.
    ///
    /// # Errors
    /// Errors of the sink, also [`io::ErrorKind::TimedOut`]: output is lost.
    pub fn finish(&self) -> io::Result<()> {
        self.lock().flush()
    }

    fn lock(&self) -> MutexGuard<'_, dyn Write + Send + 'static> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    /// Does nothing, because the serial port flushes after every byte. [`Output::sync`] flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}
