//! `vmm-cli check`: all that can be known of configurations without KVM.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::Config;
use crate::diagnostic::{Diagnostics, json};
use crate::status::Status;

use super::print;
use crate::args::{CheckArgs, Format};
use crate::preflight;
use crate::prepare::Prepared;

pub(crate) fn check(options: &CheckArgs) -> Result<Status, Diagnostics> {
    let overrides = options.overrides.to_overrides();
    let mut problems = Vec::new();
    let mut good = String::new();
    for path in &options.configs {
        let config = Config::load(path, &overrides);
        let prepared = config.and_then(|config| Ok((Prepared::new(&config)?, config)));
        match prepared {
            Ok((prepared, config)) => {
                describe(&mut good, path, &prepared, options.verbose);
                problems.extend(preflight::warnings(&config, &prepared));
            }
            Err(Diagnostics(more)) => problems.extend(more),
        }
    }
    let problems = Diagnostics(problems);
    match options.format {
        Format::Text => print::out(&good)?,
        // An array of all problems; an empty one where there are none.
        Format::Json => {
            print::out(&format!("{}\n", json::render(&problems)))?;
            return Ok(problems.status());
        }
    }
    if problems.0.is_empty() { Ok(Status::Success) } else { Err(problems) }
}

/// One line for a configuration without mistakes, and with `--verbose` its files and its layout.
fn describe(text: &mut String, path: &Path, prepared: &Prepared, verbose: bool) {
    let mode = prepared.machine.boot.mode;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}: ok, mode {mode}", path.display());
    if verbose {
        for (name, plan) in prepared.files.plans() {
            let _ = writeln!(text, "\n{name}: {plan}");
        }
        let _ = writeln!(text, "\n{}", prepared.layout);
    }
}
