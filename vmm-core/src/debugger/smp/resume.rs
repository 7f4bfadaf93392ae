//! One resumption: from one stop of all vCPUs to the next.
//!
//! Each vCPU that is not held has a thread for that time, as in [`crate::machine::smp`]; the first of them has the caller's. The
//! first vCPU with a reason to stop stops all, each between two instructions. Then registers, memory and breakpoints can be
//! accessed again.

use std::thread;

use kvm_sys_wrap::termination_requested;

use super::super::debug_target::{DebugStop, ResumeAction};
use super::super::interrupt_handle::StopCheck;
use super::inserted_breakpoints::SmpBreakpoints;
use super::worker::{Worker, WorkerHooks};
use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::debug_capabilities::DebugCapabilities;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::processor::Processor;
use crate::machine::processors::Processors;
use crate::machine::smp::thread::spawn;
use crate::machine::smp::{IdleTimer, StopBarrier, idle, io_thread};
use crate::sandbox::system_calls::ThreadKind;

/// Number of a vCPU and its reason to stop.
pub(super) type RoundEnd = (usize, DebugStop);

/// State that the threads of a resumption share.
pub(super) struct ResumeRound<'a> {
    pub(super) board: &'a Board,
    pub(super) breakpoints: &'a SmpBreakpoints,
    pub(super) capabilities: DebugCapabilities,
    pub(super) stop_check: &'a StopCheck,
    pub(super) barrier: StopBarrier<Result<RoundEnd, Error>>,
}

/// Resumes the vCPUs until one of them has a reason to stop; returns all reasons in the order in which they came.
pub(super) fn run(
    machine: &mut Machine,
    actions: &[ResumeAction],
    breakpoints: &SmpBreakpoints,
    capabilities: DebugCapabilities,
    stop_check: &StopCheck,
) -> Result<Vec<RoundEnd>, Error> {
    let Machine { board, processors, .. } = machine;
    let barrier = StopBarrier::new(processors.iter())?;
    let round = ResumeRound { board, breakpoints, capabilities, stop_check, barrier };
    let mut idle_timer = IdleTimer::start()?;
    // Input for a guest that takes one step can wait.
    let input_sources = Some(&*board.input_sources)
        .filter(|sources| !sources.is_empty() && actions.contains(&ResumeAction::Run));
    let stop_event = io_thread::StopEvent::new()?;
    thread::scope(|scope| {
        if let Some(input_sources) = input_sources {
            spawn(scope, ThreadKind::Io, &round.barrier, || {
                if let Err(error) = io_thread::run(input_sources, &stop_event) {
                    round.barrier.stop_with(Err(Error::Console(error)));
                }
            });
        }
        let reasons = round.repeat(processors, actions, &mut idle_timer);
        stop_event.stop();
        reasons
    })
}

impl ResumeRound<'_> {
    /// Runs the vCPUs until there is a reason to stop. They run again after each stop that only checked whether they are idle.
    fn repeat(
        &self,
        processors: &mut Processors,
        actions: &[ResumeAction],
        idle_timer: &mut IdleTimer,
    ) -> Result<Vec<RoundEnd>, Error> {
        loop {
            thread::scope(|scope| {
                let mut active =
                    processors.iter_mut().zip(actions).filter(|(_, action)| **action != ResumeAction::Hold);
                let first = active.next();
                for (processor, action) in active {
                    let work = || self.worker(processor, None).work(*action);
                    spawn(scope, ThreadKind::Vcpu, &self.barrier, work);
                }
                if let Some((processor, action)) = first {
                    self.worker(processor, Some(&mut *idle_timer)).work(*action);
                }
            });
            let reasons = self.barrier.take();
            if !reasons.is_empty() {
                return reasons.into_iter().collect();
            }
            match idle::end(self.board, processors)? {
                Some(end) if idle_timer.is_suspected() => {
                    return Ok(vec![(0, DebugStop::Ended(end))]);
                }
                Some(_) => idle_timer.suspect()?,
                None => idle_timer.relax()?,
            }
            self.barrier.rearm();
        }
    }

    fn worker<'b>(
        &'b self,
        processor: &'b mut Processor,
        idle_timer: Option<&'b mut IdleTimer>,
    ) -> Worker<'b, 'b> {
        Worker { processor, hooks: WorkerHooks { round: self, idle_timer } }
    }

    /// Checks, after a signal to one vCPU's thread, whether there is a reason to stop all. The caller's thread has the idle timer,
    /// and only that thread checks if the front-end wants to stop.
    pub(super) fn after_signal(
        &self,
        processor: &Processor,
        idle_timer: Option<&mut IdleTimer>,
    ) -> Result<Option<DebugStop>, Error> {
        if termination_requested() {
            return Ok(Some(DebugStop::Ended(End::Interrupted)));
        }
        let Some(idle_timer) = idle_timer else { return Ok(None) };
        if let Some(stop) = self.stop_check.stop() {
            return Ok(Some(stop));
        }
        if idle_timer.is_due() {
            if idle::is_idle_forever(self.board, &processor.vcpu)? {
                self.barrier.stop();
            } else {
                idle_timer.relax()?;
            }
        }
        Ok(None)
    }
}
