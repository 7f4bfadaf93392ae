//! A configuration as a test: what vmm-cli has to do with it, and whether it did.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::hosts::Host;
use super::record::Verdict;
use crate::failure::{Failure, Result, While};
use crate::process::{Captured, capture};
use crate::run::REFUSED;

/// Longer than any time limit in a configuration: if it passes, vmm-cli does not keep its own limit.
const WATCHDOG: Duration = Duration::from_secs(90);

/// One configuration and what is to be expected of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ConfigTest {
    /// The file's name without `.toml`; before it `crash/` for a crashing guest.
    pub(super) name: String,
    config: PathBuf,
    /// Standard input: the file NAME.input beside the configuration, if there is one.
    input: Option<PathBuf>,
    /// The exit status that follows from `[expect]` and `halt`.
    status: i32,
    /// There is an `[expect]`, so vmm-cli's report has to say that it was met.
    expects: bool,
    /// What the host must be able to do.
    pub(super) mode: String,
    /// The page size in `[paging]`, as written.
    pub(super) page_size: String,
    /// Five-level paging.
    pub(super) five_level: bool,
    /// The file it runs.
    pub(super) guest: String,
}

/// What we read of `vmm-cli run --report`.
#[derive(Default, Deserialize)]
struct Report {
    #[serde(default)]
    end: String,
    expect: Option<Expectation>,
}

#[derive(Deserialize)]
struct Expectation {
    met: bool,
    failures: Vec<Mismatch>,
}

#[derive(Deserialize)]
struct Mismatch {
    key: String,
    expected: String,
    found: String,
}

impl ConfigTest {
    /// Reads a configuration; what is wrong in it vmm-cli will say.
    pub(super) fn read(config: &Path) -> Result<Self> {
        let text = fs::read_to_string(config).while_doing("read", config)?;
        let table: toml::Table =
            text.parse().map_err(|error| Failure::new(format!("{}: {error}", config.display())))?;
        let text = |keys: [&str; 2]| lookup(&table, &keys).and_then(toml::Value::as_str).unwrap_or_default();
        let mode = table.get("mode").and_then(toml::Value::as_str).unwrap_or_default();
        let guest = crate::references::named_files(&table).into_iter().next().unwrap_or_default();
        let input = config.with_extension("input");
        let five_level = lookup(&table, &["paging", "five-level"]);
        Ok(Self {
            name: name_of(config),
            config: config.to_owned(),
            input: input.is_file().then_some(input),
            status: expected_status(text(["expect", "end"]), table.get("halt").and_then(toml::Value::as_str)),
            expects: table.contains_key("expect"),
            mode: mode.to_owned(),
            page_size: text(["paging", "page-size"]).to_owned(),
            five_level: five_level.and_then(toml::Value::as_bool).unwrap_or_default(),
            guest: Path::new(&guest.replace("{mode}", mode))
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
        })
    }

    /// Runs it on the host we are on.
    pub(super) fn run(&self, cli: &Path, host: Host) -> Verdict {
        if let Some(reason) = host.cannot_run(self) {
            return Verdict::Skipped(reason.to_owned());
        }
        match self.observe(cli) {
            Ok((captured, report)) => self.judge(&captured, &report, host),
            Err(failure) => Verdict::Failed(failure.to_string()),
        }
    }

    fn observe(&self, cli: &Path) -> Result<(Captured, Report)> {
        let directory = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
        let report = directory.path().join("report.json");
        let input = self.input.as_ref().map(|path| File::open(path).while_doing("open", path)).transpose()?;
        let mut command = Command::new(cli);
        command.arg("run").arg(&self.config).arg("--report").arg(&report);
        let captured = capture(&mut command, input, WATCHDOG).while_doing("run", cli)?;
        let report = fs::read(&report).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Ok((captured, report.unwrap_or_default()))
    }

    fn judge(&self, captured: &Captured, report: &Report, host: Host) -> Verdict {
        let message = error_line(&captured.stderr);
        let Some(status) = captured.status else {
            return Verdict::Failed(format!("no end after {} s", WATCHDOG.as_secs()));
        };
        if status.code() == Some(REFUSED) {
            return match host.may_refuse(self) {
                true => Verdict::Skipped(message.to_owned()),
                false => Verdict::Failed(format!("refused by a host that ought to do it: {message}")),
            };
        }
        let mut wrong = Vec::new();
        if status.code() != Some(self.status) {
            let end = if report.end.is_empty() { message } else { &report.end };
            wrong.push(format!("{status} instead of {}: {end}", self.status));
        }
        match &report.expect {
            Some(Expectation { met: true, .. }) => {}
            Some(Expectation { met: false, failures }) => {
                wrong.push("[expect] is not met".to_owned());
                for Mismatch { key, expected, found } in failures {
                    wrong.push(format!("{key}: expected {expected}, found {found}"));
                }
            }
            None if self.expects => wrong.push(format!("no report about [expect]: {message}")),
            None => {}
        }
        if wrong.is_empty() { Verdict::Passed } else { Verdict::Failed(wrong.join("\n")) }
    }
}

/// The path below `configs/`, without `.toml`.
fn name_of(config: &Path) -> String {
    let stem = config.file_stem().unwrap_or_default().to_string_lossy();
    match config.parent().and_then(Path::file_name) {
        Some(folder) if folder == "crash" => format!("crash/{stem}"),
        Some(_) | None => stem.into_owned(),
    }
}

/// The status that a run ends with when all goes as the configuration says: the table of vmm-cli's exit statuses.
fn expected_status(end: &str, halt: Option<&str>) -> i32 {
    match end {
        "shutdown" | "internal-error" | "fail-entry" | "exception" | "unmapped" => 100,
        "time-limit" | "exit-limit" | "suspend" => 102,
        "halt" | "" if halt == Some("hung") => 102,
        _ => 0,
    }
}

/// The line of vmm-cli's messages that says what is wrong.
fn error_line(stderr: &str) -> &str {
    let error = stderr.lines().find_map(|line| line.split_once("error: ").map(|(_, text)| text));
    error.or_else(|| stderr.lines().last()).unwrap_or("it said nothing")
}

fn lookup<'a>(table: &'a toml::Table, keys: &[&str; 2]) -> Option<&'a toml::Value> {
    let [outer, inner] = keys;
    table.get(*outer)?.as_table()?.get(*inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn read(text: &str) -> ConfigTest {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("a.toml");
        fs::write(&config, text).unwrap();
        ConfigTest::read(&config).unwrap()
    }

    fn judge(config: &str, status: i32, report: &str, host: Host) -> Verdict {
        let status = Some(ExitStatus::from_raw(status << 8));
        let captured = Captured { status, stdout: String::new(), stderr: "error: no\n".to_owned() };
        read(config).judge(&captured, &serde_json::from_str(report).unwrap(), host)
    }

    fn failed(verdict: &Verdict) -> &str {
        let Verdict::Failed(reason) = verdict else { panic!("{verdict:?}") };
        reason
    }

    #[test]
    fn the_status_follows_from_the_expected_end() {
        assert_eq!(expected_status("halt", None), 0);
        assert_eq!(expected_status("", None), 0);
        assert_eq!(expected_status("exit", Some("hung")), 0);
        assert_eq!(expected_status("halt", Some("hung")), 102);
        assert_eq!(expected_status("shutdown", None), 100);
        assert_eq!(expected_status("time-limit", None), 102);
    }

    #[test]
    fn a_crash_that_is_expected_passes_only_if_the_report_says_so() {
        let config = "mode = \"long\"\n[expect]\nend = \"shutdown\"\n";
        let met = r#"{"end": "shutdown", "expect": {"met": true, "failures": []}}"#;
        let unmet = r#"{"end": "shutdown", "expect": {"met": false, "failures": [
            {"key": "expect.exits", "expected": "1", "found": "2"}]}}"#;
        assert_eq!(judge(config, 100, met, Host::Ordinary), Verdict::Passed);
        let verdict = judge(config, 100, unmet, Host::Ordinary);
        assert_eq!(failed(&verdict), "[expect] is not met\nexpect.exits: expected 1, found 2");
        assert_eq!(failed(&judge(config, 100, "{}", Host::Ordinary)), "no report about [expect]: no");
        let verdict = judge(config, 0, met, Host::Ordinary);
        assert!(failed(&verdict).contains("instead of 100: shutdown"), "{verdict:?}");
    }

    #[test]
    fn only_a_host_known_to_lack_the_mode_may_refuse_it() {
        let skipped = Verdict::Skipped("no".to_owned());
        assert_eq!(judge("mode = \"pae\"", 104, "{}", Host::Pvm), skipped);
        assert!(failed(&judge("mode = \"pae\"", 104, "{}", Host::Ordinary)).starts_with("refused"));
        assert!(failed(&judge("mode = \"long\"", 104, "{}", Host::Pvm)).starts_with("refused"));
        assert_eq!(judge("mode = \"long\"\n[paging]\nfive-level = true", 104, "{}", Host::Ordinary), skipped);
    }

    #[test]
    fn a_crashing_guest_is_named_with_its_folder() {
        assert_eq!(name_of(Path::new("/x/configs/long.toml")), "long");
        assert_eq!(name_of(Path::new("/x/configs/crash/bad-msr.toml")), "crash/bad-msr");
    }

    #[test]
    fn the_guest_is_found_by_mode() {
        let test = read("mode = \"pae\"\n[guest]\nelf = \"../guests/build/hello-{mode}.elf\"\n");
        assert_eq!((test.guest.as_str(), test.expects), ("hello-pae.elf", false));
    }
}
