//! Results as JUnit XML (`--junit FILE`), for CI systems.
//!
//! The `name` of a case is its full name and its `classname` the file, so that reports group by file. A guest that did
//! not meet its `[expect]` is a `failure`. A case that could not be run, because of a mistake in its configuration or
//! an error of the host, is an `error`.

use std::io::Write;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::case::Case;
use super::outcome::{CaseFailure, CaseResult, CaseVerdict};
use super::reporter::details;
use crate::diagnostic::Diagnostic;
use crate::output_file::OutputFile;

/// Name of the report and of its only suite.
pub(super) const REPORT_NAME: &str = "vmm-cli test";

/// Maximum size of all outputs of guests in a report together, in bytes. Those of later cases are left out.
const MAX_OUTPUT: usize = 32 << 20;

/// Report under construction.
#[derive(Debug, Default)]
pub(crate) struct Junit {
    rows: Vec<(usize, TestCase)>,
    /// Size of the outputs, in bytes.
    output_size: usize,
    /// File for the finished cases, in case that the suite is killed: reports of some cases each, one after the other.
    journal: Option<OutputFile>,
    /// Number of rows that are in the journal.
    written: usize,
    /// First error of the journal.
    trouble: Option<Diagnostic>,
}

impl Junit {
    /// Starts a report, with a journal.
    pub(crate) fn new(journal: Option<OutputFile>) -> Self {
        Self { journal, ..Self::default() }
    }

    /// Writes the cases that finished since the last call to the journal.
    pub(crate) fn write_journal(&mut self) {
        let (Some(journal), Some(rows @ [_, ..])) = (&mut self.journal, self.rows.get(self.written..)) else {
            return;
        };
        let time = rows.iter().filter_map(|(_, row)| row.time).sum();
        let text = report(rows.iter().map(|(_, row)| row.clone()), time).to_string();
        let result = text
            .map_err(|error| journal.write_error(&error))
            .and_then(|text| journal.write_all(text.as_bytes()).map_err(|error| journal.write_error(&error)));
        self.trouble = self.trouble.take().or(result.err());
        self.written = self.rows.len();
    }

    /// Adds a finished case. Cases that did not run are left out.
    pub(crate) fn add(&mut self, number: usize, case: &Case, ran: &CaseResult) {
        let Some(status) = status(&ran.verdict) else { return };
        let mut row = TestCase::new(case.name.as_str(), status);
        row.set_classname(case.file.display().to_string());
        row.set_time(ran.elapsed);
        if let CaseVerdict::Failed { last, .. } = &ran.verdict
            && !last.output.is_empty()
        {
            self.output_size = self.output_size.saturating_add(last.output.len());
            if self.output_size <= MAX_OUTPUT {
                row.set_system_out_lossy(&last.output);
            } else {
                row.set_system_out(format!("[{} bytes left out]", last.output.len()));
            }
        }
        self.rows.push((number, row));
    }

    /// Returns the report, with the cases in their original order. The journal is removed.
    ///
    /// # Errors
    /// The journal could not be written.
    pub(crate) fn finish(mut self, elapsed: Duration) -> Result<Report, Diagnostic> {
        self.rows.sort_by_key(|(number, _)| *number);
        let report = report(self.rows.into_iter().map(|(_, row)| row), elapsed);
        self.trouble.map_or(Ok(report), Err)
    }
}

fn report(rows: impl Iterator<Item = TestCase>, elapsed: Duration) -> Report {
    let mut suite = TestSuite::new(REPORT_NAME);
    suite.set_time(elapsed);
    suite.add_test_cases(rows);
    let mut report = Report::new(REPORT_NAME);
    report.set_time(elapsed);
    report.add_test_suite(suite);
    report
}

fn status(verdict: &CaseVerdict) -> Option<TestCaseStatus> {
    Some(match verdict {
        CaseVerdict::NotRun => return None,
        CaseVerdict::Passed => TestCaseStatus::success(),
        CaseVerdict::Skipped(reason) => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(reason);
            status
        }
        CaseVerdict::Flaky(earlier) => {
            let mut status = TestCaseStatus::success();
            status.add_reruns(earlier.iter().map(rerun));
            status
        }
        CaseVerdict::Failed { last, earlier } => {
            let mut status = TestCaseStatus::non_success(kind(last));
            status.set_message(last.headline()).set_type(kind_name(last)).set_description(words(last));
            status.add_reruns(earlier.iter().map(rerun));
            status
        }
    })
}

fn rerun(failure: &CaseFailure) -> TestRerun {
    let mut rerun = TestRerun::new(kind(failure));
    rerun.set_message(failure.headline()).set_type(kind_name(failure)).set_description(words(failure));
    rerun
}

fn words(failure: &CaseFailure) -> String {
    format!("{}\n{}", failure.headline(), details(failure))
}

fn kind(failure: &CaseFailure) -> NonSuccessKind {
    if failure.is_error() { NonSuccessKind::Error } else { NonSuccessKind::Failure }
}

/// Returns the exit status that `run` would have, as the type of a failure.
fn kind_name(failure: &CaseFailure) -> String {
    format!("status {}", failure.status.code())
}
