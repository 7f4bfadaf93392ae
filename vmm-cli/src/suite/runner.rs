//! Runs one case once: builds or resets its machine, runs it and evaluates the run.
//!
//! All of it happens on the calling thread, since a time limit is a timer of the thread that runs the vCPU. The guest's
//! output goes to a buffer.

use vmm_core::devices::console::{Console, Output};
use vmm_core::machine::Machine;
use vmm_core::machine::end::Verdict;
use vmm_core::machine::error::Error;
use vmm_core::record::Recording;
use vmm_core::spec::host_file::HostFileError;

use super::boot_snapshot::Fixture;
use super::case::Case;
use super::case_output::CaseOutput;
use super::case_setup::{apply_to_snapshot, apply_to_spec};
use super::input;
use super::outcome::{CaseFailure, CaseRun};
use super::panic_capture::catch_panic;
use super::resources::Resources;
use crate::config::{Config, note};
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::machine_error::machine_error;
use crate::report::Report;
use crate::status::Status;
use crate::verdict::{FinishedRun, evaluate, is_as_expected};

/// Machine of a case, with the output of its guest.
#[derive(Debug)]
pub(super) struct CaseMachine {
    pub(super) machine: Machine,
    output: CaseOutput,
    /// True if the case has run, and the machine can be reset for another case of the fixture.
    pub(super) can_be_reset: bool,
}

/// Builds the machine of a case.
///
/// # Errors
/// The result of the case, where there is no machine or a panic.
pub(super) fn build(case: &Case, fixture: &Fixture, resources: &Resources) -> Result<CaseMachine, CaseRun> {
    caught(|| try_build(case, fixture, resources))
}

/// Resets a machine that has run for a case without input.
///
/// # Errors
/// The result of the case, where that fails.
pub(super) fn reset(case: &Case, fixture: &Fixture, used: CaseMachine) -> Result<CaseMachine, CaseRun> {
    caught(|| try_reset(case, fixture, used))
}

/// Runs a case. Returns the machine with the result, unless there was an error of the host or a panic.
pub(super) fn run_case(
    case: &Case,
    fixture: &Fixture,
    machine: CaseMachine,
) -> (CaseRun, Option<CaseMachine>) {
    match caught(|| try_run(case, fixture, machine)) {
        Ok((run, machine)) => (run, Some(machine)),
        Err(run) => (run, None),
    }
}

/// Does a part of a case. Errors and panics are its result.
pub(super) fn caught<T>(part: impl FnOnce() -> Result<T, Diagnostics>) -> Result<T, CaseRun> {
    match catch_panic(part) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(problems)) if problems.status() == Status::Refused => {
            let problem = problems.0.into_iter().next();
            Err(CaseRun::Skipped(problem.map(|problem| problem.message).unwrap_or_default()))
        }
        Ok(Err(problems)) => Err(CaseFailure::from(problems).into()),
        Err(words) => Err(CaseFailure::from_panic(&words).into()),
    }
}

/// Returns the input of the case, if the configuration has it.
pub(super) fn typed<'a>(case: &Case, fixture: &'a Fixture) -> Option<&'a str> {
    case.test(&fixture.config)?.input.as_deref()
}

fn try_build(case: &Case, fixture: &Fixture, resources: &Resources) -> Result<CaseMachine, Diagnostics> {
    let Fixture { config, prepared, boot_snapshot: booted, .. } = fixture;
    let (test, files) = (case.test(config), &prepared.files);
    let output = CaseOutput::new(config.expect.as_ref().is_some_and(|expect| expect.checks_output()));
    let console = console(config, typed(case, fixture), &output)?;
    let machine = if let Some(booted) = booted {
        output.add(&booted.printed);
        apply_to_snapshot(config, &booted.snapshot, files, test)?.machine(resources.kvm(), console)
    } else {
        let mut spec = prepared.machine.clone();
        apply_to_spec(config, &mut spec, files, test)?;
        Machine::build(resources.kvm(), spec, files, console)
    };
    let machine = machine.map_err(|error| machine_error(config, &error))?;
    Ok(CaseMachine { machine, output, can_be_reset: false })
}

fn try_reset(case: &Case, fixture: &Fixture, used: CaseMachine) -> Result<CaseMachine, Diagnostics> {
    let Fixture { config, prepared, boot_snapshot, .. } = fixture;
    let CaseMachine { mut machine, output, .. } = used;
    output.clear();
    if let Some(booted) = boot_snapshot {
        output.add(&booted.printed);
        let snapshot = apply_to_snapshot(config, &booted.snapshot, &prepared.files, case.test(config))?;
        machine.reset_to(&snapshot).map_err(|error| machine_error(config, &error))?;
    }
    Ok(CaseMachine { machine, output, can_be_reset: false })
}

fn try_run(
    case: &Case,
    fixture: &Fixture,
    ready: CaseMachine,
) -> Result<(CaseRun, CaseMachine), Diagnostics> {
    let Fixture { config, prepared, boot_snapshot, .. } = fixture;
    let (files, CaseMachine { mut machine, output: copy, .. }) = (&prepared.files, ready);
    let mut recording = Recording::new();
    let outcome = machine.runner().observe(&mut [&mut recording]).run();
    let outcome = outcome.map_err(|error: Error| machine_error(config, &error))?;
    let (status, report) = copy.with_checked(|output| {
        let recording = Some(&recording);
        evaluate(config, &FinishedRun { outcome: &outcome, machine: &machine, files, output, recording })
    })?;
    let is_well = matches!(report.verdict, Verdict::Success | Verdict::Code(_)) && !machine.is_released();
    let is_resettable = fixture.allows_reset && boot_snapshot.is_some() && typed(case, fixture).is_none();
    let run = evaluate_case(config, status, &report, &copy);
    Ok((run, CaseMachine { machine, output: copy, can_be_reset: is_resettable && is_well }))
}

fn console(config: &Config, typed: Option<&str>, copy: &CaseOutput) -> Result<Console, Diagnostics> {
    let file = config.input_file();
    input::console(&file, typed, Output::new(copy.clone())).map_err(|error| {
        let status = if error.is_configuration() { Status::Configuration } else { Status::Host };
        let help = matches!(error, HostFileError::Outside { .. }).then_some(note::HELP);
        Diagnostic::error(status, format!("cannot read the case's input: {error}"))
            .at(Location::File(file.display().to_string()))
            .with_help(help)
            .into()
    })
}

/// Evaluates a run as a case. Unlike with `run`, a guest that dies or hangs passes if its `[expect] end` names that end.
fn evaluate_case(config: &Config, status: Status, report: &Report, output: &CaseOutput) -> CaseRun {
    if report.verdict == Verdict::Interrupted {
        return CaseRun::Interrupted;
    }
    if is_as_expected(config, report) {
        return CaseRun::Passed;
    }
    let mut lines = Vec::from_iter(report.headline());
    let mismatches = report.mismatches().iter();
    lines.extend(
        mismatches.map(|line| format!("{}: expected {}, found {}", line.key, line.expected, line.found)),
    );
    if report.mismatches().is_empty() {
        lines.push(
            "[expect] is met, but has no `end` that says that the guest is to end like this".to_owned(),
        );
    }
    CaseFailure {
        status,
        lines,
        cause: report.cause().map(str::to_owned),
        output: output.shortened(),
        diagnostics: None,
        has_run: true,
        report: Some(report.to_json()),
    }
    .into()
}
