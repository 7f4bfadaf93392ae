//! One file for each subcommand.

pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod init;
pub(crate) mod print;
pub(crate) mod run;

use vmm_cli::diagnostic::{Diagnostics, json};
use vmm_cli::status::Status;

use crate::args::Format;

/// Shows what went wrong on standard error and gives the status for it.
fn fail(diagnostics: &Diagnostics, format: Format) -> Status {
    match format {
        Format::Text => diagnostics.eprint(),
        Format::Json => eprintln!("{}", json::render(diagnostics)),
    }
    diagnostics.status()
}
