//! `cargo xtask bench`: measures vmm next to a baseline, C programs that make the same system calls and nothing else.
//!
//! | file | content |
//! |---|---|
//! | `program.rs` | the measured programs, and timing of one run |
//! | `interleave.rs`, `stats.rs` | interleaved runs until the medians are certain |
//! | `table.rs` | results: tables, goals, JSON, changes |
//! | `start.rs`, `exits.rs`, `load.rs`, `machines.rs`, `suite.rs`, `pio.rs` | the parts |
//!
//! `docs/speed.md` explains the output. The measured `vmm-cli` is that of `cargo xtask dist`.

mod exits;
mod interleave;
mod load;
mod machines;
mod pio;
mod program;
mod start;
mod stats;
mod suite;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::failure::{Failure, FileContext, Result};
use crate::progress::{Phase, say};
use crate::run::kvm_is_usable;
use crate::workspace::{Workspace, plain_path};
use crate::{dist, guests, interrupt};
use interleave::StopRules;
use program::BenchPrograms;
use table::{BenchRecord, BenchRow, ChangeTable, GoalTable, TimeTable};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
pub(crate) struct BenchOptions {
    /// Parts to measure [default: all]
    #[arg(value_enum)]
    parts: Vec<BenchPart>,
    /// Write the results to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Compare with the results in this file
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,
    /// Test the benchmark itself: two rounds, with meaningless results
    #[arg(long)]
    quick: bool,
    /// Measure this vmm-cli instead of the one that `cargo xtask dist` builds
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
    /// Another vmm-cli for the part pio to compare with, such as one built from an older commit
    #[arg(long, value_name = "PROGRAM")]
    baseline: Option<PathBuf>,
}

/// Part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum BenchPart {
    /// Time from spawn to exit with a guest that prints one byte and halts
    Start,
    /// Time of an exit, for each kind, in ring 0 and ring 3
    Exits,
    /// Time to load a guest's file, by file size and share of pages read
    Load,
    /// Time to reset a machine to a snapshot, next to a new machine
    Reset,
    /// Time to clone a snapshot, next to a new machine
    Clone,
    /// Memory of a thousand machines, and time to create, run and drop one
    Many,
    /// Time of a case in one `vmm-cli test`, next to a shell loop over `vmm-cli run`
    Suite,
    /// Time of a port exit, next to another build
    Pio,
}

impl BenchPart {
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

/// Programs and settings of all parts.
struct Bench<'a> {
    workspace: &'a Workspace,
    programs: BenchPrograms,
    quick: bool,
}

impl Bench<'_> {
    /// Returns the path of a configuration in `configs/`.
    fn config(&self, name: &str) -> String {
        self.workspace.path("configs").join(name).with_extension("toml").display().to_string()
    }

    /// Returns `rules`, or [`StopRules::QUICK`] with `--quick`.
    fn rules(&self, rules: StopRules) -> StopRules {
        if self.quick { StopRules::QUICK } else { rules }
    }
}

/// Measures all parts and prints tables and goals to standard output. Returns the exit status.
pub(crate) fn run(workspace: &Workspace, options: &BenchOptions) -> Result<u8> {
    kvm_is_usable().map_err(|reason| Failure::new(reason).with_status(106))?;
    // Read first, so that a wrong path is reported before minutes of measuring.
    let old = options.compare.as_deref().map(read).transpose()?;
    guests::report(&guests::build(workspace)?);
    let cli = match &options.program {
        Some(program) => plain_path(program)?,
        None => dist::build(workspace)?.program,
    };
    let bench = Bench { workspace, programs: BenchPrograms::build(workspace, cli)?, quick: options.quick };
    let baseline = options.baseline.as_deref().map(plain_path).transpose()?;
    interrupt::install_handler();
    let mut rows = Vec::new();
    for part in BenchPart::ALL {
        if !options.parts.is_empty() && !options.parts.contains(&part) {
            continue;
        }
        let phase = Phase::start(part.name());
        let measured = match part {
            BenchPart::Start => start::run(&bench)?,
            BenchPart::Exits => exits::run(&bench)?,
            BenchPart::Load => load::run(&bench)?,
            BenchPart::Reset | BenchPart::Clone | BenchPart::Many => machines::run(&bench, part.name())?,
            BenchPart::Suite => suite::run(&bench)?,
            BenchPart::Pio => pio::run(&bench, baseline.as_deref())?,
        };
        phase.end(format_args!("{} rows", measured.len()));
        measured.chunk_by(|a, b| a.part == b.part).for_each(|rows| println!("{}", TimeTable(rows)));
        rows.extend(measured);
    }
    print!("{}", GoalTable(&rows));
    if let Some(old) = old {
        print!("\n{}", ChangeTable { old: &old.rows, new: &rows });
    }
    if options.quick {
        say(format_args!("--quick: the results are meaningless"));
    }
    if let Some(path) = &options.json {
        write(path, rows)?;
    }
    Ok(0)
}

fn read(path: &Path) -> Result<BenchRecord> {
    let text = fs::read(path).while_doing("read", path)?;
    serde_json::from_slice(&text).while_doing("understand", path)
}

fn write(path: &Path, rows: Vec<BenchRow>) -> Result<()> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let line = |path: &str, key: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.rsplit(": ").next().unwrap_or_default().to_owned()
    };
    let (kernel, processor) = (line("/proc/version", ""), line("/proc/cpuinfo", "model name"));
    let record = BenchRecord { time, kernel, processor, rows };
    let text = serde_json::to_string_pretty(&record).while_doing("write", path)?;
    fs::write(path, text + "\n").while_doing("write", path)
}
