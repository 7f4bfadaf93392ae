//! `bench exits`: what one exit costs, next to a C loop that serves the same exits with as little as they need.
//!
//! Both run the loops of guests/bench-exits to the end; start and end of the program are in the time, and are less than
//! a hundredth of it.

use super::Bench;
use super::program::Run;
use super::race::{Candidate, Rules, race};
use super::row::{Goal, Row};
use crate::failure::Result;

/// Entries of the guest, with a name for people.
const KINDS: [(&str, &str); 5] = [
    ("out", "OUT"),
    ("in", "IN"),
    ("mmio_write", "MMIO write"),
    ("mmio_read", "MMIO read"),
    ("rep_outsb", "REP OUTSB"),
];

const FLOOR: &str = "C loop";
const CLI: &str = "vmm-cli";

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for ring in [0, 3] {
        for (entry, name) in KINDS {
            let part = format!("exits: {name} in ring {ring}");
            let plain = Ours { name: CLI, run: cli(bench, entry, ring, &[]), limit: Some(1.03) };
            // Once is enough: watching costs the same for each kind.
            let run = cli(bench, entry, ring, &["--stats"]);
            let stats = Ours { name: "vmm-cli --stats", run, limit: Some(1.05) };
            let ours = if entry == "out" { vec![plain, stats] } else { vec![plain] };
            rows.extend(one(bench, &part, (entry, ring), &ours, &[])?);
        }
    }
    let plain = Ours { name: CLI, run: cli(bench, "console", 0, &[]), limit: None };
    let run = cli(bench, "console", 0, &["--set", "devices.debug-console.collect=true"]);
    let collected = Ours { name: "vmm-cli, collect = true", run, limit: Some(0.35) };
    rows.extend(one(
        bench,
        "exits: console in ring 0",
        ("console", 0),
        &[plain, collected],
        &[("C loop, coalesced", floor(bench, "console", 0, true))],
    )?);
    Ok(rows)
}

/// A way to run our program.
struct Ours {
    name: &'static str,
    run: Run,
    /// The ratio to the floor that is good enough.
    limit: Option<f64>,
}

/// Exits of one run: the slower ring gets fewer.
fn count(bench: &Bench, ring: u8) -> u64 {
    if bench.quick {
        1024
    } else if ring == 0 {
        20_480
    } else {
        8192
    }
}

fn floor(bench: &Bench, entry: &str, ring: u8, coalesced: bool) -> Run {
    let mut arguments = vec![entry.to_owned(), count(bench, ring).to_string(), ring.to_string()];
    arguments.extend(coalesced.then(|| "coalesced".to_owned()));
    Run::new(bench.programs.floor("exits"), arguments)
}

fn cli(bench: &Bench, entry: &str, ring: u8, options: &[&str]) -> Run {
    let set = [
        format!("guest.entry={entry}"),
        format!("ring={ring}"),
        format!("registers.rdi={}", count(bench, ring)),
    ];
    let set = set.into_iter().flat_map(|assignment| ["--set".to_owned(), assignment]);
    let arguments = ["run".to_owned(), bench.config("bench-exits")];
    let options = options.iter().map(|option| (*option).to_owned());
    Run::new(&bench.programs.cli, arguments.into_iter().chain(set).chain(options))
}

/// One kind of exit: the floor, ours, and what else there is to see.
fn one(
    bench: &Bench,
    part: &str,
    (entry, ring): (&str, u8),
    ours: &[Ours],
    more: &[(&str, Run)],
) -> Result<Vec<Row>> {
    let floor = floor(bench, entry, ring, false);
    let mut candidates = vec![Candidate::new(FLOOR, || floor.time())];
    candidates.extend(ours.iter().map(|ours| Candidate::new(ours.name, || ours.run.time())));
    candidates.extend(more.iter().map(|(name, run)| Candidate::new(*name, || run.time())));
    let race = race(candidates, bench.rules(Rules::LONG))?;
    #[expect(clippy::cast_precision_loss, reason = "few exits")]
    let times = count(bench, ring) as f64;
    let names: Vec<&str> = race.names().collect();
    let mut rows = Vec::new();
    for name in names {
        let mut row = Row::of(part, "exit", name, &race, times)?;
        if let Some(limit) = ours.iter().find(|ours| ours.name == name).and_then(|ours| ours.limit) {
            row.goals.push(Goal::ratio(format!("{part}: {name} to the {FLOOR}"), row.ratio, limit));
        }
        rows.push(row);
    }
    Ok(rows)
}
