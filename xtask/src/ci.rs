//! `cargo xtask ci`: checks of format, lints, tidiness, documentation, packages, dependencies and memory accesses, then all tests.

use std::process::{Command, Stdio};

use crate::failure::Result;
use crate::package;
use crate::process::quote;
use crate::progress::{Phase, say};
use crate::test::{TestOptions, TestResult, Verdict};
use crate::tidy;
use crate::workspace::Workspace;

/// Packages whose unit tests run under Miri: the one with `unsafe` code, and the one that parses files.
const MIRI_PACKAGES: [&str; 2] = ["kvm-sys-wrap", "vmm-loader"];
/// Environment of Miri: tests may use files, and property tests have few cases, since Miri is some hundred times slower.
const MIRI_ENVIRONMENT: [(&str, &str); 2] =
    [("MIRIFLAGS", "-Zmiri-disable-isolation"), ("PROPTEST_CASES", "8")];

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
        dependencies(workspace),
        miri(workspace),
    ];
    crate::test::run(workspace, &TestOptions::default(), results)
}

/// Runs a cargo command that prints its findings to standard error.
fn cargo(workspace: &Workspace, name: &'static str, arguments: &[&str]) -> TestResult {
    let rerun = format!("cargo {}", arguments.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" "));
    command(name, workspace.cargo().args(arguments), rerun)
}

/// Runs a command that prints its findings to standard error. `rerun` is the same command for a shell.
fn command(name: &'static str, command: &mut Command, rerun: String) -> TestResult {
    let phase = Phase::start(name);
    let verdict = match command.stdin(Stdio::null()).stdout(std::io::stderr()).status() {
        Ok(status) if status.success() => Verdict::Passed,
        Ok(status) => Verdict::Failed(format!("{rerun} ended with {status}")),
        Err(error) => Verdict::Failed(format!("cannot start it: {error}")),
    };
    end(phase, &verdict);
    TestResult::from_check(name, verdict, rerun)
}

/// Checks licenses, versions and sources of all dependencies with `deny.toml`, if cargo-deny is installed.
///
/// Advisories are left out: their database is not part of the repository.
fn dependencies(workspace: &Workspace) -> TestResult {
    let name = "dependencies";
    if !succeeds(workspace.cargo().args(["deny", "--version"])) {
        return skipped(name, "cargo-deny is not installed: cargo install cargo-deny --locked");
    }
    cargo(workspace, name, &["deny", "--locked", "check", "licenses", "bans", "sources"])
}

/// Runs unit tests under Miri, if the nightly toolchain has it. It finds invalid memory accesses and data races.
fn miri(workspace: &Workspace) -> TestResult {
    let name = "miri";
    // The nightly toolchain is not the one that runs xtask, so rustup has to choose it. The working directory keeps cargo from
    // reading `.cargo/config.toml`, whose `runner` is refused next to that of Miri.
    let nightly = |arguments: &[&str]| {
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo", "miri"]).args(arguments).current_dir("/");
        command
    };
    if !succeeds(&mut nightly(&["--version"])) {
        return skipped(name, "no Miri: rustup toolchain install nightly --component miri,rust-src");
    }
    let manifest = workspace.path("Cargo.toml").to_string_lossy().into_owned();
    let mut arguments = vec!["test", "--quiet", "--manifest-path", &manifest, "--lib"];
    arguments.extend(MIRI_PACKAGES.iter().flat_map(|package| ["--package", package]));
    let words = arguments.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
    let settings = MIRI_ENVIRONMENT.map(|(key, value)| format!("{key}={value} ")).concat();
    let rerun = format!("cd / && {settings}rustup run nightly cargo miri {words}");
    command(name, nightly(&arguments).envs(MIRI_ENVIRONMENT), rerun)
}

/// Returns true if a command can be started and succeeds. Its output is discarded.
fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|end| end.success())
}

/// Returns the result of a check whose program is missing.
fn skipped(name: &'static str, reason: &str) -> TestResult {
    say(format_args!("{name}: skipped: {reason}"));
    TestResult::from_check(name, Verdict::Skipped(reason.to_owned()), "")
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
