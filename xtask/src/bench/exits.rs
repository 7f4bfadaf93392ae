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

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for ring in [0, 3] {
        for (entry, name) in KINDS {
            let part = format!("exits: {name} in ring {ring}");
            let plain = (1.03, "vmm-cli", cli(bench, entry, ring, &[]));
            // Once is enough: watching costs the same for each kind.
            let stats =
                (entry == "out").then(|| (1.05, "vmm-cli --stats", cli(bench, entry, ring, &["--stats"])));
            let ours: Vec<_> = [Some(plain), stats].into_iter().flatten().collect();
            rows.extend(one(bench, &part, floor(bench, entry, ring, false), &ours)?);
        }
    }
    Ok(rows)
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

fn floor(bench: &Bench, entry: &str, ring: u8, coalesced: bool) -> (Run, f64) {
    let count = count(bench, ring);
    let mut arguments = vec![entry.to_owned(), count.to_string(), ring.to_string()];
    arguments.extend(coalesced.then(|| "coalesced".to_owned()));
    #[expect(clippy::cast_precision_loss, reason = "few exits")]
    let times = count as f64;
    (Run::new(bench.programs.floor("exits"), arguments), times)
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

/// One kind of exit: the floor, and ours with the ratio that is good enough.
fn one(bench: &Bench, part: &str, (floor, times): (Run, f64), ours: &[(f64, &str, Run)]) -> Result<Vec<Row>> {
    let mut candidates = vec![Candidate::new(FLOOR, || floor.time())];
    candidates.extend(ours.iter().map(|(_, name, run)| Candidate::new(*name, || run.time())));
    let race = race(candidates, bench.rules(Rules::LONG))?;
    let mut rows = vec![Row::of(part, "exit", FLOOR, &race, times)?];
    for (limit, name, _) in ours {
        let mut row = Row::of(part, "exit", name, &race, times)?;
        row.goals = vec![Goal::ratio(format!("{part}: {name} to the {FLOOR}"), row.ratio, *limit)];
        rows.push(row);
    }
    Ok(rows)
}
