//! Runs the cases in worker processes, and collects their results.
//!
//! This process has one thread, runs no guest and reads nothing of a guest but the messages of its workers. It copies itself
//! for each worker (`fork`, without `exec`, which would cost more than a short case). A worker runs cases of one group, as long as it can
//! reset its machine. Several workers share a group that takes long: they take its cases by a counter in shared memory, so
//! that no case has to be handed out.
//!
//! A worker that is killed or crashes costs the case that it runs. Results that it had not sent yet are made again.
//!
//! Results are reported in the order in which cases finish. Ctrl-C stops the running guests and starts no more. A worker that
//! does not end even then, because it examines a dead guest, is killed.

use std::io::{self, ErrorKind, PipeReader, Read};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use vmm_core::kvm_sys_wrap::{ChildProcess, Kvm, SharedCounters, termination_requested};

use super::boot_snapshot::BootFiles;
use super::case::Case;
use super::case_progress::CaseProgress;
use super::group::{BootState, Group, groups};
use super::message::{Message, MessageBuffer};
use super::outcome::{CaseFailure, CaseResult, CaseRun, CaseVerdict};
use super::resources::Resources;
use super::worker::{self, BootTask, Task};
use super::worker_exit::describe;
use crate::sandbox::SandboxArgs;
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
    /// Confinement of the workers.
    pub(crate) sandbox: SandboxArgs,
}

/// Event of a suite.
#[derive(Debug)]
pub(crate) enum SuiteEvent {
    /// A case, by its number, finished.
    Finished(usize, CaseResult),
    /// Some time has passed; with the numbers of the running cases.
    Tick(Vec<usize>),
}

/// Interval of ticks, and of checks for Ctrl-C.
const TICK_INTERVAL: Duration = Duration::from_millis(100);

/// Time that guests get to end after Ctrl-C.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Expected run time of the remaining cases of a group from which on another worker is worth its start.
const MIN_SHARED_TIME: Duration = Duration::from_millis(2);

/// Mean time of cases with a file each, up to which one worker runs several of them.
const MAX_MERGED_TIME: Duration = Duration::from_millis(50);

/// Maximum number of such cases. All of their machines exist at the same time.
const MAX_MERGED: usize = 8;

/// Maximum number of workers of a group that may end while they boot its guest.
const MAX_FAILED_BOOTS: usize = 2;

/// Size of a read from a worker, in bytes: that of a pipe.
const READ_SIZE: usize = 64 << 10;

/// Index of the counter that is not 0 if no more cases are to be started.
const STOP: usize = 0;

/// A suite that is running.
struct Suite<'a> {
    cases: &'a [Case],
    settings: WorkerSettings,
    resources: Resources,
    /// [`STOP`], the current case of each worker, and the number of taken cases of each group.
    counters: SharedCounters,
    /// Maximum number of workers, with those that close their machines.
    slots: usize,
    groups: Vec<Group>,
    /// Group of each case.
    group_of: Vec<usize>,
    /// Groups with workers or unfinished cases, in order. Groups from `unstarted` on are not among them.
    open: Vec<usize>,
    /// First group that had no worker yet.
    unstarted: usize,
    progress: Vec<CaseProgress>,
    /// Sum of the times of the finished runs of each group, and their number.
    times: Vec<(Duration, u32)>,
    /// Sum of the times of runs in groups of single cases, and their number.
    single_times: (Duration, u32),
    workers: Vec<Worker>,
    is_stopping: bool,
}

/// A running worker.
#[derive(Debug)]
struct Worker {
    child: ChildProcess,
    pipe: PipeReader,
    buffer: MessageBuffer,
    slot: usize,
    group: usize,
    /// True if it was started to take the boot snapshot.
    boots: bool,
    /// True if it runs no more cases.
    is_leaving: bool,
    /// True if it sent bytes that are no message.
    is_broken: bool,
    /// Time of its start or of its last message.
    since: Instant,
}

/// Runs the cases. Calls `tell` with each event.
///
/// # Errors
/// No worker can be started.
pub(crate) fn run(
    kvm: Kvm,
    cases: &[Case],
    settings: WorkerSettings,
    mut tell: impl FnMut(SuiteEvent),
) -> io::Result<()> {
    // While a vCPU without a local APIC exists, KVM does not patch its code for the first and the last one of the others
    // (`kvm_has_noapic_vcpu`), which takes as long as the rest of a case. Optional: without it cases are only slower.
    let _idle = kvm.create_vm().and_then(|vm| vm.create_vcpu(0)).ok();
    let mut suite = Suite::new(kvm, cases, settings)?;
    let result = suite.run(&mut tell);
    // After an error or Ctrl-C.
    for worker in suite.workers.drain(..) {
        worker.child.kill();
        let _ = worker.child.wait();
    }
    result
}

impl<'a> Suite<'a> {
    fn new(kvm: Kvm, cases: &'a [Case], settings: WorkerSettings) -> io::Result<Self> {
        let (groups, group_of) = groups(cases);
        let slots = settings.jobs.get().min(cases.len()).saturating_mul(2);
        Ok(Self {
            cases,
            settings,
            resources: Resources::new(kvm)?,
            counters: SharedCounters::new(1 + slots + groups.len())?,
            slots,
            group_of,
            open: Vec::new(),
            unstarted: 0,
            progress: cases.iter().map(|_| CaseProgress::default()).collect(),
            times: vec![(Duration::ZERO, 0); groups.len()],
            groups,
            single_times: (Duration::ZERO, 0),
            workers: Vec::new(),
            is_stopping: false,
        })
    }

    fn run(&mut self, tell: &mut impl FnMut(SuiteEvent)) -> io::Result<()> {
        let mut told = Instant::now();
        let mut terminated = None;
        let mut bytes = vec![0; READ_SIZE];
        loop {
            let is_idle = told.elapsed() >= TICK_INTERVAL;
            if is_idle {
                told = Instant::now();
                tell(SuiteEvent::Tick(self.running_cases()));
            }
            if termination_requested() && terminated.is_none() {
                terminated = Some(Instant::now());
                self.stop();
                self.workers.iter().for_each(|worker| worker.child.terminate());
            }
            if terminated.is_some_and(|at: Instant| at.elapsed() > SHUTDOWN_TIMEOUT) {
                return Ok(());
            }
            self.start_workers(is_idle, tell)?;
            if self.workers.is_empty() {
                return Ok(());
            }
            // From the last to the first, since an ended worker is removed.
            for index in self.wait()?.into_iter().rev() {
                self.read(index, &mut bytes, tell)?;
            }
        }
    }

    /// Starts no more cases.
    fn stop(&mut self) {
        self.is_stopping = true;
        if let Some(stop) = self.counters.get(STOP) {
            stop.store(1, Ordering::SeqCst);
        }
    }

    /// Starts workers as long as there are cases for them. `is_idle` is true if the running ones may take long.
    fn start_workers(&mut self, is_idle: bool, tell: &mut impl FnMut(SuiteEvent)) -> io::Result<()> {
        while !self.is_stopping && self.workers.len() < self.slots {
            let running = self.workers.iter().filter(|worker| !worker.is_leaving).count();
            if running >= self.settings.jobs.get() {
                break;
            }
            let Some(group) = self.next_group(is_idle, tell) else { break };
            match self.start_worker(group) {
                Ok(()) => {}
                // Processes or memory may be free when one of the running workers has ended.
                Err(_) if !self.workers.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Returns the group that the next worker is for: first those that have begun and have no worker, then the next one, then
    /// one whose remaining cases take long.
    fn next_group(&mut self, is_idle: bool, tell: &mut impl FnMut(SuiteEvent)) -> Option<usize> {
        for group in self.open.clone() {
            self.fill_batch(group, tell);
        }
        let (open, closed) =
            std::mem::take(&mut self.open).into_iter().partition(|group| self.is_open(*group));
        self.open = open;
        for group in closed {
            if let Some(group) = self.groups.get_mut(group) {
                // Frees the boot snapshot.
                group.boot = BootState::None;
            }
        }
        let without_worker = |group: &usize| self.groups.get(*group).is_some_and(|group| group.workers == 0);
        if let Some(group) = self.open.iter().find(|group| without_worker(group)) {
            return (!self.is_stopping).then_some(*group);
        }
        if self.unstarted < self.groups.len() {
            let group = self.unstarted;
            self.open.push(group);
            self.unstarted += 1;
            self.merge_next_groups(group);
            return Some(group);
        }
        self.open.iter().copied().find(|group| self.is_worth_sharing(*group, is_idle))
    }

    /// Adds the cases of groups that follow to a group, if all are single cases that are expected to be short. The start of a
    /// worker takes about as long as such a case.
    fn merge_next_groups(&mut self, first: usize) {
        let (time, runs) = self.single_times;
        let is_short = time.checked_div(runs).is_some_and(|mean| mean < MAX_MERGED_TIME);
        if !is_short || !self.groups.get(first).is_some_and(Group::is_single) {
            return;
        }
        let rest = self.groups.len().saturating_sub(first);
        let count = (rest / self.settings.jobs.get().saturating_mul(2)).min(MAX_MERGED);
        while self.unstarted < first.saturating_add(count) {
            let Some(next) = self.groups.get_mut(self.unstarted).filter(|group| group.is_single()) else {
                break;
            };
            let moved = std::mem::take(&mut next.batch);
            for number in &moved {
                if let Some(group) = self.group_of.get_mut(*number) {
                    *group = first;
                }
            }
            if let Some(group) = self.groups.get_mut(first) {
                group.batch.extend(moved);
                group.shares_fixture = false;
            }
            self.unstarted += 1;
        }
    }

    /// Returns true if the group has workers or cases without a result.
    fn is_open(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|group| group.workers > 0 || !group.batch.is_empty())
    }

    fn is_worth_sharing(&self, group: usize, is_idle: bool) -> bool {
        let untaken = self.untaken(group);
        let Some(cases) = self.groups.get(group).filter(|cases| untaken > 0 && !cases.is_booting()) else {
            return false;
        };
        let (time, runs) = self.times.get(group).copied().unwrap_or_default();
        let untaken = u32::try_from(untaken).unwrap_or(u32::MAX);
        let expected = time.checked_div(runs).map(|mean| mean.saturating_mul(untaken));
        is_idle || cases.shares_fixture && expected.is_none_or(|expected| expected > MIN_SHARED_TIME)
    }

    /// Reduces the batch of a group without workers to the cases that have no result: those that none has taken, a failed one that is
    /// tried again, and those of a worker that has ended.
    fn fill_batch(&mut self, index: usize, tell: &mut impl FnMut(SuiteEvent)) {
        let Some(group) = self.groups.get_mut(index).filter(|group| group.workers == 0) else { return };
        if self.is_stopping {
            return;
        }
        let mut batch = std::mem::take(&mut group.batch);
        let has_progress = std::mem::replace(&mut group.has_progress, true);
        let is_left =
            |suite: &Self, number: usize| suite.progress.get(number).is_some_and(|case| !case.is_done);
        batch.retain(|number| is_left(self, *number));
        if !has_progress && let Some(first) = batch.first().copied() {
            let line = "the worker process ended without a result".to_owned();
            self.finish_run(first, Duration::ZERO, bug(line), tell);
            batch.retain(|number| is_left(self, *number));
        }
        if let Some(group) = self.groups.get_mut(index) {
            group.batch = batch;
        }
        if let Some(next) = self.next_counter(index) {
            next.store(0, Ordering::SeqCst);
        }
    }

    fn start_worker(&mut self, index: usize) -> io::Result<()> {
        let used = |slot: &usize| self.workers.iter().any(|worker| worker.slot == *slot);
        let slot = (0..self.slots).find(|slot| !used(slot)).unwrap_or(0);
        if let Some(group) = self.groups.get_mut(index)
            && matches!(group.boot, BootState::Unknown)
        {
            group.boot = BootState::Running(BootFiles::new()?);
        }
        let (Some(group), Some(current), Some(next), Some(stop)) = (
            self.groups.get(index),
            self.counters.get(1 + slot),
            self.next_counter(index),
            self.counters.get(STOP),
        ) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let (reader, writer) = io::pipe()?;
        let boot = match &group.boot {
            BootState::None | BootState::Unknown => BootTask::None,
            BootState::Running(files) => BootTask::Take(files),
            BootState::Ready(files) => BootTask::Use(files),
        };
        let files = match boot {
            BootTask::None => None,
            BootTask::Take(files) | BootTask::Use(files) => Some(files.descriptors()),
        };
        let mut keep = self.resources.descriptors().to_vec();
        keep.extend(files.into_iter().flatten());
        keep.push(writer.as_fd());
        let (cases, batch, fail_fast) = (self.cases, &group.batch, self.settings.fail_fast);
        let shares_fixture = group.shares_fixture;
        let sandbox = self.settings.sandbox;
        let task = Task { cases, batch, next, current, stop, boot, shares_fixture, fail_fast, sandbox };
        current.store(0, Ordering::SeqCst);
        let child = ChildProcess::fork(&keep, || worker::main(&task, &self.resources, &writer));
        let boots = matches!(boot, BootTask::Take(_));
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                if boots && let Some(group) = self.groups.get_mut(index) {
                    group.boot = BootState::Unknown;
                }
                return Err(error);
            }
        };
        if let Some(group) = self.groups.get_mut(index) {
            group.has_progress &= group.workers > 0;
            group.workers += 1;
        }
        self.workers.push(Worker {
            child,
            pipe: reader,
            buffer: MessageBuffer::default(),
            slot,
            group: index,
            boots,
            is_leaving: false,
            is_broken: false,
            since: Instant::now(),
        });
        Ok(())
    }

    /// Waits for messages, at most until the next tick. Returns the indices of workers that sent some or have ended.
    fn wait(&self) -> io::Result<Vec<usize>> {
        let mut pipes: Vec<PollFd<'_>> =
            self.workers.iter().map(|worker| PollFd::new(&worker.pipe, PollFlags::IN)).collect();
        let timeout = Timespec { tv_sec: 0, tv_nsec: TICK_INTERVAL.subsec_nanos().into() };
        match poll(&mut pipes, Some(&timeout)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = pipes.iter().enumerate().filter(|(_, pipe)| !pipe.revents().is_empty());
        Ok(ready.map(|(index, _)| index).collect())
    }

    /// Reads from a worker, and handles its messages or its end.
    fn read(&mut self, index: usize, bytes: &mut [u8], tell: &mut impl FnMut(SuiteEvent)) -> io::Result<()> {
        let Some(worker) = self.workers.get_mut(index) else { return Ok(()) };
        let count = match worker.pipe.read(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        };
        if count == 0 {
            return self.end_worker(index, tell);
        }
        worker.since = Instant::now();
        if worker.is_broken {
            return Ok(());
        }
        let messages = worker.buffer.add(bytes.get(..count).unwrap_or_default());
        let group = worker.group;
        for message in messages.unwrap_or_else(|_| {
            // Its end is reported when it comes.
            worker.is_broken = true;
            worker.child.kill();
            Vec::new()
        }) {
            self.handle(index, group, message, tell);
        }
        Ok(())
    }

    fn handle(&mut self, worker: usize, index: usize, message: Message, tell: &mut impl FnMut(SuiteEvent)) {
        let Some(group) = self.groups.get_mut(index) else { return };
        match message {
            Message::NoSnapshot => {
                if group.is_booting() {
                    group.boot = BootState::None;
                }
            }
            Message::Booted => {
                group.boot = match std::mem::replace(&mut group.boot, BootState::Unknown) {
                    BootState::Running(files) => BootState::Ready(files),
                    other @ (BootState::None | BootState::Unknown | BootState::Ready(_)) => other,
                };
                group.has_progress = true;
                self.set_leaving(worker);
            }
            Message::BootFailed(failure) => {
                self.set_leaving(worker);
                self.fail_group(index, &failure, tell);
            }
            Message::Leaving => self.set_leaving(worker),
            Message::Finished { case, elapsed, run, is_last } => {
                group.has_progress = true;
                let is_single = group.is_single() || !group.shares_fixture;
                if is_last {
                    self.set_leaving(worker);
                }
                if self.group_of.get(case) != Some(&index) {
                    return;
                }
                let times = if is_single { Some(&mut self.single_times) } else { None };
                for (time, runs) in self.times.get_mut(index).into_iter().chain(times) {
                    (*time, *runs) = (time.saturating_add(elapsed), runs.saturating_add(1));
                }
                self.finish_run(case, elapsed, run, tell);
            }
        }
    }

    fn set_leaving(&mut self, worker: usize) {
        let Some(worker) = self.workers.get_mut(worker).filter(|worker| !worker.is_leaving) else { return };
        worker.is_leaving = true;
        if let Some(group) = self.groups.get_mut(worker.group) {
            group.workers = group.workers.saturating_sub(1);
        }
    }

    /// Removes a worker that has ended. If it crashed, its case fails.
    fn end_worker(&mut self, index: usize, tell: &mut impl FnMut(SuiteEvent)) -> io::Result<()> {
        let worker = self.workers.swap_remove(index);
        // One that only closed its pipe would not end.
        worker.child.kill();
        let status = worker.child.wait()?;
        let current = self.current_case(worker.slot);
        let Some(group) = self.groups.get_mut(worker.group).filter(|_| !worker.is_leaving) else {
            // It has sent all its results.
            return Ok(());
        };
        group.workers = group.workers.saturating_sub(1);
        let is_booting = worker.boots && group.is_booting();
        if status.success() && !worker.is_broken && !is_booting || self.is_stopping && termination_requested()
        {
            return Ok(());
        }
        group.has_progress = true;
        let line = if worker.is_broken {
            "the worker process sent an invalid message".to_owned()
        } else {
            describe(status)
        };
        let others = group.workers;
        let is_left = |number: &usize| {
            self.group_of.get(*number) == Some(&worker.group)
                && self.progress.get(*number).is_some_and(|case| !case.is_done)
        };
        if is_booting {
            group.boot = BootState::Unknown;
            group.failed_boots += 1;
            if group.failed_boots >= MAX_FAILED_BOOTS {
                let failure = CaseFailure::without_run(Status::Bug, line);
                self.fail_group(worker.group, &failure, tell);
                return Ok(());
            }
        }
        // Between two cases: some case has to fail, or a worker that always ends there would be started again and again.
        let first_left = || group.batch.iter().copied().find(|number| is_left(number));
        let case = current.filter(is_left).or_else(|| if others == 0 { first_left() } else { None });
        if let Some(case) = case {
            self.finish_run(case, worker.since.elapsed(), bug(line), tell);
        }
        Ok(())
    }

    /// Fails all cases of a group that have no result.
    fn fail_group(&mut self, group: usize, failure: &CaseFailure, tell: &mut impl FnMut(SuiteEvent)) {
        if self.is_stopping {
            return;
        }
        let Some(group) = self.groups.get_mut(group) else { return };
        group.has_progress = true;
        group.boot = BootState::Unknown;
        for number in group.batch.clone() {
            if !self.is_stopping && self.progress.get(number).is_some_and(|case| !case.is_done) {
                let verdict = CaseVerdict::Failed { last: failure.clone(), earlier: Vec::new() };
                self.finish_case(number, Duration::ZERO, verdict, tell);
            }
        }
    }

    /// Handles the result of one run of a case.
    fn finish_run(
        &mut self,
        number: usize,
        elapsed: Duration,
        run: CaseRun,
        tell: &mut impl FnMut(SuiteEvent),
    ) {
        let Some(case) = self.progress.get_mut(number).filter(|case| !case.is_done) else { return };
        let is_interrupted = self.is_stopping && termination_requested();
        if let Some(verdict) = case.add_run(run, &self.settings, self.is_stopping, is_interrupted) {
            self.finish_case(number, elapsed, verdict, tell);
        } else {
            case.elapsed = case.elapsed.saturating_add(elapsed);
        }
    }

    /// Reports the verdict of a case, after the time of its last run.
    fn finish_case(
        &mut self,
        number: usize,
        elapsed: Duration,
        verdict: CaseVerdict,
        tell: &mut impl FnMut(SuiteEvent),
    ) {
        let Some(case) = self.progress.get_mut(number) else { return };
        case.is_done = true;
        let elapsed = case.elapsed.saturating_add(elapsed);
        let has_failed = matches!(verdict, CaseVerdict::Failed { .. });
        tell(SuiteEvent::Finished(number, CaseResult { verdict, elapsed }));
        if has_failed && self.settings.fail_fast {
            self.stop();
        }
    }

    fn next_counter(&self, group: usize) -> Option<&AtomicU64> {
        self.counters.get(1 + self.slots + group)
    }

    /// Returns the number of cases of a group that no worker has taken.
    fn untaken(&self, group: usize) -> usize {
        let taken = self.next_counter(group).map_or(u64::MAX, |next| next.load(Ordering::SeqCst));
        let cases = self.groups.get(group).map_or(0, |group| group.batch.len());
        cases.saturating_sub(usize::try_from(taken).unwrap_or(usize::MAX))
    }

    /// Returns the case that the worker in a slot runs.
    fn current_case(&self, slot: usize) -> Option<usize> {
        let value = self.counters.get(1 + slot)?.load(Ordering::SeqCst);
        value.checked_sub(1)?.try_into().ok()
    }

    fn running_cases(&self) -> Vec<usize> {
        self.workers.iter().filter_map(|worker| self.current_case(worker.slot)).collect()
    }
}

fn bug(line: String) -> CaseRun {
    CaseFailure::without_run(Status::Bug, line).into()
}
