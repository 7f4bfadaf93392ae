//! One file for each subcommand.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod doctor;
pub(crate) mod dump;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod pages;
pub(crate) mod preflight;
pub(crate) mod print;
pub(crate) mod run;
pub(crate) mod snapshot;
pub(crate) mod test;
pub(crate) mod translate;

use crate::diagnostic::{Diagnostics, json};
use crate::status::Status;
use crate::stderr;

use crate::args::{Command, Format};

/// Carries a command out, shows what went wrong on standard error, and gives the status.
pub(crate) fn carry_out(command: &Command) -> Status {
    let (result, format) = match command {
        Command::Run(options) => (run::run(options), options.format),
        Command::Test(options) => (test::test(options), options.format),
        Command::Bench(options) => (bench::bench(options), options.format),
        Command::Check(options) => (check::check(options), options.format),
        Command::Preflight(options) => (preflight::preflight(options), options.format),
        Command::Explain(options) => (explain::explain(options), options.format),
        Command::Translate(options) => (translate::translate(options), options.format),
        Command::Pages(options) => (pages::pages(options), options.format),
        Command::Dump(options) => (dump::dump(options), options.format),
        Command::Snapshot(options) => (snapshot::snapshot(options), options.format),
        Command::Doctor(options) => (doctor::doctor(options), options.format),
        Command::Init(options) => (init::init(options), Format::Text),
        Command::Schema => (print::schema(), Format::Text),
        Command::Completions { shell } => (print::completions(*shell), Format::Text),
        Command::Man { subcommand } => (print::man(subcommand.as_deref()), Format::Text),
    };
    result.unwrap_or_else(|diagnostics| fail(&diagnostics, format))
}

fn fail(diagnostics: &Diagnostics, format: Format) -> Status {
    match format {
        Format::Text => diagnostics.eprint(),
        Format::Json => stderr::print_line(format_args!("{}", json::render(diagnostics))),
    }
    diagnostics.status()
}
