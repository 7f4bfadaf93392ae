//! Writes messages to standard error. Write errors are ignored.
//!
//! `eprintln!` panics when it cannot write. A terminal that is closed during a run would then turn the run's exit status
//! into that of a bug.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::OnceLock;
use std::time::Instant;

use anstream::AutoStream;
use vmm_core::kvm_sys_wrap::termination_requested;

use crate::bounded_writer::{BoundedWriter, READER_TIMEOUT};

/// End of all waits for the reader of standard error.
static DEADLINE: OnceLock<Instant> = OnceLock::new();

/// Stops waiting for the reader of standard error after [`READER_TIMEOUT`]: a limit or a signal ended the run, and the report
/// must not hold up the end of the process.
pub(crate) fn limit_waits() {
    DEADLINE.get_or_init(|| Instant::now() + READER_TIMEOUT);
}

/// Writes a text, with colours where standard error is a terminal that shows them.
pub(crate) fn print(text: Arguments<'_>) {
    if cfg!(any(test, feature = "fuzzing")) {
        // Nobody reads what unit tests and fuzz targets say, and there is much of it. It is only formatted.
        let _ = text.to_string();
        return;
    }
    // In one piece, so that the lines of other processes do not split it.
    let mut bytes = Vec::new();
    let choice = AutoStream::choice(&std::io::stderr());
    let _ = AutoStream::new(&mut bytes, choice).write_fmt(text);
    if termination_requested() {
        limit_waits();
    }
    let mut writer = BoundedWriter::new(rustix::stdio::stderr(), DEADLINE.get().copied());
    let _ = writer.write_all(&bytes);
}

/// Writes a text and a line break.
pub(crate) fn print_line(line: Arguments<'_>) {
    print(format_args!("{line}\n"));
}
