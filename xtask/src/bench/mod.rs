//! `cargo xtask bench`: what vmm costs, next to the floor: C programs that make the same calls and nothing else.
//!
//! | file | is |
//! |---|---|
//! | `program.rs` | the programs that are measured, and how one run of one is timed |
//! | `race.rs`, `sample.rs` | runs in turns, until the medians are sure |
//! | `row.rs` | what came out: tables, goals, JSON, changes |
//! | `start.rs`, `exits.rs`, `load.rs`, `machines.rs`, `suite.rs`, `pio.rs` | the parts |
//!
//! `docs/speed.md` says how to read it. Everything is measured with `vmm-cli` as `cargo xtask dist` builds it.

mod exits;
mod load;
mod machines;
mod pio;
mod program;
mod race;
mod row;
mod sample;
mod start;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, Result, While};
use crate::progress::{Part as Progress, say};
use crate::run::kvm_is_usable;
use crate::workspace::{Workspace, plain_path};
use crate::{dist, guests, interrupt};
use program::Programs;
use race::Rules;
use row::{Changes, Goals, Record, Row, Table};

/// What to measure, and what to do with the numbers.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The parts to measure: all by default
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Write the numbers to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Show what has changed since the numbers in this file were written
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// See only whether everything works: two rounds, and numbers that are worth nothing
    #[arg(long)]
    quick: bool,
    /// Measure this vmm-cli in place of the one that `cargo xtask dist` builds
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// For the part pio: another vmm-cli to compare with, such as one built from an older commit
    #[arg(long, value_name = "PROGRAM")]
    baseline: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// From spawn to exit of a guest that costs nothing
    Start,
    /// What an exit costs, of each kind, in both rings
    Exits,
    /// How a guest's file gets into memory
    Load,
    /// Going back to an earlier state, next to making a new machine
    Reset,
    /// Copies of a machine, next to new ones
    Clone,
    /// A thousand machines alive, and machines per second
    Many,
    /// A thousand cases in one `vmm-cli test`, next to a loop over single runs
    Suite,
    /// What an exit costs next to another build
    Pio,
}

impl Part {
    const ALL: [Self; 8] =
        [Self::Start, Self::Exits, Self::Load, Self::Reset, Self::Clone, Self::Many, Self::Suite, Self::Pio];

    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Exits => "exits",
            Self::Load => "load",
            Self::Reset => "reset",
            Self::Clone => "clone",
            Self::Many => "many",
            Self::Suite => "suite",
            Self::Pio => "pio",
        }
    }
}

/// What all parts need.
struct Bench<'a> {
    workspace: &'a Workspace,
    programs: Programs,
    quick: bool,
}

impl Bench<'_> {
    /// The path of a configuration of the repository's.
    fn config(&self, name: &str) -> String {
        self.workspace.path("configs").join(name).with_extension("toml").display().to_string()
    }

    /// The rules of a race, unless nobody is to look at its numbers.
    fn rules(&self, rules: Rules) -> Rules {
        if self.quick { Rules::QUICK } else { rules }
    }
}

/// Measures; tables and goals go to standard output.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<u8> {
    kvm_is_usable().map_err(|reason| Failure::new(reason).with_status(106))?;
    // Read before the measuring: that takes minutes.
    let old = options.compare.as_deref().map(read).transpose()?;
    guests::report(&guests::build(workspace)?);
    let cli = match &options.program {
        Some(program) => plain_path(program)?,
        None => dist::build(workspace)?.program,
    };
    let bench = Bench { workspace, programs: Programs::build(workspace, cli)?, quick: options.quick };
    let baseline = options.baseline.as_deref().map(plain_path).transpose()?;
    interrupt::outlive();
    let mut rows = Vec::new();
    for part in Part::ALL {
        if !options.parts.is_empty() && !options.parts.contains(&part) {
            continue;
        }
        let progress = Progress::start(part.name());
        let measured = match part {
            Part::Start => start::run(&bench)?,
            Part::Exits => exits::run(&bench)?,
            Part::Load => load::run(&bench)?,
            Part::Reset | Part::Clone | Part::Many => machines::run(&bench, part.name())?,
            Part::Suite => suite::run(&bench)?,
            Part::Pio => pio::run(&bench, baseline.as_deref())?,
        };
        progress.end(format_args!("{} rows", measured.len()));
        measured.chunk_by(|a, b| a.part == b.part).for_each(|rows| println!("{}", Table(rows)));
        rows.extend(measured);
    }
    print!("{}", Goals(&rows));
    if let Some(old) = old {
        print!("\n{}", Changes { old: &old.rows, new: &rows });
    }
    if options.quick {
        say(format_args!("--quick: the numbers are worth nothing"));
    }
    if let Some(path) = &options.json {
        write(path, rows)?;
    }
    Ok(0)
}

fn read(path: &Path) -> Result<Record> {
    let text = fs::read(path).while_doing("read", path)?;
    serde_json::from_slice(&text).while_doing("understand", path)
}

fn write(path: &Path, rows: Vec<Row>) -> Result<()> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let line = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.rsplit(": ").next().unwrap_or_default().to_owned()
    };
    let (kernel, processor) = (line("/proc/version", ""), line("/proc/cpuinfo", "model name"));
    let record = Record { time, kernel, processor, rows };
    let text = serde_json::to_string_pretty(&record).while_doing("write", path)?;
    fs::write(path, text + "\n").while_doing("write", path)
}
