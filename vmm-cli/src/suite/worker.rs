//! Worker process: runs cases, one after the other.
//!
//! Cases of one fixture run on one machine, as long as it can be reset. For cases of several fixtures all machines are built
//! first. So no file and no VM is needed once the first guest runs, and the worker confines itself before that.

use std::io::{self, PipeWriter};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vmm_core::kvm_sys_wrap::termination_requested;
use vmm_core::machine::Machine;
use vmm_core::machine::reserved_vms::{ReplayPurpose, ReservedVms};
use vmm_core::sandbox::system_calls::Features;

use super::boot_snapshot::{BootFiles, Fixture};
use super::case::Case;
use super::message::{Message, MessageSender};
use super::outcome::{CaseFailure, CaseRun};
use super::panic_capture::{self, catch_panic};
use super::resources::Resources;
use super::runner::{CaseMachine, build, caught, reset, run_case, typed};
use crate::diagnostic::Diagnostics;
use crate::sandbox::{SandboxArgs, machine_features};
use crate::status::Status;

/// Task of a worker.
pub(super) struct Task<'a> {
    /// All cases of the suite.
    pub(super) cases: &'a [Case],
    /// Numbers of the cases to run.
    pub(super) batch: &'a [usize],
    /// Counter of the cases of the batch that workers have taken.
    pub(super) next: &'a AtomicU64,
    /// Number of the case that this worker runs, plus 1; 0 for none.
    pub(super) current: &'a AtomicU64,
    /// Not 0 if no more cases are to be started.
    pub(super) stop: &'a AtomicU64,
    /// Boot snapshot.
    pub(super) boot: BootTask<'a>,
    /// True if the cases share a configuration.
    pub(super) shares_fixture: bool,
    /// Run no case after one that failed.
    pub(super) fail_fast: bool,
    /// Confinement of the worker before its first guest runs.
    pub(super) sandbox: SandboxArgs,
}

/// Task of a worker with respect to the boot snapshot.
#[derive(Debug, Clone, Copy)]
pub(super) enum BootTask<'a> {
    /// The cases start from none.
    None,
    /// The worker takes one, if the configuration has one.
    Take(&'a BootFiles),
    /// The cases start from this one.
    Use(&'a BootFiles),
}

/// Main function of a worker process. Returns its exit status.
pub(super) fn main(task: &Task<'_>, resources: &Resources, pipe: &PipeWriter) -> u8 {
    panic_capture::install();
    let mut sender = MessageSender::new(pipe);
    // An error of the pipe means that the parent has ended.
    task.run(resources, &mut sender).map_or(Status::Host.code(), |()| 0)
}

/// A case with its machine, before the first run of the worker.
struct ReadyCase {
    number: usize,
    /// Configuration and machine, or the result of the case without them.
    machine: Result<(Fixture, CaseMachine), CaseRun>,
    /// Time that the preparation took.
    elapsed: Duration,
}

impl Task<'_> {
    fn run(&self, resources: &Resources, sender: &mut MessageSender<'_>) -> io::Result<()> {
        if let BootTask::Take(files) = self.boot
            && self.boot(files, resources, sender)?
        {
            return Ok(());
        }
        if self.shares_fixture {
            self.run_group(resources, sender)
        } else {
            self.run_files(resources, sender)
        }
    }

    /// Takes the boot snapshot, if the configuration has one. Returns false if it has none, or a mistake, which the cases will report.
    fn boot(
        &self,
        files: &BootFiles,
        resources: &Resources,
        sender: &mut MessageSender<'_>,
    ) -> io::Result<bool> {
        let first = self.batch.first().copied().unwrap_or_default();
        // Nobody takes a case before. If this process crashes, it is during the first one.
        self.set_current(first);
        if let Some(case) = self.cases.get(first)
            && let Ok(fixture) = caught(|| self.prepare(case))
            && let Some(place) = fixture.snapshot_at()
        {
            let failure = match catch_panic(|| fixture.boot(place, files, resources, self.sandbox)) {
                Ok(Ok(())) => return sender.send(&Message::Booted).map(|()| true),
                Ok(Err(problems)) => problems.into(),
                Err(words) => CaseFailure::from_panic(&words),
            };
            return sender.send(&Message::BootFailed(failure)).map(|()| true);
        }
        sender.send(&Message::NoSnapshot)?;
        Ok(false)
    }

    /// Runs cases of one fixture, as long as the machine can be reset.
    fn run_group(&self, resources: &Resources, sender: &mut MessageSender<'_>) -> io::Result<()> {
        let Some((mut number, first)) = self.take_case() else { return Ok(()) };
        let mut began = Instant::now();
        let fixture = caught(|| self.prepare(first));
        let mut case = first;
        let mut used: Option<CaseMachine> = None;
        let mut reserved = None;
        loop {
            let (run, machine) = match &fixture {
                Ok(fixture) => {
                    let ready = match used.take() {
                        Some(used) => reset(case, fixture, used),
                        None => build(case, fixture, resources),
                    };
                    if let (None, Ok(ready)) = (&reserved, &ready) {
                        reserved = Some(self.confine([&ready.machine])?);
                    }
                    ready.map_or_else(|run| (run, None), |ready| run_case(case, fixture, ready))
                }
                // All cases have the same mistake.
                Err(run) => (run.clone(), None),
            };
            let has_failed = matches!(run, CaseRun::Failed(_));
            let can_go_on = machine.as_ref().map_or(fixture.is_err(), |machine| machine.can_be_reset);
            let is_last = !can_go_on || has_failed && self.fail_fast;
            self.send_result(sender, number, began.elapsed(), run, is_last)?;
            used = machine;
            if is_last {
                break;
            }
            began = Instant::now();
            let next = self.take_case();
            // A case with input needs a machine of its own. It has no result then, so another worker will run it.
            let has_input =
                |case: &Case| fixture.as_ref().is_ok_and(|fixture| typed(case, fixture).is_some());
            let Some(next) = next.filter(|(_, case)| used.is_none() || !has_input(case)) else {
                sender.send(&Message::Leaving)?;
                break;
            };
            (number, case) = next;
        }
        if let Some(used) = used {
            resources.close(used.machine);
        }
        Ok(())
    }

    /// Runs cases of several fixtures. All machines are built before the first one runs.
    fn run_files(&self, resources: &Resources, sender: &mut MessageSender<'_>) -> io::Result<()> {
        let mut ready = Vec::with_capacity(self.batch.len());
        for (number, case) in self.batch.iter().filter_map(|number| Some((*number, self.cases.get(*number)?)))
        {
            self.set_current(number);
            let began = Instant::now();
            let machine = caught(|| self.prepare(case))
                .and_then(|fixture| build(case, &fixture, resources).map(|machine| (fixture, machine)));
            ready.push(ReadyCase { number, machine, elapsed: began.elapsed() });
        }
        self.current.store(0, Ordering::SeqCst);
        let built = ready.iter().filter_map(|ready| ready.machine.as_ref().ok());
        let _reserved = self.confine(built.map(|(_, built)| &built.machine))?;
        while let Some((number, case)) = self.take_case() {
            let Some(at) = ready.iter().position(|ready| ready.number == number) else { break };
            let ReadyCase { machine, elapsed, .. } = ready.swap_remove(at);
            let began = Instant::now();
            let (run, used) = match machine {
                Ok((fixture, machine)) => run_case(case, &fixture, machine),
                Err(run) => (run, None),
            };
            let is_last = ready.is_empty() || matches!(run, CaseRun::Failed(_)) && self.fail_fast;
            self.send_result(sender, number, elapsed.saturating_add(began.elapsed()), run, is_last)?;
            if let Some(used) = used {
                resources.close(used.machine);
            }
            if is_last {
                break;
            }
        }
        for (_, unused) in ready.into_iter().filter_map(|ready| ready.machine.ok()) {
            resources.close(unused.machine);
        }
        Ok(())
    }

    /// Confines this process before the first of the machines runs. Returns the VMs for autopsies.
    fn confine<'m>(
        &self,
        machines: impl IntoIterator<Item = &'m Machine>,
    ) -> io::Result<Option<ReservedVms>> {
        let mut features = Features::REPLAY;
        let mut reserved: Option<ReservedVms> = None;
        for machine in machines {
            features |= machine_features(machine.spec());
            machine.prepare_reset();
            // One is enough: autopsies come one after the other.
            if reserved.as_ref().is_none_or(|reserved| reserved.count() == 0) {
                reserved = Some(machine.reserve_replays(ReplayPurpose::Autopsy).map_err(io::Error::other)?);
            }
        }
        self.sandbox.enter_for(features, []).map_err(|problems| {
            problems.eprint();
            io::ErrorKind::Other
        })?;
        Ok(reserved)
    }

    fn send_result(
        &self,
        sender: &mut MessageSender<'_>,
        case: usize,
        elapsed: Duration,
        run: CaseRun,
        is_last: bool,
    ) -> io::Result<()> {
        self.current.store(0, Ordering::SeqCst);
        sender.send(&Message::Finished { case, elapsed, run, is_last })
    }

    /// Prepares the configuration of a case.
    fn prepare(&self, case: &Case) -> Result<Fixture, Diagnostics> {
        let mut fixture = Fixture::new(case.config()?)?;
        if let BootTask::Use(files) = self.boot {
            fixture.read_boot_snapshot(files)?;
        }
        Ok(fixture)
    }

    /// Takes the next case, if there is one.
    fn take_case(&self) -> Option<(usize, &Case)> {
        if self.stop.load(Ordering::SeqCst) != 0 || termination_requested() {
            return None;
        }
        let index = self.next.fetch_add(1, Ordering::SeqCst);
        let number = self.batch.get(usize::try_from(index).ok()?).copied()?;
        self.set_current(number);
        Some((number, self.cases.get(number)?))
    }

    fn set_current(&self, number: usize) {
        self.current
            .store(u64::try_from(number).map_or(0, |number| number.saturating_add(1)), Ordering::SeqCst);
    }
}
