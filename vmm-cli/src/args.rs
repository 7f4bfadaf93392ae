//! The command line, as clap sees it. Completions and the manual page are made from the same declaration.

mod bench;
mod inspect;
mod test;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub(crate) use bench::BenchArgs;
pub(crate) use inspect::{DumpArgs, InspectArgs, PagesArgs, SnapshotArgs, StopAt, TranslateArgs};
pub(crate) use test::TestArgs;

/// Runs bare-metal x86 programs on KVM from one TOML file.
#[derive(Debug, Parser)]
#[command(name = "vmm-cli", version, about, max_term_width = 100, after_long_help = STATUSES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// `run` alone.
#[derive(Debug, Parser)]
struct RunCli {
    #[command(flatten)]
    run: RunArgs,
}

impl Cli {
    /// Reads the command line.
    ///
    /// To declare all subcommands takes as long as half a short run. So `run` is tried with its own declaration first, and with
    /// a file and nothing else there is nothing to declare. What that does not take is read with the whole: help and
    /// mistakes look the same everywhere.
    ///
    /// # Errors
    /// Help, the version, or a mistake.
    pub(crate) fn read() -> Result<Self, clap::Error> {
        Self::read_from(&std::env::args_os().collect::<Vec<_>>())
    }

    fn read_from(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let run = match arguments {
            [_, command, file] if command == "run" && is_file(file) => {
                Some(RunArgs { config: file.into(), ..RunArgs::default() })
            }
            [_, rest @ ..] if rest.first().is_some_and(|command| command == "run") => {
                RunCli::try_parse_from(rest).ok().map(|alone| alone.run)
            }
            _ => None,
        };
        run.map_or_else(|| Self::try_parse_from(arguments), |run| Ok(Self { command: Command::Run(run) }))
    }
}

/// Whether an argument is no option, and not missing.
fn is_file(argument: &OsStr) -> bool {
    !argument.is_empty() && !argument.as_encoded_bytes().starts_with(b"-")
}

const STATUSES: &str = "\
Exit status:
  0      the guest halted or ended with code 0; with [expect], every line of it was met
  1-99   the guest's own exit code (higher codes are reported as 99)
  100    the guest crashed
  101    a bug in vmm-cli
  102    the guest hung: a limit passed, or it halted where halt = \"hung\"
  103    [expect] was not met
  104    this host's KVM cannot do what was asked
  105    a mistake in the configuration, the guest file or the command line
  106    trouble on the host
  130    interrupted";

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the guest of a configuration
    Run(RunArgs),
    /// Run all configurations with an [expect] as tests, in parallel
    Test(TestArgs),
    /// Run one guest many times, and show how its times are distributed
    Bench(BenchArgs),
    /// Check configurations and their guest files without KVM
    Check(CheckArgs),
    /// Warn about what always kills a guest: its entry, its stack, SSE that is off
    Preflight(PreflightArgs),
    /// Show all that a run will do and set up, without KVM
    Explain(ExplainArgs),
    /// Look addresses up in the guest's page tables, level by level
    Translate(TranslateArgs),
    /// Show all that the guest's page tables map, and what is odd there
    Pages(PagesArgs),
    /// Show or save guest memory
    Dump(DumpArgs),
    /// Run a guest up to a point and save the whole machine, for `run --from`
    Snapshot(SnapshotArgs),
    /// Show whether KVM works here, and which CPU modes
    Doctor(DoctorArgs),
    /// Write a commented configuration to start from
    Init(InitArgs),
    /// Print the JSON schema of configurations, for editors
    Schema,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or that of a subcommand
    Man {
        /// The subcommand
        subcommand: Option<String>,
    },
}

/// Options of `run`.
#[derive(Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// The configuration, or a kernel that needs none
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// Go on from this snapshot of the same machine
    #[arg(long, value_name = "SNAPSHOT", value_hint = ValueHint::FilePath, conflicts_with = "gdb")]
    pub(crate) from: Option<PathBuf>,
    /// Write how the run ended to this file, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) report: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trace: crate::trace::TraceArgs,
    /// Let --report, --trace-out and --core replace files
    #[arg(long)]
    pub(crate) force: bool,
    /// Write registers and all memory at the end to this ELF core file, for gdb
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) core: Option<PathBuf>,
    /// Let gdb run the guest: wait for it at this address, or on this Unix socket
    #[arg(long, value_name = "ADDR|PATH", num_args = 0..=1, default_missing_value = crate::gdb::DEFAULT_ADDRESS)]
    #[arg(conflicts_with_all = ["trace", "trace_out", "stats"])]
    pub(crate) gdb: Option<String>,
    /// Do not look into why a guest died
    #[arg(long)]
    pub(crate) no_autopsy: bool,
    /// Show where the time of this run went
    #[arg(long, conflicts_with_all = ["trace", "trace_out", "stats", "gdb"])]
    pub(crate) timing: bool,
    /// How errors are shown on standard error
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Options of `check`.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configurations
    #[arg(required = true, value_hint = ValueHint::FilePath)]
    pub(crate) configs: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// Also show what is loaded, and what lies where in the guest's memory
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Options of `preflight`.
#[derive(Debug, Args)]
pub(crate) struct PreflightArgs {
    /// The configuration
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Options of `explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The configuration
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) overrides: OverrideArgs,
    /// Draw memory map and flow into this file instead, as SVG; never over a file that exists
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) svg: Option<PathBuf>,
    /// Let --svg replace a file
    #[arg(long, requires = "svg")]
    pub(crate) force: bool,
    /// Show only what is different in this configuration, to which --set and --mode do not apply
    #[arg(long, value_name = "OTHER", value_hint = ValueHint::FilePath, conflicts_with = "svg")]
    pub(crate) diff: Option<PathBuf>,
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How the result is shown
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// Options of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The file to write; never one that exists
    #[arg(default_value = "vmm.toml", value_hint = ValueHint::FilePath)]
    pub(crate) file: PathBuf,
}

/// Values that replace those of the file.
#[derive(Debug, Default, Args)]
pub(crate) struct OverrideArgs {
    /// Set a key of the configuration, such as memory.size=4MiB; can be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The CPU mode: real, protected, paged, pae or long
    #[arg(long)]
    mode: Option<String>,
    /// How the guest is started: elf, multiboot, multiboot2, pvh, linux, flat or boot-sector
    #[arg(long, value_name = "PROTOCOL")]
    boot: Option<String>,
    /// The size of the memory, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// The number of vCPUs
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<String>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Linux' initial ramdisk; the first module of other kernels
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    initrd: Option<String>,
    /// A module for the kernel, and its own command line; can be given several times
    #[arg(long, value_name = "FILE[=CMDLINE]", value_hint = ValueHint::FilePath)]
    module: Vec<String>,
    /// The time limit, such as 500ms or 10s
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
}

impl OverrideArgs {
    /// In the form that the configuration takes them.
    pub(crate) fn to_overrides(&self) -> crate::config::Overrides {
        let mut overrides = crate::config::Overrides::new();
        for assignment in &self.set {
            overrides.set(assignment);
        }
        if let Some(mode) = &self.mode {
            overrides.mode(mode);
        }
        if let Some(name) = &self.boot {
            overrides.boot(name);
        }
        if let Some(size) = &self.memory {
            overrides.memory(size);
        }
        if let Some(number) = &self.cpus {
            overrides.cpus(number);
        }
        if let Some(text) = &self.cmdline {
            overrides.command_line(text);
        }
        if let Some(file) = &self.initrd {
            overrides.initrd(file);
        }
        for module in &self.module {
            overrides.module(module);
        }
        if let Some(time) = &self.timeout {
            overrides.timeout(time);
        }
        overrides
    }
}

/// For people or for programs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_is_read_as_it_was_declared() {
        let read = |arguments: &[&str]| {
            let arguments: Vec<OsString> =
                ["vmm-cli", "run"].iter().chain(arguments).map(Into::into).collect();
            let shown =
                |cli: Result<Cli, clap::Error>| format!("{:?}", cli.map_err(|error| error.to_string()));
            (shown(Cli::read_from(&arguments)), shown(Cli::try_parse_from(&arguments)))
        };
        for (arguments, good) in [
            (&["a.toml"][..], true),
            (&["help"], true),
            (&["a=b"], true),
            (&["a", "--set", "ring=3", "--stats"], true),
            (&["--timing", "a"], true),
            (&[], false),
            (&[""], false),
            (&["-x"], false),
            (&["--help"], false),
            (&["--version"], false),
            (&["a", "b"], false),
            (&["a", "--timing", "--stats"], false),
        ] {
            let (short, declared) = read(arguments);
            assert_eq!((short.starts_with("Ok"), &short), (good, &declared), "{arguments:?}");
        }
    }
}
