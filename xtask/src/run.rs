//! `cargo xtask run` and `cargo xtask nested`: builds what is needed, then runs vmm-cli on a host that can do it.
//!
//! The host is this machine's KVM where it will do; otherwise the nested host, if its packages are here.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::failure::{Failure, Result, While};
use crate::nested::{Job, NestedHost};
use crate::progress::say;
use crate::workspace::{Workspace, plain_path};
use crate::{guests, interrupt, references};

/// vmm-cli's exit status when the host's KVM cannot do what the configuration asks for.
pub(crate) const REFUSED: i32 = 104;
/// vmm-cli's exit status when `/dev/kvm` cannot be used.
pub(crate) const HOST_TROUBLE: i32 = 106;

/// How the nested host is to run a command.
#[derive(clap::Args)]
pub(crate) struct NestedOptions {
    /// Stop the nested host after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) timeout: u64,
    /// Take this file or directory along, at its own path
    #[arg(long, value_name = "PATH")]
    with: Vec<PathBuf>,
    /// Read the command's standard input from this file
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Show the kernel's messages
    #[arg(long)]
    verbose: bool,
}

/// `cargo xtask run CONFIG [ARGS...]`; returns the exit status to end with.
pub(crate) fn run(workspace: &Workspace, config: &Path, arguments: &[String]) -> Result<u8> {
    guests::report(&guests::build(workspace)?);
    let cli = workspace.build_cli()?;
    let reason = match kvm_is_usable() {
        Ok(()) => {
            interrupt::outlive();
            let mut command = Command::new(&cli);
            let status =
                command.arg("run").arg(config).args(arguments).status().while_doing("start", &cli)?;
            match status.code() {
                Some(REFUSED) => "this host's KVM refused it".to_owned(),
                Some(HOST_TROUBLE) => "this host's KVM failed".to_owned(),
                Some(code) => return Ok(u8::try_from(code).unwrap_or(u8::MAX)),
                None => return Err(Failure::new(format!("vmm-cli ended with {status}"))),
            }
        }
        Err(reason) => reason,
    };
    let host = NestedHost::find()?
        .map_err(|missing| Failure::new(format!("{reason}, and {missing}")).with_status(106))?;
    say(format_args!("{reason}: using the nested host"));
    interrupt::outlive();
    let mut job = job(workspace, cli, vec!["vmm-cli".into(), "run".into()])?;
    job.command.push(config.to_string_lossy().into_owned());
    job.command.extend_from_slice(arguments);
    job.files.extend(references::of_config(config)?);
    job.input = piped_input()?;
    host.run(&job, to_stdout)
}

/// `cargo xtask nested [--] COMMAND...`; returns the command's exit status.
pub(crate) fn nested(workspace: &Workspace, options: &NestedOptions, command: &[String]) -> Result<u8> {
    let host = NestedHost::find()?.map_err(|missing| Failure::new(missing.to_string()).with_status(106))?;
    guests::report(&guests::build(workspace)?);
    let mut job = job(workspace, workspace.build_cli()?, command.to_vec())?;
    // A configuration alone stands for the obvious.
    if let Some(config) = command.first().filter(|word| word.ends_with(".toml")) {
        job.files.extend(references::of_config(Path::new(config))?);
        job.command.splice(0..0, ["vmm-cli".to_owned(), "run".to_owned()]);
    }
    // So do files that the command names, such as a kernel.
    let named = command.iter().map(Path::new).filter(|path| path.is_file());
    for path in options.with.iter().map(PathBuf::as_path).chain(named) {
        job.files.push(plain_path(path)?);
    }
    if let Some(file) = &options.stdin {
        job.input = std::fs::read(file).while_doing("read", file)?;
    }
    job.time_limit = Duration::from_secs(options.timeout);
    job.verbose = options.verbose;
    interrupt::outlive();
    host.run(&job, to_stdout)
}

/// A job that has the repository's programs and files and runs in the directory we are in.
fn job(workspace: &Workspace, cli: PathBuf, command: Vec<String>) -> Result<Job> {
    let directory = std::env::current_dir();
    Ok(Job {
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

/// Whether `/dev/kvm` is there and may be used; otherwise why not.
pub(crate) fn kvm_is_usable() -> std::result::Result<(), String> {
    let path = Path::new("/dev/kvm");
    if !path.exists() {
        return Err("there is no /dev/kvm".to_owned());
    }
    let opened = OpenOptions::new().read(true).write(true).open(path);
    opened.map(drop).map_err(|error| format!("cannot use /dev/kvm: {}", error.kind()))
}

/// What comes from a pipe or a file. A terminal's input cannot reach the nested host, which starts with all of it.
fn piped_input() -> Result<Vec<u8>> {
    let input = Path::new("/dev/stdin");
    let mut bytes = Vec::new();
    let readable = |kind: std::fs::FileType| kind.is_file() || kind.is_fifo();
    if !std::io::stdin().is_terminal() && input.metadata().is_ok_and(|data| readable(data.file_type())) {
        std::io::stdin().lock().read_to_end(&mut bytes).while_doing("read", input)?;
    }
    Ok(bytes)
}

/// Passes bytes on. When nobody reads them any more the command still runs to its end, for its status.
pub(crate) fn to_stdout(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
