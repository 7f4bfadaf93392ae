//! `bench reset`, `clone`, `many`: what machines cost a program that makes many of them.
//!
//! The library is measured here, not the program: `vmm-core/examples/machines.rs` does it and prints the seconds of each round,
//! which this judges. All machines are alternately made, run and dropped by one thread.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};
use serde::Deserialize;

use super::Bench;
use super::race::Times;
use super::row::{Goal, Row};
use crate::failure::{Failure, Result, While};
use crate::progress::say;

const NEW: &str = "new machine";
const ALIVE: u32 = 1000;

#[derive(Deserialize)]
struct Line {
    name: String,
    values: Vec<f64>,
}

/// A part: `reset`, `clone` or `many`.
pub(super) fn run(bench: &Bench, part: &str) -> Result<Vec<Row>> {
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
            let mut row = Row::of(&title, part, &name, &times, 1.0)?;
            row.goals = goals(pages, &name, &row, &times)?;
            rows.push(row);
        }
    }
    Ok(rows)
}

fn goals(pages: u32, name: &str, row: &Row, times: &Times) -> Result<Vec<Goal>> {
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

fn many(bench: &Bench, program: &Path) -> Result<Vec<Row>> {
    let count = if bench.quick { 10 } else { ALIVE };
    let times = measure(program, "many", 0, count)?;
    let mut rows = Vec::new();
    for name in ["new, run, dropped", "cloned, run, dropped"] {
        rows.push(Row::of("many: one after the other", "machine", name, &times, 1.0)?);
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

/// Runs the example. Each machine has two descriptors, so that a thousand are more than most limits.
fn measure(program: &Path, what: &str, pages: u32, rounds: u32) -> Result<Times> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it fewer machines can be alive, and the example says so.
    let _ = setrlimit(Resource::Nofile, limit);
    let mut command = Command::new(program);
    command.arg(what).args([pages.to_string(), rounds.to_string()]).stdin(Stdio::null());
    let output = command.stderr(Stdio::inherit()).output().while_doing("start", program)?;
    if !output.status.success() {
        return Err(Failure::new(format!("{} {what} ended with {}", program.display(), output.status)));
    }
    let lines = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Line> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Ok(Times::from_rounds(lines.into_iter().map(|line| (line.name, line.values))))
}
