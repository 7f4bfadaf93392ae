//! Where the guest's output goes and its input comes from: two streams that the front-end hands in.
//!
//! Several devices print on the same console, so the output is shared. Devices write bytes; when these reach the
//! outside is decided here: at the latest when the guest asks for input or its run ends.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Input that arrives by itself.
pub trait Input: Send {
    /// Takes what has arrived, at most `buffer.len()` bytes, without waiting; 0 means nothing now.
    ///
    /// A device that has no room asks with an empty buffer, for an input some of whose keys are not for the guest.
    ///
    /// # Errors
    /// What reading ran into. An end of input is not an error: from then on there is nothing.
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether there will be no more.
    fn is_over(&self) -> bool;
}

/// No input, ever.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoInput;

impl Input for NoInput {
    fn poll(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }

    fn is_over(&self) -> bool {
        true
    }
}

/// Both directions.
pub struct Console {
    /// Takes what the guest prints.
    pub output: Output,
    /// Gives what the guest reads.
    pub input: Box<dyn Input>,
    /// A descriptor that becomes readable when there is input. Without one, input is found when the guest looks for it,
    /// and interrupts nobody.
    pub arrival: Option<OwnedFd>,
}

impl Console {
    /// A console that prints to `output` and has no input.
    #[must_use]
    pub fn to(output: impl Write + Send + 'static) -> Self {
        Self { output: Output::new(output), input: Box::new(NoInput), arrival: None }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Console")
    }
}

/// The shared output.
#[derive(Clone)]
pub struct Output(Arc<Mutex<dyn Write + Send>>);

impl Output {
    /// Shares `sink`. Buffering is the sink's choice.
    #[must_use]
    pub fn new(sink: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(sink)))
    }

    /// Passes on what the sink has buffered.
    ///
    /// # Errors
    /// The sink's.
    pub fn sync(&self) -> io::Result<()> {
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

    /// Does nothing: the serial port flushes after every byte. [`Output::sync`] is what flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Output")
    }
}
