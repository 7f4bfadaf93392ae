//! Measured programs: vmm-cli, and the baseline programs in C with bare ioctls.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Failure, FileContext, Result};
use crate::workspace::Workspace;

/// Baseline programs in `xtask/bench/`: name, source, guest, and true if it is built without a C library.
const BASELINES: [(&str, &str, Option<&str>, bool); 5] = [
    ("start", "start.c", Some("bench-hello"), false),
    ("start-bare", "start.c", Some("bench-hello"), true),
    ("exits", "exits.c", Some("bench-exits"), false),
    ("load", "load.c", Some("bench-touch"), false),
    ("probe", "probe.c", None, false),
];

const FLAGS: [&str; 7] =
    ["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result", "-Wl,-z,noexecstack"];
const WITHOUT_LIBC: [&str; 5] =
    ["-DNO_LIBC", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fcf-protection=none"];

/// Paths of the measured programs.
pub(super) struct BenchPrograms {
    pub(super) cli: PathBuf,
    directory: PathBuf,
}

impl BenchPrograms {
    /// Builds the baseline programs, to be compared with `cli`.
    pub(super) fn build(workspace: &Workspace, cli: PathBuf) -> Result<Self> {
        let directory = workspace.path("target/bench");
        fs::create_dir_all(&directory).while_doing("create", &directory)?;
        for (name, source, guest, without_libc) in BASELINES {
            let mut arguments: Vec<OsString> = FLAGS.iter().map(Into::into).collect();
            arguments.extend(WITHOUT_LIBC.iter().filter(|_| without_libc).map(Into::into));
            arguments.extend(["-o".into(), directory.join(name).into()]);
            arguments.push(workspace.path("xtask/bench").join(source).into());
            if let Some(guest) = guest {
                let object = directory.join(guest).with_extension("o");
                let source = workspace.path("guests").join(guest).join(guest).with_extension("S");
                let include = workspace.path("guests/include");
                // The entry symbol must differ from that of the program.
                let mut compile: Vec<OsString> = ["-c", "-D_start=guest", "-I"].map(Into::into).into();
                compile.extend([include.into(), source.into(), "-o".into(), object.clone().into()]);
                gcc(&compile)?;
                arguments.push(object.into());
            }
            gcc(&arguments)?;
        }
        Ok(Self { cli, directory })
    }

    /// Returns the path of a baseline program.
    pub(super) fn baseline(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Returns the directory for files that the parts generate.
    pub(super) fn scratch(&self) -> &Path {
        &self.directory
    }

    /// Returns the number of system calls of one run of a command, and its peak resident memory in KiB.
    pub(super) fn probe(&self, run: &TimedCommand) -> Result<(u64, u64)> {
        let probe = self.baseline("probe");
        let mut command = Command::new(&probe);
        command.arg(&run.program).args(&run.arguments).stdin(Stdio::null()).stdout(Stdio::null());
        let output = command.output().while_doing("start", &probe)?;
        let text = String::from_utf8_lossy(&output.stderr);
        let numbers: Option<Vec<u64>> = text
            .lines()
            .next_back()
            .map(|line| line.split(' ').filter_map(|word| word.parse().ok()).collect());
        match numbers.as_deref() {
            Some([calls, peak]) if output.status.code() == Some(run.status) => Ok((*calls, *peak)),
            _ => Err(Failure::new(format!(
                "{}, traced, ended with {}\n{text}",
                run.program.display(),
                output.status
            ))),
        }
    }
}

fn gcc(arguments: &[OsString]) -> Result<()> {
    let output = Command::new("gcc").args(arguments).output().map_err(|error| {
        Failure::new(format!(
            "cannot start gcc: {error}; the baseline needs Debian's packages gcc and libc6-dev"
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("gcc for the baseline ended with {}\n{errors}", output.status)))
}

/// A command to measure.
#[derive(Debug, Clone)]
pub(super) struct TimedCommand {
    program: PathBuf,
    arguments: Vec<String>,
    /// Exit status of a successful run.
    status: i32,
}

impl TimedCommand {
    pub(super) fn new<S: Into<String>>(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self { program: program.into(), arguments, status: 0 }
    }

    /// Sets the exit status of a successful run.
    pub(super) fn with_status(self, status: i32) -> Self {
        Self { status, ..self }
    }

    /// Runs the command and returns the seconds from start to exit. Its output goes to `/dev/null`.
    pub(super) fn time(&self) -> Result<f64> {
        let null = Path::new("/dev/null");
        let output = File::options().read(true).write(true).open(null).while_doing("open", null)?;
        let clone = || output.try_clone().while_doing("open", null);
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(clone()?).stdout(clone()?).stderr(clone()?);
        let started = Instant::now();
        let status = command.status().while_doing("start", &self.program)?;
        let seconds = started.elapsed().as_secs_f64();
        if status.code() == Some(self.status) {
            return Ok(seconds);
        }
        let arguments = self.arguments.join(" ");
        Err(Failure::new(format!("{} {arguments} ended with {status}", self.program.display())))
    }
}
