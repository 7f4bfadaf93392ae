//! Runs bare-metal x86 programs on KVM from one TOML file.
//!
//! The program is [`main`]. The TOML file, its diagnostics and the exit statuses are public, so that tests, the fuzzer and
//! other tools can use them without a terminal and without KVM:
//!
//! ```
//! use std::path::Path;
//! use vmm_cli::config::{Config, Overrides};
//!
//! let text = "mode = \"long\"\nmemory = { size = \"2MB\" }\nguest = { elf = \"hello.elf\" }\n";
//! let mistakes = Config::from_text(text, Path::new("hello.toml"), &Overrides::new()).unwrap_err();
//! assert_eq!(mistakes.status().code(), 105);
//! assert!(mistakes.to_plain().contains("hello.toml:2:19"));
//! assert!(mistakes.to_plain().contains("`2MiB`"));
//! ```
//!
//! - [`config`] turns a TOML file into a [`Config`](config::Config) or into a list of mistakes.
//! - [`diagnostic`] shows mistakes: as text with the line and a caret, or as JSON.
//! - [`status`] is the table of exit statuses.
//!
//! Inside the crate, `args.rs` has the command line and `commands/` one file for each subcommand. `prepare.rs` makes a
//! machine from a configuration and the guest's files, `terminal.rs` connects it to the standard streams, `verdict.rs`
//! evaluates a finished run, and `report.rs` describes it.
#![forbid(unsafe_code)]

pub mod config;
pub mod diagnostic;
pub mod status;

mod args;
mod bounded_writer;
mod commands;
mod core_file;
mod disks;
mod expectations;
mod explain;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gdb;
mod help;
mod inspect;
mod layout_diagnostics;
mod machine_error;
mod mapping_table;
mod options;
mod output_file;
mod panic;
mod preflight;
mod prepare;
mod profile;
mod quantiles;
mod raw_terminal;
mod report;
mod sandbox;
mod snapshot_file;
mod source_lines;
mod stderr;
mod stdout;
mod suite;
mod table;
mod terminal;
mod trace;
mod verdict;
mod wrap;

use std::process::ExitCode;

use crate::args::Cli;
use crate::status::Status;

/// Runs the program on the command line of this process, and returns its exit status.
#[must_use]
pub fn main() -> ExitCode {
    panic::install_hook();
    #[cfg(debug_assertions)]
    arm_sandbox_probe();
    match Cli::from_env() {
        Ok(cli) => commands::dispatch(&cli.command, <Cli as clap::CommandFactory>::command).into(),
        Err(error) => print_usage(&error),
    }
}

/// Arms the system call that the environment variable `VMM_SANDBOX_PROBE` names, for tests of the sandbox.
#[cfg(debug_assertions)]
fn arm_sandbox_probe() {
    let name = std::env::var("VMM_SANDBOX_PROBE").unwrap_or_default();
    if !name.is_empty() && !vmm_core::kvm_sys_wrap::arm_sandbox_probe(&name) {
        stderr::print_line(format_args!("sandbox probe: there is no `{name}`"));
    }
}

/// Prints help or the version, with status 0, or a mistake on the command line, with the status of that class.
fn print_usage(error: &clap::Error) -> ExitCode {
    // Ignored: if the message cannot be printed, the exit status still says it.
    let _ = error.print();
    if error.use_stderr() { Status::Configuration.into() } else { Status::Success.into() }
}
