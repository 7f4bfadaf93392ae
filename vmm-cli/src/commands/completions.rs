//! `vmm-cli completions`: prints completions for a shell.

use clap::Args;
use clap_complete::Shell;

use crate::diagnostic::Diagnostics;
use crate::status::Status;
use crate::stdout;

/// Options of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell
    shell: Shell,
}

/// Runs `vmm-cli completions` for the command line `cli`.
pub(crate) fn completions(args: &CompletionsArgs, mut cli: clap::Command) -> Result<Status, Diagnostics> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut cli, "vmm-cli", &mut text);
    stdout::write_all(&text)?;
    Ok(Status::Success)
}
