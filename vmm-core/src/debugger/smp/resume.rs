//! From one stop of all vCPUs to the next.
//!
//! Each vCPU that is to do something has a thread for that time, as in [`crate::together`]; the first of them has the
//! caller's. Whoever has a reason to stop says so, and everybody stops between two instructions. Then all is the
//! caller's again: registers, memory, breakpoints.

use std::thread;

use kvm_sys_wrap::termination_requested;

use super::super::DebugStop;
use super::capabilities::SmpDebugCapabilities;
use super::inserted_breakpoints::SmpBreakpoints;
use super::worker::Worker;
use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::processor::Processor;
use crate::machine::processors::Processors;
use crate::machine::smp::{IdleTimer, StopBarrier, idle, io_thread};

/// What one vCPU is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeAction {
    /// Stand still.
    Hold,
    /// Run until something happens.
    Run,
    /// Execute one instruction.
    Step,
    /// Execute instructions as long as the next one lies from the first address up to, and not including, the second.
    Range(u64, u64),
}

/// A reason to stop, and whose it is: the vCPU's number.
pub(super) type RoundEnd = (usize, DebugStop);

/// What the threads share.
pub(super) struct ResumeRound<'a> {
    pub(super) board: &'a Board,
    pub(super) traps: &'a SmpBreakpoints,
    pub(super) abilities: SmpDebugCapabilities,
    pub(super) all: StopBarrier<Result<RoundEnd, Error>>,
}

/// What only the thread of the caller has.
pub(super) struct Leader<'a> {
    wants_stop: &'a mut dyn FnMut() -> bool,
    pulse: IdleTimer,
}

/// Lets the vCPUs do what they are told until one of them has a reason to stop; all reasons, the first one first.
pub(super) fn run(
    machine: &mut Machine,
    orders: &[ResumeAction],
    traps: &SmpBreakpoints,
    abilities: SmpDebugCapabilities,
    wants_stop: &mut dyn FnMut() -> bool,
) -> Result<Vec<RoundEnd>, Error> {
    let Machine { board, processors, .. } = machine;
    let all = StopBarrier::new(processors.iter())?;
    let round = ResumeRound { board, traps, abilities, all };
    let mut leader = Leader { wants_stop, pulse: IdleTimer::start()? };
    // Input for a guest that takes one step can wait.
    let receivers =
        Some(&*board.receivers).filter(|all| !all.is_empty() && orders.contains(&ResumeAction::Run));
    let listener = io_thread::StopEvent::new()?;
    thread::scope(|scope| {
        if let Some(receivers) = receivers {
            scope.spawn(|| {
                if let Err(error) = io_thread::listen(receivers, &listener) {
                    round.all.settle(Err(Error::Console(error)));
                }
            });
        }
        let reasons = round.repeat(processors, orders, &mut leader);
        listener.stop();
        reasons
    })
}

impl ResumeRound<'_> {
    /// Once more whenever the vCPUs were stopped only to see whether all of them sleep.
    fn repeat(
        &self,
        processors: &mut Processors,
        orders: &[ResumeAction],
        leader: &mut Leader<'_>,
    ) -> Result<Vec<RoundEnd>, Error> {
        loop {
            thread::scope(|scope| {
                let mut active =
                    processors.iter_mut().zip(orders).filter(|(_, order)| **order != ResumeAction::Hold);
                let first = active.next();
                for (processor, order) in active {
                    scope.spawn(|| Worker { round: self, processor, leader: None }.work(*order));
                }
                if let Some((processor, order)) = first {
                    Worker { round: self, processor, leader: Some(&mut *leader) }.work(*order);
                }
            });
            let reasons = self.all.take();
            if !reasons.is_empty() {
                return reasons.into_iter().collect();
            }
            match idle::end(self.board, processors)? {
                Some(end) if leader.pulse.confirms() => {
                    return Ok(vec![(0, DebugStop::Ended(end))]);
                }
                Some(_) => leader.pulse.suspect()?,
                None => leader.pulse.relax()?,
            }
            self.all.begin_again();
        }
    }

    /// After a signal to one vCPU's thread: whether somebody wants all of them to stop.
    pub(super) fn after_signal(
        &self,
        processor: &Processor,
        leader: Option<&mut Leader<'_>>,
    ) -> Result<Option<DebugStop>, Error> {
        if termination_requested() {
            return Ok(Some(DebugStop::Ended(End::Interrupted)));
        }
        let Some(leader) = leader else { return Ok(None) };
        if (leader.wants_stop)() {
            return Ok(Some(DebugStop::Asked));
        }
        if leader.pulse.is_due() {
            if idle::is_idle_forever(self.board, processor)? {
                self.all.stop();
            } else {
                leader.pulse.relax()?;
            }
        }
        Ok(None)
    }
}
