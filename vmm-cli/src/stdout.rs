//! Writes results to standard output. A reader that closed the pipe (`| head`) is not an error.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::status::Status;

/// Writes a text.
///
/// # Errors
/// Standard output cannot be written to ([`Status::Host`]).
pub(crate) fn print(text: &str) -> Result<(), Diagnostics> {
    write_all(text.as_bytes())
}

/// Writes a value as JSON, in one line.
///
/// # Errors
/// See [`print`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Diagnostics> {
    // Strings, numbers and lists always serialize: the fallback is never used.
    print(&(serde_json::to_string(value).unwrap_or_default() + "\n"))
}

/// Writes bytes.
///
/// # Errors
/// See [`print`].
pub(crate) fn write_all(bytes: &[u8]) -> Result<(), Diagnostics> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(write_error(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a diagnostic of an error of standard output.
pub(crate) fn write_error(error: &io::Error) -> Diagnostics {
    Diagnostic::error(Status::Host, format!("cannot write to standard output: {error}")).into()
}
