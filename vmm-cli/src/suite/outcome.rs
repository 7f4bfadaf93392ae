//! Results of cases.

use std::time::Duration;

use crate::diagnostic::Diagnostics;
use crate::report::Report;
use crate::status::Status;

/// Result of running a case once.
#[derive(Debug)]
pub(super) enum CaseRun {
    /// The guest met its `[expect]`.
    Passed,
    /// The guest or the host failed.
    Failed(CaseFailure),
    /// Skipped, since the host cannot run the case; with the reason.
    Skipped(String),
    /// The run was interrupted.
    Interrupted,
}

/// Failure of a case.
#[derive(Debug)]
pub(crate) struct CaseFailure {
    /// Exit status that `run` would have.
    pub(crate) status: Status,
    /// Differences from `[expect]`, the most important first; at least one.
    pub(crate) lines: Vec<String>,
    /// First paragraph of the autopsy.
    pub(crate) cause: Option<String>,
    /// Output of the guest.
    pub(crate) output: Vec<u8>,
    /// Errors before the guest ran.
    pub(crate) diagnostics: Diagnostics,
    /// Report of the run, if the guest ran.
    pub(crate) report: Option<Box<Report>>,
}

impl CaseFailure {
    /// Creates a failure of a case that did not run.
    pub(super) fn without_run(status: Status, line: String) -> Self {
        let diagnostics = Diagnostics::default();
        Self { status, lines: vec![line], cause: None, output: Vec::new(), diagnostics, report: None }
    }

    /// Returns the first line.
    pub(crate) fn headline(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }

    /// Returns true if the case could not be run.
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

/// Result of all runs of a case.
#[derive(Debug)]
pub(crate) enum CaseVerdict {
    /// Passed at the first run.
    Passed,
    /// Passed after these failures.
    Flaky(Vec<CaseFailure>),
    /// Failed at every run.
    Failed {
        /// Last failure.
        last: CaseFailure,
        /// Earlier failures.
        earlier: Vec<CaseFailure>,
    },
    /// Skipped, since the host cannot run the case; with the reason.
    Skipped(String),
    /// The suite ended before or during the case.
    NotRun,
}

impl CaseVerdict {
    /// Returns the name that is shown.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Flaky(_) => "flaky",
            Self::Failed { .. } => "failed",
            Self::Skipped(_) => "skipped",
            Self::NotRun => "not-run",
        }
    }

    /// Returns the number of runs.
    pub(crate) const fn attempts(&self) -> usize {
        match self {
            Self::Passed | Self::Skipped(_) => 1,
            Self::Flaky(earlier) | Self::Failed { earlier, .. } => earlier.len().saturating_add(1),
            Self::NotRun => 0,
        }
    }
}

/// A finished case.
#[derive(Debug)]
pub(crate) struct CaseResult {
    /// Result.
    pub(crate) verdict: CaseVerdict,
    /// Wall-clock time of all runs, including building and dropping machines.
    pub(crate) elapsed: Duration,
}

/// Number of cases by result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CaseCounts {
    /// Passed cases, including flaky ones.
    pub(crate) passed: usize,
    /// Cases that passed only at a later run.
    pub(crate) flaky: usize,
    /// Failed cases.
    pub(crate) failed: usize,
    /// Cases that this host cannot run.
    pub(crate) skipped: usize,
    /// Cases that did not finish.
    pub(crate) not_run: usize,
}

impl CaseCounts {
    /// Counts one case.
    pub(crate) fn count(&mut self, verdict: &CaseVerdict) {
        match verdict {
            CaseVerdict::Passed => self.passed += 1,
            CaseVerdict::Flaky(_) => (self.passed, self.flaky) = (self.passed + 1, self.flaky + 1),
            CaseVerdict::Failed { .. } => self.failed += 1,
            CaseVerdict::Skipped(_) => self.skipped += 1,
            CaseVerdict::NotRun => self.not_run += 1,
        }
    }

    /// Returns the number of finished cases.
    pub(crate) const fn finished(&self) -> usize {
        self.passed + self.failed + self.skipped
    }
}
