//! `cargo xtask ci`: what has to hold for every commit, cheapest first, and then all tests.

use std::process::Stdio;

use crate::failure::Result;
use crate::progress::Part;
use crate::test::{Record, Subject, Verdict};
use crate::tidy;
use crate::workspace::Workspace;

/// Checks the sources, then runs all tests, whatever the checks say. Returns the exit status.
pub(crate) fn run(workspace: &Workspace) -> u8 {
    let records = vec![
        cargo(workspace, "format", &["fmt", "--all", "--check"]),
        cargo(
            workspace,
            "format of guests",
            &["fmt", "--all", "--check", "--manifest-path", "guests/Cargo.toml"],
        ),
        cargo(
            workspace,
            "clippy",
            &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"],
        ),
        tidiness(workspace),
    ];
    crate::test::run(workspace, records)
}

/// A cargo command that prints its own findings.
fn cargo(workspace: &Workspace, name: &'static str, arguments: &[&str]) -> Record {
    let part = Part::start(name);
    let status = workspace.cargo().args(arguments).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let verdict = match status {
        Ok(status) if status.success() => Verdict::Passed,
        Ok(status) => Verdict::Failed(format!("cargo {} ended with {status}", arguments.join(" "))),
        Err(error) => Verdict::Failed(format!("cannot start cargo: {error}")),
    };
    part.end(format_args!("{}", if verdict == Verdict::Passed { "clean" } else { "not clean" }));
    Subject::Source.record(name, verdict)
}

fn tidiness(workspace: &Workspace) -> Record {
    let breaches: Result<Vec<_>> = tidy::check(workspace);
    let verdict = match breaches {
        Ok(breaches) if breaches.is_empty() => Verdict::Passed,
        Ok(breaches) => Verdict::Failed(breaches.iter().map(|breach| format!("{breach}\n")).collect()),
        Err(failure) => Verdict::Failed(failure.to_string()),
    };
    Subject::Source.record("tidy", verdict)
}
