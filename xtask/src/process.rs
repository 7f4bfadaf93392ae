//! Child processes: with a time limit, or to their end for what they print.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// Waits for a child's end; `None` if the limit passed and it was killed.
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

/// How a child ended, and what it wrote.
pub(crate) struct Captured {
    /// `None` if the limit passed.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end with its output in files, which no child of its own can keep open for us as it could a
/// pipe. Without `input` its standard input is empty.
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

/// Runs a command to its end and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| Failure::new(format!("cannot start {name}: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{name} ended with {}: {}", output.status, errors.trim())))
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
    fn the_limit_ends_it() {
        let captured = capture(Command::new("sleep").arg("60"), None, Duration::from_millis(20)).unwrap();
        assert!(captured.status.is_none());
    }
}
