//! Runs bare-metal x86 programs on KVM from one TOML file: the program.
//!
//! `args.rs` is the command line; each subcommand has a file in `commands/`. `prepare.rs` makes a machine of a
//! configuration and the guest's files, `terminal.rs` connects it to the outside, `expectations.rs` and `report.rs`
//! judge and describe how it ended.
#![forbid(unsafe_code)]

mod args;
mod commands;
mod core_file;
mod disks;
mod distribution;
mod expectations;
mod explain;
mod gdb;
mod judgement;
mod new_file;
mod output_file;
mod preflight;
mod prepare;
mod problems;
mod raw_terminal;
mod report;
mod snapshot_file;
mod source_lines;
mod statistics;
mod stopped;
mod suite;
mod terminal;
mod timing;
mod trace;
mod whole_file;
mod wrapped;

use std::process::ExitCode;

use vmm_cli::status::Status;

use args::Cli;

/// musl's own allocator maps and unmaps a few pages at a time: a hundred system calls before the guest's first instruction.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    match Cli::read() {
        Ok(cli) => commands::carry_out(&cli.command).into(),
        Err(error) => usage(&error),
    }
}

/// Help and version are answers; anything else is a mistake on the command line, with the status of that class.
fn usage(error: &clap::Error) -> ExitCode {
    // If even this cannot be printed, the status still says it.
    let _ = error.print();
    if error.use_stderr() { Status::Configuration.into() } else { Status::Success.into() }
}
