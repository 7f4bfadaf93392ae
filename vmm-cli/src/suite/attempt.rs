//! One case, once: its machine is built, run, judged and dropped, all on the calling thread.
//!
//! On one thread, since a time limit is an alarm of the thread that runs the vCPU. The guest's output goes nowhere but into
//! a buffer of this attempt.

use std::sync::{Mutex, PoisonError};

use kvm_sys_wrap::{Kick, Kvm};
use vmm_cli::config::{Config, TestCase};
use vmm_cli::diagnostic::{Diagnostic, Diagnostics, Location};
use vmm_cli::place::Place;
use vmm_cli::status::Status;
use vmm_core::Gva;
use vmm_core::console::Output;
use vmm_core::end::Verdict;
use vmm_core::error::Error;
use vmm_core::machine::Machine;
use vmm_core::record::Recording;
use vmm_core::snapshot::Snapshot;
use vmm_core::spec::{Entry, MachineSpec};

use super::case::Case;
use super::guard::guarded;
use super::input;
use super::outcome::{Attempt, Failure};
use crate::commands::run::host_error;
use crate::judgement::{Ended, is_as_expected, judge};
use crate::prepare::{Files, Prepared, Reader};
use crate::report::Report;
use crate::stopped::find;
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

    /// Drops a machine, one at a time. Closing a VM waits until no CPU looks at its memory map any more
    /// (`mmu_notifier_unregister`). The kernel hurries for one who waits alone; of two at a time each waits for some clock
    /// ticks, which is longer than all the rest of a case.
    pub(super) fn close(&self, machine: Machine) {
        let alone = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(machine);
        drop(alone);
    }

    pub(super) const fn kvm(&self) -> &Kvm {
        &self.kvm
    }
}

/// Where others find the machine that a thread is running, to stop it.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<Option<Kick>>);

impl Running {
    /// This machine is about to run.
    pub(super) fn watch(&self, machine: &Machine) -> Result<(), Error> {
        self.set(Some(machine.vcpu().kick_handle()?));
        Ok(())
    }

    /// It is not running any more.
    pub(super) fn forget(&self) {
        self.set(None);
    }

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
            running.forget();
            Attempt::Failed(Failure::without_run(Status::Bug, format!("a bug in vmm-cli: {words}")))
        }
    }
}

fn carry_out(case: &Case, resources: &Resources, running: &Running) -> Result<Attempt, Diagnostics> {
    let config = case.config()?;
    let prepared = Prepared::with(&config, &resources.reader)?;
    let (test, plan) = (case.test(&config), config.test.as_ref());
    let copy = Copy::default();
    let typed = test.and_then(|test| test.input.as_deref());
    let console = input::console(&case.file, typed, Output::new(copy.clone())).map_err(|error| {
        let location = Location::File(case.file.with_extension("input").display().to_string());
        Diagnostic::error(Status::Host, format!("cannot read the case's input: {error}")).at(location)
    })?;
    let host = |error: Error| Diagnostics::from(host_error(&config, &error));
    let mut machine = match plan.and_then(|plan| plan.snapshot_at.as_ref()) {
        Some(place) => {
            let boot = case.boot();
            let booted = boot.get(&config, &prepared, place, resources, running)?;
            copy.add(&booted.printed);
            enter_copy(&config, &booted.snapshot, &prepared.files, test)?
                .machine(&resources.kvm, console)
                .map_err(host)?
        }
        None => {
            let mut spec = prepared.machine.clone();
            enter(&config, &mut spec, &prepared.files, test)?;
            Machine::build(&resources.kvm, spec, &prepared.files, console).map_err(host)?
        }
    };
    let files = &prepared.files;
    running.watch(&machine).map_err(host)?;
    let mut recording = Recording::new();
    let outcome = machine.run_observed(&mut [&mut recording]);
    running.forget();
    let outcome = outcome.map_err(host)?;
    let output = copy.bytes();
    let ended =
        Ended { outcome: &outcome, machine: &machine, files, output: &output, recording: Some(&recording) };
    let (status, report) = judge(&config, &ended);
    resources.close(machine);
    Ok(worth(&config, status, report, output))
}

/// What is different in this case, at the start of a machine that is going to be built.
fn enter(
    config: &Config,
    spec: &mut MachineSpec,
    files: &Files,
    test: Option<&TestCase>,
) -> Result<(), Diagnostics> {
    let Some(test) = test else { return Ok(()) };
    for (register, value) in &test.registers {
        spec.boot.registers.retain(|(other, _)| other != register);
        spec.boot.registers.push((*register, *value));
    }
    if let Some(place) = &test.jump {
        spec.boot.entry = Entry::Address(Gva(address(config, files, place, "test.case")?));
    }
    Ok(())
}

/// The same in a copy of one that has run.
fn enter_copy(
    config: &Config,
    snapshot: &Snapshot,
    files: &Files,
    test: Option<&TestCase>,
) -> Result<Snapshot, Diagnostics> {
    let Some(test) = test else { return Ok(snapshot.clone()) };
    let find = |place| address(config, files, place, "test.case");
    let target = test.jump.as_ref().map(find).transpose()?;
    let base = snapshot.state().vcpus().next().map_or(0, |vcpu| vcpu.sregs.cs.base);
    Ok(snapshot.with_registers(|regs| {
        for (register, value) in &test.registers {
            register.set(regs, *value);
        }
        regs.rip = target.map_or(regs.rip, |target| target.wrapping_sub(base));
    }))
}

/// Where in the guest a place is that the configuration names under `key`.
pub(super) fn address(
    config: &Config,
    files: &Files,
    place: &Place,
    key: &'static str,
) -> Result<u64, Diagnostics> {
    let unknown = |problem: Diagnostic| config.error_at(key, problem.message).with_help(problem.help);
    Ok(find(files, place).map_err(unknown)?.address)
}

/// What a run is worth as a case. A guest that dies or hangs can pass, unlike with `run`: but only one whose `[expect]` says
/// that it is to end like this.
fn worth(config: &Config, status: Status, report: Report, output: Vec<u8>) -> Attempt {
    if report.verdict == Verdict::Interrupted {
        return Attempt::Interrupted;
    }
    if is_as_expected(config, &report) {
        return Attempt::Passed;
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
    Attempt::Failed(Failure { status, lines, cause, output, diagnostics, report: Some(Box::new(report)) })
}
