//! What xtask says while it works: on stderr, so that stdout holds results only.

use std::fmt::Arguments;
use std::time::{Duration, Instant};

/// Prints one line about what goes on.
pub(crate) fn say(text: Arguments<'_>) {
    eprintln!("xtask: {text}");
}

/// A part of a longer task, which reports how long it took.
pub(crate) struct Part {
    name: &'static str,
    start: Instant,
}

impl Part {
    /// Announces the part.
    pub(crate) fn start(name: &'static str) -> Self {
        say(format_args!("{name}"));
        Self { name, start: Instant::now() }
    }

    /// Says that it is done, and what came out.
    pub(crate) fn end(self, result: Arguments<'_>) {
        say(format_args!("{}: {result}, {}", self.name, seconds(self.start.elapsed())));
    }
}

/// A duration as people read it: `3.4 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
