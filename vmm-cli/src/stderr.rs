//! Writes messages to standard error. Write errors are ignored.
//!
//! `eprintln!` panics when it cannot write. A terminal that is closed during a run would then turn the run's exit status
//! into that of a bug.

use std::fmt::Arguments;
use std::io::Write;

/// Writes a text, with colours where standard error is a terminal that shows them.
pub(crate) fn print(text: Arguments<'_>) {
    let _ = anstream::stderr().lock().write_fmt(text);
}

/// Writes a text and a line break.
pub(crate) fn print_line(line: Arguments<'_>) {
    print(format_args!("{line}\n"));
}
