//! Progress bar on a terminal: number of finished and failed cases, and the names of the running ones.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

use super::outcome::CaseCounts;

/// Progress bar, where standard error is a terminal.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    /// Running cases by number, oldest first.
    running: Vec<(usize, String)>,
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
        Self { bar, running: Vec::new() }
    }

    /// Returns true if the bar is visible.
    pub(super) const fn is_shown(&self) -> bool {
        self.bar.is_some()
    }

    pub(super) fn add_running(&mut self, number: usize, name: &str) {
        if self.bar.is_some() {
            self.running.push((number, name.to_owned()));
        }
    }

    pub(super) fn finish_case(&mut self, number: usize, tally: &CaseCounts) {
        let Some(bar) = &self.bar else { return };
        self.running.retain(|(running, _)| *running != number);
        if tally.failed > 0 {
            bar.set_prefix(format!(", {} failed", tally.failed));
        }
        bar.inc(1);
    }

    /// Redraws the bar.
    pub(super) fn tick(&self) {
        let Some(bar) = &self.bar else { return };
        let names: Vec<&str> = self.running.iter().map(|(_, name)| name.as_str()).collect();
        bar.set_message(names.join(", "));
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
