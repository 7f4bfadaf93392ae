//! Results as JUnit XML (`--junit FILE`), for CI systems.
//!
//! The `name` of a case is its full name and its `classname` the file, so that reports group by file. A guest that did
//! not meet its `[expect]` is a `failure`. A case that could not be run, because of a mistake in its configuration or
//! an error of the host, is an `error`.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::case::Case;
use super::outcome::{CaseFailure, CaseResult, CaseVerdict};
use super::reporter::details;

/// Name of the report and of its only suite.
pub(super) const REPORT_NAME: &str = "vmm-cli test";

/// Report under construction.
#[derive(Debug, Default)]
pub(crate) struct Junit(Vec<(usize, TestCase)>);

impl Junit {
    /// Adds a finished case. Cases that did not run are left out.
    pub(crate) fn add(&mut self, number: usize, case: &Case, ran: &CaseResult) {
        let Some(status) = status(&ran.verdict) else { return };
        let mut row = TestCase::new(case.name.as_str(), status);
        row.set_classname(case.file.display().to_string());
        row.set_time(ran.elapsed);
        if let CaseVerdict::Failed { last, .. } = &ran.verdict
            && !last.output.is_empty()
        {
            row.set_system_out_lossy(&last.output);
        }
        self.0.push((number, row));
    }

    /// Returns the report, with the cases in their original order.
    pub(crate) fn finish(mut self, elapsed: std::time::Duration) -> Report {
        self.0.sort_by_key(|(number, _)| *number);
        let mut suite = TestSuite::new(REPORT_NAME);
        suite.set_time(elapsed);
        suite.add_test_cases(self.0.into_iter().map(|(_, row)| row));
        let mut report = Report::new(REPORT_NAME);
        report.set_time(elapsed);
        report.add_test_suite(suite);
        report
    }
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
