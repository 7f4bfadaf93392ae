//! `vmm-cli preflight`: what would kill this guest at once, said before the run. Without KVM.
//!
//! Warnings are no errors: a guest that crashes on purpose is a guest. The status is 0 unless the configuration is wrong.
//! The JSON form is that of diagnostics ([`crate::diagnostic::json`]).

use crate::config::Config;
use crate::diagnostic::{Diagnostics, json};
use crate::status::Status;

use super::print;
use crate::args::{Format, PreflightArgs};
use crate::preflight;
use crate::prepare::Prepared;

pub(crate) fn preflight(options: &PreflightArgs) -> Result<Status, Diagnostics> {
    let config = Config::load(&options.config, &options.overrides.to_overrides())?;
    let prepared = Prepared::new(&config)?;
    let warnings = Diagnostics(preflight::warnings(&config, &prepared));
    match options.format {
        Format::Json => print::out(&format!("{}\n", json::render(&warnings)))?,
        Format::Text if warnings.0.is_empty() => {
            print::out(&format!("{}: nothing that would kill it at once\n", options.config.display()))?;
        }
        Format::Text => warnings.eprint(),
    }
    Ok(Status::Success)
}
