//! `vmm-cli check`: reports every mistake in configurations and guest files that can be found without KVM.

use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::config::Config;
use crate::diagnostic::{Diagnostics, json};
use crate::options::{Format, OverrideArgs};
use crate::preflight;
use crate::prepare::Prepared;
use crate::status::Status;
use crate::stdout;

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Configurations
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    pub(crate) configs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// Also show what is loaded, and the layout of the guest's memory
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli check`.
pub(crate) fn check(args: &CheckArgs) -> Result<Status, Diagnostics> {
    let overrides = args.overrides.to_overrides_with_notes();
    let mut problems = Vec::new();
    let mut good = String::new();
    for path in &args.configs {
        let config = Config::load(path, &overrides);
        let prepared = config.and_then(|config| Ok((Prepared::new(&config)?, config)));
        match prepared {
            Ok((prepared, config)) => {
                let found = Diagnostics(preflight::warnings(&config, &prepared));
                if found.status() == Status::Success {
                    describe(&mut good, path, (&config, &prepared), args.verbose);
                }
                problems.extend(found.0);
            }
            Err(Diagnostics(more)) => problems.extend(more),
        }
    }
    let problems = Diagnostics(problems);
    match args.format {
        Format::Text => stdout::print(&good)?,
        // An array of all diagnostics, which may be empty.
        Format::Json => {
            stdout::print(&format!("{}\n", json::render(&problems)))?;
            return Ok(problems.status());
        }
    }
    if problems.0.is_empty() { Ok(Status::Success) } else { Err(problems) }
}

/// Appends a line for a configuration without mistakes, for one inside an ELF file the files that it reads, and with
/// `--verbose` what is loaded and the layout.
fn describe(text: &mut String, path: &Path, (config, prepared): (&Config, &Prepared), verbose: bool) {
    let mode = prepared.machine.boot.mode;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}: ok, mode {mode}", path.display());
    if config.is_note() {
        let _ =
            writeln!(text, "  its own configuration; a run reads {}", prepared.read_files(config).join(", "));
    }
    if verbose {
        for (name, plan) in prepared.files.plans() {
            let _ = writeln!(text, "\n{name}: {plan}");
        }
        let _ = writeln!(text, "\n{}", prepared.layout);
    }
}
