//! Results of cases.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::diagnostic::{Diagnostics, json};
use crate::status::Status;

/// Result of running a case once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum CaseRun {
    /// The guest met its `[expect]`.
    Passed,
    /// The guest or the host failed.
    Failed(Box<CaseFailure>),
    /// Skipped, since the host cannot run the case; with the reason.
    Skipped(String),
    /// The run was interrupted.
    Interrupted,
}

/// Failure of a case. It comes from another process, so diagnostics and report are texts already.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CaseFailure {
    /// Exit status that `run` would have.
    pub(crate) status: Status,
    /// Differences from `[expect]`, the most important first; at least one.
    pub(crate) lines: Vec<String>,
    /// First paragraph of the autopsy.
    pub(crate) cause: Option<String>,
    /// Output of the guest, or its start and end.
    pub(crate) output: Vec<u8>,
    /// Errors before the guest ran, if there are any.
    pub(crate) diagnostics: Option<RenderedDiagnostics>,
    /// True if the guest ran.
    pub(crate) has_run: bool,
    /// Report of the run as JSON, if the guest ran.
    pub(crate) report: Option<String>,
}

/// Diagnostics as text and as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RenderedDiagnostics {
    /// Text for people.
    pub(crate) text: String,
    /// JSON array.
    pub(crate) json: String,
}

impl CaseFailure {
    /// Creates a failure of a case that did not run.
    pub(super) fn without_run(status: Status, line: String) -> Self {
        let (lines, output) = (vec![line], Vec::new());
        Self { status, lines, cause: None, output, diagnostics: None, has_run: false, report: None }
    }

    /// Creates a failure by a panic, with its message.
    pub(super) fn from_panic(words: &str) -> Self {
        Self::without_run(Status::Bug, format!("a bug in vmm-cli: {words}"))
    }

    /// Returns the first line.
    pub(crate) fn headline(&self) -> &str {
        self.lines.first().map_or("", String::as_str)
    }

    /// Returns true if the case could not be run.
    pub(crate) const fn is_error(&self) -> bool {
        !self.has_run
    }
}

impl From<CaseFailure> for CaseRun {
    fn from(failure: CaseFailure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

impl From<Diagnostics> for CaseFailure {
    fn from(diagnostics: Diagnostics) -> Self {
        let lines = diagnostics.0.iter().map(|problem| problem.message.clone()).collect();
        Self {
            diagnostics: Some(RenderedDiagnostics {
                text: diagnostics.to_plain(),
                // In one line. It was rendered just before, so it is valid.
                json: serde_json::from_str(&json::render(&diagnostics)).unwrap_or(Value::Null).to_string(),
            }),
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
    /// Wall-clock time of all runs, including building machines.
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
