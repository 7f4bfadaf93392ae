//! Options of `run` for traces and statistics.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::filter::FilterTerm;

/// Options for traces and statistics. A run without them has no observers.
#[derive(Debug, Default, Args)]
pub(crate) struct TraceArgs {
    /// Show KVM calls and exits on standard error, or only the listed ones of calls, exits, steps
    #[arg(
        long,
        value_enum,
        value_name = "WHAT",
        value_delimiter = ',',
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "calls,exits"
    )]
    pub(crate) trace: Vec<TraceKind>,
    /// Trace only what matches: exit=pio-out, port=0x3f8-0x3ff, address=0xd0000000-0xd0000fff, symbol=main (or prin*),
    /// call=KVM_RUN, after=1000 (exits); can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = FilterTerm::parse)]
    pub(crate) trace_filter: Vec<FilterTerm>,
    /// Show only the last N events, when the run is over
    #[arg(long, value_name = "N")]
    pub(crate) trace_last: Option<NonZeroUsize>,
    /// Write calls and exits, and with --trace=steps also steps, to this file in Perfetto's Trace Event format
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace_out: Option<PathBuf>,
    /// Show statistics at the end of the run: exits, times, the kernel's counters
    #[arg(long)]
    pub(crate) stats: bool,
}

/// Kind of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum TraceKind {
    /// Each call to KVM
    Calls,
    /// Each exit of the guest
    Exits,
    /// Each instruction of the guest
    Steps,
}

impl TraceArgs {
    /// Returns true if events of this kind are shown as lines.
    pub(crate) fn shows(&self, what: TraceKind) -> bool {
        self.trace.contains(&what)
    }

    /// Returns true if anything is traced, as text or to a file.
    pub(crate) fn traces(&self) -> bool {
        !self.trace.is_empty() || self.trace_out.is_some()
    }
}
