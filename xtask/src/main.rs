//! `cargo xtask`: builds guests, runs configurations and tests, checks tidiness. Start reading here.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod dist;
mod failure;
mod guests;
mod interrupt;
mod linux;
mod nested;
mod process;
mod progress;
mod references;
mod run;
mod stress;
mod test;
mod tidy;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use failure::{Failure, Result};
use run::NestedOptions;
use workspace::Workspace;

/// Tasks of this repository.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Build guests and vmm-cli, then run a configuration: on this machine's KVM, else on the nested host
    Run {
        /// The configuration, such as configs/long.toml
        config: PathBuf,
        /// Passed on to `vmm-cli run`, such as --mode real
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the guests that are not up to date
    Guests,
    /// Run a command, or a configuration, on the nested host: an ordinary KVM inside QEMU
    ///
    /// The command's output, both standard output and standard error, comes out on standard output, byte for byte,
    /// and its exit status is ours. 124: the time limit passed. 125: the nested host itself failed. 106: something
    /// it is made of is missing here.
    ///
    /// Files keep their paths: vmm-cli (also in PATH), configs/, guests/build/ and what --with adds. What the command
    /// writes stays there.
    Nested {
        #[command(flatten)]
        options: NestedOptions,
        /// Unpack Debian's kernel package into the cache, for later runs; needs no root
        #[arg(long, conflicts_with_all = ["command", "with", "stdin", "timeout", "verbose"])]
        fetch_kernel: bool,
        /// The command and its arguments; a name that ends in .toml is run with vmm-cli
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present = "fetch_kernel")]
        command: Vec<String>,
    },
    /// Run all tests: without KVM, on this machine's KVM and on the nested host
    ///
    /// The last line counts them. A test that did not run counts as skipped, and the report says why.
    Test {
        /// Only boot Debian's stock Linux kernel, on the nested host: to a shell, a disk and the power-off
        #[arg(long)]
        linux: bool,
    },
    /// Build vmm-cli as it is to be installed: static, stripped, optimized as a whole
    Dist,
    /// Measure what vmm costs next to C programs that make the same calls and nothing else
    Bench(bench::Options),
    /// Run a machine many times in a row, and kill one at many random moments: each has to end right
    ///
    /// The machine has two vCPUs and timer interrupts. A kill must leave no process, no raw terminal and no file.
    Stress(stress::Options),
    /// Check format, lints and tidiness, then run all tests
    Ci,
    /// Check what the repository asks of its files beyond lints
    Tidy,
    /// Run what `test` gives the nested host, there; the work comes on standard input
    #[command(hide = true)]
    Battery,
    /// Do on the nested host what `test --linux` does there; the work comes on standard input
    #[command(hide = true)]
    LinuxDialogue,
    /// Do what `stress` does, with vmm-cli as it is; the work comes on standard input
    #[command(hide = true)]
    StressHere,
    /// Do one of the kills of `stress`, on a terminal of its own; the work comes on standard input
    #[command(hide = true)]
    StressKill,
}

fn main() -> ExitCode {
    match perform(Arguments::parse()) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::from(failure.status())
        }
    }
}

/// Performs a task and returns the exit status.
fn perform(arguments: Arguments) -> Result<u8> {
    let Some(task) = arguments.task else {
        let help = Arguments::command().print_help();
        return help.map(|()| 0).map_err(|error| Failure::new(format!("cannot print: {error}")));
    };
    let workspace = Workspace::here();
    match task {
        Task::Run { config, arguments } => run::run(&workspace, &config, &arguments),
        Task::Guests => {
            let built = guests::build(&workspace)?;
            guests::report(&built);
            if built.new == 0 {
                progress::say(format_args!("guests: {} up to date", built.fresh));
            }
            Ok(0)
        }
        Task::Nested { fetch_kernel: true, .. } => nested::fetch_kernel().map(|()| 0),
        Task::Nested { options, command, fetch_kernel: false } => run::nested(&workspace, &options, &command),
        Task::Test { linux: false } => Ok(test::run(&workspace, Vec::new())),
        Task::Test { linux: true } => linux::run(&workspace),
        Task::Dist => dist::run(&workspace),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Stress(options) => stress::run(&workspace, &options),
        Task::Ci => Ok(ci::run(&workspace)),
        Task::Tidy => {
            let breaches = tidy::check(&workspace)?;
            breaches.iter().for_each(|breach| println!("{breach}"));
            Ok(u8::from(!breaches.is_empty()))
        }
        Task::Battery => test::serve().map(|()| 0),
        Task::LinuxDialogue => linux::serve().map(|()| 0),
        Task::StressHere => stress::serve(),
        Task::StressKill => stress::serve_killing().map(|()| 0),
    }
}
