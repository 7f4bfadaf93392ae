//! `cargo xtask fuzz`: coverage-guided fuzzing of the targets in `vmm-loader/fuzz`, `vmm-core/fuzz` and `vmm-cli/fuzz`.
//!
//! cargo-fuzz builds the targets with a nightly toolchain, into one directory for all crates. Each runs alone, on one CPU, from the
//! corpus of the repository and from inputs that earlier runs found (`target/fuzz/corpus`). Without `--sanitizer` a run is about
//! three times faster: all crates but kvm-sys-wrap forbid `unsafe`.

mod corpus;
mod statistics;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::ValueEnum;

use crate::failure::{Failure, FileContext, Result};
use crate::interrupt;
use crate::process::quote;
use crate::progress::{say, seconds};
use crate::workspace::Workspace;
use statistics::RunStatistics;

/// Crates with fuzz targets.
const CRATES: [&str; 3] = ["vmm-loader", "vmm-core", "vmm-cli"];
/// Host triple that the targets are built for.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Default time of each target in seconds.
const DEFAULT_SECONDS: u64 = 60;
/// Maximum time of one execution in seconds; a longer one is a finding.
const EXECUTION_TIMEOUT: u64 = 10;
/// Maximum memory of a target in MiB; more is a finding.
const MAX_MEMORY: u64 = 1024;

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub(crate) struct FuzzOptions {
    /// Targets to run, such as elf; all of them by default
    targets: Vec<String>,
    /// Number of executions of each target
    #[arg(long, value_name = "N")]
    runs: Option<u64>,
    /// Time of each target in seconds; 60 by default
    #[arg(long, value_name = "SECONDS", conflicts_with = "runs")]
    time: Option<u64>,
    /// Replace the corpus of each target in the repository by a few small inputs that cover as much of the code as all inputs
    #[arg(long)]
    minimise: bool,
    /// Sanitizer of the build; several times slower
    #[arg(long, value_enum, default_value_t = Sanitizer::None)]
    sanitizer: Sanitizer,
    /// List the targets
    #[arg(long, conflicts_with_all = ["targets", "runs", "time", "minimise"])]
    list: bool,
}

/// Sanitizer of rustc.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sanitizer {
    None,
    Address,
}

impl Sanitizer {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Address => "address",
        }
    }
}

/// Fuzz target of a crate.
struct FuzzTarget {
    package: &'static str,
    name: String,
}

/// Result of a target.
struct TargetResult {
    target: FuzzTarget,
    statistics: RunStatistics,
    /// Files of inputs that failed.
    findings: Vec<PathBuf>,
    /// Number and total size of the files in the repository's corpus.
    corpus: (usize, u64),
}

/// Runs the targets and prints a table. Returns the exit status: 1 if there are findings.
pub(crate) fn run(workspace: &Workspace, options: &FuzzOptions) -> Result<u8> {
    let targets = selected(all_targets(workspace)?, &options.targets)?;
    if options.list {
        targets.iter().for_each(|target| println!("{}/{}", target.package, target.name));
        return Ok(0);
    }
    check_tools()?;
    interrupt::install_handler();
    let fuzzing = Fuzzing { workspace, options, directory: workspace.path("target/fuzz") };
    for package in CRATES {
        let names: Vec<&str> = targets
            .iter()
            .filter(|target| target.package == package)
            .map(|target| target.name.as_str())
            .collect();
        if !names.is_empty() {
            fuzzing.build(package, &names)?;
        }
    }
    let mut results = Vec::new();
    for target in targets {
        if interrupt::requested() {
            break;
        }
        results.push(fuzzing.run_target(target)?);
    }
    print_table(&results);
    let has_findings = results.iter().any(|result| !result.findings.is_empty());
    Ok(if interrupt::requested() { interrupt::EXIT_STATUS } else { u8::from(has_findings) })
}

/// Returns the targets of all crates: the files in their `fuzz/fuzz_targets`.
fn all_targets(workspace: &Workspace) -> Result<Vec<FuzzTarget>> {
    let mut targets = Vec::new();
    for package in CRATES {
        let directory = workspace.path(package).join("fuzz/fuzz_targets");
        let mut names = Vec::new();
        for entry in directory.read_dir().while_doing("list", &directory)? {
            let path = entry.while_doing("list", &directory)?.path();
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
        names.sort();
        targets.extend(names.into_iter().map(|name| FuzzTarget { package, name }));
    }
    Ok(targets)
}

/// Returns the targets with these names, or all if there are none.
fn selected(all: Vec<FuzzTarget>, names: &[String]) -> Result<Vec<FuzzTarget>> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|target| target.name != **name)) {
        let known: Vec<&str> = all.iter().map(|target| target.name.as_str()).collect();
        return Err(Failure::new(format!("no fuzz target `{unknown}`: there are {}", known.join(", "))));
    }
    Ok(all.into_iter().filter(|target| names.is_empty() || names.contains(&target.name)).collect())
}

/// Checks that a nightly toolchain and cargo-fuzz are installed.
fn check_tools() -> Result<()> {
    for (arguments, missing) in [
        (["+nightly", "--version"], "no nightly toolchain: `rustup toolchain install nightly`"),
        (["fuzz", "--version"], "no cargo-fuzz: `cargo install cargo-fuzz`"),
    ] {
        let found = cargo().args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(Failure::new(missing).with_status(106));
        }
    }
    Ok(())
}

/// Returns a command for rustup's cargo, which takes `+nightly`. The one that runs xtask is that of a toolchain.
fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    for variable in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTDOC"] {
        cargo.env_remove(variable);
    }
    cargo.stdin(Stdio::null());
    cargo
}

/// Builds and runs targets with the same options.
struct Fuzzing<'a> {
    workspace: &'a Workspace,
    options: &'a FuzzOptions,
    /// Directory of everything that is made.
    directory: PathBuf,
}

impl Fuzzing<'_> {
    /// Builds targets of one crate.
    fn build(&self, package: &str, names: &[&str]) -> Result<()> {
        say(format_args!("fuzz: building {package}"));
        let crate_directory = self.workspace.path(package);
        // The dependencies are those of the repository.
        let (lock, own_lock) = (self.workspace.path("Cargo.lock"), crate_directory.join("fuzz/Cargo.lock"));
        if !own_lock.exists() {
            fs::copy(&lock, &own_lock).while_doing("copy", &lock)?;
        }
        // cargo-fuzz builds one target or all.
        let names = if let [one] = names { vec![*one] } else { Vec::new() };
        let mut build = cargo();
        build.current_dir(crate_directory).args(["+nightly", "fuzz", "build"]).args(names);
        build
            .args(["--sanitizer", self.options.sanitizer.name(), "--target-dir"])
            .arg(self.build_directory());
        let status = build.status().map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
        if status.success() { Ok(()) } else { Err(Failure::new(format!("cargo-fuzz ended with {status}"))) }
    }

    fn build_directory(&self) -> PathBuf {
        self.directory.join("build").join(self.options.sanitizer.name())
    }

    fn program(&self, target: &FuzzTarget) -> PathBuf {
        self.build_directory().join(TRIPLE).join("release").join(&target.name)
    }

    /// Runs a target until its runs or its time are over, or an input fails.
    fn run_target(&self, target: FuzzTarget) -> Result<TargetResult> {
        let own = self.workspace.path(target.package).join("fuzz/corpus").join(&target.name);
        let (found, artifacts) = (self.made("corpus", &target)?, self.made("artifacts", &target)?);
        let before = files(&artifacts)?;
        let log = self.directory.join("logs").join(format!("{}.log", target.name));
        fs::create_dir_all(self.directory.join("logs")).while_doing("create", &log)?;
        let log_file = fs::File::create(&log).while_doing("create", &log)?;
        say(format_args!("fuzz: {}, log in {}", target.name, self.workspace.relative(&log).display()));

        let limit = match (self.options.runs, self.options.time.unwrap_or(DEFAULT_SECONDS)) {
            (Some(runs), _) => format!("-runs={runs}"),
            (None, time) => format!("-max_total_time={time}"),
        };
        let mut command = self.fuzzer(&target);
        command.arg(&found).args(own.is_dir().then_some(&own)).arg(limit);
        command.arg(format!("-timeout={EXECUTION_TIMEOUT}")).arg(format!("-rss_limit_mb={MAX_MEMORY}"));
        command.arg(format!("-artifact_prefix={}/", artifacts.display())).arg("-print_final_stats=1");
        let dictionary =
            self.workspace.path(target.package).join("fuzz").join(format!("{}.dict", target.name));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        let start = Instant::now();
        let status = command.stdout(Stdio::null()).stderr(log_file).status();
        let status = status.while_doing("start", &self.program(&target))?;
        let text = fs::read(&log).while_doing("read", &log)?;
        let statistics = RunStatistics::from_log(&String::from_utf8_lossy(&text), start.elapsed());

        let findings: Vec<PathBuf> =
            files(&artifacts)?.into_iter().filter(|file| !before.contains(file)).collect();
        for finding in &findings {
            let program = self.program(&target);
            let shown =
                [&program, finding].map(|path| quote(&self.workspace.relative(path).display().to_string()));
            say(format_args!("fuzz: {}: an input failed; again: {}", target.name, shown.join(" ")));
        }
        if !status.success() && findings.is_empty() && !interrupt::requested() {
            return Err(Failure::new(format!("{} ended with {status}: see {}", target.name, log.display())));
        }
        if self.options.minimise && findings.is_empty() && !interrupt::requested() {
            self.minimise(&target, &own, &found)?;
        }
        let corpus = corpus::size(&own)?;
        Ok(TargetResult { target, statistics, findings, corpus })
    }

    fn fuzzer(&self, target: &FuzzTarget) -> Command {
        let mut command = Command::new(self.program(target));
        command.stdin(Stdio::null());
        // Disks of virtio devices write to unnamed files, which are faster in memory.
        if Path::new("/dev/shm").is_dir() {
            command.env("TMPDIR", "/dev/shm");
        }
        command
    }

    /// Replaces the target's corpus in the repository by some of all inputs.
    fn minimise(&self, target: &FuzzTarget, own: &Path, found: &Path) -> Result<()> {
        let merged = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
        let control = merged.path().join("control");
        let output = merged.path().join("corpus");
        fs::create_dir(&output).while_doing("create", &output)?;
        let mut command = self.fuzzer(target);
        command.arg("-set_cover_merge=1").arg(format!("-merge_control_file={}", control.display()));
        command.arg(&output).arg(found).args(own.is_dir().then_some(own));
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let status = status.while_doing("start", &self.program(target))?;
        if !status.success() {
            return Err(Failure::new(format!("{} cannot merge its corpus: {status}", target.name)));
        }
        let text = fs::read_to_string(&control).while_doing("read", &control)?;
        corpus::replace(own, &corpus::select(&text))
    }

    /// Returns the directory of one target for things of a kind, and creates it.
    fn made(&self, kind: &str, target: &FuzzTarget) -> Result<PathBuf> {
        let directory = self.directory.join(kind).join(&target.name);
        fs::create_dir_all(&directory).while_doing("create", &directory)?;
        Ok(directory)
    }
}

/// Returns the files in a directory.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = directory.read_dir().while_doing("list", directory)?;
    entries.map(|entry| entry.map(|entry| entry.path()).while_doing("list", directory)).collect()
}

fn print_table(results: &[TargetResult]) {
    println!(
        "{:<14} {:>13} {:>10} {:>10} {:>16} {:>8}",
        "target", "executions", "time", "exec/s", "corpus", "findings"
    );
    let mut total = 0_u64;
    for TargetResult { target, statistics, findings, corpus: (count, size) } in results {
        let RunStatistics { executions, elapsed } = statistics;
        let corpus = format!("{count} in {} KiB", size.div_ceil(1024));
        println!(
            "{:<14} {executions:>13} {:>10} {:>10} {corpus:>16} {:>8}",
            target.name,
            seconds(*elapsed),
            statistics.per_second(),
            findings.len()
        );
        total = total.saturating_add(*executions);
    }
    println!("{:<14} {total:>13}", "total");
}
