//! One kill, in a process of its own: it leads a session on a pseudo-terminal, as a shell does, and vmm-cli is its job.
//!
//! It is also the subreaper of what it starts (PR_SET_CHILD_SUBREAPER(2const)): a process that vmm-cli would leave
//! behind becomes its child, wherever it hides.

use std::ffi::{c_int, c_void};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, getpid, kill_process, set_child_subreaper};
use serde::{Deserialize, Serialize};
use vmm_sys_util::signal::register_signal_handler;

use super::left::{Files, children};
use super::terminal::Terminal;
use super::way::{KEYS, Way};
use crate::failure::{Failure, Result, While};
use crate::progress::seconds;

/// By when vmm-cli has to be gone. It takes some milliseconds; this is for a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(20);

/// A kill to be done.
#[derive(Serialize, Deserialize)]
pub(super) struct Killing {
    pub(super) cli: PathBuf,
    pub(super) config: PathBuf,
    /// Where temporary files go.
    pub(super) temporary: PathBuf,
    pub(super) way: Way,
    /// After the start of vmm-cli.
    pub(super) moment: Duration,
}

/// What there was to see.
#[derive(Serialize, Deserialize)]
pub(super) struct Finding {
    /// The guest had printed something before the kill.
    pub(super) running: bool,
    /// The terminal was raw before the kill.
    pub(super) raw_before: bool,
    /// It still was afterwards.
    pub(super) raw_after: bool,
    /// All that is wrong.
    pub(super) troubles: Vec<String>,
}

/// The hidden task: reads a [`Killing`] as JSON, does it, and prints a [`Finding`] as JSON.
pub(crate) fn serve() -> Result<()> {
    let input = Path::new("standard input");
    let killing: Killing = serde_json::from_reader(io::stdin()).while_doing("understand", input)?;
    let finding = killing.perform().map_err(|error| Failure::new(format!("cannot kill: {error}")))?;
    println!("{}", serde_json::to_string(&finding).while_doing("write", input)?);
    Ok(())
}

impl Killing {
    fn perform(&self) -> io::Result<Finding> {
        // SIGHUP comes when the terminal goes away. We stay, to see what becomes of vmm-cli. The others are for vmm-cli:
        // a signal with a handler here has its default action there, even if whoever started us has it ignored.
        for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
            register_signal_handler(signal, stay).map_err(io::Error::from)?;
        }
        set_child_subreaper(Some(getpid()))?;
        let mut terminal = Terminal::new()?;
        let settings = terminal.settings()?;
        let home = self.config.parent().unwrap_or(Path::new("/"));
        let files = Files::of(&[home, &self.temporary])?;

        let mut command = Command::new(&self.cli);
        command.arg("run").arg(&self.config).current_dir(home).env("TMPDIR", &self.temporary);
        command.stdin(terminal.stream()?).stdout(terminal.stream()?).stderr(terminal.stream()?);
        let mut child = command.spawn()?;
        drop(command);
        terminal.watch(self.moment)?;
        let running = terminal.shown.contains(&b'.');
        let raw_before = terminal.settings()?.raw;
        let early = child.try_wait()?;
        if early.is_none() {
            self.strike(&child, &mut terminal)?;
        }
        let status = wait(&mut child, &mut terminal)?;

        let mut troubles = Vec::new();
        match (early, status) {
            (Some(status), _) => troubles.push(format!("it ended before, with {status}")),
            (None, None) => troubles.push(format!("it was still there after {}", seconds(LIMIT))),
            (None, Some(status)) if !self.way.allows(status) => {
                troubles.push(format!("it ended with {status}"));
            }
            (None, Some(_)) => {}
        }
        troubles.extend(children(std::process::id())?.iter().map(|name| format!("process {name} was left")));
        troubles.extend(Files::of(&[home, &self.temporary])?.changes_since(&files));
        let mut raw_after = false;
        // A terminal that is closed has no settings.
        if self.way != Way::Close || early.is_some() {
            let after = terminal.settings()?;
            raw_after = after.raw;
            // Nobody can restore anything when killed; that is counted, not blamed.
            if self.way != Way::Kill {
                troubles.extend(after.changed_from(&settings));
            }
        }
        if !troubles.is_empty() {
            troubles.push(format!("it said: {}", words(&terminal.shown)));
        }
        Ok(Finding { running, raw_before, raw_after, troubles })
    }

    fn strike(&self, child: &Child, terminal: &mut Terminal) -> io::Result<()> {
        match self.way {
            Way::Type => terminal.type_keys(KEYS)?,
            Way::Close => terminal.close(),
            Way::Interrupt | Way::Terminate | Way::HangUp | Way::Quit | Way::Kill => {}
        }
        if let Some(signal) = self.way.signal() {
            kill_process(Pid::from_child(child), signal)?;
        }
        Ok(())
    }
}

/// Waits for the end while the terminal shows what comes; `None` if the limit passed. Then it is killed for good.
fn wait(child: &mut Child, terminal: &mut Terminal) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(status) = child.try_wait()? {
            // What it said last.
            terminal.watch(Duration::from_millis(1))?;
            return Ok(Some(status));
        }
        terminal.watch(Duration::from_millis(1))?;
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}

/// What was shown, without the guest's dots.
fn words(shown: &[u8]) -> String {
    let text = String::from_utf8_lossy(shown);
    let lines: Vec<_> = text.split(['\r', '\n']).map(|line| line.trim_matches('.')).collect();
    lines.into_iter().filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

/// Nothing is to be done: that there is a handler keeps us alive, and vmm-cli does not inherit it.
extern "C" fn stay(_signal: c_int, _information: *mut libc::siginfo_t, _context: *mut c_void) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_left_out() {
        assert_eq!(words(b".....error: no KVM\r\n\r\n  help: none\r\n...."), "error: no KVM |   help: none");
        assert_eq!(words(b"......"), "");
    }
}
