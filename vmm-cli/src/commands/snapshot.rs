//! `vmm-cli snapshot`: runs a guest up to a point and saves the whole machine to a file, for `run --from`.
//!
//! The guest's output on the way goes to standard output, as in a run.

use std::path::PathBuf;
use std::path::absolute;

use clap::{Args, ValueHint};
use vmm_core::devices::console;
use vmm_core::spec::gpa_range::ByteSize;

use vmm_core::sandbox::system_calls::Features;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::inspect::InspectArgs;
use crate::inspect::{InspectNeeds, InspectedGuest};
use crate::options::Format;
use crate::output_file::OutputFile;
use crate::snapshot_file::{self, Description};
use crate::status::Status;
use crate::stderr;
use crate::terminal::{OutputCopy, StdoutOutput};

/// Options of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) inspect: InspectArgs,
    /// File to write
    #[arg(long, short, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: PathBuf,
    /// Let --output replace a file
    #[arg(long)]
    pub(crate) force: bool,
    /// Output format of errors on standard error
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli snapshot`.
pub(crate) fn snapshot(args: &SnapshotArgs) -> Result<Status, Diagnostics> {
    let mut file = OutputFile::create(&args.output, "the snapshot", args.force)?;
    let config = absolute(&args.inspect.config).map_err(|error| {
        Diagnostic::error(Status::Host, format!("cannot tell where the configuration is: {error}"))
    })?;
    let copy = OutputCopy::default();
    let output = console::Output::new(StdoutOutput::new(Some(copy.clone()), None));
    // Read from files, which a confined process cannot.
    let host = snapshot_file::this_host()?;
    let needs = InspectNeeds { features: Features::SNAPSHOT, outputs: &[&file] };
    let mut stopped = InspectedGuest::with_output(&args.inspect, needs, output.clone())?;
    if let Some(end) = &stopped.end {
        let message = format!("the guest has ended, and cannot go on from a snapshot: {end}");
        let help = "stop it before, with --at, --exits or --after";
        return Err(Diagnostic::error(Status::Configuration, message).with_help(Some(help)).into());
    }
    let snapshot = stopped.machine.snapshot().map_err(|error| stopped.error(&error))?;
    let description =
        Description::new(&snapshot, config, stopped.point.clone(), &stopped.files, copy.bytes(), host);
    let bytes = snapshot_file::write(&snapshot, &description, &mut file)?;
    file.persist()?;
    // The guest's last line may be incomplete.
    let _ = output.sync();
    stderr::print_line(format_args!(
        "snapshot {}: {}, {}",
        args.output.display(),
        description.point,
        ByteSize(bytes)
    ));
    Ok(Status::Success)
}
