//! Reports results: a line for each case, details of failures, and a summary.
//!
//! On a terminal, passed cases only move a progress bar. Everything but the bar goes to standard output.

use std::fmt::Write as _;
use std::time::Duration;

use super::case::Case;
use super::json;
use super::outcome::{CaseCounts, CaseFailure, CaseResult, CaseVerdict};
use super::progress::Progress;
use super::shuffle::Seed;
use crate::diagnostic::Diagnostics;
use crate::options::Format;
use crate::stdout;
use crate::wrap::{TEXT_WIDTH, wrap};

/// Maximum number of lines of a guest's output that are shown. Reports have all.
const MAX_OUTPUT_LINES: usize = 10;
/// Indentation of the details of a failure.
const INDENT: &str = "        ";

/// Reports the results of a suite as it runs.
#[derive(Debug)]
pub(crate) struct Reporter {
    format: Format,
    progress: Progress,
    tally: CaseCounts,
    count: usize,
    /// First error of standard output.
    trouble: Option<Diagnostics>,
}

impl Reporter {
    /// Starts the report of `count` cases.
    pub(crate) fn new(format: Format, count: usize) -> Self {
        Self { format, progress: Progress::new(count), tally: CaseCounts::default(), count, trouble: None }
    }

    /// Reports a finished case.
    pub(crate) fn finished(&mut self, case: &Case, ran: &CaseResult) {
        self.tally.count(&ran.verdict);
        self.progress.finish_case(&self.tally);
        let text = match self.format {
            Format::Text if self.progress.is_shown() && matches!(ran.verdict, CaseVerdict::Passed) => None,
            Format::Text => text(case, ran),
            Format::Json => Some(json::case(case, ran)),
        };
        if let Some(text) = text {
            let printed = self.progress.suspend(|| stdout::print(&text));
            self.trouble = self.trouble.take().or(printed.err());
        }
    }

    /// Shows the names of the running cases.
    pub(crate) fn tick(&mut self, running: &[&str]) {
        self.progress.tick(running);
    }

    /// Prints the summary and returns the counts.
    ///
    /// # Errors
    /// Standard output could not be written to.
    pub(crate) fn finish(mut self, elapsed: Duration, seed: Option<Seed>) -> Result<CaseCounts, Diagnostics> {
        self.progress.finish();
        self.tally.not_run = self.count.saturating_sub(self.tally.finished());
        let summary = match self.format {
            Format::Text => summary(&self.tally, elapsed, seed),
            Format::Json => json::summary(&self.tally, elapsed, seed),
        };
        match self.trouble {
            Some(trouble) => Err(trouble),
            None => stdout::print(&summary).map(|()| self.tally),
        }
    }
}

/// Formats a finished case; `None` if it did not run.
fn text(case: &Case, ran: &CaseResult) -> Option<String> {
    let CaseResult { verdict, elapsed } = ran;
    let head = format!("{:<7} {} ({})", verdict.name(), case.name, time(*elapsed));
    Some(match verdict {
        CaseVerdict::NotRun => return None,
        CaseVerdict::Passed => format!("{head}\n"),
        CaseVerdict::Skipped(reason) => format!("{head}: {reason}\n"),
        CaseVerdict::Flaky(earlier) => {
            let reason = earlier.last().map_or("", CaseFailure::headline);
            format!("{head}: passed at attempt {}; before that: {reason}\n", verdict.attempts())
        }
        CaseVerdict::Failed { last, .. } => {
            let attempts = match verdict.attempts() {
                1 => String::new(),
                count => format!(", {count} attempts"),
            };
            format!("{head}{attempts}: {}\n{}", last.headline(), details(last))
        }
    })
}

/// Formats the details of a failure, without its first line.
pub(super) fn details(failure: &CaseFailure) -> String {
    let mut text = String::new();
    let mut line = |line: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{INDENT}{line}");
    };
    match &failure.diagnostics {
        None => failure.lines.iter().skip(1).for_each(|more| line(more)),
        // The first line is the headline.
        Some(rendered) => rendered.text.lines().skip(1).for_each(&mut line),
    }
    for paragraph in failure.cause.iter() {
        wrap(paragraph, TEXT_WIDTH).iter().for_each(|text| line(text));
    }
    let output = failure.output.escape_ascii().to_string().replace("\\n", "\n");
    let lines: Vec<&str> = output.lines().collect();
    if !lines.is_empty() {
        let from = lines.len().saturating_sub(MAX_OUTPUT_LINES);
        line(if from == 0 { "it printed:" } else { "the last it printed:" });
        lines.iter().skip(from).for_each(|printed| line(&format!("  {printed}")));
    }
    text
}

fn summary(tally: &CaseCounts, elapsed: Duration, seed: Option<Seed>) -> String {
    let CaseCounts { passed, flaky, failed, skipped, not_run } = tally;
    let mut text = format!("{passed} passed, {failed} failed, {skipped} skipped");
    for (count, what) in [(flaky, "flaky"), (not_run, "not run")] {
        if *count > 0 {
            let _ = write!(text, ", {count} {what}");
        }
    }
    let _ = write!(text, " in {}", time(elapsed));
    if let Some(Seed(seed)) = seed {
        let _ = write!(text, ", shuffled with seed {seed}");
    }
    text.push('\n');
    text
}

/// Formats a time in milliseconds or seconds.
fn time(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use crate::status::Status;

    use super::*;

    #[test]
    fn the_summary_names_what_is_not_zero() {
        let tally = CaseCounts { passed: 5, flaky: 0, failed: 1, skipped: 2, not_run: 0 };
        assert_eq!(
            summary(&tally, Duration::from_millis(1500), None),
            "5 passed, 1 failed, 2 skipped in 1.5 s\n"
        );
        let tally = CaseCounts { flaky: 1, not_run: 3, ..tally };
        let text = summary(&tally, Duration::from_millis(20), Some(Seed(7)));
        assert_eq!(
            text,
            "5 passed, 1 failed, 2 skipped, 1 flaky, 3 not run in 20.0 ms, shuffled with seed 7\n"
        );
    }

    #[test]
    fn a_failure_shows_what_differs_why_and_the_last_of_the_output() {
        let mut failure =
            CaseFailure::without_run(Status::Unexpected, "expect.end: expected a, found b".to_owned());
        failure.lines.push("expect.exits: expected 1, found 2".to_owned());
        failure.cause = Some("It died.".to_owned());
        failure.output = (0..12).flat_map(|number| format!("line {number}\x1b\n").into_bytes()).collect();
        let text = details(&failure);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines[..3], ["expect.exits: expected 1, found 2", "It died.", "the last it printed:"]);
        assert_eq!((lines.len(), lines[3], lines[12]), (13, "line 2\\x1b", "line 11\\x1b"));
    }
}
