//! A suite as JSON (`--format json`): one object a line, on standard output. The keys are in `docs/testing.md`; more may
//! come, none go.

use std::time::Duration;

use crate::diagnostic::json as diagnostics;
use serde::Serialize;
use serde_json::Value;

use super::case::Case;
use super::outcome::{Failure, Ran, Tally, Verdict};
use super::shuffle::Seed;
use crate::report::Report;

/// One case.
#[derive(Serialize)]
struct Row<'a> {
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
    failure: Option<Details<'a>>,
}

/// The last failure of a case.
#[derive(Serialize)]
struct Details<'a> {
    status: u8,
    lines: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'a str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    output: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    diagnostics: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a Report>,
}

#[derive(Serialize)]
struct Summary {
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

/// A case that is over.
pub(super) fn case(case: &Case, ran: &Ran) -> String {
    let (reason, failure) = match &ran.verdict {
        Verdict::Passed | Verdict::NotRun => (None, None),
        Verdict::Skipped(reason) => (Some(reason.as_str()), None),
        Verdict::Flaky(earlier) => (earlier.last().map(Failure::headline), earlier.last().map(Details::new)),
        Verdict::Failed { last, .. } => (Some(last.headline()), Some(Details::new(last))),
    };
    line(&Row {
        verdict: Some(ran.verdict.name()),
        attempts: Some(ran.verdict.attempts()),
        elapsed_ns: Some(ran.elapsed.as_nanos()),
        reason,
        failure,
        ..Row::new(case)
    })
}

/// A case that is only named.
pub(crate) fn listed(case: &Case) -> String {
    line(&Row::new(case))
}

pub(super) fn summary(tally: &Tally, elapsed: Duration, seed: Option<Seed>) -> String {
    let Tally { passed, flaky, failed, skipped, not_run } = *tally;
    let (elapsed_ns, seed) = (elapsed.as_nanos(), seed.map(|Seed(seed)| seed));
    line(&Summary { r#type: "summary", passed, flaky, failed, skipped, not_run, elapsed_ns, seed })
}

impl<'a> Row<'a> {
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

impl<'a> Details<'a> {
    fn new(failure: &'a Failure) -> Self {
        let Failure { status, lines, cause, output, diagnostics: problems, report } = failure;
        let problems = (!problems.0.is_empty()).then(|| diagnostics::render(problems));
        Self {
            status: status.code(),
            lines,
            cause: cause.as_deref(),
            output: String::from_utf8_lossy(output).into_owned(),
            // What was just written can be read.
            diagnostics: problems.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
            report: report.as_deref(),
        }
    }
}

fn line(value: &impl Serialize) -> String {
    // Strings and numbers always serialize: the fallback is never seen.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}
