//! `cargo xtask faults`: makes each system call of a run fail, in turn, and checks how the run ends.
//!
//! The work is done by `vmm-cli/tests/faults`. It gets its options through environment variables.

use crate::failure::{Failure, Result};
use crate::guests;
use crate::run::kvm_is_usable;
use crate::workspace::Workspace;

/// Options of `cargo xtask faults`.
#[derive(clap::Args)]
pub(crate) struct FaultsOptions {
    /// Only the faults whose names contain this, such as `hello/`, `KVM_RUN` or `/ENOMEM`
    filter: Option<String>,
    /// Make only this many faults, chosen at random
    #[arg(long, value_name = "NUMBER")]
    sample: Option<usize>,
    /// Seed of the choice; the same seed chooses the same faults
    #[arg(long, requires = "sample")]
    seed: Option<u64>,
    /// Make every repetition of a call fail, not only the first two, one in the middle and the last
    #[arg(long, conflicts_with = "sample")]
    every: bool,
}

/// Makes the faults, which prints a line for each run that ended wrongly and a table. Returns the exit status.
pub(crate) fn run(workspace: &Workspace, options: &FaultsOptions) -> Result<u8> {
    kvm_is_usable().map_err(|reason| Failure::new(reason).with_status(106))?;
    guests::report(&guests::build(workspace)?);
    let choice = match options.sample {
        Some(number) => number.to_string(),
        None if options.every => "every".to_owned(),
        None => "all".to_owned(),
    };
    let mut command = workspace.cargo();
    command.args(["test", "--quiet", "-p", "vmm-cli", "--test", "faults", "--"]);
    command.args([
        "--ignored",
        "--nocapture",
        "--exact",
        "runs_with_failing_system_calls_end_as_they_should",
    ]);
    command.env("VMM_FAULTS", choice);
    command.envs(options.filter.as_ref().map(|filter| ("VMM_FAULTS_FILTER", filter)));
    command.envs(options.seed.map(|seed| ("VMM_FAULTS_SEED", seed.to_string())));
    let status = command.status().map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
    Ok(u8::from(!status.success()))
}
