//! `vmm-cli test --merge`: merges the JUnit reports of partitions.
//!
//! Suites of the same name become one, with the cases in the order of the files. The time is the sum of the times of
//! the parts, as in JUnit: work done, not time waited.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use quick_junit::{Report, TestSuite};

use super::junit::REPORT_NAME;
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;

/// Start of the XML declaration of a report. Text in a report has no `<`.
const DECLARATION: &str = "<?xml ";
/// End of a report.
const END: &str = "</testsuites>";

/// Reads the reports and merges them. A journal of a suite that was killed is a report too.
///
/// # Errors
/// A file cannot be read or is no report, or a case is in two of them.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Report, Diagnostics> {
    let mut parts = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path).map_err(|error| {
            let known = error.kind() == std::io::ErrorKind::NotFound;
            let status = if known { Status::Configuration } else { Status::Host };
            error_at(path, status, &format!("cannot read the report: {error}"))
        })?;
        parts.extend(parse(path, &text)?.into_iter().map(|part| (path.as_path(), part)));
    }
    merge(parts).map_err(Into::into)
}

/// Parses the text of the file at `path`: a report, or a journal.
///
/// # Errors
/// The text is no report.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Report>, Diagnostic> {
    let problem = |why: &dyn std::fmt::Display| {
        error_at(path, Status::Configuration, &format!("this is no JUnit report: {why}"))
    };
    let parse = |text: &str| {
        let report = Report::deserialize_from_str(text).map_err(|error| problem(&error))?;
        // The parser takes names of attributes that are none in XML, or that are equal once control characters are removed.
        let written = report.to_string().map_err(|error| problem(&error))?;
        match Report::deserialize_from_str(&written) {
            Ok(_) => Ok(report),
            Err(error) => Err(problem(&format_args!("written again, it cannot be read: {error}"))),
        }
    };
    reports(text).into_iter().map(parse).collect()
}

/// Splits a journal into its reports, each with an XML declaration. Of a last one that is incomplete nothing is returned, if others
/// come before it.
fn reports(text: &str) -> Vec<&str> {
    let starts = text.match_indices(DECLARATION).map(|(at, _)| at).filter(|at| *at > 0);
    let ends = starts.clone().chain([text.len()]);
    let mut reports: Vec<&str> =
        [0].into_iter().chain(starts).zip(ends).filter_map(|(from, to)| text.get(from..to)).collect();
    if let [_, .., last] = &mut reports[..] {
        match last.rfind(END).and_then(|at| last.get(..at.saturating_add(END.len()))) {
            Some(complete) => *last = complete,
            None => drop(reports.pop()),
        }
    }
    reports
}

/// Merges reports of the files at the given paths.
///
/// # Errors
/// A case is in two of them.
pub(super) fn merge(parts: Vec<(&Path, Report)>) -> Result<Report, Diagnostic> {
    let mut suites: Vec<TestSuite> = Vec::new();
    let mut seen: HashMap<(String, String), &Path> = HashMap::new();
    for (path, part) in parts {
        for mut suite in part.test_suites {
            recount(&mut suite);
            for case in &suite.test_cases {
                let name = (suite.name.as_str().to_owned(), case.name.as_str().to_owned());
                if let Some(other) = seen.insert(name, path) {
                    let message = format!("{} is in {} too", case.name.as_str(), other.display());
                    let help = Some("merge reports of different partitions");
                    return Err(error_at(path, Status::Configuration, &message).with_help(help));
                }
            }
            match suites.iter_mut().find(|known| known.name == suite.name) {
                Some(known) => {
                    known.time = known.time.into_iter().chain(suite.time).reduce(|a, b| a.saturating_add(b));
                    known.add_test_cases(suite.test_cases);
                }
                None => suites.push(suite),
            }
        }
    }
    let mut report = Report::new(REPORT_NAME);
    report.time = suites.iter().filter_map(|suite| suite.time).reduce(|a, b| a.saturating_add(b));
    report.add_test_suites(suites);
    Ok(report)
}

/// Counts the cases of a suite. The attributes of a file may be missing, wrong, or too large to be added.
fn recount(suite: &mut TestSuite) {
    let cases = std::mem::take(&mut suite.test_cases);
    (suite.tests, suite.failures, suite.errors, suite.skipped, suite.disabled) = (0, 0, 0, 0, None);
    suite.add_test_cases(cases);
}

fn error_at(path: &Path, status: Status, message: &str) -> Diagnostic {
    Diagnostic::error(status, message).at(Location::File(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus};

    use super::*;

    /// Returns a report of cases that pass, fail and are skipped, by their numbers.
    fn report(numbers: impl Iterator<Item = usize>) -> Report {
        let mut suite = TestSuite::new(REPORT_NAME);
        suite.set_time(Duration::from_secs(1));
        for number in numbers {
            let status = match number % 3 {
                0 => TestCaseStatus::success(),
                1 => TestCaseStatus::non_success(NonSuccessKind::Failure),
                _ => TestCaseStatus::skipped(),
            };
            suite.add_test_case(TestCase::new(format!("case {number}"), status));
        }
        let mut report = Report::new(REPORT_NAME);
        report.add_test_suite(suite);
        report
    }

    #[test]
    fn reports_come_back_from_files_and_a_case_in_two_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, report: &Report| {
            let path = directory.path().join(name);
            fs::write(&path, report.to_string().unwrap()).unwrap();
            path
        };
        let (one, two) = (file("1.xml", &report(0..2)), file("2.xml", &report(2..5)));
        let merged = read(&[one.clone(), two.clone()]).unwrap();
        assert_eq!((merged.tests, merged.failures, merged.skipped, merged.test_suites.len()), (5, 2, 1, 1));
        assert_eq!(merged.time, Some(Duration::from_secs(2)));

        let twice = read(&[one.clone(), two, one]).unwrap_err();
        assert!(twice.0[0].message.starts_with("case 0 is in "), "{twice}");
        let broken = directory.path().join("broken.xml");
        fs::write(&broken, "<testsuites").unwrap();
        assert_eq!(read(&[broken]).unwrap_err().status(), Status::Configuration);
    }

    #[test]
    fn cases_are_counted_whatever_the_attributes_say() {
        let failed = "<testcase name=\"a\" classname=\"f\"><failure message=\"m\"/></testcase>";
        for attributes in [
            "",
            "tests=\"0\" failures=\"0\"",
            "tests=\"18446744073709551615\" disabled=\"18446744073709551615\"",
        ] {
            let suite = |name: &str| format!("<testsuite name=\"{name}\" {attributes}>{failed}</testsuite>");
            let text = format!("<testsuites name=\"r\">{}{}</testsuites>", suite("s"), suite("t"));
            let path = Path::new("a.xml");
            let parts = parse(path, &text).unwrap().into_iter().map(|part| (path, part));
            let merged = merge(parts.collect()).unwrap();
            assert_eq!((merged.tests, merged.failures), (2, 2), "{attributes}");
        }
    }

    #[test]
    fn a_report_that_could_not_be_read_again_is_refused() {
        let report = |attribute: &str| {
            format!(
                "<testsuites name=\"r\"><testsuite name=\"s\" {attribute}=\"0\"></testsuite></testsuites>"
            )
        };
        let parse = |attribute: &str| parse(Path::new("a.xml"), &report(attribute));
        assert_eq!(parse("hostname").unwrap().len(), 1);
        for attribute in ["$a&amp;b", "failure\x1es"] {
            let refused = parse(attribute).unwrap_err();
            assert!(refused.message.contains("it cannot be read"), "{}", refused.message);
        }
    }

    #[test]
    fn a_journal_is_reports_one_after_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let [one, two, three] = [0..2, 2..3, 3..6].map(|numbers| report(numbers).to_string().unwrap());
        for cut in [1, three.len() / 2, three.len()] {
            fs::write(&path, [&one, &two, &three[..cut]].concat()).unwrap();
            let merged = read(std::slice::from_ref(&path)).unwrap();
            assert_eq!(merged.tests, if cut == three.len() { 6 } else { 3 }, "{cut}");
        }
        fs::write(&path, &one[..one.len() / 2]).unwrap();
        assert_eq!(read(&[path]).unwrap_err().status(), Status::Configuration);
    }

    proptest! {
        #[test]
        fn parts_of_a_report_make_the_whole(count in 0_usize..60, of in 1_usize..6) {
            let whole = report(0..count);
            let parts = (0..of).map(|part| (Path::new("part"), report((part..count).step_by(of))));
            let merged = merge(parts.collect()).unwrap();
            let names = |report: &Report| {
                let mut names: Vec<_> = report.test_suites[0].test_cases.iter().map(|case| case.name.clone()).collect();
                names.sort();
                names
            };
            prop_assert_eq!(names(&merged), names(&whole));
            prop_assert_eq!((merged.tests, merged.failures, merged.skipped), (whole.tests, whole.failures, whole.skipped));
        }
    }
}
