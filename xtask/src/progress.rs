//! Progress messages. They go to standard error, so that standard output has only results.

use std::fmt::Arguments;
use std::time::{Duration, Instant};

/// Prints a line to standard error.
pub(crate) fn say(text: Arguments<'_>) {
    eprintln!("xtask: {text}");
}

/// A phase of a task, reported with its duration.
pub(crate) struct Phase {
    name: &'static str,
    start: Instant,
}

impl Phase {
    /// Prints the name and starts the clock.
    pub(crate) fn start(name: &'static str) -> Self {
        say(format_args!("{name}"));
        Self { name, start: Instant::now() }
    }

    /// Prints the result and the duration.
    pub(crate) fn end(self, result: Arguments<'_>) {
        say(format_args!("{}: {result}, {}", self.name, seconds(self.start.elapsed())));
    }
}

/// Formats a duration in seconds, such as `3.4 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
