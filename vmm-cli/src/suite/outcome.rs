//! What a case came to.

use std::time::Duration;

use crate::diagnostic::Diagnostics;
use crate::status::Status;

use crate::report::Report;

/// One attempt at a case.
#[derive(Debug)]
pub(super) enum CaseRun {
    /// All that was expected came true.
    Passed,
    /// Something did not.
    Failed(CaseFailure),
    /// This host cannot do what the case asks for; why.
    Skipped(String),
    /// Ctrl-C.
    Interrupted,
}

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) struct CaseFailure {
    /// The status that `run` would have ended with.
    pub(crate) status: Status,
    /// What differs from what was expected, the most telling first; at least one.
    pub(crate) lines: Vec<String>,
    /// The first paragraph of the autopsy.
    pub(crate) cause: Option<String>,
    /// What the guest printed.
    pub(crate) output: Vec<u8>,
    /// What was wrong before the guest ran.
    pub(crate) diagnostics: Diagnostics,
    /// The report of the run, if there was one.
    pub(crate) report: Option<Box<Report>>,
}

impl CaseFailure {
    /// One without a run.
    pub(super) fn without_run(status: Status, line: String) -> Self {
        let diagnostics = Diagnostics::default();
        Self { status, lines: vec![line], cause: None, output: Vec::new(), diagnostics, report: None }
    }

    /// The first line.
    pub(crate) fn headline(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }

    /// Whether the case could not be carried out, in place of not doing what was expected of it.
    pub(crate) fn is_error(&self) -> bool {
        self.report.is_none()
    }
}

impl From<Diagnostics> for CaseFailure {
    fn from(diagnostics: Diagnostics) -> Self {
        let lines = diagnostics.0.iter().map(|problem| problem.message.clone()).collect();
        Self {
            diagnostics: diagnostics.clone(),
            lines,
            ..Self::without_run(diagnostics.status(), String::new())
        }
    }
}

/// All attempts at a case together.
#[derive(Debug)]
pub(crate) enum CaseVerdict {
    /// Passed at the first attempt.
    Passed,
    /// Passed after these attempts that did not.
    Flaky(Vec<CaseFailure>),
    /// Failed at every attempt.
    Failed {
        /// The last one.
        last: CaseFailure,
        /// Those before it.
        earlier: Vec<CaseFailure>,
    },
    /// This host cannot do it.
    Skipped(String),
    /// The suite ended before or during the case.
    NotRun,
}

impl CaseVerdict {
    /// Its name, as shown.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Flaky(_) => "flaky",
            Self::Failed { .. } => "failed",
            Self::Skipped(_) => "skipped",
            Self::NotRun => "not-run",
        }
    }

    /// Number of attempts.
    pub(crate) const fn attempts(&self) -> usize {
        match self {
            Self::Passed | Self::Skipped(_) => 1,
            Self::Flaky(earlier) | Self::Failed { earlier, .. } => earlier.len().saturating_add(1),
            Self::NotRun => 0,
        }
    }
}

/// A case that is over.
#[derive(Debug)]
pub(crate) struct CaseResult {
    /// What it came to.
    pub(crate) verdict: CaseVerdict,
    /// Wall-clock time of all attempts, machines built and dropped.
    pub(crate) elapsed: Duration,
}

/// How many cases came to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CaseCounts {
    /// Passed, flaky ones included.
    pub(crate) passed: usize,
    /// Passed, but not at once.
    pub(crate) flaky: usize,
    /// Failed.
    pub(crate) failed: usize,
    /// Not for this host.
    pub(crate) skipped: usize,
    /// Not run to their end.
    pub(crate) not_run: usize,
}

impl CaseCounts {
    /// Counts one more.
    pub(crate) fn count(&mut self, verdict: &CaseVerdict) {
        match verdict {
            CaseVerdict::Passed => self.passed += 1,
            CaseVerdict::Flaky(_) => (self.passed, self.flaky) = (self.passed + 1, self.flaky + 1),
            CaseVerdict::Failed { .. } => self.failed += 1,
            CaseVerdict::Skipped(_) => self.skipped += 1,
            CaseVerdict::NotRun => self.not_run += 1,
        }
    }

    /// Number of cases that are over.
    pub(crate) const fn finished(&self) -> usize {
        self.passed + self.failed + self.skipped
    }
}
