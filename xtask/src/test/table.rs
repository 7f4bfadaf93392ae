//! The closing report: configurations × hosts, what failed, what was skipped and why, and the counts.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::record::{Counts, Place, Record, Subject, Verdict};

/// The whole report; the counts are its last line.
pub(super) fn report(records: &[Record]) -> String {
    let mut text = table(records);
    text.push_str(&failures(records));
    text.push_str(&skipped(records));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", Counts::of(records));
    text
}

/// A row for each configuration. This host comes last, as it is the one that may have a reason to tell.
fn table(records: &[Record]) -> String {
    let mut rows: BTreeMap<&str, [String; 2]> = BTreeMap::new();
    for record in records.iter().filter(|record| record.subject == Subject::Config) {
        let [nested, here] = rows.entry(&record.name).or_default();
        match record.place {
            Place::Nested => *nested = cell(&record.verdict, false),
            Place::Here => *here = cell(&record.verdict, true),
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let width = rows.keys().map(|name| name.len()).max().unwrap_or(0).max("configuration".len());
    let heads = [Place::Nested.name().to_owned(), Place::Here.name().to_owned()];
    let mut text = String::new();
    for (name, [nested, here]) in std::iter::once(("configuration", heads)).chain(rows) {
        let _ = writeln!(text, "{name:width$}  {nested:18}{here}");
    }
    text.push('\n');
    text
}

fn cell(verdict: &Verdict, with_reason: bool) -> String {
    match verdict {
        Verdict::Passed => "pass".to_owned(),
        Verdict::Failed(_) => "FAIL".to_owned(),
        Verdict::Skipped(reason) if with_reason => format!("not on this host: {reason}"),
        Verdict::Skipped(_) => "not on this host".to_owned(),
    }
}

fn failures(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        if let Verdict::Failed(reason) = &record.verdict {
            let reason = reason.replace('\n', "\n    ");
            let _ = writeln!(text, "failed: {}\n    {reason}\n", title(record));
        }
    }
    text
}

/// Tests that were skipped for the same reason share a paragraph.
fn skipped(records: &[Record]) -> String {
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for record in records {
        if let Verdict::Skipped(reason) = &record.verdict {
            reasons.entry((record.place.name(), reason)).or_default().push(&record.name);
        }
    }
    let mut text = String::new();
    for ((place, reason), names) in reasons {
        let _ = writeln!(text, "skipped on {place}: {reason}\n    {}\n", names.join(", "));
    }
    text
}

fn title(record: &Record) -> String {
    match record.subject {
        Subject::Source => record.name.clone(),
        Subject::Test | Subject::Config => format!("{} on {}", record.name, record.place.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_report() {
        let record =
            |subject, place, name: &str, verdict| Record { subject, place, name: name.to_owned(), verdict };
        let refusal = Verdict::Skipped("cannot do mode pae".to_owned());
        let records = [
            record(Subject::Source, Place::Here, "format", Verdict::Passed),
            record(
                Subject::Test,
                Place::Nested,
                "core::walks",
                Verdict::Failed("left: 1\nright: 2".to_owned()),
            ),
            record(Subject::Config, Place::Here, "pae", refusal.clone()),
            record(Subject::Config, Place::Nested, "pae", Verdict::Passed),
            record(Subject::Config, Place::Here, "long", Verdict::Passed),
            record(Subject::Config, Place::Nested, "long", Verdict::Passed),
            record(Subject::Test, Place::Here, "core::pae", refusal),
        ];
        assert_eq!(
            report(&records),
            "\
configuration  nested host       this host
long           pass              pass
pae            pass              not on this host: cannot do mode pae

failed: core::walks on nested host
    left: 1
    right: 2

skipped on this host: cannot do mode pae
    pae, core::pae

4 passed, 1 failed, 2 skipped
"
        );
    }
}
