//! Tests that run on each host: Rust tests that need KVM, then all configurations as one suite of `vmm-cli test`.
//!
//! On the nested host all of them run in one boot: xtask is copied there and runs as `xtask remote tests`, which reads
//! [`HostTests`] as JSON from standard input and prints each result as a line of JSON.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::ConfigTest;
use super::kvm_quirks::KvmKind;
use super::outcome::{TestHost, TestKind, TestResult, Verdict};
use super::programs::ProgramTests;
use super::suite::Suite;
use crate::failure::{Failure, FileContext, Result};
use crate::workspace::TestProgram;

/// Tests to run on one host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HostTests {
    pub(super) host: TestHost,
    /// Top directory of the repository, to which paths in messages are relative.
    pub(super) root: PathBuf,
    /// Path of vmm-cli.
    pub(super) cli: PathBuf,
    /// Rust tests that need KVM.
    pub(super) programs: Vec<ProgramTests>,
    pub(super) configs: Vec<ConfigTest>,
}

impl HostTests {
    /// Returns true if there is no test to run.
    pub(super) fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.configs.is_empty()
    }

    /// Returns the test programs.
    pub(super) fn programs(&self) -> impl Iterator<Item = &TestProgram> {
        self.programs.iter().map(|tests| &tests.program)
    }

    /// Deals the tests out to `parts` parts of about the same duration, without empty ones: one after another, so that slow
    /// programs are in all of them.
    pub(super) fn split(&self, parts: usize) -> Vec<Self> {
        let part = |number| Self {
            host: self.host,
            root: self.root.clone(),
            cli: self.cli.clone(),
            programs: self.programs.iter().map(|tests| tests.part(number, parts)).collect(),
            configs: every(&self.configs, number, parts),
        };
        let mut split: Vec<Self> = (0..parts).map(part).collect();
        for tests in &mut split {
            tests.programs.retain(|tests| !tests.is_empty());
        }
        split.retain(|tests| !tests.is_empty());
        split
    }

    /// Runs all tests on this machine and passes each result to `report`.
    pub(super) fn run(&self, mut report: impl FnMut(TestResult)) {
        for tests in &self.programs {
            tests.run(self.host).into_iter().for_each(&mut report);
        }
        let suite = Suite { cli: &self.cli, tests: &self.configs, kvm: KvmKind::detect(), host: self.host };
        suite.run(|test, name, verdict| report(self.config_result(test, name, verdict)));
    }

    /// Returns all tests as skipped for one reason.
    pub(super) fn skip(&self, reason: &str) -> Vec<TestResult> {
        let programs = self.programs.iter().flat_map(|tests| tests.skip(self.host, reason));
        let configs = self.configs.iter().map(|test| self.skip_config(test, reason));
        programs.chain(configs).collect()
    }

    /// Returns a configuration as skipped.
    pub(super) fn skip_config(&self, test: &ConfigTest, reason: &str) -> TestResult {
        self.config_result(Some(test), &test.name, Verdict::Skipped(reason.to_owned()))
    }

    /// Creates the result of a configuration, or of the whole suite.
    fn config_result(&self, test: Option<&ConfigTest>, name: &str, verdict: Verdict) -> TestResult {
        let rerun = match test {
            Some(test) => {
                let path = test.config.strip_prefix(&self.root).unwrap_or(&test.config);
                self.host.rerun(&path.to_string_lossy())
            }
            None => self.host.rerun("configs"),
        };
        TestResult { kind: TestKind::Config, host: self.host, name: name.to_owned(), verdict, rerun }
    }
}

/// Returns the items `number`, `number + step` and so on.
pub(super) fn every<T: Clone>(items: &[T], number: usize, step: usize) -> Vec<T> {
    items.iter().skip(number).step_by(step.max(1)).cloned().collect()
}

/// Runs `xtask remote tests`: reads [`HostTests`] and prints the results.
pub(crate) fn serve() -> Result<()> {
    let tests: HostTests =
        serde_json::from_reader(std::io::stdin()).while_doing("understand", Path::new("standard input"))?;
    let mut stdout = std::io::stdout().lock();
    tests.run(|result| {
        if let Ok(line) = serde_json::to_string(&result) {
            // The reader is the console of the nested host; a write error cannot be reported anywhere.
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    });
    Ok(())
}

/// Parses a line printed by [`serve`].
pub(super) fn parse(line: &str) -> Result<TestResult> {
    serde_json::from_str(line).map_err(|_| Failure::new(format!("not a result: {line}")))
}
