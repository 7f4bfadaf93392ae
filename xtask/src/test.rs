//! `cargo xtask test`: runs all tests on all available hosts.
//!
//! There are three parts: tests that need no KVM; tests that need KVM and all configurations, on this machine's KVM; and the
//! same on the nested host. A test that no host could run is a failure.

mod config;
mod gdb;
mod kvm_quirks;
mod libtest;
mod outcome;
mod remote;
mod report;
mod suite;
mod template;

use std::time::Duration;

use crate::failure::{Failure, Result};
use crate::guests;
use crate::nested::{NestedHost, NestedJob};
use crate::process::capture;
use crate::progress::Phase;
use crate::run::kvm_is_usable;
use crate::workspace::Workspace;
use config::ConfigTest;
use outcome::TestHost;
pub(crate) use outcome::{ResultCounts, TestKind, TestResult, Verdict};
use remote::HostTests;
pub(crate) use remote::serve;

/// Limit for the tests without KVM, including the build of documentation examples.
const CARGO_TEST_TIMEOUT: Duration = Duration::from_secs(900);
/// Guest with its configuration in an ELF note.
const ELF_NOTE_GUEST: &str = "guests/build/noted.elf";
/// Limit for all tests on the nested host.
const NESTED_TIMEOUT: Duration = Duration::from_secs(1200);

/// Runs all tests and prints the report, including earlier `results`. Returns the exit status.
pub(crate) fn run(workspace: &Workspace, mut results: Vec<TestResult>) -> u8 {
    if let Err(failure) = all_parts(workspace, &mut results) {
        results.push(TestKind::Source.result("build", Verdict::Failed(failure.to_string())));
    }
    print!("{}", report::report(&results));
    u8::from(ResultCounts::from_results(&results).failed > 0)
}

/// Builds and runs all parts, and adds their results.
fn all_parts(workspace: &Workspace, results: &mut Vec<TestResult>) -> Result<()> {
    let phase = Phase::start("build");
    let built = guests::build(workspace)?;
    let cli = workspace.build_cli()?;
    let programs = workspace.build_tests()?;
    phase.end(format_args!("{} guests, {} test programs", built.new + built.fresh, programs.len()));

    let phase = Phase::start("tests without KVM");
    let found = cargo_test(workspace)?;
    phase.end(format_args!("{}", ResultCounts::from_results(&found)));
    results.extend(found);

    // Only programs with tests that need KVM are run again.
    let mut with_kvm_tests = Vec::new();
    for program in programs {
        if !remote::kvm_tests(&program.program)?.is_empty() {
            with_kvm_tests.push(program);
        }
    }
    let mut configs = Vec::new();
    let elf_note = ConfigTest::from_elf_note(workspace.path(ELF_NOTE_GUEST));
    let files = workspace.configs()?;
    for test in files.iter().map(|path| ConfigTest::read(path)).chain([Ok(elf_note)]) {
        let test = test?;
        let Some((_, reason)) = built.left_out.iter().find(|(file, _)| *file == test.guest) else {
            configs.push(test);
            continue;
        };
        results.extend([TestHost::Here, TestHost::Nested].map(|host| {
            let (name, verdict) = (test.name.clone(), Verdict::Skipped(reason.clone()));
            TestResult { kind: TestKind::Config, host, name, verdict }
        }));
    }
    let mut tests = HostTests { cli, host: TestHost::Here, programs: with_kvm_tests, configs };

    let phase = Phase::start("this host");
    let mut here = Vec::new();
    let refusal = kvm_is_usable().err();
    match &refusal {
        None => tests.run(|result| here.push(result)),
        Some(reason) => here = tests.skip(reason)?,
    }
    here.extend(template::run(workspace, &tests.cli, TestHost::Here, refusal.as_deref())?);
    phase.end(format_args!("{}", ResultCounts::from_results(&here)));

    let phase = Phase::start("nested host");
    tests.host = TestHost::Nested;
    let (mut nested, refusal) = match NestedHost::find()? {
        Ok(host) => (on_nested_host(workspace, &host, &tests)?, None),
        Err(missing) => (tests.skip(&missing.to_string())?, Some(missing.to_string())),
    };
    nested.extend(template::run(workspace, &tests.cli, TestHost::Nested, refusal.as_deref())?);
    fail_if_nowhere(&here, &mut nested);
    phase.end(format_args!("{}", ResultCounts::from_results(&nested)));
    results.extend(here);
    results.extend(nested);
    Ok(())
}

/// Runs the tests that need no KVM and the documentation examples, with `cargo test`.
fn cargo_test(workspace: &Workspace) -> Result<Vec<TestResult>> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    let captured = capture(&mut cargo, None, CARGO_TEST_TIMEOUT);
    let captured = captured.map_err(|error| Failure::new(format!("cannot run cargo test: {error}")))?;
    let verdicts = libtest::verdicts(&captured.stdout).into_iter();
    let mut results: Vec<_> = verdicts.map(|(name, verdict)| TestKind::Test.result(name, verdict)).collect();
    // Without a failed test, cargo itself failed or a test program was killed.
    if ResultCounts::from_results(&results).failed == 0
        && !captured.status.is_some_and(|status| status.success())
    {
        results.push(TestKind::Test.result("cargo test", Verdict::Failed(captured.stderr)));
    }
    Ok(results)
}

/// Runs tests in one boot of the nested host.
fn on_nested_host(workspace: &Workspace, host: &NestedHost, tests: &HostTests) -> Result<Vec<TestResult>> {
    let failure =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot prepare the nested host: {error}"));
    let xtask = std::env::current_exe().map_err(|error| failure(&error))?;
    let mut programs = vec![xtask.clone(), tests.cli.clone()];
    programs.extend(tests.programs.iter().map(|test| test.program.clone()));
    let mut files = vec![workspace.path("configs"), workspace.path("guests/build")];
    files.extend(tests.programs.iter().map(|test| test.package.join("tests")));
    if let Some(gdb) = gdb::find() {
        programs.push(gdb.program);
        files.extend(gdb.files);
    }
    let job = NestedJob {
        command: vec![xtask.to_string_lossy().into_owned(), "remote".to_owned(), "tests".to_owned()],
        directory: workspace.root().to_owned(),
        programs,
        files,
        input: serde_json::to_vec(tests).map_err(|error| failure(&error))?,
        time_limit: NESTED_TIMEOUT,
        verbose: false,
    };
    let mut output = Vec::new();
    let ended = host.run(&job, |bytes| output.extend_from_slice(bytes));
    let mut results = Vec::new();
    let mut rest = String::new();
    for line in String::from_utf8_lossy(&output).lines() {
        match remote::parse(line) {
            Ok(result) => results.push(result),
            Err(_) => rest += &format!("{line}\n"),
        }
    }
    // Results from before a failure of the nested host are kept, and the failure itself is one more.
    let reason = match ended {
        Ok(0) => return Ok(results),
        Ok(status) => format!("xtask there ended with status {status}\n{rest}"),
        Err(failure) => failure.to_string(),
    };
    let verdict = Verdict::Failed(reason);
    results.push(TestResult {
        kind: TestKind::Test,
        host: TestHost::Nested,
        name: "xtask remote tests".to_owned(),
        verdict,
    });
    Ok(results)
}

/// Turns tests that were skipped on both hosts into failures, unless all tests on the nested host were skipped.
///
/// The nested host supports everything, so a test that ran on no host is a mistake.
fn fail_if_nowhere(here: &[TestResult], nested: &mut [TestResult]) {
    let ran = |result: &TestResult| !matches!(result.verdict, Verdict::Skipped(_));
    if !nested.iter().any(ran) {
        return;
    }
    for result in nested {
        let twin = here.iter().find(|other| other.kind == result.kind && other.name == result.name);
        if let (Verdict::Skipped(reason), false) = (&result.verdict, twin.is_some_and(ran)) {
            result.verdict = Verdict::Failed(format!("it ran on no host; this one says: {reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_ran_on_no_host_is_a_failure() {
        let result = |host, name: &str, verdict| TestResult {
            kind: TestKind::Config,
            host,
            name: name.into(),
            verdict,
        };
        let skipped = || Verdict::Skipped("no".to_owned());
        let here = [result(TestHost::Here, "a", skipped()), result(TestHost::Here, "b", Verdict::Passed)];
        let mut nested = [
            result(TestHost::Nested, "a", skipped()),
            result(TestHost::Nested, "b", skipped()),
            result(TestHost::Nested, "c", Verdict::Passed),
        ];
        fail_if_nowhere(&here, &mut nested);
        let [a, b, c] = nested.map(|result| result.verdict);
        assert_eq!(a, Verdict::Failed("it ran on no host; this one says: no".to_owned()));
        assert_eq!((b, c), (skipped(), Verdict::Passed));

        let mut absent = [result(TestHost::Nested, "a", skipped())];
        fail_if_nowhere(&here, &mut absent);
        assert_eq!(absent.map(|result| result.verdict), [skipped()]);
    }
}
