//! Interrupt lines, which connect devices to an interrupt controller.
//!
//! The other end ([`IrqSink`]) is the machine's: an interrupt controller, or nothing.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Interrupt line of a device. Clones are the same line.
#[derive(Clone)]
pub struct IrqLine(Option<Arc<dyn IrqSink>>);

/// Input of an interrupt controller, to which a device's line leads.
pub trait IrqSink: Send + Sync {
    /// Sends an edge: raises and lowers the line.
    ///
    /// # Errors
    /// Errors of the host's call.
    fn pulse(&self) -> io::Result<()>;

    /// Sets the level of the line: high if `level`.
    ///
    /// # Errors
    /// Errors of the host's call.
    fn set(&self, level: bool) -> io::Result<()>;
}

impl IrqLine {
    /// Creates a line without an input, for a machine without interrupt controllers.
    #[must_use]
    pub const fn disconnected() -> Self {
        Self(None)
    }

    /// Creates a line that leads to `sink`.
    #[must_use]
    pub fn new(sink: impl IrqSink + 'static) -> Self {
        Self(Some(Arc::new(sink)))
    }

    /// Sends an edge: raises and lowers the line.
    ///
    /// # Errors
    /// Errors of the host's call.
    pub fn pulse(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |sink| sink.pulse())
    }

    /// Sets the level of the line: high if `level`.
    ///
    /// # Errors
    /// Errors of the host's call.
    pub fn set(&self, level: bool) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |sink| sink.set(level))
    }

    /// Returns true if the line has an input.
    #[must_use]
    pub const fn is_connected(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_connected() { "Line" } else { "Line (disconnected)" })
    }
}
