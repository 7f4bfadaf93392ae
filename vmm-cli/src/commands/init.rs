//! `vmm-cli init`: a commented configuration to start from, never over a file that exists.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

use crate::config::template;
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;

use super::print;
use crate::args::InitArgs;

pub(crate) fn init(options: &InitArgs) -> Result<Status, Diagnostics> {
    let path = &options.file;
    // `create_new` leaves no moment between looking and writing.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(template::text().as_bytes()));
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
    print::out(&format!("wrote {}; edit it, then: vmm-cli run {0}\n", path.display()))?;
    Ok(Status::Success)
}
