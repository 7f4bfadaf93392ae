//! `vmm-cli explain`: shows every KVM call of a run and the state it sets up, without KVM.

use std::path::Path;
use std::path::PathBuf;

use clap::{Args, ValueHint};

use crate::config::{Config, Overrides};
use crate::diagnostic::Diagnostics;
use crate::explain::diff::ExplanationDiff;
use crate::explain::{Explanation, svg};
use crate::options::{Format, OverrideArgs};
use crate::output_file::OutputFile;
use crate::prepare::Prepared;
use crate::status::Status;
use crate::stdout;

/// Options of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Configuration
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// Draw memory map and KVM calls to this new file instead, as SVG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,
    /// Let --svg replace a file
    #[arg(long, requires = "svg")]
    pub(crate) force: bool,
    /// Show only the differences to this configuration, to which --set and --mode do not apply
    #[arg(long, value_name = "OTHER", value_hint = ValueHint::FilePath, conflicts_with = "svg")]
    pub(crate) diff: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Runs `vmm-cli explain`.
pub(crate) fn explain(args: &ExplainArgs) -> Result<Status, Diagnostics> {
    let explanation = explanation(&args.config, &args.overrides.to_overrides_with_notes())?;
    let text = if let Some(other) = &args.diff {
        let diff = ExplanationDiff::of(&explanation, &self::explanation(other, &Overrides::new())?);
        match args.format {
            Format::Text => diff.to_string(),
            Format::Json => diff.to_json(),
        }
    } else if let Some(file) = &args.svg {
        let picture = OutputFile::create(file, "the picture", args.force)?;
        picture.persist_bytes(svg::draw(&explanation).as_bytes())?;
        match args.format {
            Format::Text => format!("wrote {}", file.display()),
            Format::Json => explanation.to_json(),
        }
    } else {
        match args.format {
            Format::Text => explanation.to_string(),
            Format::Json => explanation.to_json(),
        }
    };
    stdout::print(&format!("{}\n", text.trim_end()))?;
    Ok(Status::Success)
}

fn explanation(path: &Path, overrides: &Overrides) -> Result<Explanation, Diagnostics> {
    let config = Config::load(path, overrides)?;
    let prepared = Prepared::new(&config)?;
    let explanation = Explanation::new(path.display().to_string(), &config, &prepared);
    Ok(explanation.map_err(|error| config.error_at("guest", error.to_string()))?)
}
