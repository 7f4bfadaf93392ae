//! `run` on a terminal: its settings, and keys that end a run.
//!
//! These tests need the program and the guests. `cargo xtask test` copies both to the nested host.
#![expect(clippy::panic, clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

const CLI: &str = env!("CARGO_BIN_EXE_vmm-cli");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Limit for each wait. A run takes some tens of milliseconds on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Both ends of a pseudo-terminal (pty(7)).
struct Terminal {
    manager: File,
    subsidiary: OwnedFd,
    output: String,
}

impl Terminal {
    fn new() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let manager = openpt(flags).unwrap();
        grantpt(&manager).unwrap();
        unlockpt(&manager).unwrap();
        let subsidiary = ioctl_tiocgptpeer(&manager, flags).unwrap();
        Self { manager: manager.into(), subsidiary, output: String::new() }
    }

    /// Starts vmm-cli on the terminal. With `has_keys`, it is in a session of its own, to which Ctrl-C sends a signal
    /// (setsid(1)). Returns `None` where that cannot be.
    fn start(&self, has_keys: bool, arguments: &[&str]) -> Option<Child> {
        if !Path::new(CLI).exists() {
            println!("skipped: the program is not on this host");
            return None;
        }
        let stream = || self.subsidiary.try_clone().unwrap();
        let mut command = Command::new(if has_keys { "setsid" } else { CLI });
        if has_keys {
            command.args(["-c", CLI]);
        }
        command.args(arguments).current_dir(ROOT);
        match command.stdin(stream()).stdout(stream()).stderr(stream()).spawn() {
            Ok(child) => Some(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("skipped: there is no setsid");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns all settings as text.
    fn settings(&self) -> String {
        format!("{:?}", tcgetattr(&self.subsidiary).unwrap())
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.subsidiary).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    /// Reads output until `done` or the end of the process. Returns its exit status if it ended.
    fn read_until(&mut self, child: &mut Child, done: impl Fn(&str) -> bool) -> Option<i32> {
        let start = Instant::now();
        loop {
            let ended = child.try_wait().unwrap();
            let mut ready = [PollFd::new(&self.manager, PollFlags::IN)];
            if poll(&mut ready, Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 })).unwrap() > 0 {
                let mut buffer = [0; 4096];
                let count = rustix::io::read(&self.manager, &mut buffer).unwrap();
                self.output += &String::from_utf8_lossy(buffer.get(..count).unwrap());
            } else if let Some(status) = ended {
                return status.code();
            }
            if done(&self.output) {
                return None;
            }
            if start.elapsed() > TIMEOUT {
                child.kill().unwrap();
                panic!("nothing happened: {}", self.output);
            }
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_end_of_a_run_restores_the_terminal() {
    let mut terminal = Terminal::new();
    let before = terminal.settings();
    let Some(mut child) = terminal.start(false, &["run", "configs/timer-smp.toml"]) else { return };
    let status = terminal.read_until(&mut child, |_| false);
    assert_eq!(status, Some(0), "{}", terminal.output);
    assert_eq!(terminal.output, "both CPUs counted their ticks\r\n");
    assert_eq!(terminal.settings(), before);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ctrl_c_ends_a_run_that_waits_for_gdb() {
    let mut terminal = Terminal::new();
    let before = terminal.settings();
    let Some(mut child) = terminal.start(true, &["run", "configs/timer-smp.toml", "--gdb"]) else { return };
    if let Some(status) = terminal.read_until(&mut child, |output| output.contains("this host has")) {
        assert_eq!(status, 104, "{}", terminal.output);
        println!("skipped: {}", terminal.output);
        return;
    }
    assert!(terminal.is_raw());
    terminal.manager.write_all(b"\x03").unwrap();
    assert_eq!(terminal.read_until(&mut child, |_| false), Some(130), "{}", terminal.output);
    assert_eq!(terminal.settings(), before);
}
