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

use clap::Subcommand;

use crate::diagnostic::json;
use crate::options::Format;
use crate::status::Status;
use crate::stderr;

/// Subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the guest of a configuration
    Run(run::RunArgs),
    /// Run all configurations with an [expect] as tests, in parallel
    Test(test::TestArgs),
    /// Run one guest many times, and show the distribution of its times
    Bench(bench::BenchArgs),
    /// Check configurations and their guest files without KVM
    Check(check::CheckArgs),
    /// Warn about mistakes that always kill a guest: in its entry, its stack, or SSE code while SSE is off
    Preflight(preflight::PreflightArgs),
    /// Show every KVM call and register of a run, without KVM
    Explain(explain::ExplainArgs),
    /// Look up addresses in the guest's page tables, level by level
    Translate(translate::TranslateArgs),
    /// Show all mappings of the guest's page tables, and warn about unusual ones
    Pages(pages::PagesArgs),
    /// Show or save guest memory
    Dump(dump::DumpArgs),
    /// Run a guest up to a point and save the whole machine, for `run --from`
    Snapshot(snapshot::SnapshotArgs),
    /// Show if KVM works on this host, and which CPU modes
    Doctor(doctor::DoctorArgs),
    /// Write a commented configuration to start from
    Init(init::InitArgs),
    /// Print the JSON schema of configurations, for editors
    Schema,
    /// Print completions for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page of vmm-cli or of a subcommand
    Man(man::ManArgs),
}

/// Runs a subcommand, shows its errors on standard error, and returns its exit status. `declaration` is the command line as
/// a whole, for completions and manual pages.
pub(crate) fn dispatch(command: &Command, declaration: fn() -> clap::Command) -> Status {
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
        Command::Completions(args) => (completions::completions(args, declaration()), Format::Text),
        Command::Man(args) => (man::man(args, declaration()), Format::Text),
    };
    result.unwrap_or_else(|diagnostics| {
        match format {
            Format::Text => diagnostics.eprint(),
            Format::Json => stderr::print_line(format_args!("{}", json::render(&diagnostics))),
        }
        diagnostics.status()
    })
}
