//! `vmm-cli explain`: all that a run would do and set up, without touching KVM.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::config::{Config, Overrides};
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;

use super::print;
use crate::args::{ExplainArgs, Format};
use crate::explain::diff::ExplanationDiff;
use crate::explain::{Explanation, svg};
use crate::prepare::Prepared;

pub(crate) fn explain(options: &ExplainArgs) -> Result<Status, Diagnostics> {
    let explanation = explanation(&options.config, &options.overrides.to_overrides())?;
    let text = if let Some(other) = &options.diff {
        let diff = ExplanationDiff::of(&explanation, &self::explanation(other, &Overrides::new())?);
        match options.format {
            Format::Text => diff.to_string(),
            Format::Json => diff.to_json(),
        }
    } else if let Some(file) = &options.svg {
        write(file, &svg::draw(&explanation), options.force)?;
        match options.format {
            Format::Text => format!("wrote {}", file.display()),
            Format::Json => explanation.to_json(),
        }
    } else {
        match options.format {
            Format::Text => explanation.to_string(),
            Format::Json => explanation.to_json(),
        }
    };
    print::out(&format!("{}\n", text.trim_end()))?;
    Ok(Status::Success)
}

fn explanation(path: &Path, overrides: &Overrides) -> Result<Explanation, Diagnostics> {
    let config = Config::load(path, overrides)?;
    let prepared = Prepared::new(&config)?;
    let explanation = Explanation::new(path.display().to_string(), &config, &prepared);
    Ok(explanation.map_err(|error| config.error_at("guest", error.to_string()))?)
}

/// Writes the picture, over an existing file only where that was asked for.
fn write(path: &Path, picture: &str, force: bool) -> Result<(), Diagnostic> {
    let mut open = OpenOptions::new();
    open.write(true);
    // `create_new` leaves no moment between looking and writing.
    if force {
        open.create(true).truncate(true)
    } else {
        open.create_new(true)
    };
    let written = open.open(path).and_then(|mut file| file.write_all(picture.as_bytes()));
    written.map_err(|error| {
        let (status, help) = if error.kind() == ErrorKind::AlreadyExists {
            (Status::Configuration, Some("name another file, or add --force"))
        } else {
            (Status::Host, None)
        };
        Diagnostic::error(status, format!("cannot write the picture: {error}"))
            .at(Location::File(path.display().to_string()))
            .with_help(help)
    })
}
