//! What is said on standard error, to a person who may be gone.
//!
//! `eprintln!` panics when it cannot write, and that would be our end when somebody closes the terminal during a run:
//! the status would be that of a bug, in place of the run's.

use std::fmt::Arguments;
use std::io::Write;

/// Writes a text, coloured where standard error is a terminal that wants it. Nobody hears of a failure.
pub(crate) fn print(text: Arguments<'_>) {
    let _ = anstream::stderr().lock().write_fmt(text);
}

/// Writes a text and ends the line.
pub(crate) fn print_line(line: Arguments<'_>) {
    print(format_args!("{line}\n"));
}
