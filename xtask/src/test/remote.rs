//! Tests that run on each host: Rust tests that need KVM, then all configurations as one suite of `vmm-cli test`.
//!
//! On the nested host all of them run in one boot: xtask is copied there and runs as `xtask remote tests`, which reads
//! [`HostTests`] as JSON from standard input and prints each result as a line of JSON.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::ConfigTest;
use super::kvm_quirks::KvmKind;
use super::libtest;
use super::outcome::{TestHost, TestKind, TestResult, Verdict};
use super::suite::Suite;
use crate::failure::{Failure, FileContext, Result};
use crate::process::capture;
use crate::workspace::TestProgram;

/// Limit for one test program.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(180);

/// Tests to run on one host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HostTests {
    /// Path of vmm-cli.
    pub(super) cli: PathBuf,
    pub(super) host: TestHost,
    /// Programs with tests that need KVM.
    pub(super) programs: Vec<TestProgram>,
    pub(super) configs: Vec<ConfigTest>,
}

impl HostTests {
    /// Runs all tests on this machine and passes each result to `report`.
    pub(super) fn run(&self, mut report: impl FnMut(TestResult)) {
        let kvm = KvmKind::detect();
        let mut report = |kind, name: &str, verdict| {
            report(TestResult { kind, host: self.host, name: name.to_owned(), verdict });
        };
        for program in &self.programs {
            for (name, verdict) in run_program(program) {
                report(TestKind::Test, &name, verdict);
            }
        }
        let suite = Suite { cli: &self.cli, tests: &self.configs, kvm, host: self.host };
        suite.run(|name, verdict| report(TestKind::Config, name, verdict));
    }

    /// Returns all tests as skipped for one reason.
    pub(super) fn skip(&self, reason: &str) -> Result<Vec<TestResult>> {
        let mut results = Vec::new();
        let mut skip = |kind, name| {
            let verdict = Verdict::Skipped(reason.to_owned());
            results.push(TestResult { kind, host: self.host, name, verdict });
        };
        for program in &self.programs {
            kvm_tests(&program.program)?
                .into_iter()
                .for_each(|name| skip(TestKind::Test, program.full_name(&name)));
        }
        self.configs.iter().for_each(|test| skip(TestKind::Config, test.name.clone()));
        Ok(results)
    }
}

/// Runs `xtask remote tests`: reads [`HostTests`] and prints the results.
pub(crate) fn serve() -> Result<()> {
    let mut text = String::new();
    let input = Path::new("standard input");
    std::io::stdin().read_to_string(&mut text).while_doing("read", input)?;
    let tests: HostTests = serde_json::from_str(&text).while_doing("understand", input)?;
    let mut stdout = std::io::stdout().lock();
    tests.run(|result| {
        if let Ok(line) = serde_json::to_string(&result) {
            // The reader is the console of the nested host; a write error cannot be reported anywhere.
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    });
    Ok(())
}

/// Returns the names of the tests in a program that need KVM.
pub(super) fn kvm_tests(program: &Path) -> Result<Vec<String>> {
    let list = capture(Command::new(program).args(["--list", "--ignored"]), None, PROGRAM_TIMEOUT);
    Ok(libtest::names(&list.while_doing("list the tests in", program)?.stdout))
}

/// Runs the tests of a program that need KVM.
fn run_program(program: &TestProgram) -> Vec<(String, Verdict)> {
    let mut command = Command::new(&program.program);
    command.args(["--ignored", "--show-output"]).current_dir(&program.package);
    let captured = match capture(&mut command, None, PROGRAM_TIMEOUT) {
        Ok(captured) => captured,
        Err(error) => {
            return vec![(program.full_name(""), Verdict::Failed(format!("cannot run it: {error}")))];
        }
    };
    let verdicts = libtest::verdicts(&captured.stdout).into_iter();
    let mut verdicts: Vec<_> = verdicts.map(|(name, verdict)| (program.full_name(&name), verdict)).collect();
    // A program that is killed or aborts prints no verdict for the running test.
    let failed = verdicts.iter().any(|(_, verdict)| matches!(verdict, Verdict::Failed(_)));
    if !failed && !captured.status.is_some_and(|status| status.success()) {
        let end = captured
            .status
            .map_or_else(|| "it did not end".to_owned(), |status| format!("it ended with {status}"));
        verdicts
            .push((program.full_name(""), Verdict::Failed(format!("{end}\n{}", captured.stderr.trim_end()))));
    }
    verdicts
}

/// Parses a line printed by [`serve`].
pub(super) fn parse(line: &str) -> Result<TestResult> {
    serde_json::from_str(line).map_err(|_| Failure::new(format!("not a result: {line}")))
}
