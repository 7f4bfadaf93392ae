//! Kills of a machine that never ends, at random moments: what does each leave?
//!
//! The machine has two vCPUs, timers, the terminal as its serial console, and a disk whose writes go to a temporary file.
//! All ways to kill take turns. Moments are spread evenly over the orders of magnitude from 0.2 ms to 4 s after the
//! start, so that some of them hit each part: reading files, building the machine, its first steps, its life.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::killing::{Finding, Killing};
use super::way::Way;
use crate::failure::{Failure, Result, While};
use crate::interrupt;
use crate::process::capture;
use crate::progress::{say, seconds};

/// The earliest and the latest moment, in seconds.
const MOMENTS: (f64, f64) = (0.0002, 4.0);
/// For one kill; longer than the kill itself waits.
const LIMIT: Duration = Duration::from_secs(60);

/// Does all kills; prints a line for each failure, and a summary. Returns how many failed.
pub(super) fn perform(cli: &Path, guest: &Path, count: u32, seed: u64) -> Result<u32> {
    let scratch = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
    let temporary = scratch.path().join("temporary");
    fs::create_dir(&temporary).while_doing("create", &temporary)?;
    let config = prepare(&scratch.path().join("machine"), guest)?;
    say(format_args!("{count} kills at random moments, --seed {seed}"));
    let start = Instant::now();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut tally = Tally::default();
    for (number, way) in (1..=count).zip(Way::ALL.into_iter().cycle()) {
        let moment = moment(random.f64());
        let (cli, config, temporary) = (cli.to_owned(), config.clone(), temporary.clone());
        let finding = start_killing(&Killing { cli, config, temporary, way, moment })?;
        // The user's Ctrl-C, not one of ours.
        if interrupt::seen() {
            break;
        }
        if !finding.troubles.is_empty() {
            let after = moment.as_secs_f64() * 1e3;
            println!("kill {number}, {} after {after:.1} ms: {}", way.name(), finding.troubles.join("; "));
        }
        tally.add(way, &finding);
    }
    print!("{}", tally.report(seed, start.elapsed()));
    Ok(tally.failures)
}

/// Writes the machine's configuration and its disk; returns the configuration's path.
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

/// The moment that belongs to a random number from 0 to 1.
fn moment(number: f64) -> Duration {
    let (first, last) = MOMENTS;
    Duration::from_secs_f64(first * (last / first).powf(number))
}

/// Has one kill done by a process of its own.
fn start_killing(killing: &Killing) -> Result<Finding> {
    let trouble = |error: &dyn std::fmt::Display| Failure::new(format!("cannot start a kill: {error}"));
    let xtask = std::env::current_exe().map_err(|error| trouble(&error))?;
    let mut input = tempfile::tempfile().map_err(|error| trouble(&error))?;
    let text = serde_json::to_vec(killing).map_err(|error| trouble(&error))?;
    let written = input.write_all(&text).and_then(|()| input.seek(SeekFrom::Start(0)));
    written.map_err(|error| trouble(&error))?;
    let captured = capture(Command::new(xtask).arg("stress-kill"), Some(input), LIMIT);
    let captured = captured.map_err(|error| trouble(&error))?;
    serde_json::from_str(&captured.stdout).map_err(|_| {
        let end =
            captured.status.map_or_else(|| "did not end".to_owned(), |status| format!("ended with {status}"));
        Failure::new(format!("a kill {end} and found nothing: {}", captured.stderr.trim_end()))
    })
}

/// What all kills together showed.
#[derive(Default)]
struct Tally {
    kills: u32,
    failures: u32,
    running: u32,
    raw_before: u32,
    /// Kills by SIGKILL, those of them that came while the terminal was raw, and those that left it so.
    sigkill: (u32, u32, u32),
}

impl Tally {
    fn add(&mut self, way: Way, finding: &Finding) {
        self.kills += 1;
        self.failures += u32::from(!finding.troubles.is_empty());
        self.running += u32::from(finding.running);
        self.raw_before += u32::from(finding.raw_before);
        if way == Way::Kill {
            self.sigkill.0 += 1;
            self.sigkill.1 += u32::from(finding.raw_before);
            self.sigkill.2 += u32::from(finding.raw_after);
        }
    }

    fn report(&self, seed: u64, time: Duration) -> String {
        let Self { kills, failures, running, raw_before, sigkill: (sigkill, before, after) } = self;
        let right = kills - failures;
        let mut text = format!(
            "{kills} kills at random moments: {right} right, {failures} wrong, {}, --seed {seed}\n\
             \x20 {running} came when the guest had printed something, {raw_before} when the terminal was raw\n",
            seconds(time)
        );
        if *sigkill > 0 {
            text += &format!(
                "  {sigkill} by SIGKILL, {before} of them when the terminal was raw: {after} left it raw, \
                 as nobody can restore it then\n"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spread_over_all_magnitudes() {
        assert_eq!(moment(0.0), Duration::from_micros(200));
        let last = moment(1.0);
        assert!(last > Duration::from_millis(3999) && last < Duration::from_millis(4001), "{last:?}");
        let middle = moment(0.5);
        assert!(middle > Duration::from_millis(28) && middle < Duration::from_millis(29), "{middle:?}");
    }

    #[test]
    fn the_report_counts() {
        let finding = |troubles| Finding { running: true, raw_before: true, raw_after: true, troubles };
        let mut tally = Tally::default();
        tally.add(Way::Kill, &finding(Vec::new()));
        tally.add(Way::Type, &finding(vec!["it ended with 1".to_owned()]));
        let text = tally.report(5, Duration::from_secs(2));
        assert!(text.starts_with("2 kills at random moments: 1 right, 1 wrong, 2.0 s, --seed 5\n"), "{text}");
        assert!(text.contains("1 by SIGKILL, 1 of them when the terminal was raw: 1 left it raw"), "{text}");
    }
}
