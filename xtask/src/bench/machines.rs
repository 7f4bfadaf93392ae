//! `bench reset`, `clone` and `many`: cost of machines in a program that creates many of them.
//!
//! These parts measure the library, not vmm-cli: `vmm-core/examples/machines.rs` measures and prints the seconds of each
//! round. One thread creates, runs and drops all machines.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Deserialize;

use super::Bench;
use super::interleave::Timings;
use super::table::{BenchRow, Goal};
use crate::failure::{Failure, FileContext, Result};
use crate::progress::say;

const NEW: &str = "new machine";
/// Number of machines that exist at the same time in the part `many`.
const MANY_MACHINES: u32 = 1000;

/// A line of the example: a candidate with the seconds of its rounds.
#[derive(Deserialize)]
struct ExampleLine {
    name: String,
    values: Vec<f64>,
}

/// Measures a part: `reset`, `clone` or `many`.
pub(super) fn run(bench: &Bench, part: &str) -> Result<Vec<BenchRow>> {
    let program = bench.workspace.build_example("vmm-core", "machines")?;
    if part == "many" {
        return many(bench, &program);
    }
    let mut rows = Vec::new();
    for pages in [0, 10, 100, 1000, 4000] {
        let times = measure(&program, part, pages, if bench.quick { 3 } else { 301 })?;
        let title = format!("{part}: {pages} pages written");
        let names: Vec<String> = times.names().map(str::to_owned).collect();
        for name in names {
            let mut row = BenchRow::new(&title, part, &name, &times, 1.0)?;
            row.goals = goals(pages, &name, &row, &times)?;
            rows.push(row);
        }
    }
    Ok(rows)
}

fn goals(pages: u32, name: &str, row: &BenchRow, times: &Timings) -> Result<Vec<Goal>> {
    let microseconds = |what: &str, measured, limit| {
        vec![Goal { what: what.to_owned(), measured, limit, unit: "us".to_owned() }]
    };
    Ok(match (name, pages) {
        ("reset", 100) => microseconds("reset: after 100 pages written", row.time.median, 60.0),
        ("run and reset", 0) => {
            microseconds("reset: run of a warm machine, nothing written", row.time.median, 20.0)
        }
        ("clone of a snapshot", 1000) => {
            let more = times.difference(name, NEW)?.median * 1e6;
            microseconds("clone: of a booted 16 MiB machine, more than a new empty one", more, 60.0)
        }
        _ => Vec::new(),
    })
}

fn many(bench: &Bench, program: &Path) -> Result<Vec<BenchRow>> {
    let count = if bench.quick { 10 } else { MANY_MACHINES };
    let times = measure(program, "many", 0, count)?;
    let mut rows = Vec::new();
    for name in ["new, run, dropped", "cloned, run, dropped"] {
        rows.push(BenchRow::new("many: one after the other", "machine", name, &times, 1.0)?);
    }
    let [resident, private, slab] =
        ["resident", "private", "slab"].map(|name| times.seconds(name).map(|kib| kib.median));
    let (resident, private, slab) = (resident?, private?, slab?);
    say(format_args!(
        "{count} clones alive: {resident:.1} KiB each, of which {private:.1} are its own and the others the snapshot's, \
         and {slab:.0} KiB of the kernel's"
    ));
    if let Some(row) = rows.last_mut() {
        let what = format!("many: {count} clones alive, memory of each");
        row.goals = vec![Goal { what, measured: resident, limit: 24.0, unit: "KiB".to_owned() }];
    }
    Ok(rows)
}

/// Runs the example with the maximum of open files: a thousand machines have two thousand file descriptors.
fn measure(program: &Path, what: &str, pages: u32, rounds: u32) -> Result<Timings> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If this fails, the example reports how many machines it could create.
    let _ = setrlimit(Resource::Nofile, limit);
    let mut command = Command::new(program);
    command.arg(what).args([pages.to_string(), rounds.to_string()]).stdin(Stdio::null());
    let output = command.stderr(Stdio::inherit()).output().while_doing("start", program)?;
    if !output.status.success() {
        return Err(Failure::new(format!("{} {what} ended with {}", program.display(), output.status)));
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<ExampleLine> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Ok(Timings::from_rounds(lines.into_iter().map(|line| (line.name, line.values))))
}
