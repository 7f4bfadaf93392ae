//! Results as JSON (`--format json`): one object a line, on standard output. The keys are in `docs/testing.md`; more
//! may come, none go.

use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::case::Case;
use super::outcome::{CaseCounts, CaseFailure, CaseResult, CaseVerdict};
use super::shuffle::Seed;

/// One case.
#[derive(Serialize)]
struct CaseRecord<'a> {
    r#type: &'static str,
    name: &'a str,
    file: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_ns: Option<u128>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureRecord<'a>>,
}

/// Last failure of a case.
#[derive(Serialize)]
struct FailureRecord<'a> {
    status: u8,
    lines: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    output: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    diagnostics: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct UnnamedNotesRecord<'a> {
    r#type: &'static str,
    files: &'a [String],
}

#[derive(Serialize)]
struct SummaryRecord {
    r#type: &'static str,
    passed: usize,
    flaky: usize,
    failed: usize,
    skipped: usize,
    not_run: usize,
    elapsed_ns: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

/// Formats a finished case.
pub(super) fn case(case: &Case, ran: &CaseResult) -> String {
    let (reason, failure) = match &ran.verdict {
        CaseVerdict::Passed | CaseVerdict::NotRun => (None, None),
        CaseVerdict::Skipped(reason) => (Some(reason.as_str()), None),
        CaseVerdict::Flaky(earlier) => {
            (earlier.last().map(CaseFailure::headline), earlier.last().map(FailureRecord::new))
        }
        CaseVerdict::Failed { last, .. } => (Some(last.headline()), Some(FailureRecord::new(last))),
    };
    line(&CaseRecord {
        verdict: Some(ran.verdict.name()),
        attempts: Some(ran.verdict.attempts()),
        elapsed_ns: Some(ran.elapsed.as_nanos()),
        reason,
        failure,
        ..CaseRecord::new(case)
    })
}

/// Formats the ELF files that are not run because only a search found them.
pub(crate) fn unnamed_notes(files: &[String]) -> String {
    line(&UnnamedNotesRecord { r#type: "unnamed-notes", files })
}

/// Formats a case of `--list`.
pub(crate) fn listed(case: &Case) -> String {
    line(&CaseRecord::new(case))
}

pub(super) fn summary(tally: &CaseCounts, elapsed: Duration, seed: Option<Seed>) -> String {
    let CaseCounts { passed, flaky, failed, skipped, not_run } = *tally;
    let (elapsed_ns, seed) = (elapsed.as_nanos(), seed.map(|Seed(seed)| seed));
    line(&SummaryRecord { r#type: "summary", passed, flaky, failed, skipped, not_run, elapsed_ns, seed })
}

impl<'a> CaseRecord<'a> {
    fn new(case: &'a Case) -> Self {
        let (name, file) = (case.name.as_str(), case.file.display().to_string());
        Self {
            r#type: "case",
            name,
            file,
            verdict: None,
            attempts: None,
            elapsed_ns: None,
            reason: None,
            failure: None,
        }
    }
}

impl<'a> FailureRecord<'a> {
    fn new(failure: &'a CaseFailure) -> Self {
        let CaseFailure { status, lines, cause, output, diagnostics, report, .. } = failure;
        // A worker made them, of values that always serialize. Text that is no JSON would be left out.
        let raw = |text: &'a str| serde_json::from_str::<&RawValue>(text).ok();
        Self {
            status: status.code(),
            lines,
            cause: cause.as_deref(),
            output: String::from_utf8_lossy(output).into_owned(),
            diagnostics: diagnostics.as_ref().and_then(|rendered| raw(&rendered.json)),
            report: report.as_deref().and_then(raw),
        }
    }
}

fn line(value: &impl Serialize) -> String {
    // Strings and numbers always serialize: the fallback is never used.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}
