//! Why a task could not be done: one message, and the exit status it ends with.

use std::fmt;
use std::path::Path;

/// A task's end without success.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    status: u8,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of the task itself: exit status 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), status: 1 }
    }

    /// The same with another exit status.
    pub(crate) fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The exit status that xtask ends with.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Says what was being done with which file when the system refused.
pub(crate) trait While<T> {
    /// `cannot read /x/y: No such file or directory` for `act` "read".
    fn while_doing(self, act: &str, path: &Path) -> Result<T>;
}

impl<T, E: fmt::Display> While<T> for std::result::Result<T, E> {
    fn while_doing(self, act: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Failure::new(format!("cannot {act} {}: {error}", path.display())))
    }
}
