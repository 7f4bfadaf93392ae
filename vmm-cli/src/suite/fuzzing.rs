//! Reports of any cases, any reports to merge, and any messages of a worker.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quick_junit::{Report, TestCase};
use vmm_core::encoding;

use super::case::Case;
use super::junit::Junit;
use super::merge;
use super::message::{InvalidMessage, Message, MessageBuffer};
use super::outcome::{CaseFailure, CaseResult, CaseVerdict};
use crate::config::note::NotePolicy;
use crate::status::Status;

/// Maximum number of cases in a report.
const MAX_CASES: usize = 16;

/// Checks the merge of reports. After a first byte of 0, the bytes are cases that are reported first; else they are the texts of
/// files, with NULs between them.
pub fn junit(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, cases)) => written_reports(cases),
        Some(_) | None => any_reports(bytes),
    }
}

/// Merges the texts.
fn any_reports(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let path = Path::new("report.xml");
    let mut parts = Vec::new();
    for text in text.split('\0').take(8) {
        match merge::parse(path, text) {
            Ok(reports) => parts.extend(reports.into_iter().map(|report| (path, report))),
            Err(problem) => assert!(!problem.message.is_empty()),
        }
    }
    let cases: usize = parts.iter().map(|(_, report)| cases(report).count()).sum();
    let Ok(merged) = merge::merge(parts) else { return };
    assert_eq!(cases_of_suites(&merged), cases, "cases are lost");
    assert_eq!(merged.tests, cases);
    // An error is one of time stamps that have no text.
    let Ok(text) = merged.to_string() else { return };
    let again = merge::parse(path, &text).unwrap();
    let again = merge::merge(again.into_iter().map(|report| (path, report)).collect()).unwrap();
    assert_eq!(counts(&again), counts(&merged), "{text}");
}

/// Writes reports of two parts of a suite and merges them.
fn written_reports(bytes: &[u8]) {
    let cases = generated_cases(bytes);
    let mut parts = Vec::new();
    for part in 0..2 {
        let mut junit = Junit::new(None);
        for (number, (case, result)) in cases.iter().enumerate().filter(|(number, _)| number % 2 == part) {
            junit.add(number, case, result);
        }
        let text = junit.finish(Duration::from_millis(5)).unwrap().to_string().unwrap();
        parts.extend(merge::parse(Path::new("part.xml"), &text).unwrap());
    }
    let total: Vec<_> = parts.iter().map(counts).collect();
    let merged =
        merge::merge(parts.into_iter().map(|report| (Path::new("part.xml"), report)).collect()).unwrap();
    let found = counts(&merged);
    assert_eq!(found.tests, cases.len(), "cases are lost");
    assert_eq!(found, total.into_iter().reduce(ReportCounts::and).unwrap());
    let expected =
        |wanted: fn(&CaseVerdict) -> bool| cases.iter().filter(|(_, ran)| wanted(&ran.verdict)).count();
    let failed = expected(|verdict| matches!(verdict, CaseVerdict::Failed { .. }));
    assert_eq!(found.failures + found.errors, failed, "failures and errors");
    assert_eq!(
        found.skipped,
        expected(|verdict| matches!(verdict, CaseVerdict::Skipped(_))),
        "skipped cases"
    );
}

/// Returns cases with names, texts and output of the fuzzer. Names differ also in the characters that XML has.
fn generated_cases(bytes: &[u8]) -> Vec<(Case, CaseResult)> {
    let mut cases = Vec::new();
    let mut names = HashSet::new();
    for piece in bytes.split(|byte| *byte == b'\n').take(MAX_CASES) {
        let Some((kind, text)) = piece.split_first() else { continue };
        let (name, text) = text.split_at(text.len().min(usize::from(kind >> 4)));
        // Such a file does not exist, so its case is one that cannot be read.
        let path = PathBuf::from(format!("/proc/none/{}", String::from_utf8_lossy(name).replace('\0', "")));
        let Some(case) = Case::from_file(path, NotePolicy::Refuse).pop() else { continue };
        let unique = TestCase::new(case.name.as_str(), quick_junit::TestCaseStatus::success()).name;
        if !names.insert(unique.as_str().to_owned()) {
            continue;
        }
        let words = String::from_utf8_lossy(text).into_owned();
        let failure = |has_run| CaseFailure {
            cause: Some(words.clone()),
            output: text.to_vec(),
            has_run,
            ..CaseFailure::without_run(Status::Hung, words.clone())
        };
        let verdict = match kind & 7 {
            0 | 1 => CaseVerdict::Passed,
            2 => CaseVerdict::Skipped(words),
            3 => CaseVerdict::Flaky(vec![failure(true)]),
            4 => CaseVerdict::Failed { last: failure(false), earlier: Vec::new() },
            5 => CaseVerdict::Failed { last: failure(true), earlier: vec![failure(true), failure(false)] },
            _ => CaseVerdict::Failed { last: failure(true), earlier: Vec::new() },
        };
        let elapsed = Duration::from_nanos(u64::from(*kind).saturating_mul(1_234_567_891));
        cases.push((case, CaseResult { verdict, elapsed }));
    }
    cases
}

fn cases(report: &Report) -> impl Iterator<Item = &TestCase> {
    report.test_suites.iter().flat_map(|suite| &suite.test_cases)
}

/// Returns the number of cases by the counts of the suites.
fn cases_of_suites(report: &Report) -> usize {
    report.test_suites.iter().map(|suite| suite.test_cases.len()).sum()
}

/// Counts of a report, and the names of its cases.
#[derive(Debug, PartialEq, Eq)]
struct ReportCounts {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
    names: Vec<String>,
}

impl ReportCounts {
    fn and(mut self, other: Self) -> Self {
        self.tests += other.tests;
        self.failures += other.failures;
        self.errors += other.errors;
        self.skipped += other.skipped;
        self.names.extend(other.names);
        self
    }
}

fn counts(report: &Report) -> ReportCounts {
    let Report { tests, failures, errors, skipped, .. } = *report;
    let names = cases(report).map(|case| case.name.as_str().to_owned()).collect();
    ReportCounts { tests, failures, errors, skipped, names }
}

/// Checks the messages of a worker: whole, and in pieces of a length that the first byte chooses.
pub fn message(bytes: &[u8]) {
    let (first, bytes) = bytes.split_first().map_or((1, bytes), |(first, rest)| (usize::from(*first), rest));
    let whole = MessageBuffer::default().add(bytes);
    let mut buffer = MessageBuffer::default();
    let mut pieces: Result<Vec<Message>, InvalidMessage> = Ok(Vec::new());
    for piece in bytes.chunks(first.max(1)) {
        pieces = pieces.and_then(|mut messages| {
            messages.extend(buffer.add(piece)?);
            Ok(messages)
        });
    }
    // Messages before one that is invalid are told apart by pieces only.
    assert_eq!(whole.is_ok(), pieces.is_ok(), "it depends on the pieces whether it is a message");
    let (Ok(whole), Ok(pieces)) = (whole, pieces) else { return };
    let forms = |messages: &[Message]| -> Vec<Vec<u8>> {
        messages.iter().map(|message| encoding::to_bytes(message).unwrap()).collect()
    };
    let sent = forms(&whole);
    assert!(sent == forms(&pieces), "other messages in pieces");
    for form in sent {
        let again: Message = encoding::from_bytes(&form).unwrap();
        assert!(encoding::to_bytes(&again).unwrap() == form, "another message when it is sent again");
    }
}
