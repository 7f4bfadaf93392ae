//! One file for each subcommand: its options, and the function that runs it.
//!
//! A new subcommand is a new file here, a variant of [`Command`], and a line in [`dispatch`].

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod dump;
pub(crate) mod explain;
pub(crate) mod init;
pub(crate) mod man;
pub(crate) mod pages;
pub(crate) mod preflight;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod snapshot;
pub(crate) mod test;
pub(crate) mod translate;

use clap::CommandFactory;

use crate::args::{Cli, Command};
use crate::diagnostic::json;
use crate::options::Format;
use crate::status::Status;
use crate::stderr;

/// Runs a subcommand, shows its errors on standard error, and returns its exit status.
pub(crate) fn dispatch(command: &Command) -> Status {
    let (result, format) = match command {
        Command::Run(args) => (run::run(args), args.format),
        Command::Test(args) => (test::test(args), args.format),
        Command::Bench(args) => (bench::bench(args), args.format),
        Command::Check(args) => (check::check(args), args.format),
        Command::Preflight(args) => (preflight::preflight(args), args.format),
        Command::Explain(args) => (explain::explain(args), args.format),
        Command::Translate(args) => (translate::translate(args), args.format),
        Command::Pages(args) => (pages::pages(args), args.format),
        Command::Dump(args) => (dump::dump(args), args.format),
        Command::Snapshot(args) => (snapshot::snapshot(args), args.format),
        Command::Doctor(args) => (doctor::doctor(args), args.format),
        Command::Init(args) => (init::init(args), Format::Text),
        Command::Schema => (schema::schema(), Format::Text),
        Command::Completions(args) => (completions::completions(args, Cli::command()), Format::Text),
        Command::Man(args) => (man::man(args, Cli::command()), Format::Text),
    };
    result.unwrap_or_else(|diagnostics| {
        match format {
            Format::Text => diagnostics.eprint(),
            Format::Json => stderr::print_line(format_args!("{}", json::render(&diagnostics))),
        }
        diagnostics.status()
    })
}
