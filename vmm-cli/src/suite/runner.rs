//! Runs one case once: builds or resets its machine, runs it and evaluates the run.
//!
//! All of it happens on the calling thread, since a time limit is a timer of the thread that runs the vCPU. The guest's
//! output goes to a buffer.

use std::sync::Arc;

use vmm_core::devices::console::{Console, Output};
use vmm_core::machine::Machine;
use vmm_core::machine::end::Verdict;
use vmm_core::machine::error::Error;
use vmm_core::record::Recording;
use vmm_core::spec::host_file::HostFileError;

use super::boot_snapshot::{Fixture, SharedFixture};
use super::case::Case;
use super::case_setup::{apply_to_snapshot, apply_to_spec};
use super::input;
use super::outcome::{CaseFailure, CaseRun};
use super::panic_capture::catch_panic;
use super::resources::{ActiveRun, Resources};
use crate::config::{Config, note};
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::machine_error::machine_error;
use crate::report::Report;
use crate::status::Status;
use crate::terminal::OutputCopy;
use crate::verdict::{FinishedRun, evaluate, is_as_expected};

/// Machine of a thread's last case, for the next case with the same fixture.
#[derive(Default)]
pub(super) struct WarmMachine(Option<(SharedFixture, Machine, OutputCopy)>);

impl WarmMachine {
    /// Takes the machine and its output, if it has this fixture. Any other machine is closed.
    fn take(
        &mut self,
        common: Option<&SharedFixture>,
        resources: &Resources,
    ) -> Option<(Machine, OutputCopy)> {
        let (of, machine, copy) = self.0.take()?;
        if common.is_some_and(|common| common.is_same(&of)) {
            return Some((machine, copy));
        }
        resources.close(machine);
        None
    }

    /// Closes the machine.
    pub(super) fn close(&mut self, resources: &Resources) {
        self.take(None, resources);
    }
}

/// Runs a case. A panic fails it.
pub(super) fn run_case(
    case: &Case,
    resources: &Resources,
    running: &ActiveRun,
    warm: &mut WarmMachine,
) -> CaseRun {
    match catch_panic(|| try_run_case(case, resources, running, warm)) {
        Ok(Ok(attempt)) => attempt,
        Ok(Err(problems)) if problems.status() == Status::Refused => {
            let problem = problems.0.into_iter().next();
            CaseRun::Skipped(problem.map(|problem| problem.message).unwrap_or_default())
        }
        Ok(Err(problems)) => CaseRun::Failed(problems.into()),
        Err(words) => {
            running.clear();
            CaseRun::Failed(CaseFailure::without_run(Status::Bug, format!("a bug in vmm-cli: {words}")))
        }
    }
}

fn try_run_case(
    case: &Case,
    resources: &Resources,
    running: &ActiveRun,
    warm: &mut WarmMachine,
) -> Result<CaseRun, Diagnostics> {
    let common = case.fixture();
    let prepare = || Fixture::new(case.config()?, resources, running);
    let ready = match &common {
        Some(common) => common.get_or_init(prepare)?,
        None => Arc::new(prepare()?),
    };
    let Fixture { config, prepared, boot_snapshot: booted, .. } = &*ready;
    let (test, files) = (case.test(config), &prepared.files);
    let host = |error: Error| Diagnostics::from(machine_error(config, &error));
    let typed = test.and_then(|test| test.input.as_deref());
    let can_reset = typed.is_none() && ready.allows_reset && booted.is_some();
    let (mut machine, copy) = match (booted, warm.take(common.as_ref().filter(|_| can_reset), resources)) {
        (Some(booted), Some((mut machine, copy))) => {
            copy.clear();
            copy.add(&booted.printed);
            machine.reset_to(&apply_to_snapshot(config, &booted.snapshot, files, test)?).map_err(host)?;
            (machine, copy)
        }
        (booted, _) => {
            let copy = OutputCopy::default();
            let console = console(config, typed, &copy)?;
            let machine = if let Some(booted) = booted {
                copy.add(&booted.printed);
                apply_to_snapshot(config, &booted.snapshot, files, test)?.machine(resources.kvm(), console)
            } else {
                let mut spec = prepared.machine.clone();
                apply_to_spec(config, &mut spec, files, test)?;
                Machine::build(resources.kvm(), spec, files, console)
            };
            (machine.map_err(host)?, copy)
        }
    };
    running.set(&machine).map_err(host)?;
    let mut recording = Recording::new();
    let outcome = machine.runner().observe(&mut [&mut recording]).run();
    running.clear();
    let outcome = outcome.map_err(host)?;
    let output = copy.bytes();
    let ended = FinishedRun {
        outcome: &outcome,
        machine: &machine,
        files,
        output: &output,
        recording: Some(&recording),
    };
    let (status, report) = evaluate(config, &ended);
    let is_well = matches!(report.verdict, Verdict::Success | Verdict::Code(_)) && !machine.is_released();
    match common.filter(|_| can_reset && is_well) {
        Some(common) => warm.0 = Some((common, machine, copy)),
        None => resources.close(machine),
    }
    Ok(evaluate_case(config, status, report, output))
}

fn console(config: &Config, typed: Option<&str>, copy: &OutputCopy) -> Result<Console, Diagnostics> {
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
fn evaluate_case(config: &Config, status: Status, report: Report, output: Vec<u8>) -> CaseRun {
    if report.verdict == Verdict::Interrupted {
        return CaseRun::Interrupted;
    }
    if is_as_expected(config, &report) {
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
    let cause = report.cause().map(str::to_owned);
    let diagnostics = Diagnostics::default();
    CaseRun::Failed(CaseFailure { status, lines, cause, output, diagnostics, report: Some(Box::new(report)) })
}
