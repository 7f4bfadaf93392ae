//! Test results, and their counts for the last line of the report.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::process::quote;

/// Kind of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TestKind {
    /// Check of the sources: format, lints, tidiness.
    Source,
    /// `#[test]` function or documentation example.
    Test,
    /// Configuration, run by vmm-cli.
    Config,
}

/// Host that a test ran on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum TestHost {
    /// Local machine.
    Here,
    /// Nested host.
    Nested,
}

/// Result of a test, with the reason if it did not pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// The test ran and passed.
    Passed,
    /// The test failed, or could not be run although the host supports it.
    Failed(String),
    /// The test was not run. Not counted as passed.
    Skipped(String),
}

/// Verdict of one test on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TestResult {
    pub(crate) kind: TestKind,
    pub(crate) host: TestHost,
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// Command that runs this test again.
    pub(crate) rerun: String,
}

impl TestResult {
    /// Creates the result of a check of the sources.
    pub(crate) fn from_check(name: &str, verdict: Verdict, rerun: impl Into<String>) -> Self {
        let (kind, host) = (TestKind::Source, TestHost::Here);
        Self { kind, host, name: name.to_owned(), verdict, rerun: rerun.into() }
    }
}

impl TestHost {
    /// Returns the name for tables and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Here => "this host",
            Self::Nested => "nested host",
        }
    }

    /// Returns the command that runs the tests that a filter selects on this host.
    pub(crate) fn rerun(self, filter: &str) -> String {
        let host = match self {
            Self::Here => "here",
            Self::Nested => "nested",
        };
        format!("cargo xtask test --host {host} {}", quote(filter))
    }
}

/// Counts of results, displayed as the last line of the report.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResultCounts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl ResultCounts {
    /// Counts results.
    pub(crate) fn from_results(results: &[TestResult]) -> Self {
        let mut counts = Self::default();
        for result in results {
            *match result.verdict {
                Verdict::Passed => &mut counts.passed,
                Verdict::Failed(_) => &mut counts.failed,
                Verdict::Skipped(_) => &mut counts.skipped,
            } += 1;
        }
        counts
    }
}

impl fmt::Display for ResultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}
