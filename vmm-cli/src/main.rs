//! Runs bare-metal x86 programs on KVM from one TOML file: the program.
//!
//! `args.rs` is the command line; each subcommand has a file in `commands/`. `prepare.rs` makes a machine of a
//! configuration and the guest's files, `terminal.rs` connects it to the outside, `expectations.rs` and `report.rs`
//! judge and describe how it ended.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod expectations;
mod prepare;
mod problems;
mod report;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use vmm_cli::status::Status;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let status = match &cli.command {
        Command::Run(run) => commands::run::run(run),
        Command::Check(check) => commands::check::check(check),
        Command::Doctor(doctor) => commands::doctor::doctor(doctor),
        Command::Init(init) => commands::init::init(init),
        Command::Schema => commands::print::schema(),
        Command::Completions { shell } => commands::print::completions(*shell),
        Command::Man { subcommand } => commands::print::man(subcommand.as_deref()),
    };
    status.into()
}

/// Help and version are answers; anything else is a mistake on the command line, with the status of that class.
fn usage(error: &clap::Error) -> ExitCode {
    // If even this cannot be printed, the status still says it.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Status::Success.into(),
        _ => Status::Configuration.into(),
    }
}
