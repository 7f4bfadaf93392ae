//! The run of a machine with interrupts: a thread for each vCPU, and one for what comes from outside.
//!
//! The first vCPU runs on the caller's thread, so a machine with one has no other. Whoever comes to an end first (an exit, a
//! crash, a limit, Ctrl-C, trouble on the host) settles it, and stops the others by their kicks ([`kvm_sys_wrap::Kick`]).
//! The threads are scoped: none outlives the run.
//!
//! HLT does not exit here, the vCPU sleeps in the kernel. So that a machine which can never wake again is not taken for
//! a busy one, the first vCPU is kicked out of its sleep from time to time ([`IdleTimer`]) and looked at ([`asleep`]).

pub(crate) mod idle;
mod idle_timer;
pub(crate) mod io_thread;
mod stop_barrier;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kvm_sys_wrap::Exit;

pub(crate) use idle_timer::IdleTimer;
pub(crate) use stop_barrier::StopBarrier;

use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::end::{End, Suspend};
use crate::machine::error::Error;
use crate::machine::limits::Limits;
use crate::machine::observer::Observer;
use crate::machine::processor::Processor;
use crate::machine::processors::Processors;
use crate::machine::run_loop::ExitOutcome;
use crate::machine::suspend::{self, SuspendTimes};
use crate::record::is_recorded;

/// What the threads share during a run.
struct Run<'a, 'o> {
    board: &'a Board,
    /// The first result counts.
    all: StopBarrier<Result<Ended, Error>>,
    /// Exits of all vCPUs; those that are not the guest's left out.
    exits: AtomicU64,
    watchers: Mutex<Watchers<'a, 'o>>,
    /// Whether an observer wants to see every exit.
    observed: bool,
}

/// An end, and the vCPU that came to it, counted from 0.
pub(crate) type Ended = (End, usize);

/// Those who watch all vCPUs, one exit at a time.
struct Watchers<'a, 'o> {
    limits: &'a mut Limits,
    observers: &'a mut [&'o mut dyn Observer],
}

/// Runs the machine until it ends, dies, or is stopped by a limit.
pub(crate) fn run(
    machine: &mut Machine,
    limits: &mut Limits,
    observers: &mut [&mut dyn Observer],
) -> Result<Ended, Error> {
    let Machine { board, processors, sleeps, .. } = machine;
    let run = Run {
        board,
        all: StopBarrier::new(processors.iter())?,
        exits: AtomicU64::new(0),
        observed: !observers.is_empty(),
        watchers: Mutex::new(Watchers { limits, observers }),
    };
    let listener = io_thread::StopEvent::new()?;
    thread::scope(|scope| {
        if !run.board.receivers.is_empty() {
            scope.spawn(|| {
                if let Err(error) = io_thread::listen(&run.board.receivers, &listener) {
                    run.all.settle(Err(Error::Console(error)));
                }
            });
        }
        let result = run.rounds(processors, sleeps);
        listener.stop();
        result
    })
}

impl<'a, 'o> Run<'a, 'o> {
    /// Lets all vCPUs run; whenever they were stopped to be looked at, once more.
    fn rounds(&self, processors: &mut Processors, sleeps: &mut SuspendTimes) -> Result<Ended, Error> {
        let mut pulse = IdleTimer::start()?;
        loop {
            thread::scope(|scope| {
                let (bsp, aps) = processors.split_mut();
                for ap in aps {
                    scope.spawn(|| self.work(ap, None));
                }
                self.work(bsp, Some(&mut pulse));
            });
            match self.all.take().into_iter().next() {
                Some(Ok((End::Suspend(Suspend::Until(wake)), _))) => {
                    let began = Instant::now();
                    let end = self.suspended(processors, wake)?;
                    sleeps.total += began.elapsed();
                    sleeps.now = end.is_some();
                    if let Some(end) = end {
                        return Ok((end, 0));
                    }
                    self.all.begin_again();
                    continue;
                }
                Some(result) => return result,
                None => {}
            }
            match idle::end(self.board, processors)? {
                Some(end) if pulse.confirms() => return Ok((end, 0)),
                Some(_) => pulse.suspect()?,
                None => pulse.relax()?,
            }
            self.all.begin_again();
        }
    }

    /// Sleeps until `wake` with all vCPUs stopped; the end of the run if that comes first.
    fn suspended(&self, processors: &mut Processors, wake: Duration) -> Result<Option<End>, Error> {
        let over = || self.watchers().limits.check(&Exit::Interrupted, || self.exits.load(Ordering::Relaxed));
        if let Some(end) = suspend::sleep(wake, over)? {
            return Ok(Some(end));
        }
        suspend::wake(self.board, processors)
    }

    /// The loop of one vCPU, on its thread.
    fn work(&self, processor: &mut Processor, mut pulse: Option<&mut IdleTimer>) {
        while !self.all.is_stopping() {
            match self.turn(processor, pulse.as_deref_mut()) {
                Ok(None) => {}
                Ok(Some(end)) => self.all.settle(Ok((end, index(processor)))),
                Err(error) => self.all.settle(Err(error)),
            }
        }
    }

    /// One exit of one vCPU.
    fn turn(&self, processor: &mut Processor, pulse: Option<&mut IdleTimer>) -> Result<Option<End>, Error> {
        let exit = processor.vcpu.run()?;
        processor.count(&exit);
        let its_own = u64::from(is_recorded(&exit));
        let total = self.exits.fetch_add(its_own, Ordering::Relaxed) + its_own;
        if matches!(exit, Exit::Interrupted | Exit::Retry) {
            if let Some(end) = self.watchers().limits.check(&exit, || total) {
                return Ok(Some(end));
            }
            if let Some(pulse) = pulse.filter(|pulse| pulse.is_due()) {
                // Only a first vCPU that can never wake by itself is reason enough to stop the others.
                if idle::is_idle_forever(self.board, processor)? {
                    self.all.stop();
                } else {
                    pulse.relax()?;
                }
            }
            return Ok(None);
        }
        let mut watchers = self.watchers();
        if let Some(end) = watchers.limits.check(&exit, || total) {
            return Ok(Some(end));
        }
        if !self.observed {
            drop(watchers);
            let turn = processor.serve(self.board, &exit)?;
            processor.reply()?;
            return Ok(ended(turn));
        }
        let view = processor.view(&exit, self.board);
        if let Some(end) = watchers.observers.iter_mut().find_map(|observer| observer.on_exit(&view)) {
            return Ok(Some(end));
        }
        let turn = processor.serve(self.board, &exit)?;
        let view = processor.view(&exit, self.board);
        for observer in &mut *watchers.observers {
            observer.on_served(&view, &processor.answer);
        }
        drop(watchers);
        processor.reply()?;
        Ok(ended(turn))
    }

    fn watchers(&self) -> MutexGuard<'_, Watchers<'a, 'o>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// vCPUs are numbered from 0, in the order of the machine's list.
pub(crate) fn index(processor: &Processor) -> usize {
    usize::try_from(processor.vcpu.id()).unwrap_or(usize::MAX)
}

fn ended(turn: ExitOutcome) -> Option<End> {
    match turn {
        ExitOutcome::Served | ExitOutcome::Debug(_) => None,
        ExitOutcome::Ended(end) => Some(end),
    }
}
