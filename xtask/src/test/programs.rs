//! Runs selected tests of Rust test programs, and the documentation examples.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::libtest;
use super::outcome::{ResultCounts, TestHost, TestKind, TestResult, Verdict};
use super::remote::every;
use super::selection::Selection;
use crate::failure::{Failure, FileContext, Result};
use crate::process::{capture, quote};
use crate::workspace::{TestProgram, Workspace};

/// Limit for one test program. A program takes seconds, on the nested host up to some minutes.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(1200);
/// Limit for the build and the run of all documentation examples.
const DOC_TEST_TIMEOUT: Duration = Duration::from_secs(1200);

/// Test program with the tests of it to run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ProgramTests {
    pub(super) program: TestProgram,
    /// Names of the tests, without package and target.
    names: Vec<String>,
}

impl ProgramTests {
    /// Lists the selected tests of a program: those that need KVM (ignored tests), or those that do not.
    pub(super) fn list(program: &TestProgram, with_kvm: bool, selection: &mut Selection<'_>) -> Result<Self> {
        let list = |arguments: &[&str]| {
            let listed = capture(Command::new(&program.program).args(arguments), None, PROGRAM_TIMEOUT);
            listed.while_doing("list the tests in", &program.program).map(|list| libtest::names(&list.stdout))
        };
        let ignored = list(&["--list", "--ignored"])?;
        let mut names = if with_kvm {
            ignored
        } else {
            list(&["--list"])?.into_iter().filter(|name| !ignored.contains(name)).collect()
        };
        names.retain(|name| selection.selects(&program.full_name(name)));
        Ok(Self { program: program.clone(), names })
    }

    /// Returns every `step`-th test, from `number` on.
    pub(super) fn part(&self, number: usize, step: usize) -> Self {
        Self { program: self.program.clone(), names: every(&self.names, number, step) }
    }

    /// Returns true if there is no test to run.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Runs the tests on this machine, which is `host`. Each test has a result, even if the program is killed.
    pub(super) fn run(&self, host: TestHost) -> Vec<TestResult> {
        let mut command = Command::new(&self.program.program);
        command.args(["--exact", "--include-ignored", "--show-output"]).args(&self.names);
        command.current_dir(&self.program.package).env("CARGO_MANIFEST_DIR", &self.program.package);
        let (mut verdicts, end) = match capture(&mut command, None, PROGRAM_TIMEOUT) {
            Ok(captured) => (
                libtest::verdicts(&captured.stdout),
                format!("{}\n{}", describe(captured.status), captured.stderr.trim_end()),
            ),
            Err(error) => (Vec::new(), format!("cannot run the test program: {error}")),
        };
        let result = |name: &String| {
            let verdict = match verdicts.iter().position(|(found, _)| found == name) {
                Some(index) => verdicts.swap_remove(index).1,
                None => Verdict::Failed(format!("no result of this test: {end}")),
            };
            self.result(host, name, verdict)
        };
        self.names.iter().map(result).collect()
    }

    /// Returns all tests as skipped for one reason.
    pub(super) fn skip(&self, host: TestHost, reason: &str) -> impl Iterator<Item = TestResult> {
        self.names.iter().map(move |name| self.result(host, name, Verdict::Skipped(reason.to_owned())))
    }

    fn result(&self, host: TestHost, name: &str, verdict: Verdict) -> TestResult {
        let full_name = self.program.full_name(name);
        let rerun = match host {
            TestHost::Here => self.program.cargo_test(name),
            TestHost::Nested => host.rerun(&full_name),
        };
        TestResult { kind: TestKind::Test, host, name: full_name, verdict, rerun }
    }
}

/// Runs the selected documentation examples with `cargo test --doc`.
pub(super) fn run_doc_tests(workspace: &Workspace, selection: &mut Selection<'_>) -> Result<Vec<TestResult>> {
    let arguments = ["test", "--workspace", "--doc", "--no-fail-fast", "--", "--show-output"];
    let captured = capture(workspace.cargo().args(arguments), None, DOC_TEST_TIMEOUT);
    let captured = captured.map_err(|error| Failure::new(format!("cannot run cargo test: {error}")))?;
    let result = |(name, verdict): (String, Verdict)| {
        let package =
            Path::new(&name).components().next().map(|package| package.as_os_str().to_string_lossy());
        let package = package.unwrap_or_default().into_owned();
        let rerun = format!("cargo test -p {package} --doc -- --exact {}", quote(&name));
        TestResult { kind: TestKind::Test, host: TestHost::Here, name, verdict, rerun }
    };
    let mut results: Vec<_> = libtest::verdicts(&captured.stdout).into_iter().map(result).collect();
    // Without a failed example, cargo itself failed.
    if ResultCounts::from_results(&results).failed == 0
        && !captured.status.is_some_and(|status| status.success())
    {
        let verdict = Verdict::Failed(format!("{}\n{}", describe(captured.status), captured.stderr));
        let rerun = "cargo test --workspace --doc".to_owned();
        results.push(TestResult {
            kind: TestKind::Test,
            host: TestHost::Here,
            name: "cargo test --doc".to_owned(),
            verdict,
            rerun,
        });
        return Ok(results);
    }
    results.retain(|result| selection.selects(&result.name));
    Ok(results)
}

/// Formats the exit status of a program; `None` after a timeout.
fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "it was killed after the time limit".to_owned(), |status| status.to_string())
}
