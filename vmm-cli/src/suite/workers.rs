//! Worker threads that run the cases: one for each job, each taking the next case when it is done with one.
//!
//! Results are reported on the caller's thread, in the order in which cases finish. Ctrl-C stops the running guests and
//! starts no more. A thread that does not finish even then, because it examines a dead guest, is abandoned.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use vmm_core::kvm_sys_wrap::{Kvm, termination_requested};

use super::case::Case;
use super::outcome::{CaseFailure, CaseResult, CaseRun, CaseVerdict};
use super::panic_capture;
use super::resources::{ActiveRun, Resources};
use super::runner::{WarmMachine, run_case};
use crate::status::Status;

/// Settings of the workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerSettings {
    /// Number of cases that run at a time.
    pub(crate) jobs: NonZeroUsize,
    /// Number of retries of a case that fails.
    pub(crate) retries: usize,
    /// Start no case after the first failure.
    pub(crate) fail_fast: bool,
    /// Fail cases that this host cannot run, instead of skipping them.
    pub(crate) no_skip: bool,
}

/// Event of a case, by its number.
#[derive(Debug)]
pub(crate) enum SuiteEvent {
    /// The case started.
    Started(usize),
    /// The case finished.
    Finished(usize, CaseResult),
    /// Nothing happened for a while.
    Tick,
}

/// Interval of ticks, and of checks for Ctrl-C.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// Time that guests get to end after Ctrl-C.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Stack size of a worker: that of the first thread of a process.
const STACK_SIZE: usize = 8 << 20;

struct WorkerState {
    cases: Vec<Case>,
    next: AtomicUsize,
    stop: AtomicBool,
    settings: WorkerSettings,
    resources: Resources,
    running: Vec<ActiveRun>,
}

/// Runs the cases. Calls `tell` with all cases and each event.
///
/// # Errors
/// A thread cannot be started.
pub(crate) fn run(
    kvm: Kvm,
    cases: Vec<Case>,
    settings: WorkerSettings,
    mut tell: impl FnMut(&[Case], SuiteEvent),
) -> std::io::Result<()> {
    panic_capture::install();
    // While a vCPU without a local APIC exists, KVM does not patch its code for the first and the last one of the others
    // (`kvm_has_noapic_vcpu`), which takes as long as the rest of a case. Optional: without it cases are only slower.
    let _idle = kvm.create_vm().and_then(|vm| vm.create_vcpu(0)).ok();
    let jobs = settings.jobs.get().min(cases.len());
    let shared = Arc::new(WorkerState {
        cases,
        next: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        settings,
        resources: Resources::new(kvm),
        running: (0..jobs).map(|_| ActiveRun::default()).collect(),
    });
    let (sender, events) = mpsc::channel();
    for job in 0..jobs {
        let (shared, sender) = (Arc::clone(&shared), sender.clone());
        let thread = thread::Builder::new().name(format!("job {job}")).stack_size(STACK_SIZE);
        thread.spawn(move || shared.work(job, &sender))?;
    }
    // From here on the channel is disconnected when the last thread ends.
    drop(sender);
    let mut left_at = None;
    loop {
        match events.recv_timeout(TICK_INTERVAL) {
            Ok(event) => tell(&shared.cases, event),
            Err(RecvTimeoutError::Timeout) => tell(&shared.cases, SuiteEvent::Tick),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if termination_requested() {
            shared.stop.store(true, Ordering::SeqCst);
            shared.running.iter().for_each(ActiveRun::kick);
            if left_at.get_or_insert_with(Instant::now).elapsed() > SHUTDOWN_TIMEOUT {
                return Ok(());
            }
        }
    }
}

impl WorkerState {
    /// Main function of a worker thread.
    fn work(&self, job: usize, events: &Sender<SuiteEvent>) {
        let Some(running) = self.running.get(job) else { return };
        let mut warm = WarmMachine::default();
        while !self.stop.load(Ordering::SeqCst) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = self.cases.get(number) else { break };
            // Ignored: if the receiver is gone, the process is about to exit.
            let _ = events.send(SuiteEvent::Started(number));
            let began = Instant::now();
            let verdict =
                run_with_retries(&self.settings, || run_case(case, &self.resources, running, &mut warm));
            if self.settings.fail_fast && matches!(verdict, CaseVerdict::Failed { .. }) {
                self.stop.store(true, Ordering::SeqCst);
            }
            let _ =
                events.send(SuiteEvent::Finished(number, CaseResult { verdict, elapsed: began.elapsed() }));
        }
        warm.close(&self.resources);
    }
}

/// Runs a case until it passes, or the retries are used up.
fn run_with_retries(settings: &WorkerSettings, mut attempt: impl FnMut() -> CaseRun) -> CaseVerdict {
    let mut earlier = Vec::new();
    loop {
        let last = match attempt() {
            CaseRun::Interrupted => return CaseVerdict::NotRun,
            CaseRun::Skipped(reason) if !settings.no_skip => return CaseVerdict::Skipped(reason),
            CaseRun::Skipped(reason) => CaseFailure::without_run(Status::Refused, reason),
            CaseRun::Passed if earlier.is_empty() => return CaseVerdict::Passed,
            CaseRun::Passed => return CaseVerdict::Flaky(earlier),
            CaseRun::Failed(failure) => failure,
        };
        // Mistakes in files and missing features do not change between runs.
        let is_final = matches!(last.status, Status::Configuration | Status::Refused);
        if is_final || earlier.len() >= settings.retries || termination_requested() {
            return CaseVerdict::Failed { last, earlier };
        }
        earlier.push(last);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Returns the verdict of a sequence of runs, each given by a letter, with two retries.
    fn verdict(letters: &str, no_skip: bool) -> (&'static str, usize) {
        let settings = WorkerSettings { jobs: NonZeroUsize::MIN, retries: 2, fail_fast: false, no_skip };
        let left = RefCell::new(letters.chars());
        let verdict = run_with_retries(&settings, || match left.borrow_mut().next() {
            Some('p') => CaseRun::Passed,
            Some('f') => CaseRun::Failed(CaseFailure::without_run(Status::Unexpected, "no".to_owned())),
            Some('b') => CaseRun::Failed(CaseFailure::without_run(Status::Configuration, "no".to_owned())),
            Some('s') => CaseRun::Skipped("not here".to_owned()),
            _ => CaseRun::Interrupted,
        });
        (verdict.name(), verdict.attempts())
    }

    #[test]
    fn a_case_that_passes_later_is_flaky() {
        assert_eq!(verdict("p", false), ("passed", 1));
        assert_eq!(verdict("fp", false), ("flaky", 2));
        assert_eq!(verdict("ffp", false), ("flaky", 3));
        assert_eq!(verdict("fffp", false), ("failed", 3));
        assert_eq!(verdict("f", false), ("not-run", 0));
    }

    #[test]
    fn what_stays_the_same_is_not_tried_again() {
        assert_eq!(verdict("bp", false), ("failed", 1));
        assert_eq!(verdict("sp", false), ("skipped", 1));
        assert_eq!(verdict("sp", true), ("failed", 1));
    }
}
