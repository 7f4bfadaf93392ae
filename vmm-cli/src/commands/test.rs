//! `vmm-cli test`: the cases under some paths, run and counted; or the reports of several such runs, merged.

use std::io::Write;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Instant;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::help;
use crate::status::Status;
use crate::stderr;
use kvm_sys_wrap::{Error, Kvm, install_termination_handlers, termination_requested};
use quick_junit::Report;

use super::print;
use crate::args::{Format, TestArgs};
use crate::new_file::NewFile;
use crate::suite::case::Case;
use crate::suite::junit::Junit;
use crate::suite::reporter::Reporter;
use crate::suite::shuffle::shuffle;
use crate::suite::workers::{self, SuiteEvent, WorkerSettings};
use crate::suite::{discover, json, merge};

pub(crate) fn test(options: &TestArgs) -> Result<Status, Diagnostics> {
    if let Some(output) = &options.output {
        let report = merge::read(&options.merge)?;
        let file = NewFile::create(output, "the report", options.force)?;
        write(&report, file)?;
        let failed = report.failures + report.errors;
        let passed = report.tests.saturating_sub(failed + report.skipped);
        print::out(&format!("{passed} passed, {failed} failed, {} skipped\n", report.skipped))?;
        return Ok(if failed == 0 { Status::Success } else { Status::Unexpected });
    }
    let cases = select(options)?;
    if options.list {
        let line = |case: &Case| match options.format {
            Format::Text => format!("{}\n", case.name),
            Format::Json => json::listed(case),
        };
        print::out(&cases.iter().map(line).collect::<String>())?;
        return Ok(Status::Success);
    }
    run(options, cases)
}

/// The cases that are asked for, in the order in which they are to be run.
fn select(options: &TestArgs) -> Result<Vec<Case>, Diagnostics> {
    let found = discover::discover(&options.paths)?;
    if options.format == Format::Text {
        for file in &found.not_tests {
            stderr::print_line(format_args!("note: {} has no [expect], so it is no test", file.display()));
        }
    }
    let mut cases = found.cases;
    let count = cases.len();
    let wanted = |case: &Case| {
        options.filter.is_empty() || options.filter.iter().any(|filter| filter.is_match(&case.name))
    };
    cases.retain(wanted);
    if cases.is_empty() {
        let (message, help) = match count {
            0 => ("there is no test here".to_owned(), "a test is a configuration with an [expect]"),
            _ => (format!("no case matches, of {count}"), "`vmm-cli test --list` shows their names"),
        };
        return Err(Diagnostic::error(Status::Configuration, message).with_help(Some(help)).into());
    }
    // A part may well be empty: there can be more machines than cases.
    if let Some(partition) = options.partition {
        let mut index = 0..;
        cases.retain(|case| index.next().is_some_and(|index| partition.holds(index, &case.name)));
    }
    if let Some(seed) = options.shuffle {
        shuffle(&mut cases, seed);
    }
    Ok(cases)
}

fn run(options: &TestArgs, cases: Vec<Case>) -> Result<Status, Diagnostics> {
    let junit_file = options
        .junit
        .as_deref()
        .map(|path| NewFile::create(path, "the report", options.force))
        .transpose()?;
    // A host without KVM is one trouble, and not one for each case.
    let kvm = Kvm::open().map_err(|error| host(&error))?;
    install_termination_handlers().map_err(|error| host(&error))?;
    let settings = WorkerSettings {
        jobs: options.jobs.or_else(|| thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
        retries: options.retry,
        fail_fast: options.fail_fast,
        no_skip: options.no_skip,
    };
    let mut show = Reporter::new(options.format, cases.len());
    let mut junit = Junit::default();
    let began = Instant::now();
    let ended = workers::run(kvm, cases, settings, |cases, event| {
        let case = match event {
            SuiteEvent::Started(number) | SuiteEvent::Finished(number, _) => cases.get(number),
            SuiteEvent::Tick => None,
        };
        if let (SuiteEvent::Finished(number, ran), Some(case)) = (&event, case) {
            junit.add(*number, case, ran);
        }
        show.report(case, &event);
    });
    ended.map_err(|error| Diagnostic::error(Status::Host, format!("cannot start a thread: {error}")))?;
    let elapsed = began.elapsed();
    let tally = show.finish(elapsed, options.shuffle)?;
    if let Some(file) = junit_file {
        write(&junit.finish(elapsed), file)?;
    }
    Ok(match (termination_requested(), tally.failed) {
        (true, _) => Status::Interrupted,
        (false, 0) => Status::Success,
        (false, _) => Status::Unexpected,
    })
}

fn write(report: &Report, mut file: NewFile) -> Result<(), Diagnostic> {
    let text = report.to_string().map_err(|error| file.trouble(&error))?;
    let written = file.file().write_all(text.as_bytes());
    written.map_err(|error| file.trouble(&error))?;
    file.keep();
    Ok(())
}

fn host(error: &Error) -> Diagnostic {
    let mut message = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        message = format!("{message}: {cause}");
    }
    Diagnostic::error(Status::Host, message).with_help(help::for_kvm(error))
}
