//! Pseudo-terminal that is the controlling terminal of this process, as a terminal window is for a shell (pty(7),
//! credentials(7)).

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
    /// Manager end; `None` after [`Terminal::close`].
    manager: Option<OwnedFd>,
    /// Subsidiary end, the terminal of the programs.
    subsidiary: File,
    /// All output so far.
    pub(super) output: Vec<u8>,
}

/// Terminal settings (termios(3)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TerminalSettings {
    /// True in non-canonical mode, in which keys are read one by one.
    pub(super) raw: bool,
    /// All settings, as text for comparison.
    all: String,
    /// Input and local modes, as text for messages.
    modes: String,
}

impl Terminal {
    /// Opens a pseudo-terminal and makes this process the leader of a new session on it.
    ///
    /// # Errors
    ///
    /// Fails if this process is a process group leader (setsid(2)).
    pub(super) fn new() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let manager = openpt(flags)?;
        grantpt(&manager)?;
        unlockpt(&manager)?;
        let subsidiary = ioctl_tiocgptpeer(&manager, flags)?;
        setsid()?;
        ioctl_tiocsctty(&subsidiary)?;
        Ok(Self { manager: Some(manager), subsidiary: subsidiary.into(), output: Vec::new() })
    }

    /// Returns the subsidiary end, for use as a standard stream of a program.
    pub(super) fn stream(&self) -> io::Result<Stdio> {
        Ok(self.subsidiary.try_clone()?.into())
    }

    /// Reads the current settings.
    ///
    /// # Errors
    ///
    /// Fails after [`Terminal::close`].
    pub(super) fn settings(&self) -> io::Result<TerminalSettings> {
        let settings = tcgetattr(&self.subsidiary)?;
        let raw = !settings.local_modes.contains(LocalModes::ICANON);
        let modes = format!("{:?} {:?}", settings.input_modes, settings.local_modes);
        Ok(TerminalSettings { raw, all: format!("{settings:?}"), modes })
    }

    /// Types keys. Does nothing after [`Terminal::close`].
    pub(super) fn type_keys(&self, keys: &[u8]) -> io::Result<()> {
        let Some(manager) = &self.manager else { return Ok(()) };
        rustix::io::write(manager, keys)?;
        Ok(())
    }

    /// Closes the manager end. The kernel then sends SIGHUP to this process.
    pub(super) fn close(&mut self) {
        self.manager = None;
    }

    /// Reads output for the given time.
    pub(super) fn read_output_for(&mut self, time: Duration) -> io::Result<()> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            let Some(manager) = &self.manager else {
                std::thread::sleep(left);
                return Ok(());
            };
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(manager, PollFlags::IN)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => {
                    let mut buffer = [0; 4096];
                    let count = rustix::io::read(manager, &mut buffer)?;
                    self.output.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl TerminalSettings {
    /// Describes the difference to earlier settings; `None` if there is none.
    pub(super) fn changed_from(&self, before: &Self) -> Option<String> {
        let kind = if self.raw { "raw" } else { "different" };
        (self != before).then(|| format!("the terminal is {kind}: {}; before: {}", self.modes, before.modes))
    }
}
