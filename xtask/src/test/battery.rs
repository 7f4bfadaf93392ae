//! What runs on every host: the tests that need a KVM, then all configurations as one suite of `vmm-cli test`.
//!
//! On the nested host all of it runs in one boot: xtask itself is taken along, gets the battery as JSON on its
//! standard input and prints each result as a line of JSON.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::ConfigTest;
use super::hosts::Host;
use super::libtest;
use super::record::{Place, Record, Subject, Verdict};
use super::suite::Suite;
use crate::failure::{Failure, Result, While};
use crate::process::capture;
use crate::workspace::TestProgram;

/// A test program that hangs is stopped after this time.
const WATCHDOG: Duration = Duration::from_secs(180);

/// Everything to run on a host.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Battery {
    /// vmm-cli.
    pub(super) cli: PathBuf,
    pub(super) place: Place,
    /// Programs with tests that need a KVM.
    pub(super) programs: Vec<TestProgram>,
    pub(super) configs: Vec<ConfigTest>,
}

impl Battery {
    /// Runs all of it here; `report` gets each result as it comes.
    pub(super) fn run(&self, mut report: impl FnMut(Record)) {
        let host = Host::detect();
        let mut tell = |subject, name: &str, verdict| {
            report(Record { subject, place: self.place, name: name.to_owned(), verdict });
        };
        for program in &self.programs {
            for (name, verdict) in run_program(program) {
                tell(Subject::Test, &name, verdict);
            }
        }
        let suite = Suite { cli: &self.cli, tests: &self.configs, host, place: self.place };
        suite.run(|name, verdict| tell(Subject::Config, name, verdict));
    }

    /// The same battery as skipped, all for one reason.
    pub(super) fn skip(&self, reason: &str) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let mut tell = |subject, name| {
            let verdict = Verdict::Skipped(reason.to_owned());
            records.push(Record { subject, place: self.place, name, verdict });
        };
        for program in &self.programs {
            kvm_tests(&program.program)?
                .into_iter()
                .for_each(|name| tell(Subject::Test, program.full_name(&name)));
        }
        self.configs.iter().for_each(|test| tell(Subject::Config, test.name.clone()));
        Ok(records)
    }
}

/// The hidden task that runs on the nested host.
pub(crate) fn serve() -> Result<()> {
    let mut text = String::new();
    let input = Path::new("standard input");
    std::io::stdin().read_to_string(&mut text).while_doing("read", input)?;
    let battery: Battery = serde_json::from_str(&text).while_doing("understand", input)?;
    let mut stdout = std::io::stdout().lock();
    battery.run(|record| {
        if let Ok(line) = serde_json::to_string(&record) {
            // When nobody listens any more there is nobody to tell.
            let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
        }
    });
    Ok(())
}

/// The names of a program's tests that need a KVM.
pub(super) fn kvm_tests(program: &Path) -> Result<Vec<String>> {
    let list = capture(Command::new(program).args(["--list", "--ignored"]), None, WATCHDOG);
    Ok(libtest::names(&list.while_doing("list the tests in", program)?.stdout))
}

fn run_program(program: &TestProgram) -> Vec<(String, Verdict)> {
    let mut command = Command::new(&program.program);
    command.args(["--ignored", "--show-output"]).current_dir(&program.package);
    let captured = match capture(&mut command, None, WATCHDOG) {
        Ok(captured) => captured,
        Err(error) => {
            return vec![(program.full_name(""), Verdict::Failed(format!("cannot run it: {error}")))];
        }
    };
    let verdicts = libtest::verdicts(&captured.stdout).into_iter();
    let mut verdicts: Vec<_> = verdicts.map(|(name, verdict)| (program.full_name(&name), verdict)).collect();
    // A program that dies takes its verdicts along.
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

/// Reads one line of [`serve`].
pub(super) fn parse(line: &str) -> Result<Record> {
    serde_json::from_str(line).map_err(|_| Failure::new(format!("not a result: {line}")))
}
