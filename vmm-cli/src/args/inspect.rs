//! The options of `translate`, `pages`, `dump` and `snapshot`: they need a guest that was stopped somewhere.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::values::{Refusal, Time};
use clap::{Args, ValueHint};

use super::{Format, OverrideArgs};

const WHERE: &str = "Where the guest is stopped (before its first instruction, if nothing else is said)";

/// Where the guest is stopped.
#[derive(Debug, Args)]
pub(crate) struct StopAt {
    /// Where it first comes to this symbol, symbol+offset or address
    #[arg(long, help_heading = WHERE, value_name = "PLACE", conflicts_with_all = ["exits", "after", "end"])]
    pub(crate) at: Option<String>,
    /// After this many exits
    #[arg(long, help_heading = WHERE, value_name = "N", conflicts_with_all = ["after", "end"])]
    pub(crate) exits: Option<u64>,
    /// When it has run for this time, such as 500ms or 10s
    #[arg(long, help_heading = WHERE, value_name = "TIME", conflicts_with = "end", value_parser = duration)]
    pub(crate) after: Option<Duration>,
    /// Where its run ends, in whatever way
    #[arg(long, help_heading = WHERE)]
    pub(crate) end: bool,
    /// Show what it prints on the way, on standard error
    #[arg(long, help_heading = WHERE)]
    pub(crate) show_output: bool,
}

fn duration(text: &str) -> Result<Duration, Refusal> {
    text.parse().map(|Time(time)| time)
}

/// What all of them have in common.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The configuration
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    #[command(flatten)]
    pub(crate) stop: StopAt,
}

/// Options of `translate`.
#[derive(Debug, Args)]
pub(crate) struct TranslateArgs {
    #[command(flatten)]
    pub(crate) inspect: InspectArgs,
    /// What to look up: addresses, symbols, symbol+offset
    #[arg(required = true, value_name = "GVA")]
    pub(crate) addresses: Vec<String>,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Options of `pages`.
#[derive(Debug, Args)]
pub(crate) struct PagesArgs {
    #[command(flatten)]
    pub(crate) inspect: InspectArgs,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Options of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) inspect: InspectArgs,
    /// The file to write
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Let it replace a file
    #[arg(long)]
    pub(crate) force: bool,
    /// How errors are shown on standard error
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Options of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    pub(crate) inspect: InspectArgs,
    /// ADDRESS..ADDRESS, ADDRESS,LENGTH, or a symbol; symbols can have an offset. Addresses are physical, symbols virtual
    #[arg(required_unless_present = "core", value_name = "RANGE")]
    pub(crate) ranges: Vec<String>,
    /// Take addresses as virtual
    #[arg(long = "virtual")]
    pub(crate) is_virtual: bool,
    /// Write the bytes as they are
    #[arg(long, conflicts_with = "format")]
    pub(crate) raw: bool,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "ranges")]
    pub(crate) output: Option<PathBuf>,
    /// Write registers and all memory to this ELF core file, for gdb
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) core: Option<PathBuf>,
    /// Let --output and --core replace files
    #[arg(long)]
    pub(crate) force: bool,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}
