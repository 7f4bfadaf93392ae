//! The options of `bench`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::{Format, OverrideArgs};

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The configuration, or a kernel that needs none
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// Runs that are measured
    #[arg(long, short = 'n', value_name = "N", default_value = "1000")]
    pub(crate) runs: NonZeroUsize,
    /// Runs before them that are not
    #[arg(long, value_name = "N", default_value = "10")]
    pub(crate) warmup: usize,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}
