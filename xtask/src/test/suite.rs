//! Runs all configurations as one suite of `vmm-cli test` and reads its JSON output.
//!
//! vmm-cli checks `[expect]`. In addition, configurations that a KVM is known not to support are skipped, a refusal by a KVM
//! that supports the configuration is a failure, and so is a configuration without a result.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::config::ConfigTest;
use super::kvm_quirks::KvmKind;
use super::outcome::{TestHost, Verdict};
use crate::failure::{Failure, FileContext, Result};
use crate::process::wait;

/// Limit for the suite, which takes seconds, or minutes on the nested host. vmm-cli also enforces a limit for each guest.
const SUITE_TIMEOUT: Duration = Duration::from_secs(1800);

/// Exit status of vmm-cli when a case has failed.
const STATUS_FAILED: i32 = 103;

/// Line of `vmm-cli test --format json` (docs/testing.md). Other fields are ignored.
#[derive(Deserialize)]
struct CaseLine {
    r#type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    file: PathBuf,
    #[serde(default)]
    verdict: String,
    #[serde(default)]
    reason: String,
    failure: Option<CaseFailure>,
}

/// Field `failure` of [`CaseLine`].
#[derive(Deserialize)]
struct CaseFailure {
    lines: Vec<String>,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    output: String,
}

/// Suite to run on this machine.
pub(super) struct Suite<'a> {
    pub(super) cli: &'a Path,
    pub(super) tests: &'a [ConfigTest],
    pub(super) kvm: KvmKind,
    pub(super) host: TestHost,
}

impl Suite<'_> {
    /// Runs the suite and passes each case to `report`: its configuration (`None` for the whole suite), name and verdict.
    pub(super) fn run(&self, mut report: impl FnMut(Option<&ConfigTest>, &str, Verdict)) {
        let Self { cli, tests, kvm, host } = *self;
        let mut requested = Vec::new();
        for test in tests {
            match kvm.cannot_run(test) {
                Some(reason) => report(Some(test), &test.name, Verdict::Skipped(reason.to_owned())),
                None => requested.push(test),
            }
        }
        if requested.is_empty() {
            return;
        }
        let mut reported = Vec::new();
        let mut failures = 0_usize;
        let mut command = Command::new(cli);
        command.args(["test", "--format", "json"]).args(requested.iter().map(|test| &test.config));
        if host == TestHost::Nested {
            // QEMU runs all CPUs in one thread there. Two guests at a time gain nothing, and one can stall the other while
            // the autopsy samples it.
            command.args(["--jobs", "1"]);
        }
        let ended = run_cli(command, cli, |line| {
            let Some(test) = requested.iter().find(|test| test.config == line.file) else { return };
            let verdict = line.verdict(test, kvm);
            failures += usize::from(line.verdict == "failed");
            reported.push(&test.name);
            report(Some(test), &line.case_name(test), verdict);
        });
        let end = match ended {
            Ok(end) => end,
            Err(failure) => failure.to_string(),
        };
        let unreported = requested.iter().filter(|test| !reported.contains(&&test.name));
        let mut is_complete = true;
        for test in unreported {
            is_complete = false;
            report(Some(test), &test.name, Verdict::Failed(format!("vmm-cli reported no result: {end}")));
        }
        let status = if failures == 0 { 0 } else { STATUS_FAILED };
        if is_complete && !end.starts_with(&format!("exit status: {status}")) {
            report(None, "vmm-cli test", Verdict::Failed(format!("{failures} cases failed, but {end}")));
        }
    }
}

/// Runs vmm-cli and passes each case to `on_case`. Returns its exit status and its standard error, as text.
fn run_cli(mut command: Command, cli: &Path, mut on_case: impl FnMut(&CaseLine)) -> Result<String> {
    let temporary = std::env::temp_dir();
    let mut errors = tempfile::tempfile().while_doing("create a file in", &temporary)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(errors.try_clone().while_doing("use a file in", &temporary)?);
    let mut child = command.spawn().while_doing("start", cli)?;
    let stdout = child.stdout.take();
    let ended = thread::scope(|scope| {
        // The waiting thread kills vmm-cli at the limit, which also closes its output.
        let waiting = scope.spawn(|| wait(&mut child, SUITE_TIMEOUT));
        for line in
            stdout.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(|line| line.ok())
        {
            if let Ok(case) = serde_json::from_str::<CaseLine>(&line)
                && case.r#type == "case"
            {
                on_case(&case);
            }
        }
        waiting.join()
    });
    let ended = ended.map_err(|_| Failure::new("a bug in xtask: nobody waited for vmm-cli"))?;
    let mut messages = String::new();
    let read = errors.seek(SeekFrom::Start(0)).and_then(|_| errors.read_to_string(&mut messages));
    read.while_doing("read a file in", &temporary)?;
    Ok(describe_exit(ended.while_doing("wait for", cli)?, &messages))
}

/// Formats an exit status (`None` after a timeout) and the messages on standard error.
fn describe_exit(ended: Option<ExitStatus>, messages: &str) -> String {
    let end =
        ended.map_or_else(|| format!("no end after {} s", SUITE_TIMEOUT.as_secs()), |end| end.to_string());
    format!("{end}\n{}", messages.trim_end()).trim_end().to_owned()
}

impl CaseLine {
    /// Returns the name of the configuration, followed by the variant of the case in brackets.
    fn case_name(&self, test: &ConfigTest) -> String {
        let variant = self.name.strip_prefix(&*self.file.to_string_lossy()).unwrap_or_default();
        format!("{}{variant}", test.name)
    }

    /// Returns the verdict, with refusals judged by what the KVM supports.
    fn verdict(&self, test: &ConfigTest, kvm: KvmKind) -> Verdict {
        match self.verdict.as_str() {
            "passed" => Verdict::Passed,
            "skipped" if kvm.may_refuse(test) => Verdict::Skipped(self.reason.clone()),
            "skipped" => Verdict::Failed(format!("refused by a host that ought to do it: {}", self.reason)),
            _ => Verdict::Failed(
                self.failure
                    .as_ref()
                    .map_or_else(|| format!("{}: {}", self.verdict, self.reason), CaseFailure::text),
            ),
        }
    }
}

impl CaseFailure {
    /// Formats the differences, the cause and the output of the guest.
    fn text(&self) -> String {
        let mut text = self.lines.join("\n");
        if !self.cause.is_empty() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{}", self.cause);
        }
        if !self.output.is_empty() {
            let _ = write!(text, "\nit printed:\n{}", self.output.trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str, mode: &str) -> ConfigTest {
        ConfigTest {
            name: name.to_owned(),
            config: format!("/c/{name}.toml").into(),
            mode: mode.to_owned(),
            page_size: String::new(),
            five_level: false,
            guest: String::new(),
        }
    }

    fn row(json: &str) -> CaseLine {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn only_a_host_known_to_lack_the_mode_may_refuse_it() {
        let refused = row(r#"{"type": "case", "verdict": "skipped", "reason": "no"}"#);
        let judge = |test: &ConfigTest, kvm| refused.verdict(test, kvm);
        let failed = Verdict::Failed("refused by a host that ought to do it: no".to_owned());
        let skipped = Verdict::Skipped("no".to_owned());
        assert_eq!(judge(&config("a", "pae"), KvmKind::Pvm), skipped);
        assert_eq!(judge(&config("a", "pae"), KvmKind::Vmx), failed);
        assert_eq!(judge(&config("a", "long"), KvmKind::Pvm), failed);
        let five_level = ConfigTest { five_level: true, ..config("a", "long") };
        assert_eq!(judge(&five_level, KvmKind::Vmx), skipped);
    }

    #[test]
    fn a_failure_has_all_details() {
        let failed = row(r#"{"type": "case", "verdict": "failed", "reason": "a", "failure":
            {"status": 103, "lines": ["a", "b"], "cause": "It died.", "output": "one\ntwo\n"}}"#);
        let verdict = failed.verdict(&config("a", "long"), KvmKind::Vmx);
        assert_eq!(verdict, Verdict::Failed("a\nb\nIt died.\nit printed:\none\ntwo".to_owned()));
        for other in ["flaky", "not-run"] {
            let row = row(&format!(r#"{{"type": "case", "verdict": "{other}"}}"#));
            assert!(matches!(row.verdict(&config("a", "long"), KvmKind::Vmx), Verdict::Failed(_)), "{other}");
        }
    }

    /// Runs a suite with a shell script as vmm-cli.
    fn with_script(script: &str) -> Vec<(String, Verdict)> {
        let directory = tempfile::tempdir().unwrap();
        let cli = directory.path().join("vmm-cli");
        // Written by a shell: a child process of another test could inherit a file that is open for writing here, and then
        // the script could not be executed (ETXTBSY).
        let mut writer = Command::new("sh");
        writer
            .args(["-c", "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\"; chmod +x \"$0\""])
            .arg(&cli)
            .arg(script);
        assert!(writer.status().unwrap().success());
        let mut results = Vec::new();
        let tests = [config("a", "long"), config("b", "long"), config("crash/cr3-outside", "long")];
        let suite = Suite { cli: &cli, tests: &tests, kvm: KvmKind::Pvm, host: TestHost::Here };
        suite.run(|_, name, verdict| results.push((name.to_owned(), verdict)));
        let (name, verdict) = results.remove(0);
        assert!(name == "crash/cr3-outside" && matches!(verdict, Verdict::Skipped(_)));
        results
    }

    const PASSED: &str =
        r#"echo '{"type": "case", "name": "/c/'$1'.toml'$2'", "file": "/c/'$1'.toml", "verdict": "passed"}'"#;

    #[test]
    fn every_configuration_gets_a_verdict() {
        let passed = |name: &str| (name.to_owned(), Verdict::Passed);
        let failed = |name: &str, reason: &str| (name.to_owned(), Verdict::Failed(reason.to_owned()));
        let pass = format!("pass() {{ {PASSED}; }}\n");
        let script = |rest: &str| with_script(&format!("{pass}{rest}"));
        assert_eq!(script("pass a; pass b '[ring=0]'"), [passed("a"), passed("b[ring=0]")]);
        assert_eq!(
            script("pass a; echo 'error: no' >&2; exit 106"),
            [passed("a"), failed("b", "vmm-cli reported no result: exit status: 106\nerror: no")]
        );
        assert_eq!(
            script("pass a; pass b; exit 103"),
            [passed("a"), passed("b"), failed("vmm-cli test", "0 cases failed, but exit status: 103")]
        );
    }
}
