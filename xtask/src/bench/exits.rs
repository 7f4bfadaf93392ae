//! `bench exits`: time of one exit, next to a C loop that handles the same exits.
//!
//! Both run the loops of guests/bench-exits to the end. The measured time includes start and exit of the program, which are
//! less than 1 % of it.

use super::Bench;
use super::interleave::{Candidate, StopRules, interleave};
use super::program::TimedCommand;
use super::table::{BenchRow, Goal};
use crate::failure::Result;

/// Entry symbols of the guest, and their names in the table.
const KINDS: [(&str, &str); 5] = [
    ("out", "OUT"),
    ("in", "IN"),
    ("mmio_write", "MMIO write"),
    ("mmio_read", "MMIO read"),
    ("rep_outsb", "REP OUTSB"),
];

const BASELINE: &str = "C loop";
const CLI: &str = "vmm-cli";

pub(super) fn run(bench: &Bench) -> Result<Vec<BenchRow>> {
    let mut rows = Vec::new();
    for ring in [0, 3] {
        for (entry, name) in KINDS {
            let part = format!("exits: {name} in ring {ring}");
            let plain = CliRun { name: CLI, run: cli(bench, entry, ring, &[]), limit: Some(1.03) };
            // One kind is enough: statistics cost the same for each.
            let run = cli(bench, entry, ring, &["--stats"]);
            let stats = CliRun { name: "vmm-cli --stats", run, limit: Some(1.05) };
            let ours = if entry == "out" { vec![plain, stats] } else { vec![plain] };
            rows.extend(measure(bench, &part, (entry, ring), &ours, &[])?);
        }
    }
    let plain = CliRun { name: CLI, run: cli(bench, "console", 0, &[]), limit: None };
    let run = cli(bench, "console", 0, &["--set", "devices.debug-console.collect=true"]);
    let collected = CliRun { name: "vmm-cli, collect = true", run, limit: Some(0.35) };
    rows.extend(measure(
        bench,
        "exits: console in ring 0",
        ("console", 0),
        &[plain, collected],
        &[("C loop, coalesced", baseline(bench, "console", 0, true))],
    )?);
    Ok(rows)
}

/// A vmm-cli command with its goal.
struct CliRun {
    name: &'static str,
    run: TimedCommand,
    /// Largest ratio to the baseline that meets the goal.
    limit: Option<f64>,
}

/// Returns the number of exits of one run. Ring 3 is slower and gets fewer.
fn count(bench: &Bench, ring: u8) -> u64 {
    if bench.quick {
        1024
    } else if ring == 0 {
        20_480
    } else {
        8192
    }
}

/// Returns the command of the C program.
fn baseline(bench: &Bench, entry: &str, ring: u8, coalesced: bool) -> TimedCommand {
    let mut arguments = vec![entry.to_owned(), count(bench, ring).to_string(), ring.to_string()];
    arguments.extend(coalesced.then(|| "coalesced".to_owned()));
    TimedCommand::new(bench.programs.baseline("exits"), arguments)
}

/// Returns a vmm-cli command.
fn cli(bench: &Bench, entry: &str, ring: u8, options: &[&str]) -> TimedCommand {
    let set = [
        format!("guest.entry={entry}"),
        format!("ring={ring}"),
        format!("registers.rdi={}", count(bench, ring)),
    ];
    let set = set.into_iter().flat_map(|assignment| ["--set".to_owned(), assignment]);
    let arguments = ["run".to_owned(), bench.config("bench-exits")];
    let options = options.iter().map(|option| (*option).to_owned());
    TimedCommand::new(&bench.programs.cli, arguments.into_iter().chain(set).chain(options))
}

/// Measures one kind of exit: the baseline, vmm-cli, and more commands without a goal.
fn measure(
    bench: &Bench,
    part: &str,
    (entry, ring): (&str, u8),
    ours: &[CliRun],
    more: &[(&str, TimedCommand)],
) -> Result<Vec<BenchRow>> {
    let baseline = baseline(bench, entry, ring, false);
    let mut candidates = vec![Candidate::new(BASELINE, || baseline.time())];
    candidates.extend(ours.iter().map(|ours| Candidate::new(ours.name, || ours.run.time())));
    candidates.extend(more.iter().map(|(name, run)| Candidate::new(*name, || run.time())));
    let timings = interleave(candidates, bench.rules(StopRules::LONG))?;
    #[expect(clippy::cast_precision_loss, reason = "few exits")]
    let times = count(bench, ring) as f64;
    let names: Vec<&str> = timings.names().collect();
    let mut rows = Vec::new();
    for name in names {
        let mut row = BenchRow::new(part, "exit", name, &timings, times)?;
        if let Some(limit) = ours.iter().find(|ours| ours.name == name).and_then(|ours| ours.limit) {
            row.goals.push(Goal::ratio(format!("{part}: {name} to the {BASELINE}"), row.ratio, limit));
        }
        rows.push(row);
    }
    Ok(rows)
}
