//! Run loop of a machine with interrupt controllers: a thread for each vCPU, and one for input and timers.
//!
//! The BSP runs on the caller's thread, so a machine with one vCPU has no other vCPU thread. The first vCPU that comes to an
//! end (an exit, a crash, a limit, Ctrl-C, an error of the host) stops the others by their kicks ([`kvm_sys_wrap::Kick`]). The
//! threads are scoped: none outlives the run.
//!
//! HLT does not exit here: the vCPU is halted in the kernel. To find a machine that can never wake up again, the BSP is kicked
//! out of `KVM_RUN` from time to time ([`IdleTimer`]) and its state is checked (`idle.rs`).

pub(crate) mod idle;
mod idle_timer;
pub(crate) mod io_thread;
mod stop_barrier;
pub(crate) mod thread;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_sys_wrap::Exit;

pub(crate) use idle_timer::IdleTimer;
pub(crate) use stop_barrier::StopBarrier;

use crate::cpu::exit_counts::is_guest_exit;
use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::end::{End, Suspend};
use crate::machine::error::Error;
use crate::machine::observer::ExitView;
use crate::machine::processor::Processor;
use crate::machine::processors::Processors;
use crate::machine::run_loop::RunControl;
use crate::machine::suspend::{self, SuspendTimes};
use crate::machine::turn::{ExitHooks, ExitOutcome};
use crate::sandbox::system_calls::ThreadKind;

/// State that the threads of a run share.
struct Run<'a, 'b, 'o> {
    board: &'a Board,
    /// Results of the vCPU threads; the first one counts.
    barrier: StopBarrier<Result<Ended, Error>>,
    /// Exits of all vCPUs, without signals and debug events.
    exits: AtomicU64,
    /// Limits and observers of all vCPUs, which see one exit at a time.
    control: Mutex<&'a mut RunControl<'b, 'o>>,
    /// True if an observer wants to see every exit.
    observed: bool,
}

/// An end, and the number of the vCPU that came to it.
pub(crate) type Ended = (End, usize);

/// Runs the machine until it ends, dies, or is stopped by a limit.
pub(crate) fn run(machine: &mut Machine, control: &mut RunControl<'_, '_>) -> Result<Ended, Error> {
    let Machine { board, processors, suspend_times, .. } = machine;
    let run = Run {
        board,
        barrier: StopBarrier::new(processors.iter())?,
        exits: AtomicU64::new(0),
        observed: !control.observers.is_empty(),
        control: Mutex::new(control),
    };
    let stop_event = io_thread::StopEvent::new()?;
    std::thread::scope(|scope| {
        if !run.board.input_sources.is_empty() {
            thread::spawn(scope, ThreadKind::Io, &run.barrier, || {
                if let Err(error) = io_thread::run(&run.board.input_sources, &stop_event) {
                    run.barrier.stop_with(Err(Error::Console(error)));
                }
            });
        }
        let result = run.run_until_result(processors, suspend_times);
        stop_event.stop();
        result
    })
}

/// Handling of the exits of one vCPU's thread.
struct ThreadHooks<'r, 'a, 'b, 'o> {
    run: &'r Run<'a, 'b, 'o>,
    /// Timer of the thread that checks whether the machine is idle.
    idle_timer: Option<&'r mut IdleTimer>,
    /// Held from before an exit is served until the observers have seen the answer.
    control: Option<MutexGuard<'r, &'a mut RunControl<'b, 'o>>>,
}

impl ExitHooks for ThreadHooks<'_, '_, '_, '_> {
    type Interception = Infallible;

    fn before_serve(&mut self, view: &ExitView<'_>) -> Result<Option<End>, Error> {
        let run = self.run;
        let new = u64::from(is_guest_exit(view.exit));
        let total = run.exits.fetch_add(new, Ordering::Relaxed) + new;
        let mut control = run.control();
        if let Some(end) = control.limits.check(view.exit, || total) {
            return Ok(Some(end));
        }
        if matches!(view.exit, Exit::Interrupted | Exit::Retry) {
            drop(control);
            if let Some(timer) = self.idle_timer.as_deref_mut().filter(|timer| timer.is_due()) {
                // Only a BSP that can never wake by itself is reason enough to stop the APs.
                if idle::is_idle_forever(run.board, view.vcpu)? {
                    run.barrier.stop();
                } else {
                    timer.relax()?;
                }
            }
            return Ok(None);
        }
        if run.observed {
            let end = control.observers.iter_mut().find_map(|observer| observer.on_exit(view));
            if end.is_some() {
                return Ok(end);
            }
            self.control = Some(control);
        }
        Ok(None)
    }

    fn after_serve(&mut self, view: &ExitView<'_>, answer: &mut [u8]) {
        if let Some(mut control) = self.control.take() {
            for observer in &mut *control.observers {
                observer.on_served(view, answer);
            }
        }
    }
}

impl<'a, 'b, 'o> Run<'a, 'b, 'o> {
    /// Runs all vCPUs until one has a result. They run again after each stop that only checked whether they are idle.
    fn run_until_result(
        &self,
        processors: &mut Processors,
        suspend_times: &mut SuspendTimes,
    ) -> Result<Ended, Error> {
        let mut idle_timer = IdleTimer::start()?;
        loop {
            std::thread::scope(|scope| {
                let (bsp, aps) = processors.split_mut();
                for ap in aps {
                    thread::spawn(scope, ThreadKind::Vcpu, &self.barrier, || self.run_vcpu(ap, None));
                }
                self.run_vcpu(bsp, Some(&mut idle_timer));
            });
            match self.barrier.take().into_iter().next() {
                Some(Ok((End::Suspend(Suspend::Until(wake)), _))) => {
                    let began = Instant::now();
                    let end = self.wait_for_wake(processors, wake)?;
                    suspend_times.total += began.elapsed();
                    suspend_times.suspended = end.is_some();
                    if let Some(end) = end {
                        return Ok((end, 0));
                    }
                    self.barrier.rearm();
                    continue;
                }
                Some(result) => return result,
                None => {}
            }
            match idle::end(self.board, processors)? {
                Some(end) if idle_timer.is_suspected() => return Ok((end, 0)),
                Some(_) => idle_timer.suspect()?,
                None => idle_timer.relax()?,
            }
            self.barrier.rearm();
        }
    }

    /// Waits until `wake` with all vCPUs stopped; returns the end of the run if that comes first.
    fn wait_for_wake(&self, processors: &mut Processors, wake: Duration) -> Result<Option<End>, Error> {
        let check_end =
            || self.control().limits.check(&Exit::Interrupted, || self.exits.load(Ordering::Relaxed));
        if let Some(end) = suspend::sleep(wake, check_end)? {
            return Ok(Some(end));
        }
        suspend::wake(self.board, processors)
    }

    /// Runs the loop of one vCPU, on its thread.
    fn run_vcpu(&self, processor: &mut Processor, idle_timer: Option<&mut IdleTimer>) {
        let mut hooks = ThreadHooks { run: self, idle_timer, control: None };
        while !self.barrier.is_stopping() {
            match processor.turn(self.board, &mut hooks) {
                Ok(ExitOutcome::Served | ExitOutcome::Ignored | ExitOutcome::Debug(_)) => {}
                Ok(ExitOutcome::Ended(end)) => self.barrier.stop_with(Ok((end, index(processor)))),
                Err(error) => {
                    hooks.control = None;
                    self.barrier.stop_with(Err(error));
                }
            }
        }
    }

    fn control(&self) -> MutexGuard<'_, &'a mut RunControl<'b, 'o>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Number of a processor in its machine, from 0.
pub(crate) fn index(processor: &Processor) -> usize {
    usize::try_from(processor.vcpu.id()).unwrap_or(usize::MAX)
}
