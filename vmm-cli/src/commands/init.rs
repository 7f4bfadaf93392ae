//! `vmm-cli init`: writes a commented configuration to start from. An existing file is not replaced.

use std::io::ErrorKind;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::config::template;
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::output_file;
use crate::status::Status;
use crate::stdout;

/// Options of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// File to write; an existing file is not replaced
    #[arg(default_value = "vmm.toml", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

/// Runs `vmm-cli init`.
pub(crate) fn init(args: &InitArgs) -> Result<Status, Diagnostics> {
    let path = &args.file;
    let written = output_file::write_all(path, template::text().as_bytes(), false);
    written.map_err(|error| {
        let (status, help) = if error.kind() == ErrorKind::AlreadyExists {
            (Status::Configuration, Some("name another file, or move this one away"))
        } else {
            (Status::Host, None)
        };
        Diagnostic::error(status, format!("cannot write the configuration: {error}"))
            .at(Location::File(path.display().to_string()))
            .with_help(help)
    })?;
    stdout::print(&format!("wrote {}; edit it, then: vmm-cli run {0}\n", path.display()))?;
    Ok(Status::Success)
}
