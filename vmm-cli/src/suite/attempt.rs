//! One case, once: its machine is built, run, judged and dropped, all on the calling thread.
//!
//! On one thread, since a time limit is an alarm of the thread that runs the vCPU. The guest's output goes nowhere but into
//! a buffer of this attempt.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kvm_sys_wrap::{Kick, Kvm};
use vmm_cli::config::Config;
use vmm_cli::diagnostic::{Diagnostic, Diagnostics, Location};
use vmm_cli::status::Status;
use vmm_core::console::Output;
use vmm_core::end::Verdict;
use vmm_core::error::Error;
use vmm_core::machine::Machine;
use vmm_core::record::Recording;

use super::case::Case;
use super::guard::guarded;
use super::input;
use super::outcome::{Attempt, Failure};
use crate::commands::run::host_error;
use crate::judgement::{Ended, judge};
use crate::prepare::{Prepared, Reader};
use crate::report::Report;
use crate::terminal::Copy;

/// What all cases use.
#[derive(Debug)]
pub(super) struct Resources {
    kvm: Kvm,
    reader: Reader,
    closing: Mutex<()>,
}

impl Resources {
    pub(super) fn new(kvm: Kvm) -> Self {
        Self { kvm, reader: Reader::keeping(), closing: Mutex::new(()) }
    }

    /// To be held while a machine is dropped. Closing a VM waits until no CPU looks at its memory map any more
    /// (`mmu_notifier_unregister`). The kernel hurries for one who waits alone; of two at a time each waits for some clock
    /// ticks, which is longer than all the rest of a case.
    fn closing(&self) -> MutexGuard<'_, ()> {
        self.closing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where others find the machine that a thread is running, to stop it.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<Option<Kick>>);

impl Running {
    fn set(&self, kick: Option<Kick>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = kick;
    }

    /// Stops the run, if there is one.
    pub(super) fn kick(&self) {
        if let Some(kick) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            kick.kick();
        }
    }
}

/// Carries the case out. A panic fails it.
pub(super) fn attempt(case: &Case, resources: &Resources, running: &Running) -> Attempt {
    match guarded(|| carry_out(case, resources, running)) {
        Ok(Ok(attempt)) => attempt,
        Ok(Err(problems)) if problems.status() == Status::Refused => {
            let problem = problems.0.into_iter().next();
            Attempt::Skipped(problem.map(|problem| problem.message).unwrap_or_default())
        }
        Ok(Err(problems)) => Attempt::Failed(problems.into()),
        Err(words) => {
            running.set(None);
            Attempt::Failed(Failure::without_run(Status::Bug, format!("a bug in vmm-cli: {words}")))
        }
    }
}

fn carry_out(case: &Case, resources: &Resources, running: &Running) -> Result<Attempt, Diagnostics> {
    let config = case.config()?;
    let Prepared { machine: spec, files, .. } = Prepared::with(&config, &resources.reader)?;
    let copy = Copy::default();
    let console = input::console(&case.file, Output::new(copy.clone())).map_err(|error| {
        let location = Location::File(case.file.with_extension("input").display().to_string());
        Diagnostic::error(Status::Host, format!("cannot read the case's input: {error}")).at(location)
    })?;
    let host = |error: Error| Diagnostics::from(host_error(&config, &error));
    let mut machine = Machine::build(&resources.kvm, spec, &files, console).map_err(host)?;
    running.set(Some(machine.vcpu().kick_handle().map_err(|error| host(error.into()))?));
    let mut recording = Recording::new();
    let outcome = machine.run_observed(&mut [&mut recording]);
    running.set(None);
    let outcome = outcome.map_err(host)?;
    let output = copy.bytes();
    let ended = Ended {
        outcome: &outcome,
        machine: &machine,
        files: &files,
        output: &output,
        recording: Some(&recording),
    };
    let (status, report) = judge(&config, &ended);
    let alone = resources.closing();
    drop(machine);
    drop(alone);
    Ok(worth(&config, status, report, output))
}

/// What a run is worth as a case. A guest that dies or hangs can pass, unlike with `run`: but only one whose `[expect]` says
/// that it is to end like this.
fn worth(config: &Config, status: Status, report: Report, output: Vec<u8>) -> Attempt {
    let end_is_expected = config.expect.as_ref().is_some_and(|expect| expect.end.is_some());
    let is_met = report.mismatches().is_empty();
    let mut lines = Vec::new();
    match report.verdict {
        Verdict::Interrupted => return Attempt::Interrupted,
        Verdict::Success | Verdict::Code(_) if is_met => return Attempt::Passed,
        Verdict::Crashed | Verdict::Hung if is_met && end_is_expected => return Attempt::Passed,
        Verdict::Success | Verdict::Code(_) | Verdict::Crashed | Verdict::Hung => {
            lines.extend(report.headline());
        }
    }
    let mismatches = report.mismatches().iter();
    lines.extend(
        mismatches.map(|line| format!("{}: expected {}, found {}", line.key, line.expected, line.found)),
    );
    if is_met {
        lines.push(
            "[expect] is met, but has no `end` that says that the guest is to end like this".to_owned(),
        );
    }
    let cause = report.cause().map(str::to_owned);
    let diagnostics = Diagnostics::default();
    Attempt::Failed(Failure { status, lines, cause, output, diagnostics, report: Some(Box::new(report)) })
}
