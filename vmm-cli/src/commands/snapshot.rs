//! `vmm-cli snapshot`: runs a guest up to a point and saves the whole machine to a file, for `run --from`.
//!
//! What the guest prints on the way goes to standard output, as in a run. The file is there whole or not at all.

use std::io::Write as _;
use std::path::absolute;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::status::Status;
use crate::stderr;
use vmm_core::devices::console;
use vmm_core::spec::gpa_range::ByteSize;

use crate::args::SnapshotArgs;
use crate::inspect::InspectedGuest;
use crate::snapshot_file::{self, Description};
use crate::terminal::{OutputCopy, StdoutOutput};
use crate::whole_file::WholeFile;

pub(crate) fn snapshot(options: &SnapshotArgs) -> Result<Status, Diagnostics> {
    let mut file = WholeFile::create(&options.output, "the snapshot", options.force)?;
    let config = absolute(&options.inspect.config).map_err(|error| {
        Diagnostic::error(Status::Host, format!("cannot tell where the configuration is: {error}"))
    })?;
    let copy = OutputCopy::default();
    let output = console::Output::new(StdoutOutput::new(Some(copy.clone())));
    let mut stopped = InspectedGuest::with_output(&options.inspect, output)?;
    if let Some(end) = &stopped.end {
        let message = format!("the guest has ended, and cannot go on from a snapshot: {end}");
        let help = "stop it before, with --at, --exits or --after";
        return Err(Diagnostic::error(Status::Configuration, message).with_help(Some(help)).into());
    }
    let snapshot = stopped.machine.snapshot().map_err(|error| stopped.error(&error))?;
    let description =
        Description::new(&snapshot, config, stopped.point.clone(), &stopped.files, copy.bytes());
    let bytes = snapshot_file::write(&snapshot, &description, &mut file)?;
    file.finish()?;
    // The guest's last line may not be complete.
    let _ = std::io::stdout().flush();
    stderr::print_line(format_args!(
        "snapshot {}: {}, {}",
        options.output.display(),
        description.point,
        ByteSize(bytes)
    ));
    Ok(Status::Success)
}
