//! The error type of all tasks: a message and an exit status.

use std::fmt;
use std::path::Path;

/// Error of a task.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

/// Result of a task or a part of one.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Creates a failure with exit status 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 1 }
    }

    /// Replaces the exit status.
    pub(crate) fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// Exit status that xtask ends with.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Adds the action and the path to an I/O error.
pub(crate) trait FileContext<T> {
    /// Turns an error into a [`Failure`] such as `cannot read /x/y: No such file or directory`, for `act` "read".
    fn while_doing(self, act: &str, path: &Path) -> Result<T>;
}

impl<T, E: fmt::Display> FileContext<T> for std::result::Result<T, E> {
    fn while_doing(self, act: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Failure::new(format!("cannot {act} {}: {error}", path.display())))
    }
}
