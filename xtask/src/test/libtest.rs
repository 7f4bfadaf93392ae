//! Parses the output of a Rust test program with `--show-output`.
//!
//! Two conventions of this repository: a test that needs KVM has `#[ignore = "needs /dev/kvm"]`, and a test that cannot run
//! on a host prints a line `skipped: REASON` and returns.

use std::collections::BTreeMap;

use super::outcome::Verdict;

/// Prefix of the line that a skipped test prints.
const SKIPPED: &str = "skipped: ";

/// Returns name and verdict of each test, in the order of the output.
pub(super) fn verdicts(stdout: &str) -> Vec<(String, Verdict)> {
    let outputs = outputs(stdout);
    let mut verdicts = Vec::new();
    for line in stdout.lines() {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            continue;
        };
        // libtest appends this to the name of a `should_panic` test.
        let name = name.trim_end_matches(" - should panic");
        let output = outputs.get(name).map_or("", String::as_str);
        let verdict = match result.split(", ").next() {
            Some("ok") => match output.lines().find_map(|line| line.strip_prefix(SKIPPED)) {
                Some(reason) => Verdict::Skipped(reason.to_owned()),
                None => Verdict::Passed,
            },
            Some("ignored") => Verdict::Skipped(result.trim_start_matches("ignored, ").to_owned()),
            Some(_) | None => Verdict::Failed(output.trim().to_owned()),
        };
        verdicts.push((name.to_owned(), verdict));
    }
    verdicts
}

/// Returns the names in the output of `--list`, which has lines of `NAME: test`.
pub(super) fn names(list: &str) -> Vec<String> {
    list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Returns the output of each test, from the blocks that begin with `---- NAME stdout ----`.
fn outputs(stdout: &str) -> BTreeMap<&str, String> {
    let mut outputs: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = None;
    for line in stdout.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            current = Some(name);
        } else if matches!(line, "successes:" | "failures:") || line.starts_with("test result: ") {
            current = None;
        } else if let Some(name) = current {
            let output = outputs.entry(name).or_default();
            output.push_str(line);
            output.push('\n');
        }
    }
    outputs
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 6 tests
test a::good ... ok
test a::bad ... FAILED
test b::elsewhere ... ok
test b::slow ... ignored, takes an hour
test c::plain - should panic ... ok
test src/lib.rs - (line 7) ... ok

successes:

---- b::elsewhere stdout ----
skipped: this host's KVM cannot do mode pae

successes:
    a::good

failures:

---- a::bad stdout ----
thread 'a::bad' panicked at src/a.rs:3:5:
left: 1

failures:
    a::bad

test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn every_kind_of_result() {
        let skipped = |reason: &str| Verdict::Skipped(reason.to_owned());
        let bad = "thread 'a::bad' panicked at src/a.rs:3:5:\nleft: 1".to_owned();
        let expected = [
            ("a::good", Verdict::Passed),
            ("a::bad", Verdict::Failed(bad)),
            ("b::elsewhere", skipped("this host's KVM cannot do mode pae")),
            ("b::slow", skipped("takes an hour")),
            ("c::plain", Verdict::Passed),
            ("src/lib.rs - (line 7)", Verdict::Passed),
        ];
        assert_eq!(verdicts(OUTPUT), expected.map(|(name, verdict)| (name.to_owned(), verdict)));
    }

    #[test]
    fn a_list_of_names() {
        assert_eq!(names("a::b: test\nc: benchmark\n\n1 test, 1 benchmark\n"), ["a::b"]);
    }
}
