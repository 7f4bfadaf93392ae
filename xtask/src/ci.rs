//! `cargo xtask ci`: checks of format, lints, tidiness, documentation and packages, then all tests.

use std::process::Stdio;

use crate::failure::Result;
use crate::package;
use crate::process::quote;
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
        cargo(
            workspace,
            "doc",
            &["doc", "--quiet", "--workspace", "--no-deps", "--config", "build.rustdocflags=['-Dwarnings']"],
        ),
        packages(workspace),
    ];
    crate::test::run(workspace, &TestOptions::default(), results)
}

/// Runs a cargo command that prints its findings to standard error.
fn cargo(workspace: &Workspace, name: &'static str, arguments: &[&str]) -> TestResult {
    let phase = Phase::start(name);
    let command = format!("cargo {}", arguments.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "));
    let status = workspace.cargo().args(arguments).stdin(Stdio::null()).stdout(std::io::stderr()).status();
    let verdict = match status {
        Ok(status) if status.success() => Verdict::Passed,
        Ok(status) => Verdict::Failed(format!("{command} ended with {status}")),
        Err(error) => Verdict::Failed(format!("cannot start cargo: {error}")),
    };
    end(phase, &verdict);
    TestResult::from_check(name, verdict, command)
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

/// Packages the crates as one check.
fn packages(workspace: &Workspace) -> TestResult {
    let phase = Phase::start("packages");
    let verdict = match package::run(workspace) {
        Ok(()) => Verdict::Passed,
        Err(failure) => Verdict::Failed(failure.to_string()),
    };
    end(phase, &verdict);
    TestResult::from_check("packages", verdict, "cargo xtask package")
}

/// Prints the end of a check that printed its findings.
fn end(phase: Phase, verdict: &Verdict) {
    phase.end(format_args!("{}", if *verdict == Verdict::Passed { "clean" } else { "not clean" }));
}
