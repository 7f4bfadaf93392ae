//! What became of each test, and the counts in the closing line.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What was tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Subject {
    /// The sources: format, lints, tidiness.
    Source,
    /// A `#[test]` or a documented example.
    Test,
    /// A configuration, through the real vmm-cli.
    Config,
}

/// Where it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Place {
    /// On this machine.
    Here,
    /// On the nested host.
    Nested,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// It ran and was right.
    Passed,
    /// It was wrong, or could not be run although it should.
    Failed(String),
    /// It was not run, for a good reason. Never counts as passed.
    Skipped(String),
}

/// One test's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) subject: Subject,
    pub(crate) place: Place,
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
}

impl Subject {
    /// A result of this subject on this machine.
    pub(crate) fn record(self, name: impl Into<String>, verdict: Verdict) -> Record {
        Record { subject: self, place: Place::Here, name: name.into(), verdict }
    }
}

impl Place {
    /// The name in tables and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Here => "this host",
            Self::Nested => "nested host",
        }
    }
}

/// The counts; its display is the closing line.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Counts {
    /// Counts records.
    pub(crate) fn of(records: &[Record]) -> Self {
        let mut counts = Self::default();
        for record in records {
            *match record.verdict {
                Verdict::Passed => &mut counts.passed,
                Verdict::Failed(_) => &mut counts.failed,
                Verdict::Skipped(_) => &mut counts.skipped,
            } += 1;
        }
        counts
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}
