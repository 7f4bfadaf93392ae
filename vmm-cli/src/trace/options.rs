//! The options of `run` that show what happens: what to trace, how much of it, where to.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::filter::FilterTerm;

/// What `run` shows of what happens. Nothing of it costs a run that does not ask for it.
#[derive(Debug, Default, Args)]
pub(crate) struct TraceArgs {
    /// Show what happens on standard error: calls and exits, or those of calls, exits, steps that are listed
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
    /// Keep the last N lines only, and show them when the run is over
    #[arg(long, value_name = "N")]
    pub(crate) trace_last: Option<NonZeroUsize>,
    /// Write calls and exits, with --trace=steps also those, to this file in the Trace Event format of Perfetto
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) trace_out: Option<PathBuf>,
    /// Show when the run is over what it consisted of: exits, time, the kernel's counters
    #[arg(long)]
    pub(crate) stats: bool,
}

/// What to trace.
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
    /// Whether each line of this kind is to be shown.
    pub(crate) fn shows(&self, what: TraceKind) -> bool {
        self.trace.contains(&what)
    }

    /// Whether anything is traced, as text or to a file.
    pub(crate) fn traces(&self) -> bool {
        !self.trace.is_empty() || self.trace_out.is_some()
    }
}
