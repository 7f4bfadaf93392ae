//! `xtask remote kill`: starts vmm-cli on a pseudo-terminal, stops it, and checks for leaks.
//!
//! This runs in a process of its own, because it becomes a session leader, as a shell is. It is also the subreaper of its
//! descendants (PR_SET_CHILD_SUBREAPER(2const)), so a process that vmm-cli leaves running becomes its child.

use std::ffi::{c_int, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpid, kill_process, set_child_subreaper};
use serde::{Deserialize, Serialize};
use vmm_sys_util::signal::register_signal_handler;

use super::leaks::{FileListing, children};
use super::signal::{KEYS, StopSignal};
use super::terminal::Terminal;
use crate::failure::{Failure, FileContext, Result};
use crate::progress::seconds;

/// Limit for the exit of vmm-cli after the stop request. It takes some milliseconds on an idle machine.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Input of `xtask remote kill`.
#[derive(Serialize, Deserialize)]
pub(super) struct KillJob {
    pub(super) cli: PathBuf,
    pub(super) config: PathBuf,
    /// Directory for temporary files.
    pub(super) temporary: PathBuf,
    pub(super) signal: StopSignal,
    /// Time from the start of vmm-cli to the stop request.
    pub(super) delay: Duration,
}

/// Result of a kill.
#[derive(Serialize, Deserialize)]
pub(super) struct KillReport {
    /// True if the guest had printed something before the kill.
    pub(super) running: bool,
    /// True if the terminal was raw before the kill.
    pub(super) raw_before: bool,
    /// True if the terminal was raw after the kill.
    pub(super) raw_after: bool,
    /// Failed checks; empty if the kill passed.
    pub(super) problems: Vec<String>,
}

/// Runs `xtask remote kill`: reads a [`KillJob`] as JSON, performs it, and prints a [`KillReport`] as JSON.
pub(crate) fn serve() -> Result<()> {
    let input = Path::new("standard input");
    let job: KillJob = serde_json::from_reader(io::stdin()).while_doing("understand", input)?;
    let report = job.perform().map_err(|error| Failure::new(format!("cannot kill: {error}")))?;
    println!("{}", serde_json::to_string(&report).while_doing("write", input)?);
    Ok(())
}

impl KillJob {
    fn perform(&self) -> io::Result<KillReport> {
        // SIGHUP arrives when the terminal is closed, and this process has to outlive vmm-cli. The other handlers reset the
        // dispositions for vmm-cli: a handled signal becomes the default action at exec, an ignored one stays ignored.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            register_signal_handler(signal, ignore).map_err(io::Error::from)?;
        }
        set_child_subreaper(Some(getpid()))?;
        let mut terminal = Terminal::new()?;
        let settings = terminal.settings()?;
        let home = self.config.parent().unwrap_or(Path::new("/"));
        let files = FileListing::read(&[home, &self.temporary])?;

        let mut command = Command::new(&self.cli);
        command.arg("run").arg(&self.config).current_dir(home).env("TMPDIR", &self.temporary);
        command.stdin(terminal.stream()?).stdout(terminal.stream()?).stderr(terminal.stream()?);
        let mut child = command.spawn()?;
        drop(command);
        terminal.read_output_for(self.delay)?;
        let running = terminal.output.contains(&b'.');
        let raw_before = terminal.settings()?.raw;
        let early_exit = child.try_wait()?;
        if early_exit.is_none() {
            self.stop(&child, &mut terminal)?;
        }
        let status = wait(&mut child, &mut terminal)?;

        let mut problems = Vec::new();
        match (early_exit, status) {
            (Some(status), _) => problems.push(format!("it ended before, with {status}")),
            (None, None) => problems.push(format!("it was still there after {}", seconds(EXIT_TIMEOUT))),
            (None, Some(status)) if !self.signal.allows(status) => {
                problems.push(format!("it ended with {status}"));
            }
            (None, Some(_)) => {}
        }
        problems.extend(children(std::process::id())?.iter().map(|name| format!("process {name} was left")));
        problems.extend(FileListing::read(&[home, &self.temporary])?.changes_since(&files));
        let mut raw_after = false;
        // A closed terminal has no settings.
        if self.signal != StopSignal::TerminalClosed || early_exit.is_some() {
            let after = terminal.settings()?;
            raw_after = after.raw;
            // vmm-cli cannot restore the terminal after SIGKILL: this is counted but is no failure.
            if self.signal != StopSignal::Sigkill {
                problems.extend(after.changed_from(&settings));
            }
        }
        if !problems.is_empty() {
            problems.push(format!("output: {}", shown_lines(&terminal.output)));
        }
        Ok(KillReport { running, raw_before, raw_after, problems })
    }

    fn stop(&self, child: &Child, terminal: &mut Terminal) -> io::Result<()> {
        match self.signal {
            StopSignal::CtrlAX => terminal.type_keys(KEYS)?,
            StopSignal::TerminalClosed => terminal.close(),
            StopSignal::Sigint
            | StopSignal::Sigterm
            | StopSignal::Sighup
            | StopSignal::Sigquit
            | StopSignal::Sigkill => {}
        }
        if let Some(signal) = self.signal.signal() {
            kill_process(Pid::from_child(child), signal)?;
        }
        Ok(())
    }
}

/// Waits for the exit of vmm-cli and reads its output. Kills it and returns `None` after [`EXIT_TIMEOUT`].
fn wait(child: &mut Child, terminal: &mut Terminal) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < EXIT_TIMEOUT {
        if let Some(status) = child.try_wait()? {
            // Read the rest of its output.
            terminal.read_output_for(Duration::from_millis(1))?;
            return Ok(Some(status));
        }
        terminal.read_output_for(Duration::from_millis(1))?;
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// Returns the lines of the terminal output without the dots that the guest prints.
fn shown_lines(shown: &[u8]) -> String {
    let text = String::from_utf8_lossy(shown);
    let lines: Vec<_> = text.split(['\r', '\n']).map(|line| line.trim_matches('.')).collect();
    lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

/// Signal handler that does nothing. Unlike `SIG_IGN` it is not inherited by vmm-cli.
extern "C" fn ignore(_signal: c_int, _information: *mut libc::siginfo_t, _context: *mut c_void) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_left_out() {
        assert_eq!(
            shown_lines(b".....error: no KVM\r\n\r\n  help: none\r\n...."),
            "error: no KVM |   help: none"
        );
        assert_eq!(shown_lines(b"......"), "");
    }
}
