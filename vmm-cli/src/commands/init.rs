//! `vmm-cli init`: writes a commented configuration to start from. An existing file is not replaced.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::config::template;
use crate::diagnostic::Diagnostics;
use crate::output_file::OutputFile;
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
    let file = OutputFile::create(path, "the configuration", false);
    file.and_then(|file| file.persist_bytes(template::text().as_bytes())).map_err(|error| {
        let exists = error.status == Status::Configuration;
        if exists { error.with_help(Some("name another file, or move this one away")) } else { error }
    })?;
    stdout::print(&format!("wrote {}; edit it, then: vmm-cli run {0}\n", path.display()))?;
    Ok(Status::Success)
}
