//! The final report: a table of configurations and hosts, failures, skipped tests with reasons, and counts.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::outcome::{ResultCounts, TestHost, TestKind, TestResult, Verdict};

/// Formats the report. The last line has the counts.
pub(super) fn report(results: &[TestResult]) -> String {
    let mut text = table(results);
    text.push_str(&failures(results));
    text.push_str(&skipped(results));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", ResultCounts::from_results(results));
    text
}

/// Formats a row for each configuration, with a column for each host that ran any.
///
/// This host is the last column, because its cells may contain a reason.
fn table(results: &[TestResult]) -> String {
    let configs = || results.iter().filter(|result| result.kind == TestKind::Config);
    let mut hosts = vec![TestHost::Nested, TestHost::Here];
    hosts.retain(|host| configs().any(|result| result.host == *host));
    let mut rows: BTreeMap<&str, BTreeMap<TestHost, String>> = BTreeMap::new();
    for result in configs() {
        let cell = cell(&result.verdict, result.host == TestHost::Here);
        rows.entry(&result.name).or_default().insert(result.host, cell);
    }
    if rows.is_empty() {
        return String::new();
    }
    let width = rows.keys().map(|name| name.len()).max().unwrap_or(0).max("configuration".len());
    let head = hosts.iter().map(|host| (*host, host.name().to_owned())).collect();
    let mut text = String::new();
    for (name, cells) in std::iter::once(("configuration", head)).chain(rows) {
        let _ = write!(text, "{name:width$}  ");
        for host in &hosts {
            let cell = cells.get(host).map_or("", String::as_str);
            let _ =
                if *host == TestHost::Nested { write!(text, "{cell:18}") } else { write!(text, "{cell}") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push('\n');
    text
}

/// Formats a cell of the table.
fn cell(verdict: &Verdict, with_reason: bool) -> String {
    match verdict {
        Verdict::Passed => "pass".to_owned(),
        Verdict::Failed(_) => "FAIL".to_owned(),
        Verdict::Skipped(reason) if with_reason => format!("not on this host: {reason}"),
        Verdict::Skipped(_) => "not on this host".to_owned(),
    }
}

/// Formats the failed tests, each with its reason.
fn failures(results: &[TestResult]) -> String {
    let mut text = String::new();
    for result in results {
        if let Verdict::Failed(reason) = &result.verdict {
            let reason = reason.replace('\n', "\n    ");
            let _ = writeln!(text, "failed: {}\n    {reason}\n    repeat: {}\n", title(result), result.rerun);
        }
    }
    text
}

/// Formats the skipped tests, grouped by reason.
fn skipped(results: &[TestResult]) -> String {
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for result in results {
        if let Verdict::Skipped(reason) = &result.verdict {
            reasons.entry((result.host.name(), reason)).or_default().push(&result.name);
        }
    }
    let mut text = String::new();
    for ((host, reason), names) in reasons {
        let _ = writeln!(text, "skipped on {host}: {reason}\n    {}\n", names.join(", "));
    }
    text
}

/// Returns the name of a test, with its host unless it is a source check.
fn title(result: &TestResult) -> String {
    match result.kind {
        TestKind::Source => result.name.clone(),
        TestKind::Test | TestKind::Config => format!("{} on {}", result.name, result.host.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_report() {
        let result = |kind, host, name: &str, verdict| TestResult {
            kind,
            host,
            name: name.to_owned(),
            verdict,
            rerun: format!("run {name}"),
        };
        let refusal = Verdict::Skipped("cannot do mode pae".to_owned());
        let results = [
            result(TestKind::Source, TestHost::Here, "format", Verdict::Passed),
            result(
                TestKind::Test,
                TestHost::Nested,
                "core::walks",
                Verdict::Failed("left: 1\nright: 2".to_owned()),
            ),
            result(TestKind::Config, TestHost::Here, "pae", refusal.clone()),
            result(TestKind::Config, TestHost::Nested, "pae", Verdict::Passed),
            result(TestKind::Config, TestHost::Here, "long", Verdict::Passed),
            result(TestKind::Config, TestHost::Nested, "long", Verdict::Passed),
            result(TestKind::Test, TestHost::Here, "core::pae", refusal),
        ];
        assert_eq!(
            report(&results),
            "\
configuration  nested host       this host
long           pass              pass
pae            pass              not on this host: cannot do mode pae

failed: core::walks on nested host
    left: 1
    right: 2
    repeat: run core::walks

skipped on this host: cannot do mode pae
    pae, core::pae

4 passed, 1 failed, 2 skipped
"
        );
    }
}
