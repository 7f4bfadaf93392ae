//! A pseudo-terminal, with this process as the leader of the session on it: what a terminal window and a shell are
//! together (pty(7), credentials(7)).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// Both ends of a pseudo-terminal.
pub(super) struct Terminal {
    /// The window's end; none once it is closed.
    window: Option<OwnedFd>,
    /// The programs' end.
    line: File,
    /// Everything that was shown.
    pub(super) shown: Vec<u8>,
}

/// A terminal's settings at some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// Keys arrive one by one, and not in lines.
    pub(super) raw: bool,
    /// All of them, in words, and those that matter most.
    all: String,
    modes: String,
}

impl Terminal {
    /// A new terminal, for a new session that this process leads. It must not lead a process group yet.
    pub(super) fn new() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let window = openpt(flags)?;
        grantpt(&window)?;
        unlockpt(&window)?;
        let line = ioctl_tiocgptpeer(&window, flags)?;
        setsid()?;
        ioctl_tiocsctty(&line)?;
        Ok(Self { window: Some(window), line: line.into(), shown: Vec::new() })
    }

    /// The programs' end, as one of a program's standard streams.
    pub(super) fn stream(&self) -> io::Result<Stdio> {
        Ok(self.line.try_clone()?.into())
    }

    /// The settings now; an error once the window is closed.
    pub(super) fn settings(&self) -> io::Result<Settings> {
        let settings = tcgetattr(&self.line)?;
        let raw = !settings.local_modes.contains(LocalModes::ICANON);
        let modes = format!("{:?} {:?}", settings.input_modes, settings.local_modes);
        Ok(Settings { raw, all: format!("{settings:?}"), modes })
    }

    /// Types.
    pub(super) fn type_keys(&self, keys: &[u8]) -> io::Result<()> {
        let Some(window) = &self.window else { return Ok(()) };
        rustix::io::write(window, keys)?;
        Ok(())
    }

    /// Closes the window. The kernel sends SIGHUP to this process.
    pub(super) fn close(&mut self) {
        self.window = None;
    }

    /// Lets that much time pass while what programs print is shown.
    pub(super) fn watch(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let Some(window) = &self.window else {
                std::thread::sleep(left);
                return Ok(());
            };
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(window, PollFlags::IN)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    let mut buffer = [0; 4096];
                    let count = rustix::io::read(window, &mut buffer)?;
                    self.shown.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Settings {
    /// How these settings differ from those before, if they do.
    pub(super) fn changed_from(&self, before: &Self) -> Option<String> {
        let kind = if self.raw { "raw" } else { "different" };
        (self != before).then(|| format!("the terminal is {kind}: {}; before: {}", self.modes, before.modes))
    }
}
