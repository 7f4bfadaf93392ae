//! `vmm-cli preflight`: warns about mistakes that kill this guest at once, without KVM.
//!
//! Warnings are not errors: the exit status is 0 unless the configuration is wrong. The JSON form is that of diagnostics
//! ([`crate::diagnostic::json`]).

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::config::Config;
use crate::diagnostic::{Diagnostics, json};
use crate::options::{Format, OverrideArgs};
use crate::preflight;
use crate::prepare::Prepared;
use crate::status::Status;
use crate::stdout;

/// Options of `preflight`.
#[derive(Debug, Args)]
pub(crate) struct PreflightArgs {
    /// Configuration
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli preflight`.
pub(crate) fn preflight(args: &PreflightArgs) -> Result<Status, Diagnostics> {
    let config = Config::load(&args.config, &args.overrides.to_overrides_with_notes())?;
    let prepared = Prepared::new(&config)?;
    let warnings = Diagnostics(preflight::warnings(&config, &prepared));
    match args.format {
        Format::Json => stdout::print(&format!("{}\n", json::render(&warnings)))?,
        Format::Text if warnings.0.is_empty() => {
            stdout::print(&format!("{}: nothing that would kill it at once\n", args.config.display()))?;
        }
        Format::Text => warnings.eprint(),
    }
    Ok(Status::Success)
}
