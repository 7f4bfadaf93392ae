//! The programs that are measured: vmm-cli as it is installed, and the floor under it, C programs with bare ioctls.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Failure, Result, While};
use crate::workspace::Workspace;

/// What the floor programs are made of, in `xtask/bench/`: name, source, guest, and whether it does without a C library.
const FLOORS: [(&str, &str, Option<&str>, bool); 5] = [
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

/// Where the programs are.
pub(super) struct Programs {
    pub(super) cli: PathBuf,
    directory: PathBuf,
}

impl Programs {
    /// Builds the floor programs, to be raced against `cli`.
    pub(super) fn build(workspace: &Workspace, cli: PathBuf) -> Result<Self> {
        let directory = workspace.path("target/bench");
        fs::create_dir_all(&directory).while_doing("create", &directory)?;
        for (name, source, guest, without_libc) in FLOORS {
            let mut arguments: Vec<OsString> = FLAGS.iter().map(Into::into).collect();
            arguments.extend(WITHOUT_LIBC.iter().filter(|_| without_libc).map(Into::into));
            arguments.extend(["-o".into(), directory.join(name).into()]);
            arguments.push(workspace.path("xtask/bench").join(source).into());
            if let Some(guest) = guest {
                let object = directory.join(guest).with_extension("o");
                let source = workspace.path("guests").join(guest).join(guest).with_extension("S");
                let include = workspace.path("guests/include");
                // Its entry may not be called as that of the program.
                let mut compile: Vec<OsString> = ["-c", "-D_start=guest", "-I"].map(Into::into).into();
                compile.extend([include.into(), source.into(), "-o".into(), object.clone().into()]);
                gcc(&compile)?;
                arguments.push(object.into());
            }
            gcc(&arguments)?;
        }
        Ok(Self { cli, directory })
    }

    /// A floor program.
    pub(super) fn floor(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A place for files that a part makes.
    pub(super) fn scratch(&self) -> &Path {
        &self.directory
    }

    /// System calls of one run of a command, and its memory at most, in KiB.
    pub(super) fn probe(&self, run: &Run) -> Result<(u64, u64)> {
        let probe = self.floor("probe");
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
            "cannot start gcc: {error}; the floor needs Debian's packages gcc and libc6-dev"
        ))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("gcc for the floor ended with {}\n{errors}", output.status)))
}

/// A command to time.
#[derive(Debug, Clone)]
pub(super) struct Run {
    program: PathBuf,
    arguments: Vec<String>,
    /// The exit status of a good run.
    status: i32,
}

impl Run {
    pub(super) fn new<S: Into<String>>(
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self { program: program.into(), arguments, status: 0 }
    }

    /// The same where another status is the good one.
    pub(super) fn ending_with(self, status: i32) -> Self {
        Self { status, ..self }
    }

    /// Seconds from start to exit. Its output goes to a device that takes everything.
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
