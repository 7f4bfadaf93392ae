//! Kills commands of vmm-cli at random times, and checks what each kill leaves.
//!
//! All stop signals are used in turn. The times are distributed log-uniformly from 0.2 ms to 4 s after the start, so that
//! some kills hit each phase: reading files, building the machine, its first exits, its steady state. For a command that ends by
//! itself, half of the times are distributed in the same way before its expected end, so that some kills hit the writing of files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::kill::{KillJob, KillReport};
use super::signal::StopSignal;
use super::victim::{self, Victim};
use crate::failure::{Failure, FileContext, Result};
use crate::interrupt;
use crate::process::capture;
use crate::progress::{say, seconds};

/// Shortest delay from the start of vmm-cli to the kill, and the longest one for a command that does not end, in seconds.
const DELAYS: (f64, f64) = (0.0002, 4.0);
/// Shortest and longest time from SIGTERM to SIGKILL, in seconds.
const PAUSES: (f64, f64) = (0.0001, 0.03);
/// Delay of the first and the last kill of a command that does not end, at which all files are written.
const FULL_RUN: Duration = Duration::from_secs(1);
/// Factor for the expected duration of a command after a kill that came too late: the machine has become faster.
const LATE_FACTOR: f64 = 0.95;
/// Limit for one kill; longer than the timeouts inside [`KillJob`].
const KILL_TIMEOUT: Duration = Duration::from_secs(90);

/// Files and directories of the kills.
struct Scene {
    cli: PathBuf,
    /// Directory of the machines.
    directory: PathBuf,
    /// Directory for temporary files of vmm-cli.
    temporary: PathBuf,
    seed: u64,
}

/// Performs all kills and prints a line for each failure and a summary. Returns the number of failures.
///
/// `count` is the number of kills of each victim, and `guests` has the built guests.
pub(super) fn perform(cli: &Path, guests: &Path, victims: &[&Victim], count: u32, seed: u64) -> Result<u32> {
    let scratch = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
    let mut failures = 0;
    for victim in victims.iter().take_while(|_| !interrupt::requested()) {
        let directory = scratch.path().join(victim.name);
        let temporary = directory.with_extension("temporary");
        fs::create_dir(&temporary).while_doing("create", &temporary)?;
        victim::prepare(&directory, guests)?;
        let scene = Scene { cli: cli.to_owned(), directory, temporary, seed };
        failures += scene.kill_many(victim, count)?;
    }
    Ok(failures)
}

impl Scene {
    /// Kills one command `count` times. Returns the number of failures.
    fn kill_many(&self, victim: &Victim, count: u32) -> Result<u32> {
        let Self { seed, .. } = self;
        say(format_args!("{}: {count} kills at random times, --seed {seed}", victim.name));
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(*seed);
        let mut tally = Tally { name: victim.name, ..Tally::default() };
        // Writes the files that are there at each kill.
        let mut full_run = self.full_run(victim, &mut tally)?;
        let mut stops = victim.stops().into_iter().cycle();
        // A kill that comes too late does not count.
        while tally.kills < count && tally.late <= count {
            let Some(stop) = stops.next() else { break };
            let delay = delay(random.f64(), full_run, random.bool());
            let pause = log_uniform(PAUSES, random.f64());
            let report = self.kill(victim, Some(stop), delay, pause)?;
            // Ctrl-C by the user: the kills have terminals of their own.
            if interrupt::requested() {
                break;
            }
            tally.add(stop, &report);
            if report.is_late {
                full_run = full_run.map(|time| time.mul_f64(LATE_FACTOR));
            }
            print_problems(victim, stop.name(), delay, &report);
        }
        if tally.kills < count && !interrupt::requested() {
            tally.failures += 1;
            println!("{}: more than {count} kills came after the end", victim.name);
        }
        // Removes what killed processes have left.
        self.full_run(victim, &mut tally)?;
        let left: Vec<_> = fs::read_dir(&self.temporary).while_doing("read", &self.temporary)?.collect();
        if !left.is_empty() && !interrupt::requested() {
            tally.failures += 1;
            println!("{}: the last run left {} temporary files", victim.name, left.len());
        }
        print!("{}", tally.report(*seed, start.elapsed()));
        Ok(tally.failures)
    }

    /// Runs a command until all of its files are written. Returns its duration if it ends by itself.
    fn full_run(&self, victim: &Victim, tally: &mut Tally) -> Result<Option<Duration>> {
        let stop = (!victim.ends).then_some(StopSignal::Sigint);
        let delay = if victim.ends { Duration::ZERO } else { FULL_RUN };
        let report = self.kill(victim, stop, delay, Duration::ZERO)?;
        if !interrupt::requested() {
            tally.failures += u32::from(!report.problems.is_empty());
            print_problems(victim, "a full run", delay, &report);
        }
        Ok(victim.ends.then_some(report.time))
    }

    /// Performs one kill in a new process, by `xtask remote kill`.
    fn kill(
        &self,
        victim: &Victim,
        stop: Option<StopSignal>,
        delay: Duration,
        pause: Duration,
    ) -> Result<KillReport> {
        let failure = |error: &dyn std::fmt::Display| Failure::new(format!("cannot start a kill: {error}"));
        let Self { cli, directory, temporary, .. } = self;
        let (cli, directory, temporary) = (cli.clone(), directory.clone(), temporary.clone());
        let job = KillJob { cli, victim: victim.name.to_owned(), directory, temporary, stop, delay, pause };
        let xtask = std::env::current_exe().map_err(|error| failure(&error))?;
        let mut input = tempfile::tempfile().map_err(|error| failure(&error))?;
        let text = serde_json::to_vec(&job).map_err(|error| failure(&error))?;
        let written = input.write_all(&text).and_then(|()| input.seek(SeekFrom::Start(0)));
        written.map_err(|error| failure(&error))?;
        let captured = capture(Command::new(xtask).args(["remote", "kill"]), Some(input), KILL_TIMEOUT);
        let captured = captured.map_err(|error| failure(&error))?;
        serde_json::from_str(&captured.stdout).map_err(|_| {
            let end = captured
                .status
                .map_or_else(|| "did not end".to_owned(), |status| format!("ended with {status}"));
            Failure::new(format!("a kill {end} without a report: {}", captured.stderr.trim_end()))
        })
    }
}

fn print_problems(victim: &Victim, what: &str, delay: Duration, report: &KillReport) {
    if !report.problems.is_empty() {
        let after = delay.as_secs_f64() * 1e3;
        println!("{}: {what} after {after:.1} ms: {}", victim.name, report.problems.join("; "));
    }
}

/// Returns the delay for a random number from 0 to 1. `full_run` is the duration of a command that ends; with `at_end` the
/// delay is taken back from there.
fn delay(number: f64, full_run: Option<Duration>, at_end: bool) -> Duration {
    let (first, last) = DELAYS;
    let Some(full_run) = full_run else { return log_uniform(DELAYS, number) };
    let delay = log_uniform((first, full_run.as_secs_f64().clamp(first, last)), number);
    if at_end { full_run.saturating_sub(delay) } else { delay }
}

/// Returns a time for a random number from 0 to 1.
fn log_uniform((first, last): (f64, f64), number: f64) -> Duration {
    Duration::from_secs_f64(first * (last / first).powf(number))
}

/// Counts over all kills of a command.
#[derive(Default)]
struct Tally {
    name: &'static str,
    kills: u32,
    failures: u32,
    late: u32,
    processes: usize,
    running: u32,
    raw_before: u32,
    /// Kills with a gdb, and packets that were answered to it.
    gdb: (u32, u32),
    /// Files after the kills: earlier ones and new ones.
    files: (u32, u32),
    /// Kills by SIGKILL, those while the terminal was raw, and those that left it raw.
    sigkill: (u32, u32, u32),
    /// Files that killed processes left.
    left: BTreeMap<String, u32>,
}

impl Tally {
    fn add(&mut self, stop: StopSignal, report: &KillReport) {
        self.failures += u32::from(!report.problems.is_empty());
        self.processes += report.processes;
        if report.is_late {
            self.late += 1;
            return;
        }
        self.kills += 1;
        self.running += u32::from(report.running);
        self.raw_before += u32::from(report.raw_before);
        self.gdb.0 += u32::from(report.gdb_answers > 0);
        self.gdb.1 += report.gdb_answers;
        self.files.0 += report.earlier;
        self.files.1 += report.new;
        if stop.kills() {
            self.sigkill.0 += 1;
            self.sigkill.1 += u32::from(report.raw_before);
            self.sigkill.2 += u32::from(report.raw_after);
        }
        for name in &report.left {
            *self.left.entry(name.clone()).or_default() += 1;
        }
    }

    fn report(&self, seed: u64, time: Duration) -> String {
        let Self { name, kills, failures, late, processes, running, raw_before, .. } = self;
        let ((connected, answers), (earlier, new)) = (self.gdb, self.files);
        let (sigkill, before, after) = self.sigkill;
        let right = kills.saturating_sub(*failures);
        let mut text = format!(
            "{name}: {kills} kills at random times: {right} right, {failures} wrong, {}, --seed {seed}\n\
             \x20 {running} came when something was printed, {raw_before} when the terminal was raw; {processes} processes \
             were left\n",
            seconds(time)
        );
        // Writing to a string cannot fail.
        if *late > 0 {
            let _ = writeln!(text, "  {late} more came after the end and do not count");
        }
        if answers > 0 {
            let _ = writeln!(text, "  {connected} came when gdb was connected, which got {answers} answers");
        }
        if earlier + new > 0 {
            let _ = writeln!(text, "  {} whole files: {earlier} earlier ones, {new} new ones", earlier + new);
        }
        if before > 0 {
            let _ = writeln!(
                text,
                "  {sigkill} by SIGKILL, {before} of them when the terminal was raw: {after} left it raw, \
                 because SIGKILL cannot be handled"
            );
        }
        if !self.left.is_empty() {
            let names = self.left.iter().map(|(name, count)| format!("{count} {name}"));
            let names = names.collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "  {sigkill} by SIGKILL left {names}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_spread_over_all_magnitudes() {
        assert_eq!(delay(0.0, None, true), Duration::from_micros(200));
        let last = delay(1.0, None, false);
        assert!(last > Duration::from_millis(3999) && last < Duration::from_millis(4001), "{last:?}");
        let middle = delay(0.5, None, false);
        assert!(middle > Duration::from_millis(28) && middle < Duration::from_millis(29), "{middle:?}");
        let run = Some(Duration::from_millis(100));
        assert_eq!(delay(0.0, run, false), Duration::from_micros(200));
        assert_eq!(delay(0.0, run, true), Duration::from_micros(99_800));
        assert!(delay(1.0, run, true) < Duration::from_micros(1));
    }

    #[test]
    fn the_report_counts() {
        let report = |problems| KillReport {
            running: true,
            raw_before: true,
            raw_after: true,
            earlier: 2,
            new: 1,
            left: vec![".x.PID.partial".to_owned()],
            problems,
            ..KillReport::default()
        };
        let mut tally = Tally { name: "run", ..Tally::default() };
        tally.add(StopSignal::Sigkill, &report(Vec::new()));
        tally.add(StopSignal::CtrlAX, &report(vec!["it ended with 1".to_owned()]));
        tally.add(StopSignal::Sigint, &KillReport { is_late: true, ..KillReport::default() });
        let text = tally.report(5, Duration::from_secs(2));
        let first = "run: 2 kills at random times: 1 right, 1 wrong, 2.0 s, --seed 5\n";
        assert!(text.starts_with(first), "{text}");
        assert!(text.contains("  1 more came after the end"), "{text}");
        assert!(text.contains("6 whole files: 4 earlier ones, 2 new ones"), "{text}");
        assert!(text.contains("1 by SIGKILL, 1 of them when the terminal was raw: 1 left it raw"), "{text}");
        assert!(text.contains("1 by SIGKILL left 2 .x.PID.partial"), "{text}");
    }
}
