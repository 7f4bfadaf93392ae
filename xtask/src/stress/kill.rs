//! `xtask remote kill`: starts vmm-cli on a pseudo-terminal, stops it, and checks for leaks.
//!
//! This runs in a process of its own, because it becomes a session leader, as a shell is. It is also the subreaper of its
//! descendants (PR_SET_CHILD_SUBREAPER(2const)), so a process that vmm-cli leaves running becomes its child.

use std::ffi::{c_int, c_void};
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use serde::{Deserialize, Serialize};
use vmm_sys_util::signal::register_signal_handler;

use super::gdb_peer::{DIRECTORY_PREFIX, GdbPeer};
use super::leaks::{ChangeKind, FileChange, FileListing, remaining_children};
use super::output::{OutputState, check_journal};
use super::signal::StopSignal;
use super::terminal::Terminal;
use super::victim::Victim;
use crate::failure::{Failure, FileContext, Result};
use crate::progress::seconds;

/// Limit for the exit of vmm-cli after the stop request. It takes some milliseconds on an idle machine.
const EXIT_TIMEOUT: Duration = Duration::from_secs(20);
/// Limit for the exit of processes that the kernel kills when vmm-cli was killed.
const DESCENDANT_TIMEOUT: Duration = Duration::from_secs(2);

/// Input of `xtask remote kill`.
#[derive(Serialize, Deserialize)]
pub(super) struct KillJob {
    pub(super) cli: PathBuf,
    /// Name of the [`Victim`].
    pub(super) victim: String,
    /// Directory of the machines, and working directory of vmm-cli.
    pub(super) directory: PathBuf,
    /// Directory for temporary files.
    pub(super) temporary: PathBuf,
    /// Stop request; `None` if vmm-cli is to end by itself.
    pub(super) stop: Option<StopSignal>,
    /// Time from the start of vmm-cli to the stop request.
    pub(super) delay: Duration,
    /// Time from the stop request to SIGKILL, if that follows.
    pub(super) pause: Duration,
}

/// Result of a kill.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct KillReport {
    /// True if vmm-cli had ended by itself before the kill.
    pub(super) is_late: bool,
    /// True if vmm-cli or the guest had printed something before the kill.
    pub(super) running: bool,
    /// True if the terminal was raw before the kill.
    pub(super) raw_before: bool,
    /// True if the terminal was raw after the kill.
    pub(super) raw_after: bool,
    /// Time from the start of vmm-cli to its end.
    pub(super) time: Duration,
    /// Number of processes that were left.
    pub(super) processes: usize,
    /// Number of packets of gdb that were answered.
    pub(super) gdb_answers: u32,
    /// Number of outputs that are the earlier files.
    pub(super) earlier: u32,
    /// Number of outputs that are new.
    pub(super) new: u32,
    /// Names of files that a killed process cannot remove, with `PID` for its number.
    pub(super) left: Vec<String>,
    /// Failed checks; empty if the kill passed.
    pub(super) problems: Vec<String>,
}

/// Runs `xtask remote kill`: reads a [`KillJob`] as JSON, performs it, and prints a [`KillReport`] as JSON.
pub(crate) fn serve() -> Result<()> {
    let input = Path::new("standard input");
    let job: KillJob = serde_json::from_reader(io::stdin()).while_doing("understand", input)?;
    let victim = Victim::named(Some(&job.victim)).pop();
    let victim = victim.ok_or_else(|| Failure::new(format!("there is no {}", job.victim)))?;
    let report = job.perform(victim).map_err(|error| Failure::new(format!("cannot kill: {error}")))?;
    println!("{}", serde_json::to_string(&report).while_doing("write", input)?);
    Ok(())
}

impl KillJob {
    fn perform(&self, victim: &Victim) -> io::Result<KillReport> {
        // SIGHUP arrives when the terminal is closed, and this process has to outlive vmm-cli. The other handlers reset the
        // dispositions for vmm-cli: a handled signal becomes the default action at exec, an ignored one stays ignored.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            register_signal_handler(signal, ignore).map_err(io::Error::from)?;
        }
        set_child_subreaper(Some(getpid()))?;
        let mut terminal = Terminal::new()?;
        let settings = terminal.settings()?;
        let earlier: Vec<Option<Vec<u8>>> =
            victim.outputs.iter().map(|output| fs::read(self.directory.join(output.name)).ok()).collect();
        let files = FileListing::read(&[&self.directory, &self.temporary])?;

        let mut command = Command::new(&self.cli);
        command.args(victim.arguments).current_dir(&self.directory);
        command.env("TMPDIR", &self.temporary).env("XDG_RUNTIME_DIR", &self.temporary);
        command.stdin(terminal.stream()?).stdout(terminal.stream()?).stderr(terminal.stream()?);
        let start = Instant::now();
        let mut child = command.spawn()?;
        drop(command);
        let peer = victim.has_gdb.then(|| GdbPeer::start(&self.temporary, child.id()));
        terminal.read_output_for(self.delay)?;
        let mut report = KillReport {
            running: !terminal.output.is_empty(),
            raw_before: terminal.settings()?.raw,
            ..KillReport::default()
        };
        let early_exit = child.try_wait()?;
        if let (None, Some(stop)) = (early_exit, self.stop) {
            self.stop(stop, &child, &mut terminal)?;
        }
        let status = if early_exit.is_some() { early_exit } else { wait(&mut child, &mut terminal)? };
        report.time = start.elapsed();
        report.gdb_answers = peer.map_or(0, GdbPeer::finish);

        report.is_late = early_exit.is_some_and(|status| victim.ends && status.success());
        report.problems.extend(self.exit_problem(victim, early_exit, status));
        let killed = status.is_some_and(|status| status.signal() == Some(Signal::KILL.as_raw()));
        let grace = if killed { DESCENDANT_TIMEOUT } else { Duration::ZERO };
        let left = remaining_children(grace)?;
        report.processes = left.len();
        report.problems.extend(left.iter().map(|name| format!("process {name} was left")));
        self.check_outputs(victim, &earlier, status.is_some_and(|status| status.success()), &mut report);
        for change in FileListing::read(&[&self.directory, &self.temporary])?.changes_since(&files) {
            self.check_change(victim, &change, killed, child.id(), &mut report);
        }
        // A closed terminal has no settings.
        if self.stop != Some(StopSignal::TerminalClosed) || early_exit.is_some() {
            let after = terminal.settings()?;
            report.raw_after = after.raw;
            // vmm-cli cannot restore the terminal after SIGKILL: this is counted but is no failure.
            if !killed {
                report.problems.extend(after.changed_from(&settings));
            }
        }
        if !report.problems.is_empty() {
            report.problems.push(format!("output: {}", shown_lines(&terminal.output)));
        }
        Ok(report)
    }

    fn stop(&self, stop: StopSignal, child: &Child, terminal: &mut Terminal) -> io::Result<()> {
        if let Some(keys) = stop.keys() {
            terminal.type_keys(keys)?;
        }
        if stop == StopSignal::TerminalClosed {
            terminal.close();
        }
        if let Some(signal) = stop.signal() {
            kill_process(Pid::from_child(child), signal)?;
        }
        if stop == StopSignal::SigtermSigkill {
            terminal.read_output_for(self.pause)?;
            // If it has ended meanwhile, it was not waited for, and the number is still its own.
            kill_process(Pid::from_child(child), Signal::KILL)?;
        }
        Ok(())
    }

    /// Returns the reason why this end is wrong. `early_exit` is the exit status if it ended before the stop request.
    fn exit_problem(
        &self,
        victim: &Victim,
        early_exit: Option<ExitStatus>,
        status: Option<ExitStatus>,
    ) -> Option<String> {
        let Some(status) = status else {
            return Some(format!("it was still there after {}", seconds(EXIT_TIMEOUT)));
        };
        // The stop request may come after the last check for one.
        let is_complete = victim.ends && status.success();
        if is_complete {
            return None;
        }
        match (early_exit, self.stop) {
            (Some(status), Some(_)) => Some(format!("it ended before, with {status}")),
            (None, Some(stop)) if stop.allows(status) => None,
            _ => Some(format!("it ended with {status}")),
        }
    }

    /// Checks the files that vmm-cli writes. `is_finished` is true if it ended as if nothing had happened.
    fn check_outputs(
        &self,
        victim: &Victim,
        earlier: &[Option<Vec<u8>>],
        is_finished: bool,
        report: &mut KillReport,
    ) {
        for (output, earlier) in victim.outputs.iter().zip(earlier) {
            match output.check(&self.cli, &self.directory, earlier.as_deref(), is_finished) {
                Ok(OutputState::Earlier) => report.earlier += 1,
                Ok(OutputState::New) => report.new += 1,
                Err(problem) => report.problems.push(problem),
            }
        }
    }

    /// Checks a file that is new, changed or missing. `killed` is true if vmm-cli, process `number`, was killed by SIGKILL.
    fn check_change(
        &self,
        victim: &Victim,
        change: &FileChange,
        killed: bool,
        number: u32,
        report: &mut KillReport,
    ) {
        let path = &change.path;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let in_directory = path.parent() == Some(&self.directory);
        // Checked by `check_outputs`.
        if in_directory && victim.outputs.iter().any(|output| output.name == name) {
            return;
        }
        let of_gdb = path.strip_prefix(&self.temporary).is_ok_and(|path| {
            let first = path.components().next().unwrap_or(std::path::Component::CurDir);
            victim.has_gdb && first.as_os_str().to_string_lossy().starts_with(DIRECTORY_PREFIX)
        });
        let hidden = in_directory && victim.outputs.iter().any(|output| output.may_leave(&name));
        match change.kind {
            ChangeKind::New if killed && (hidden || of_gdb) => {
                report.left.push(name.replace(&number.to_string(), "PID"));
                if hidden {
                    if name.contains(".journal.") {
                        let result = check_journal(&self.cli, path);
                        report.problems.extend(result.err().map(|error| format!("{name}: {error}")));
                    }
                    let removed = fs::remove_file(path);
                    report.problems.extend(removed.err().map(|error| format!("{name}: {error}")));
                }
            }
            // What a killed process left, the next one removes.
            ChangeKind::Missing if of_gdb => {}
            ChangeKind::New | ChangeKind::Changed | ChangeKind::Missing => {
                report.problems.push(change.to_string());
            }
        }
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
