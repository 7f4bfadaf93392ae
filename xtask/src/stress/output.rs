//! Files that a killed process was writing: complete or not.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quick_junit::{Report, TestCaseStatus};
use serde_json::Value;

use super::victim::CASES;
use crate::process::capture;
use crate::progress::seconds;

/// Limit for the use of a file by vmm-cli.
const LOAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Exit status of a run that comes to its time limit.
const STATUS_HUNG: i32 = 102;
/// Name of the last element of a JUnit report.
const JUNIT_END: &str = "</testsuites>";

/// File that a command writes.
#[derive(Debug)]
pub(super) struct Output {
    /// Name in the working directory.
    pub(super) name: &'static str,
    pub(super) format: Format,
}

/// Format of a file, which decides how it is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Result of a run, as JSON.
    Report,
    /// Trace, in the Trace Event format.
    Trace,
    /// ELF core file.
    Core,
    /// Snapshot of a machine.
    Snapshot,
    /// JUnit XML.
    Junit,
}

/// Content of an output after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputState {
    /// The file that was there before.
    Earlier,
    /// Another file.
    New,
}

impl Output {
    /// Compares the content of the file with that before, and checks a new one. `is_finished` is true if vmm-cli was not
    /// interrupted.
    ///
    /// # Errors
    /// The reason why the file is not complete.
    pub(super) fn check(
        &self,
        cli: &Path,
        directory: &Path,
        earlier: Option<&[u8]>,
        is_finished: bool,
    ) -> Result<OutputState, String> {
        let path = directory.join(self.name);
        let problem = |problem: String| format!("{}: {problem}", self.name);
        let bytes = std::fs::read(&path).map_err(|error| problem(error.to_string()))?;
        if earlier.is_some_and(|earlier| earlier == bytes) {
            return if is_finished {
                Err(problem("it was not replaced".to_owned()))
            } else {
                Ok(OutputState::Earlier)
            };
        }
        let result = match self.format {
            Format::Report => report(&bytes),
            Format::Trace => trace(&bytes),
            Format::Core => core(&bytes),
            Format::Snapshot => snapshot(cli, &path),
            Format::Junit => junit(&bytes, is_finished),
        };
        result.map(|()| OutputState::New).map_err(problem)
    }

    /// Returns true if a killed process may leave a hidden file of that name: the new file, or the journal of a report.
    pub(super) fn may_leave(&self, name: &str) -> bool {
        let process = || {
            let rest = name.strip_prefix('.')?.strip_prefix(self.name)?;
            rest.strip_prefix(".journal").unwrap_or(rest).strip_prefix('.')?.strip_suffix(".partial")
        };
        process().is_some_and(|number| number.parse::<u32>().is_ok())
    }
}

/// Checks that vmm-cli takes the journal of a killed suite, if a part of it is complete.
pub(super) fn check_journal(cli: &Path, path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    if !text.contains(JUNIT_END) {
        return Ok(());
    }
    let merged = path.with_extension("merged");
    let result =
        vmm_cli(cli, &[Path::new("test"), Path::new("--merge"), path, Path::new("--output"), &merged], 0);
    let report = result.and_then(|()| std::fs::read(&merged).map_err(|error| error.to_string()));
    // Ignored: without the file there was an error.
    let _ = std::fs::remove_file(&merged);
    junit(&report?, false)
}

fn report(bytes: &[u8]) -> Result<(), String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    value.get("status").and_then(Value::as_u64).map(drop).ok_or_else(|| "it has no status".to_owned())
}

fn trace(bytes: &[u8]) -> Result<(), String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let events = value.get("traceEvents").unwrap_or(&value).as_array().map_or(0, Vec::len);
    if events == 0 { Err("it has no events".to_owned()) } else { Ok(()) }
}

/// Checks that the last segment of an ELF core file ends with the file (gABI, chapters 4 and 5).
fn core(bytes: &[u8]) -> Result<(), String> {
    match segments_end(bytes) {
        None => Err("it is no core file".to_owned()),
        Some(end) if usize::try_from(end) != Ok(bytes.len()) => {
            Err(format!("its segments end at {end}, the file at {}", bytes.len()))
        }
        Some(_) => Ok(()),
    }
}

/// Returns the offset at which the last segment of a core file ends; `None` if it is none.
fn segments_end(bytes: &[u8]) -> Option<u64> {
    const ET_CORE: u64 = 4;
    let number = |at: usize, size: usize| {
        let bytes = bytes.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    // Size of an offset; places of `e_phoff` and `e_phnum`; size of a program header, places of `p_offset` and `p_filesz` in it.
    let (word, first, count, size, offset, file_size) = match bytes.get(..6)? {
        b"\x7fELF\x01\x01" => (4, 28, 44, 32, 4, 16),
        b"\x7fELF\x02\x01" => (8, 32, 56, 56, 8, 32),
        _ => return None,
    };
    if number(16, 2)? != ET_CORE {
        return None;
    }
    let (first, count) = (usize::try_from(number(first, word)?).ok()?, number(count, 2)?);
    let mut end = 0;
    for index in 0..usize::try_from(count).ok()? {
        let header = first.checked_add(size * index)?;
        end = end.max(number(header + offset, word)?.checked_add(number(header + file_size, word)?)?);
    }
    Some(end)
}

/// Checks that a run goes on from the snapshot.
fn snapshot(cli: &Path, path: &Path) -> Result<(), String> {
    let config = path.with_file_name("forever.toml");
    let arguments = [Path::new("run"), &config, Path::new("--timeout=20ms"), Path::new("--from"), path];
    vmm_cli(cli, &arguments, STATUS_HUNG)
}

/// Checks that all cases of a report passed and are counted. If `is_finished` is true, none may be missing.
fn junit(bytes: &[u8], is_finished: bool) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let report = Report::deserialize_from_str(text).map_err(|error| error.to_string())?;
    let cases: Vec<_> = report.test_suites.iter().flat_map(|suite| &suite.test_cases).collect();
    let passed = cases.iter().filter(|case| matches!(case.status, TestCaseStatus::Success { .. })).count();
    let (counted, wrong) = (report.tests, report.failures + report.errors + report.skipped);
    if counted != cases.len() || passed != cases.len() || wrong != 0 {
        let cases = cases.len();
        return Err(format!(
            "{cases} cases, {passed} passed, but counts of {counted} and {wrong} wrong ones"
        ));
    }
    if is_finished && counted != CASES {
        return Err(format!("{counted} cases instead of {CASES}"));
    }
    Ok(())
}

/// Runs vmm-cli. Returns its messages as an error if it ends with another exit status.
fn vmm_cli(cli: &Path, arguments: &[&Path], status: i32) -> Result<(), String> {
    let mut command = Command::new(cli);
    let captured = capture(command.args(arguments), None, LOAD_TIMEOUT).map_err(|error| error.to_string())?;
    match captured.status {
        Some(ended) if ended.code() == Some(status) => Ok(()),
        Some(ended) => Err(format!("vmm-cli ended with {ended}: {}", captured.stderr.trim_end())),
        None => Err(format!("vmm-cli did not end in {}", seconds(LOAD_TIMEOUT))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JUNIT: Output = Output { name: "r.xml", format: Format::Junit };

    #[test]
    fn hidden_names_belong_to_a_process() {
        for (name, may) in [
            (".r.xml.12.partial", true),
            (".r.xml.journal.12.partial", true),
            ("r.xml.12.partial", false),
            (".r.xml.12", false),
            (".r.xml.journal.partial", false),
            (".other.xml.12.partial", false),
        ] {
            assert_eq!(JUNIT.may_leave(name), may, "{name}");
        }
    }

    #[test]
    fn a_junit_report_counts_its_cases() {
        let text = |count: usize| {
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"t\" tests=\"{count}\" failures=\"0\" \
                 errors=\"0\"><testsuite name=\"t\" tests=\"{count}\" disabled=\"0\" failures=\"0\" errors=\"0\">\
                 <testcase name=\"a\"/></testsuite></testsuites>"
            )
        };
        assert_eq!(junit(text(1).as_bytes(), false), Ok(()));
        assert!(junit(text(1).as_bytes(), true).unwrap_err().contains("instead of"));
        assert!(junit(text(2).as_bytes(), false).unwrap_err().contains("counts of 2"));
        let text = text(1);
        assert!(junit(&text.as_bytes()[..text.len() - 2], false).is_err());
    }

    #[test]
    fn a_core_file_ends_with_its_last_segment() {
        let mut file = vec![0; 64 + 56 + 8];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (file[16], file[32], file[56]) = (4, 64, 1);
        (file[64 + 8], file[64 + 32]) = (64 + 56, 8);
        assert_eq!(core(&file), Ok(()));
        assert!(core(&file[..file.len() - 1]).unwrap_err().contains("segments end at 128, the file at 127"));
        assert!(core(&file[..70]).is_err());
        file[16] = 2;
        assert!(core(&file).is_err());
        let mut narrow = vec![0; 52 + 32 + 8];
        narrow[..6].copy_from_slice(b"\x7fELF\x01\x01");
        (narrow[16], narrow[28], narrow[44]) = (4, 52, 1);
        (narrow[52 + 4], narrow[52 + 16]) = (52 + 32, 8);
        assert_eq!(core(&narrow), Ok(()));
        assert!(core(&narrow[..90]).is_err());
    }

    #[test]
    fn json_is_parsed_to_its_end() {
        assert_eq!(report(br#"{"status":102}"#), Ok(()));
        assert!(report(br#"{"status":102"#).is_err() && report(b"{}").is_err());
        assert_eq!(trace(br#"[{"ph":"X"}]"#), Ok(()));
        assert_eq!(trace(br#"{"traceEvents":[{"ph":"X"}]}"#), Ok(()));
        assert!(trace(br#"[{"ph":"X"},"#).is_err() && trace(b"[]").is_err());
    }

    #[test]
    fn an_earlier_file_may_stay_only_after_an_interruption() {
        let directory = tempfile::tempdir().unwrap();
        let check = |earlier: &[u8], is_finished| {
            let output = Output { name: "r.json", format: Format::Report };
            output.check(Path::new("vmm-cli"), directory.path(), Some(earlier), is_finished)
        };
        assert!(check(b"1", false).unwrap_err().starts_with("r.json: "));
        std::fs::write(directory.path().join("r.json"), r#"{"status":0}"#).unwrap();
        assert_eq!(check(br#"{"status":0}"#, false), Ok(OutputState::Earlier));
        assert!(check(br#"{"status":0}"#, true).unwrap_err().contains("not replaced"));
        assert_eq!(check(b"1", true), Ok(OutputState::New));
    }
}
