//! All configurations as one suite of `vmm-cli test`, its results read from JSON as they come.
//!
//! vmm-cli decides whether a guest did what its `[expect]` says. Three things are added: what a host is known not to do is
//! not tried; a refusal by a host that ought to be able is a failure; and a configuration that vmm-cli says nothing of has
//! failed, so that none gets lost.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::config::ConfigTest;
use super::hosts::Host;
use super::record::{Place, Verdict};
use crate::failure::{Failure, Result, While};
use crate::process::wait;

/// The suite takes seconds, on the nested host minutes. Each guest has a limit of its own, which vmm-cli keeps.
const WATCHDOG: Duration = Duration::from_secs(600);

/// vmm-cli's exit status when a case has failed.
const UNEXPECTED: i32 = 103;

/// What we read of a line of `vmm-cli test --format json` (docs/testing.md).
#[derive(Deserialize)]
struct Row {
    r#type: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    file: PathBuf,
    #[serde(default)]
    verdict: String,
    #[serde(default)]
    reason: String,
    failure: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    lines: Vec<String>,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    output: String,
}

/// A suite to run on the host we are on.
pub(super) struct Suite<'a> {
    pub(super) cli: &'a Path,
    pub(super) tests: &'a [ConfigTest],
    pub(super) host: Host,
    pub(super) place: Place,
}

impl Suite<'_> {
    /// Runs it; `tell` gets the name and the verdict of each case.
    pub(super) fn run(&self, mut tell: impl FnMut(&str, Verdict)) {
        let Self { cli, tests, host, place } = *self;
        let mut asked = Vec::new();
        for test in tests {
            match host.cannot_run(test) {
                Some(reason) => tell(&test.name, Verdict::Skipped(reason.to_owned())),
                None => asked.push(test),
            }
        }
        if asked.is_empty() {
            return;
        }
        let mut answered = Vec::new();
        let mut failures = 0_usize;
        let mut command = Command::new(cli);
        command.args(["test", "--format", "json"]).args(asked.iter().map(|test| &test.config));
        if place == Place::Nested {
            // One thread of QEMU's stands for all CPUs there: two guests at a time gain nothing, and one can stall the other
            // while the autopsy takes samples of it.
            command.args(["--jobs", "1"]);
        }
        let ended = observe(command, cli, |row| {
            let Some(test) = asked.iter().find(|test| test.config == row.file) else { return };
            let verdict = row.judge(test, host);
            failures += usize::from(row.verdict == "failed");
            answered.push(&test.name);
            tell(&row.case(test), verdict);
        });
        let end = match ended {
            Ok(end) => end,
            Err(failure) => failure.to_string(),
        };
        let unanswered = asked.iter().filter(|test| !answered.contains(&&test.name));
        let mut is_complete = true;
        for test in unanswered {
            is_complete = false;
            tell(&test.name, Verdict::Failed(format!("vmm-cli said nothing of it: {end}")));
        }
        let status = if failures == 0 { 0 } else { UNEXPECTED };
        if is_complete && !end.starts_with(&format!("exit status: {status}")) {
            tell("vmm-cli test", Verdict::Failed(format!("{failures} cases failed, but {end}")));
        }
    }
}

/// Runs vmm-cli; `see` gets each row. Returns how it ended, in words, with its messages.
fn observe(mut command: Command, cli: &Path, mut see: impl FnMut(&Row)) -> Result<String> {
    let temporary = std::env::temp_dir();
    let mut errors = tempfile::tempfile().while_doing("create a file in", &temporary)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(errors.try_clone().while_doing("use a file in", &temporary)?);
    let mut child = command.spawn().while_doing("start", cli)?;
    let stdout = child.stdout.take();
    let ended = thread::scope(|scope| {
        // The one who waits kills it at the limit; then its output ends too.
        let waiting = scope.spawn(|| wait(&mut child, WATCHDOG));
        for line in
            stdout.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(|line| line.ok())
        {
            if let Ok(row) = serde_json::from_str::<Row>(&line)
                && row.r#type == "case"
            {
                see(&row);
            }
        }
        waiting.join()
    });
    let ended = ended.map_err(|_| Failure::new("a bug in xtask: nobody waited for vmm-cli"))?;
    let mut said = String::new();
    let read = errors.seek(SeekFrom::Start(0)).and_then(|_| errors.read_to_string(&mut said));
    read.while_doing("read a file in", &temporary)?;
    Ok(words(ended.while_doing("wait for", cli)?, &said))
}

fn words(ended: Option<ExitStatus>, said: &str) -> String {
    let end = ended.map_or_else(|| format!("no end after {} s", WATCHDOG.as_secs()), |end| end.to_string());
    format!("{end}\n{}", said.trim_end()).trim_end().to_owned()
}

impl Row {
    /// The configuration's name, and behind it in brackets which of its cases.
    fn case(&self, test: &ConfigTest) -> String {
        let variant = self.name.strip_prefix(&*self.file.to_string_lossy()).unwrap_or_default();
        format!("{}{variant}", test.name)
    }

    fn judge(&self, test: &ConfigTest, host: Host) -> Verdict {
        match self.verdict.as_str() {
            "passed" => Verdict::Passed,
            "skipped" if host.may_refuse(test) => Verdict::Skipped(self.reason.clone()),
            "skipped" => Verdict::Failed(format!("refused by a host that ought to do it: {}", self.reason)),
            _ => Verdict::Failed(
                self.failure
                    .as_ref()
                    .map_or_else(|| format!("{}: {}", self.verdict, self.reason), Details::text),
            ),
        }
    }
}

impl Details {
    /// All of it: what differs, why the guest ended so, what it printed.
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

    fn row(json: &str) -> Row {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn only_a_host_known_to_lack_the_mode_may_refuse_it() {
        let refused = row(r#"{"type": "case", "verdict": "skipped", "reason": "no"}"#);
        let judge = |test: &ConfigTest, host| refused.judge(test, host);
        let failed = Verdict::Failed("refused by a host that ought to do it: no".to_owned());
        let skipped = Verdict::Skipped("no".to_owned());
        assert_eq!(judge(&config("a", "pae"), Host::Pvm), skipped);
        assert_eq!(judge(&config("a", "pae"), Host::Ordinary), failed);
        assert_eq!(judge(&config("a", "long"), Host::Pvm), failed);
        let five_level = ConfigTest { five_level: true, ..config("a", "long") };
        assert_eq!(judge(&five_level, Host::Ordinary), skipped);
    }

    #[test]
    fn a_failure_is_told_in_full() {
        let failed = row(r#"{"type": "case", "verdict": "failed", "reason": "a", "failure":
            {"status": 103, "lines": ["a", "b"], "cause": "It died.", "output": "one\ntwo\n"}}"#);
        let verdict = failed.judge(&config("a", "long"), Host::Ordinary);
        assert_eq!(verdict, Verdict::Failed("a\nb\nIt died.\nit printed:\none\ntwo".to_owned()));
        for other in ["flaky", "not-run"] {
            let row = row(&format!(r#"{{"type": "case", "verdict": "{other}"}}"#));
            assert!(matches!(row.judge(&config("a", "long"), Host::Ordinary), Verdict::Failed(_)), "{other}");
        }
    }

    /// What comes of a suite when vmm-cli is this shell script.
    fn with_script(script: &str) -> Vec<(String, Verdict)> {
        let directory = tempfile::tempdir().unwrap();
        let cli = directory.path().join("vmm-cli");
        // Written by a shell: a child that another test starts meanwhile would keep our file open, and it could not be run.
        let mut writer = Command::new("sh");
        writer
            .args(["-c", "printf '#!/bin/sh\n%s\n' \"$1\" > \"$0\"; chmod +x \"$0\""])
            .arg(&cli)
            .arg(script);
        assert!(writer.status().unwrap().success());
        let mut told = Vec::new();
        let tests = [config("a", "long"), config("b", "long"), config("crash/cr3-outside", "long")];
        let suite = Suite { cli: &cli, tests: &tests, host: Host::Pvm, place: Place::Here };
        suite.run(|name, verdict| told.push((name.to_owned(), verdict)));
        let (name, verdict) = told.remove(0);
        assert!(name == "crash/cr3-outside" && matches!(verdict, Verdict::Skipped(_)));
        told
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
            [passed("a"), failed("b", "vmm-cli said nothing of it: exit status: 106\nerror: no")]
        );
        assert_eq!(
            script("pass a; pass b; exit 103"),
            [passed("a"), passed("b"), failed("vmm-cli test", "0 cases failed, but exit status: 103")]
        );
    }
}
