//! `cargo xtask ci`: format, lints and tidiness checks, then all tests.

use std::process::Stdio;

use crate::failure::Result;
use crate::progress::Phase;
use crate::test::{TestOptions, TestResult, Verdict};
use crate::tidy;
use crate::workspace::Workspace;

/// Checks the sources, then runs all tests even if a check failed. Returns the exit status.
pub(crate) fn run(workspace: &Workspace) -> Result<u8> {
    let results = vec![
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
    crate::test::run(workspace, &TestOptions::default(), results)
}

/// Runs a cargo command that prints its findings to standard error.
fn cargo(workspace: &Workspace, name: &'static str, arguments: &[&str]) -> TestResult {
    let phase = Phase::start(name);
    let status = workspace.cargo().args(arguments).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let verdict = match status {
        Ok(status) if status.success() => Verdict::Passed,
        Ok(status) => Verdict::Failed(format!("cargo {} ended with {status}", arguments.join(" "))),
        Err(error) => Verdict::Failed(format!("cannot start cargo: {error}")),
    };
    phase.end(format_args!("{}", if verdict == Verdict::Passed { "clean" } else { "not clean" }));
    TestResult::from_check(name, verdict, format!("cargo {}", arguments.join(" ")))
}

/// Runs `tidy` as one check.
fn tidiness(workspace: &Workspace) -> TestResult {
    let violations: Result<Vec<_>> = tidy::check(workspace);
    let verdict = match violations {
        Ok(violations) if violations.is_empty() => Verdict::Passed,
        Ok(violations) => {
            Verdict::Failed(violations.iter().map(|violation| format!("{violation}\n")).collect())
        }
        Err(failure) => Verdict::Failed(failure.to_string()),
    };
    TestResult::from_check("tidy", verdict, "cargo xtask tidy")
}
