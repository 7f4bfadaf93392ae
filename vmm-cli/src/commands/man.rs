//! `vmm-cli man`: prints a manual page.

use clap::Args;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::status::Status;
use crate::stdout;

/// Options of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Subcommand
    subcommand: Option<String>,
}

/// Runs `vmm-cli man` for the command line `cli`.
pub(crate) fn man(args: &ManArgs, mut cli: clap::Command) -> Result<Status, Diagnostics> {
    cli.build();
    let page = match &args.subcommand {
        None => cli,
        Some(name) => match cli.find_subcommand(name) {
            // A page of its own is found under the name with a dash, as git's are.
            Some(found) => found.clone().name(format!("vmm-cli-{name}")),
            None => {
                let message = format!("there is no subcommand `{name}`");
                return Err(Diagnostic::error(Status::Configuration, message).into());
            }
        },
    };
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).map_err(|error| stdout::write_error(&error))?;
    stdout::write_all(&text)?;
    Ok(Status::Success)
}
