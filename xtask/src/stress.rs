//! `cargo xtask stress`: runs a machine many times, and kills commands at many random times and checks for leaks.
//!
//! `run_test.rs` runs a machine with two vCPUs and timer interrupts to its end. `kill_test.rs` starts the commands of `victim.rs`
//! and kills them: each kill is done by `kill.rs` in a process of its own, which has a pseudo-terminal like a shell's. Afterwards
//! `leaks.rs` looks for processes and files, and `output.rs` checks the files that the command writes. All of this works on this
//! machine and on the nested host.

mod gdb_peer;
mod kill;
mod kill_test;
mod leaks;
mod output;
mod run_test;
mod signal;
mod terminal;
mod victim;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, FileContext, Result};
use crate::nested::{NestedHost, NestedJob};
use crate::run::{kvm_is_usable, to_stdout};
use crate::workspace::Workspace;
use crate::{guests, interrupt};
pub(crate) use kill::serve as serve_kill;
use victim::Victim;

/// Limit for everything on the nested host. A hundred kills of a command take one to two minutes there.
const NESTED_TIMEOUT: Duration = Duration::from_secs(3600);

/// Options of `cargo xtask stress`.
#[derive(clap::Args)]
pub(crate) struct StressOptions {
    /// Number of runs to the end, one after another
    #[arg(long, default_value_t = 200)]
    runs: u32,
    /// Number of kills of each command, at random times
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Only kill this command, and run nothing to the end
    #[arg(long, value_name = "COMMAND", value_parser = PossibleValuesParser::new(Victim::names()))]
    only: Option<String>,
    /// Seed of the random times; the same seed gives the same times
    #[arg(long)]
    seed: Option<u64>,
    /// Use the nested host instead of this machine's KVM
    #[arg(long)]
    nested: bool,
}

/// Input of `xtask remote stress`.
#[derive(Serialize, Deserialize)]
struct StressJob {
    cli: PathBuf,
    /// Configuration of the machine that ends.
    config: PathBuf,
    /// Directory of the built guests.
    guests: PathBuf,
    runs: u32,
    kills: u32,
    only: Option<String>,
    seed: u64,
}

/// Runs the stress test and prints a line for each failure and a summary. Returns the exit status.
pub(crate) fn run(workspace: &Workspace, options: &StressOptions) -> Result<u8> {
    if !options.nested {
        kvm_is_usable().map_err(|reason| Failure::new(reason).with_status(106))?;
    }
    guests::report(&guests::build(workspace)?);
    let job = StressJob {
        cli: workspace.build_cli()?,
        config: workspace.path("configs/timer-smp.toml"),
        guests: workspace.path("guests/build"),
        runs: if options.only.is_some() { 0 } else { options.runs },
        kills: options.kills,
        only: options.only.clone(),
        seed: options.seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    interrupt::install_handler();
    if options.nested { on_nested_host(workspace, &job) } else { job.perform() }
}

/// Runs `xtask remote stress`: reads [`StressJob`] as JSON and performs it.
pub(crate) fn serve() -> Result<u8> {
    let job: StressJob =
        serde_json::from_reader(std::io::stdin()).while_doing("understand", Path::new("standard input"))?;
    job.perform()
}

impl StressJob {
    fn perform(&self) -> Result<u8> {
        let mut failures = 0;
        if self.runs > 0 {
            failures += run_test::perform(&self.cli, &self.config, self.runs)?;
        }
        if self.kills > 0 && !interrupt::requested() {
            let victims = Victim::named(self.only.as_deref());
            failures += kill_test::perform(&self.cli, &self.guests, &victims, self.kills, self.seed)?;
        }
        Ok(if interrupt::requested() { interrupt::EXIT_STATUS } else { u8::from(failures > 0) })
    }
}

/// Copies xtask to the nested host and runs `xtask remote stress` there.
fn on_nested_host(workspace: &Workspace, stress: &StressJob) -> Result<u8> {
    let host = NestedHost::find()?.map_err(|missing| Failure::new(missing.to_string()).with_status(106))?;
    let failure =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot prepare the nested host: {error}"));
    let xtask = std::env::current_exe().map_err(|error| failure(&error))?;
    let job = NestedJob {
        command: vec![xtask.to_string_lossy().into_owned(), "remote".to_owned(), "stress".to_owned()],
        directory: workspace.root().to_owned(),
        programs: vec![xtask, stress.cli.clone()],
        files: vec![workspace.path("configs"), workspace.path("guests/build")],
        input: serde_json::to_vec(stress).map_err(|error| failure(&error))?,
        time_limit: NESTED_TIMEOUT,
        verbose: false,
    };
    host.run(&job, to_stdout)
}
