//! Progress bar on a terminal: number of finished and failed cases, and the names of the running ones.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use super::outcome::CaseCounts;

/// Progress bar, where standard error is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Creates a bar for `count` cases.
    pub(super) fn new(count: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(u64::try_from(count).unwrap_or(u64::MAX));
            let style =
                ProgressStyle::with_template("{elapsed:>4} [{bar:30}] {pos}/{len}{prefix} {wide_msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "))
        });
        Self { bar }
    }

    /// Returns true if the bar is visible.
    pub(super) const fn is_shown(&self) -> bool {
        self.bar.is_some()
    }

    pub(super) fn finish_case(&mut self, tally: &CaseCounts) {
        let Some(bar) = &self.bar else { return };
        if tally.failed > 0 {
            bar.set_prefix(format!(", {} failed", tally.failed));
        }
        bar.inc(1);
    }

    /// Redraws the bar with the names of the running cases.
    pub(super) fn tick(&self, running: &[&str]) {
        let Some(bar) = &self.bar else { return };
        bar.set_message(running.join(", "));
        bar.tick();
    }

    /// Hides the bar while `print` prints.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
