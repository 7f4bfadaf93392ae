//! Runs child processes with a time limit, or to their end, and captures their output.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// Waits for a child process. Returns `None` if it was killed after `limit`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Exit status and output of a child process.
pub(crate) struct Captured {
    /// Exit status; `None` after a timeout.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command and captures its output. Without `input` its standard input is empty.
///
/// The output goes to files, because a grandchild that keeps a pipe open would block the reader.
pub(crate) fn capture(command: &mut Command, input: Option<File>, limit: Duration) -> io::Result<Captured> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(input.map_or_else(Stdio::null, Stdio::from));
    command.stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let status = wait(&mut command.spawn()?, limit)?;
    Ok(Captured { status, stdout: read_back(&mut stdout)?, stderr: read_back(&mut stderr)? })
}

fn read_back(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs a command and returns its standard output.
///
/// # Errors
///
/// Fails if the command cannot be started or exits with a status other than 0.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| Failure::new(format!("cannot start {name}: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{name} ended with {}: {}", output.status, errors.trim())))
}

/// Quotes a word for a POSIX shell, if it has other characters than letters, digits and `-_./:=,+@%`.
pub(crate) fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status() {
        let mut command = Command::new("sh");
        command.args(["-c", "cat; echo err >&2; exit 3"]);
        let mut input = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut input, b"in").unwrap();
        input.seek(SeekFrom::Start(0)).unwrap();
        let captured = capture(&mut command, Some(input), Duration::from_secs(10)).unwrap();
        assert_eq!((captured.stdout.as_str(), captured.stderr.as_str()), ("in", "err\n"));
        assert_eq!(captured.status.and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn only_special_words_are_quoted() {
        assert_eq!(quote("vmm-core/on_kvm::a"), "vmm-core/on_kvm::a");
        assert_eq!(quote("it's (line 5)"), r"'it'\''s (line 5)'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn the_limit_kills_the_child() {
        let captured = capture(Command::new("sleep").arg("60"), None, Duration::from_millis(20)).unwrap();
        assert!(captured.status.is_none());
    }
}
