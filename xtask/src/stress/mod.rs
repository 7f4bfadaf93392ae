//! `cargo xtask stress`: many runs in a row, and many kills, with a look at what each leaves.
//!
//! `runs.rs` runs a machine with two vCPUs and timer interrupts to its end, again and again. `kills.rs` starts one that
//! never ends, on a terminal of its own, and kills it at a random moment: `killing.rs` does one of these in a process
//! for itself, which is to that terminal what a shell is to a user's. All of it works here and on the nested host.

mod killing;
mod kills;
mod left;
mod runs;
mod terminal;
mod way;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result, While};
use crate::nested::{Job, NestedHost};
use crate::run::{kvm_is_usable, to_stdout};
use crate::workspace::Workspace;
use crate::{guests, interrupt};
pub(crate) use killing::serve as serve_killing;

/// For all that runs on the nested host. A hundred kills take a minute or two there.
const NESTED_LIMIT: Duration = Duration::from_secs(1800);

/// How much of it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs to the end, one after the other
    #[arg(long, default_value_t = 200)]
    runs: u32,
    /// Kills at random moments
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Where the random moments come from: the same number gives the same moments
    #[arg(long)]
    seed: Option<u64>,
    /// On the nested host instead of this machine's KVM
    #[arg(long)]
    nested: bool,
}

/// All that is to be done on a host.
#[derive(Serialize, Deserialize)]
struct Work {
    cli: PathBuf,
    /// The machine that ends.
    config: PathBuf,
    /// The guest that does not.
    endless: PathBuf,
    runs: u32,
    kills: u32,
    seed: u64,
}

/// Does it, and prints a line for each failure and a summary. Returns the exit status.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<u8> {
    if !options.nested {
        kvm_is_usable().map_err(|reason| Failure::new(reason).with_status(106))?;
    }
    guests::report(&guests::build(workspace)?);
    let work = Work {
        cli: workspace.build_cli()?,
        config: workspace.path("configs/timer-smp.toml"),
        endless: workspace.path("guests/build/timer-forever.elf"),
        runs: options.runs,
        kills: options.kills,
        seed: options.seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    interrupt::outlive();
    if options.nested { on_nested_host(workspace, &work) } else { work.perform() }
}

/// The hidden task: reads [`Work`] as JSON and does it.
pub(crate) fn serve() -> Result<u8> {
    let work: Work =
        serde_json::from_reader(std::io::stdin()).while_doing("understand", Path::new("standard input"))?;
    work.perform()
}

impl Work {
    fn perform(&self) -> Result<u8> {
        let mut failures = 0;
        if self.runs > 0 {
            failures += runs::perform(&self.cli, &self.config, self.runs)?;
        }
        if self.kills > 0 && !interrupt::seen() {
            failures += kills::perform(&self.cli, &self.endless, self.kills, self.seed)?;
        }
        Ok(if interrupt::seen() { interrupt::STATUS } else { u8::from(failures > 0) })
    }
}

/// Takes xtask itself along, which does the work there.
fn on_nested_host(workspace: &Workspace, work: &Work) -> Result<u8> {
    let host = NestedHost::find()?.map_err(|missing| Failure::new(missing.to_string()).with_status(106))?;
    let trouble =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot prepare the nested host: {error}"));
    let xtask = std::env::current_exe().map_err(|error| trouble(&error))?;
    let job = Job {
        command: vec![xtask.to_string_lossy().into_owned(), "stress-here".to_owned()],
        directory: workspace.root().to_owned(),
        programs: vec![xtask, work.cli.clone()],
        files: vec![workspace.path("configs"), workspace.path("guests/build")],
        input: serde_json::to_vec(work).map_err(|error| trouble(&error))?,
        time_limit: NESTED_LIMIT,
        verbose: false,
    };
    host.run(&job, to_stdout)
}
