//! The command line and its subcommands. Completions and manual pages are made from the same declaration.
//!
//! The options of a subcommand are declared beside it, in `commands/`. Options that several have are in `options.rs`.

use std::ffi::{OsStr, OsString};

use clap::Parser;

use crate::commands::Command;
use crate::commands::run::RunArgs;

/// Runs bare-metal x86 programs on KVM from one TOML file.
#[derive(Debug, Parser)]
#[command(name = "vmm-cli", version, about, max_term_width = 100, after_long_help = STATUSES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command line of `run` without the other subcommands.
#[derive(Debug, Parser)]
struct RunCli {
    #[command(flatten)]
    run: RunArgs,
}

impl Cli {
    /// Parses the command line of this process.
    ///
    /// To declare all subcommands takes as long as half a short run. So `run` is parsed with its own declaration first,
    /// and with a file and no option without any. What that does not accept is parsed with the whole declaration: help
    /// and mistakes look the same everywhere.
    ///
    /// # Errors
    /// Help, the version, or a mistake.
    pub(crate) fn from_env() -> Result<Self, clap::Error> {
        Self::from_arguments(&std::env::args_os().collect::<Vec<_>>())
    }

    fn from_arguments(arguments: &[OsString]) -> Result<Self, clap::Error> {
        let run = match arguments {
            [_, command, file] if command == "run" && is_positional(file) => {
                Some(RunArgs { config: file.into(), ..RunArgs::default() })
            }
            [_, rest @ ..] if rest.first().is_some_and(|command| command == "run") => {
                RunCli::try_parse_from(rest).ok().map(|cli| cli.run)
            }
            _ => None,
        };
        run.map_or_else(|| Self::try_parse_from(arguments), |run| Ok(Self { command: Command::Run(run) }))
    }
}

/// Returns true if an argument is neither an option nor empty.
fn is_positional(argument: &OsStr) -> bool {
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
  106    an error of the host
  130    interrupted";

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
            (shown(Cli::from_arguments(&arguments)), shown(Cli::try_parse_from(&arguments)))
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
