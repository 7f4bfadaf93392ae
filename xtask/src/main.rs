//! `cargo xtask`: builds guests, runs configurations, tests and benchmarks, checks repository rules.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod config_files;
mod dist;
mod failure;
mod faults;
mod fuzz;
mod guests;
mod interrupt;
mod linux;
mod nested;
mod package;
mod process;
mod progress;
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
    /// Build guests and vmm-cli, then run a configuration
    ///
    /// It runs on this machine's KVM if that supports the configuration, else on the nested host.
    Run {
        /// Configuration file, such as configs/long.toml
        config: PathBuf,
        /// Arguments for `vmm-cli run`, such as --mode real
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the guests that are not up to date
    Guests,
    /// Run a command or a configuration on the nested host: KVM inside QEMU
    ///
    /// Standard output and standard error of the command are printed on standard output. The exit status is that of the
    /// command, or 124 after the time limit, 125 if the nested host failed, 106 if a part of it is not installed.
    ///
    /// vmm-cli (also in PATH), configs/, guests/build/ and the paths of --with are copied to the nested host and keep their
    /// paths. Files that the command writes are lost.
    Nested {
        #[command(flatten)]
        options: NestedOptions,
        /// Download Debian's kernel package and unpack it into the cache; needs no root
        #[arg(long, conflicts_with_all = ["command", "with", "stdin", "timeout", "verbose"])]
        fetch_kernel: bool,
        /// Command and arguments; a file whose name ends in .toml is run with vmm-cli
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present = "fetch_kernel")]
        command: Vec<String>,
    },
    /// Run all tests: without KVM, on this machine's KVM, and on the nested host
    ///
    /// The last line has the counts. Tests that did not run are counted as skipped and listed with the reason. Each failure
    /// is listed with the command that runs it again.
    Test(test::TestOptions),
    /// Build vmm-cli for installation: static, stripped, with link-time optimization
    Dist,
    /// Measure vmm next to C programs that make the same system calls and nothing else
    Bench(bench::BenchOptions),
    /// Run a machine many times, and kill commands at many random times
    ///
    /// The machine has two vCPUs and timer interrupts. Each run must pass. The commands are `run`, also with reports and with
    /// gdb, `snapshot` and `test`. A kill must leave no process, no raw terminal and no new file, and each file that the command
    /// writes must be the earlier one or complete.
    Stress(stress::StressOptions),
    /// Make each system call of a run fail, in turn, and check how the run ends
    ///
    /// A run must end as without the failure, or with an error that names it; without a panic, a signal, a hang or a file that
    /// is left.
    Faults(faults::FaultsOptions),
    /// Fuzz what comes from guests, files, gdb and other processes, guided by coverage
    ///
    /// Needs a nightly toolchain and cargo-fuzz. The table has the executions of each target; inputs that failed are kept in
    /// target/fuzz/artifacts/.
    Fuzz(fuzz::FuzzOptions),
    /// Check format, lints, tidiness, documentation, packages and dependencies, run Miri, then run all tests
    ///
    /// Dependencies are checked by cargo-deny, and memory accesses by Miri, where these are installed. Otherwise the check is
    /// skipped, with the reason.
    Ci,
    /// Package the crates for publication, and check all targets of the packages
    ///
    /// The packages are in target/packages/package/.
    Package,
    /// Check the repository rules that compiler and lints do not check
    Tidy,
    /// Run one part of another task, usually on the nested host; started by that task
    ///
    /// The work is read from standard input as JSON, and the results are printed as JSON lines.
    #[command(subcommand)]
    Remote(Remote),
}

/// Parts of tasks that run in another process or on the nested host.
#[derive(Subcommand)]
enum Remote {
    /// Run the tests of `test` on this host
    Tests,
    /// Run the machines of `stress` on this host
    Stress,
    /// Perform one kill of `stress`, on a new pseudo-terminal
    Kill,
    /// Boot the Linux kernels of `test --linux`
    Linux,
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

/// Runs a task and returns the exit status.
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
        Task::Test(options) if options.linux => linux::run(&workspace),
        Task::Test(options) => test::run(&workspace, &options, Vec::new()),
        Task::Dist => dist::run(&workspace),
        Task::Bench(options) => bench::run(&workspace, &options),
        Task::Stress(options) => stress::run(&workspace, &options),
        Task::Faults(options) => faults::run(&workspace, &options),
        Task::Fuzz(options) => fuzz::run(&workspace, &options),
        Task::Ci => ci::run(&workspace),
        Task::Package => package::run(&workspace).map(|()| 0),
        Task::Tidy => {
            let violations = tidy::check(&workspace)?;
            violations.iter().for_each(|violation| println!("{violation}"));
            Ok(u8::from(!violations.is_empty()))
        }
        Task::Remote(Remote::Tests) => test::serve().map(|()| 0),
        Task::Remote(Remote::Linux) => linux::serve().map(|()| 0),
        Task::Remote(Remote::Stress) => stress::serve(),
        Task::Remote(Remote::Kill) => stress::serve_kill().map(|()| 0),
    }
}
