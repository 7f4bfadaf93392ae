//! `vmm-cli test`: runs the cases under some paths and counts the results, or merges reports of such runs.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use crate::help;
use clap::{Args, ValueHint};
use quick_junit::Report;
use regex::Regex;
use vmm_core::kvm_sys_wrap::{Error, Kvm, install_termination_handlers, termination_requested};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::options::Format;
use crate::output_file::OutputFile;
use crate::sandbox::SandboxArgs;
use crate::status::Status;
use crate::stderr;
use crate::stdout;
use crate::suite::case::Case;
use crate::suite::junit::Junit;
use crate::suite::partition::Partition;
use crate::suite::reporter::Reporter;
use crate::suite::shuffle::Seed;
use crate::suite::shuffle::shuffle;
use crate::suite::workers::{self, SuiteEvent, WorkerSettings};
use crate::suite::{discover, json, merge};

const SELECTION: &str = "Selection of cases";
const EXECUTION: &str = "Execution";
const REPORTS: &str = "Reports";

/// Options of `test`.
#[derive(Debug, Args)]
#[command(after_long_help = STATUSES)]
pub(crate) struct TestArgs {
    /// Configurations, and directories to search for them
    #[arg(default_value = ".", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    /// Run only cases whose name matches; can be given several times, then any may match
    #[arg(long, help_heading = SELECTION, value_name = "REGEX")]
    pub(crate) filter: Vec<Regex>,
    /// Run only one of several parts, such as 2/8; hash:2/8 divides the cases by their names
    #[arg(long, help_heading = SELECTION, value_name = "[hash:]PART/PARTS")]
    pub(crate) partition: Option<Partition>,
    /// Show the names of the cases, and run none
    #[arg(long, help_heading = SELECTION)]
    pub(crate) list: bool,
    /// Treat configurations inside ELF files as your own: run those that are found, and let them use any file
    #[arg(long, help_heading = SELECTION)]
    pub(crate) trust_note: bool,
    #[command(flatten)]
    pub(crate) sandbox: SandboxArgs,
    /// Number of cases that run at a time [default: one for each CPU]
    #[arg(long, short, help_heading = EXECUTION, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Run a case that fails up to N times more; a case that then passes is flaky
    #[arg(long, help_heading = EXECUTION, value_name = "N", default_value_t)]
    pub(crate) retry: usize,
    /// Start no more cases after the first failure
    #[arg(long, help_heading = EXECUTION)]
    pub(crate) fail_fast: bool,
    /// Run the cases in another order: a number, or `random`
    #[arg(long, help_heading = EXECUTION, value_name = "SEED")]
    pub(crate) shuffle: Option<Seed>,
    /// Let cases that this host cannot run fail instead of skipping them
    #[arg(long, help_heading = EXECUTION)]
    pub(crate) no_skip: bool,
    /// Write the results to this file as JUnit XML
    #[arg(long, help_heading = REPORTS, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) junit: Option<PathBuf>,
    /// Run nothing, but merge these JUnit reports of partitions
    #[arg(long, help_heading = REPORTS, value_name = "FILE", num_args = 1.., value_hint = ValueHint::FilePath)]
    #[arg(requires = "output", conflicts_with_all = ["paths", "filter", "partition", "list", "junit"])]
    pub(crate) merge: Vec<PathBuf>,
    /// File for the merged report
    #[arg(long, short, help_heading = REPORTS, value_name = "FILE", requires = "merge")]
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Let --junit and --output replace files
    #[arg(long, help_heading = REPORTS)]
    pub(crate) force: bool,
    /// Output format of the results on standard output
    #[arg(long, help_heading = REPORTS, value_enum, default_value_t)]
    pub(crate) format: Format,
}

const STATUSES: &str = "\
Exit status:
  0      every case passed, or was skipped
  103    a case failed
  105    a mistake on the command line, or no case was found
  106    an error of the host: no /dev/kvm, a report that cannot be written
  130    interrupted";

/// Runs `vmm-cli test`.
pub(crate) fn test(args: &TestArgs) -> Result<Status, Diagnostics> {
    if let Some(output) = &args.output {
        let report = merge::read(&args.merge)?;
        let file = OutputFile::create(output, "the report", args.force)?;
        write(&report, file)?;
        let failed = report.failures + report.errors;
        let passed = report.tests.saturating_sub(failed + report.skipped);
        stdout::print(&format!("{passed} passed, {failed} failed, {} skipped\n", report.skipped))?;
        return Ok(if failed == 0 { Status::Success } else { Status::Unexpected });
    }
    let cases = select(args)?;
    if args.list {
        let line = |case: &Case| match args.format {
            Format::Text => format!("{}\n", case.name),
            Format::Json => json::listed(case),
        };
        stdout::print(&cases.iter().map(line).collect::<String>())?;
        return Ok(Status::Success);
    }
    run(args, cases)
}

/// Returns the selected cases in the order in which they are run.
fn select(args: &TestArgs) -> Result<Vec<Case>, Diagnostics> {
    let found = discover::discover(&args.paths, args.trust_note)?;
    if args.format == Format::Text {
        for file in &found.not_tests {
            stderr::print_line(format_args!("note: {} has no [expect], so it is no test", file.display()));
        }
    }
    report_unnamed_notes(args.format, &found.unnamed_notes)?;
    let mut cases = found.cases;
    let count = cases.len();
    let wanted =
        |case: &Case| args.filter.is_empty() || args.filter.iter().any(|filter| filter.is_match(&case.name));
    cases.retain(wanted);
    if cases.is_empty() {
        let (message, help) = match count {
            0 => ("there is no test here".to_owned(), "a test is a configuration with an [expect]"),
            _ => (format!("no case matches, of {count}"), "`vmm-cli test --list` shows their names"),
        };
        return Err(Diagnostic::error(Status::Configuration, message).with_help(Some(help)).into());
    }
    // A part may be empty: there can be more machines than cases.
    if let Some(partition) = args.partition {
        let mut index = 0..;
        cases.retain(|case| index.next().is_some_and(|index| partition.contains(index, &case.name)));
    }
    if let Some(seed) = args.shuffle {
        shuffle(&mut cases, seed);
    }
    Ok(cases)
}

/// Counts and names the ELF files that are not run because only a search found them.
fn report_unnamed_notes(format: Format, files: &[PathBuf]) -> Result<(), Diagnostics> {
    if files.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    match format {
        Format::Json => stdout::print(&json::unnamed_notes(&names))?,
        Format::Text => {
            let (files, were, them) = match names.len() {
                1 => ("file", "was", "it"),
                _ => ("files", "were", "them"),
            };
            stderr::print_line(format_args!(
                "note: {} ELF {files} with a configuration inside {were} not run: {}; name {them}, or use --trust-note",
                names.len(),
                names.join(", ")
            ));
        }
    }
    Ok(())
}

fn run(args: &TestArgs, cases: Vec<Case>) -> Result<Status, Diagnostics> {
    let junit_file =
        args.junit.as_deref().map(|path| OutputFile::create(path, "the report", args.force)).transpose()?;
    // Opened once here, so that a host without KVM is one error and not one for each case.
    args.sandbox.check_host()?;
    let kvm = Kvm::open().map_err(|error| host(&error))?;
    install_termination_handlers().map_err(|error| host(&error))?;
    let settings = WorkerSettings {
        jobs: args.jobs.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
        retries: args.retry,
        fail_fast: args.fail_fast,
        no_skip: args.no_skip,
        sandbox: args.sandbox,
    };
    let mut show = Reporter::new(args.format, cases.len());
    let mut junit = Junit::new(args.junit.as_deref().map(journal).transpose()?.flatten());
    let began = Instant::now();
    let ended = workers::run(kvm, &cases, settings, |event| match event {
        SuiteEvent::Finished(number, ran) => {
            if let Some(case) = cases.get(number) {
                junit.add(number, case, &ran);
                show.finished(case, &ran);
            }
        }
        SuiteEvent::Tick(running) => {
            junit.write_journal();
            let names = running.iter().filter_map(|number| Some(cases.get(*number)?.name.as_str()));
            show.tick(&names.collect::<Vec<_>>());
        }
    });
    ended.map_err(|error| {
        Diagnostic::error(Status::Host, format!("cannot start a worker process: {error}"))
    })?;
    let elapsed = began.elapsed();
    let tally = show.finish(elapsed, args.shuffle)?;
    if let Some(file) = junit_file {
        write(&junit.finish(elapsed)?, file)?;
    }
    Ok(match (termination_requested(), tally.failed) {
        (true, _) => Status::Interrupted,
        (false, 0) => Status::Success,
        (false, _) => Status::Unexpected,
    })
}

/// Creates the journal of a report, a hidden file beside it; none for a special file, such as a pipe.
fn journal(report: &Path) -> Result<Option<OutputFile>, Diagnostic> {
    if report.metadata().is_ok_and(|data| !data.is_file()) {
        return Ok(None);
    }
    let mut name = report.as_os_str().to_owned();
    name.push(".journal");
    OutputFile::create_hidden(Path::new(&name), "the journal of the report", true).map(Some)
}

fn write(report: &Report, file: OutputFile) -> Result<(), Diagnostic> {
    let text = report.to_string().map_err(|error| file.write_error(&error))?;
    file.persist_bytes(text.as_bytes())
}

fn host(error: &Error) -> Diagnostic {
    let mut message = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        message = format!("{message}: {cause}");
    }
    Diagnostic::error(Status::Host, message).with_help(help::for_kvm(error))
}
