//! Kills a machine that never ends, at random times, and checks what each kill leaves.
//!
//! The machine has two vCPUs, timers, the terminal as its serial console, and a disk whose writes go to a temporary file.
//! All stop signals are used in turn. The times are distributed log-uniformly from 0.2 ms to 4 s after the start, so that
//! some kills hit each phase: reading files, building the machine, its first exits, its steady state.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::signal::StopSignal;
use super::victim::{KillJob, KillReport};
use crate::failure::{Failure, FileContext, Result};
use crate::interrupt;
use crate::process::capture;
use crate::progress::{say, seconds};

/// Shortest and longest delay from the start of vmm-cli to the kill, in seconds.
const DELAYS: (f64, f64) = (0.0002, 4.0);
/// Limit for one kill; longer than the timeout inside [`KillJob`].
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

/// Performs all kills and prints a line for each failure and a summary. Returns the number of failures.
pub(super) fn perform(cli: &Path, guest: &Path, count: u32, seed: u64) -> Result<u32> {
    let scratch = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
    let temporary = scratch.path().join("temporary");
    fs::create_dir(&temporary).while_doing("create", &temporary)?;
    let config = prepare(&scratch.path().join("machine"), guest)?;
    say(format_args!("{count} kills at random times, --seed {seed}"));
    let start = Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tally = Tally::default();
    for (number, signal) in (1..=count).zip(StopSignal::ALL.into_iter().cycle()) {
        let delay = delay(random.f64());
        let (cli, config, temporary) = (cli.to_owned(), config.clone(), temporary.clone());
        let report = start_kill(&KillJob { cli, config, temporary, signal, delay })?;
        // Ctrl-C by the user: the kills have terminals of their own.
        if interrupt::requested() {
            break;
        }
        if !report.problems.is_empty() {
            let after = delay.as_secs_f64() * 1e3;
            println!("kill {number}, {} after {after:.1} ms: {}", signal.name(), report.problems.join("; "));
        }
        tally.add(signal, &report);
    }
    print!("{}", tally.report(seed, start.elapsed()));
    Ok(tally.failures)
}

/// Writes the machine's configuration and its disk. Returns the path of the configuration.
fn prepare(directory: &Path, guest: &Path) -> Result<PathBuf> {
    fs::create_dir(directory).while_doing("create", directory)?;
    let disk = directory.join("disk.img");
    fs::write(&disk, [0_u8; 4096]).while_doing("write", &disk)?;
    let config = directory.join("forever.toml");
    let text = format!(
        r#"mode = "long"
vcpus = 2
interrupts = "pc"
cpuid = "host"

[memory]
size = "2MiB"

[guest]
elf = {:?}

[[paging.map]]
gva = 0xfee0_0000
gpa = 0xfee0_0000
size = "4KiB"

[[devices.virtio]]
type = "block"
file = "disk.img"
overlay = true
"#,
        guest.to_string_lossy()
    );
    fs::write(&config, text).while_doing("write", &config)?;
    Ok(config)
}

/// Returns the delay for a random number from 0 to 1.
fn delay(number: f64) -> Duration {
    let (first, last) = DELAYS;
    Duration::from_secs_f64(first * (last / first).powf(number))
}

/// Performs one kill in a new process, by `xtask remote kill`.
fn start_kill(kill: &KillJob) -> Result<KillReport> {
    let failure = |error: &dyn std::fmt::Display| Failure::new(format!("cannot start a kill: {error}"));
    let xtask = std::env::current_exe().map_err(|error| failure(&error))?;
    let mut input = tempfile::tempfile().map_err(|error| failure(&error))?;
    let text = serde_json::to_vec(kill).map_err(|error| failure(&error))?;
    let written = input.write_all(&text).and_then(|()| input.seek(SeekFrom::Start(0)));
    written.map_err(|error| failure(&error))?;
    let captured = capture(Command::new(xtask).args(["remote", "kill"]), Some(input), KILL_TIMEOUT);
    let captured = captured.map_err(|error| failure(&error))?;
    serde_json::from_str(&captured.stdout).map_err(|_| {
        let end =
            captured.status.map_or_else(|| "did not end".to_owned(), |status| format!("ended with {status}"));
        Failure::new(format!("a kill {end} without a report: {}", captured.stderr.trim_end()))
    })
}

/// Counts over all kills.
#[derive(Default)]
struct Tally {
    kills: u32,
    failures: u32,
    running: u32,
    raw_before: u32,
    /// Kills by SIGKILL, those while the terminal was raw, and those that left it raw.
    sigkill: (u32, u32, u32),
}

impl Tally {
    fn add(&mut self, signal: StopSignal, report: &KillReport) {
        self.kills += 1;
        self.failures += u32::from(!report.problems.is_empty());
        self.running += u32::from(report.running);
        self.raw_before += u32::from(report.raw_before);
        if signal == StopSignal::Sigkill {
            self.sigkill.0 += 1;
            self.sigkill.1 += u32::from(report.raw_before);
            self.sigkill.2 += u32::from(report.raw_after);
        }
    }

    fn report(&self, seed: u64, time: Duration) -> String {
        let Self { kills, failures, running, raw_before, sigkill: (sigkill, before, after) } = self;
        let right = kills - failures;
        let mut text = format!(
            "{kills} kills at random times: {right} right, {failures} wrong, {}, --seed {seed}\n\
             \x20 {running} came when the guest had printed something, {raw_before} when the terminal was raw\n",
            seconds(time)
        );
        if *sigkill > 0 {
            text += &format!(
                "  {sigkill} by SIGKILL, {before} of them when the terminal was raw: {after} left it raw, \
                 because SIGKILL cannot be handled\n"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_spread_over_all_magnitudes() {
        assert_eq!(delay(0.0), Duration::from_micros(200));
        let last = delay(1.0);
        assert!(last > Duration::from_millis(3999) && last < Duration::from_millis(4001), "{last:?}");
        let middle = delay(0.5);
        assert!(middle > Duration::from_millis(28) && middle < Duration::from_millis(29), "{middle:?}");
    }

    #[test]
    fn the_report_counts() {
        let report = |problems| KillReport { running: true, raw_before: true, raw_after: true, problems };
        let mut tally = Tally::default();
        tally.add(StopSignal::Sigkill, &report(Vec::new()));
        tally.add(StopSignal::CtrlAX, &report(vec!["it ended with 1".to_owned()]));
        let text = tally.report(5, Duration::from_secs(2));
        assert!(text.starts_with("2 kills at random times: 1 right, 1 wrong, 2.0 s, --seed 5\n"), "{text}");
        assert!(text.contains("1 by SIGKILL, 1 of them when the terminal was raw: 1 left it raw"), "{text}");
    }
}
