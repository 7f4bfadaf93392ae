//! `cargo xtask run` and `cargo xtask nested`: builds guests and vmm-cli, then runs a configuration or a command.
//!
//! `run` uses this machine's KVM if it supports the configuration, else the nested host.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, FileContext, Result};
use crate::nested::{NestedHost, NestedJob};
use crate::progress::say;
use crate::workspace::{Workspace, plain_path};
use crate::{config_files, guests, interrupt};

/// Exit status of vmm-cli when the host's KVM does not support the configuration.
pub(crate) const STATUS_UNSUPPORTED: i32 = 104;
/// Exit status of vmm-cli when `/dev/kvm` cannot be used.
pub(crate) const STATUS_HOST_ERROR: i32 = 106;

/// Options of `cargo xtask nested`.
#[derive(clap::Args)]
pub(crate) struct NestedOptions {
    /// Stop the nested host after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
    /// Copy this file or directory to the nested host, at the same path
    #[arg(long, value_name = "PATH")]
    with: Vec<PathBuf>,
    /// Read the command's standard input from this file
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Print the nested kernel's messages
    #[arg(long)]
    verbose: bool,
}

/// Runs `cargo xtask run CONFIG [ARGS...]`. Returns the exit status.
pub(crate) fn run(workspace: &Workspace, config: &Path, arguments: &[String]) -> Result<u8> {
    guests::report(&guests::build(workspace)?);
    let cli = workspace.build_cli()?;
    let reason = match kvm_is_usable() {
        Ok(()) => {
            interrupt::install_handler();
            let mut command = Command::new(&cli);
            let status =
                command.arg("run").arg(config).args(arguments).status().while_doing("start", &cli)?;
            match status.code() {
                Some(STATUS_UNSUPPORTED) => "this host's KVM refused it".to_owned(),
                Some(STATUS_HOST_ERROR) => "this host's KVM failed".to_owned(),
                Some(code) => return Ok(u8::try_from(code).unwrap_or(u8::MAX)),
                None => return Err(Failure::new(format!("vmm-cli ended with {status}"))),
            }
        }
        Err(reason) => reason,
    };
    let host = NestedHost::find()?
        .map_err(|missing| Failure::new(format!("{reason}, and {missing}")).with_status(106))?;
    say(format_args!("{reason}: using the nested host"));
    interrupt::install_handler();
    let mut job = nested_job(workspace, cli, vec!["vmm-cli".into(), "run".into()])?;
    job.command.push(config.to_string_lossy().into_owned());
    job.command.extend_from_slice(arguments);
    job.files.extend(config_files::referenced_by(config)?);
    job.input = piped_input()?;
    host.run(&job, to_stdout)
}

/// Runs `cargo xtask nested [--] COMMAND...`. Returns the exit status of the command.
pub(crate) fn nested(workspace: &Workspace, options: &NestedOptions, command: &[String]) -> Result<u8> {
    let host = NestedHost::find()?.map_err(|missing| Failure::new(missing.to_string()).with_status(106))?;
    guests::report(&guests::build(workspace)?);
    let mut job = nested_job(workspace, workspace.build_cli()?, command.to_vec())?;
    // A configuration alone is run with vmm-cli.
    if let Some(config) = command.first().filter(|word| word.ends_with(".toml")) {
        job.files.extend(config_files::referenced_by(Path::new(config))?);
        job.command.splice(0..0, ["vmm-cli".to_owned(), "run".to_owned()]);
    }
    // Files that the command names, such as a kernel, are copied too.
    let named = command.iter().map(Path::new).filter(|path| path.is_file());
    for path in options.with.iter().map(PathBuf::as_path).chain(named) {
        job.files.push(plain_path(path)?);
    }
    if let Some(file) = &options.stdin {
        job.input = std::fs::read(file).while_doing("read", file)?;
    }
    job.time_limit = Duration::from_secs(options.timeout);
    job.verbose = options.verbose;
    interrupt::install_handler();
    host.run(&job, to_stdout)
}

/// Creates a job with vmm-cli, the configurations and the guests, to run in the current directory.
fn nested_job(workspace: &Workspace, cli: PathBuf, command: Vec<String>) -> Result<NestedJob> {
    let directory = std::env::current_dir();
    Ok(NestedJob {
        command,
        directory: directory
            .map_err(|error| Failure::new(format!("cannot find the working directory: {error}")))?,
        programs: vec![cli],
        files: vec![workspace.path("configs"), workspace.path("guests/build")],
        input: Vec::new(),
        time_limit: Duration::from_secs(120),
        verbose: false,
    })
}

/// Checks that `/dev/kvm` exists and can be opened. The error is the reason.
pub(crate) fn kvm_is_usable() -> std::result::Result<(), String> {
    let path = Path::new("/dev/kvm");
    if !path.exists() {
        return Err("there is no /dev/kvm".to_owned());
    }
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map(drop).map_err(|error| format!("cannot use /dev/kvm: {}", error.kind()))
}

/// Reads standard input if it is a pipe or a file.
///
/// Input from a terminal is not supported: the nested host gets all input at its start.
fn piped_input() -> Result<Vec<u8>> {
    let input = Path::new("/dev/stdin");
    let mut bytes = Vec::new();
    let readable = |kind: std::fs::FileType| kind.is_file() || kind.is_fifo();
    if !std::io::stdin().is_terminal() && input.metadata().is_ok_and(|data| readable(data.file_type())) {
        std::io::stdin().lock().read_to_end(&mut bytes).while_doing("read", input)?;
    }
    Ok(bytes)
}

/// Writes bytes to standard output. Errors are ignored, so that the command still runs to its end for its status.
pub(crate) fn to_stdout(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
