//! Going back: the run is repeated up to an earlier point.
//!
//! A point is an anchor, which is a number of exits, and a number of instructions since. Exits are counted while the guest runs
//! at full speed; instructions are not. So the point of a machine is found when it is needed: a second machine runs to the
//! anchor and is single-stepped from there until it is in the same state as the first, in its registers and all of its memory.
//! One instruction back is one step less.
//!
//! A change by the user cannot be repeated. So the history starts again at each change, from a checkpoint of the machine.

use super::debug_target::{DebugStop, DebugTarget};
use super::execution::Execution;
use super::replay::{HistoryResult, found, found_or_stop};
use super::soft_watchpoints::SoftWatchpoints;
use super::state::ComparedState;
use super::{Debugger, linear_pc};
use crate::Gva;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::record::checkpoint::Checkpoint;
use crate::record::position::RecordPosition;

/// Start of the history: the earliest point that can be reached.
#[derive(Debug, Default)]
pub(super) struct HistoryBase {
    pub(super) position: RecordPosition,
    /// `None` at the first instruction.
    pub(super) checkpoint: Option<Checkpoint>,
}

impl HistoryBase {
    /// Returns true if the history starts at a change by the user.
    pub(super) const fn is_after_change(&self) -> bool {
        self.checkpoint.is_some()
    }
}

/// A machine at an earlier point.
#[derive(Debug)]
pub(super) struct PastExecution {
    pub(super) execution: Execution,
    /// Point of this machine, if it is known.
    point: Option<HistoryPoint>,
    /// Point of the present.
    present: HistoryPoint,
}

/// Point of a run: `steps` instructions after the one that caused exit number `anchor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HistoryPoint {
    anchor: u64,
    steps: u64,
}

impl Debugger<'_> {
    /// Goes back by one instruction.
    pub(super) fn step_back(&mut self) -> Result<DebugStop, Error> {
        let here = found_or_stop!(self.shown_point()?);
        let before = found_or_stop!(self.point_before(here)?);
        Ok(self.go_to(before)?.unwrap_or(DebugStop::Step))
    }

    /// Goes back to the last breakpoint or write to watched memory before this point, or to the start.
    pub(super) fn run_back(&mut self) -> Result<DebugStop, Error> {
        let here = found_or_stop!(self.shown_point()?);
        // One run counts the stops up to here, a second one goes to the last of them.
        let mut execution = self.rebuild()?;
        let mut last = None;
        let mut count: u64 = 0;
        loop {
            match self.run_again(&mut execution, here.anchor)? {
                DebugStop::Breakpoint | DebugStop::Watchpoint(_) | DebugStop::GuestInt3 => {
                    count += 1;
                    last = Some(count);
                }
                DebugStop::Step => break,
                stop @ (DebugStop::Interrupted
                | DebugStop::CannotStep
                | DebugStop::HistoryStart
                | DebugStop::HistoryLost
                | DebugStop::Ended(_)) => {
                    return Ok(stop);
                }
            }
        }
        let mut found = None;
        for step in 0..here.steps {
            let at_start = here.anchor == self.base.position.exits && step == 0;
            if !at_start && self.breakpoints.contains(&Gva(linear_pc(&execution.machine)?)) {
                found = Some((step, DebugStop::Breakpoint));
            }
            let watched = SoftWatchpoints::new(&execution.machine, &self.watchpoints)?;
            // The last step leads here, and may be the end of the run.
            let is_last = step + 1 == here.steps;
            if !is_last {
                found_or_stop!(self.step_again(&mut execution)?);
            }
            if let Some(hit) = watched.changed(if is_last { self.machine() } else { &execution.machine })? {
                found = Some((step, DebugStop::Watchpoint(hit)));
            }
        }
        // At most two machines besides the present one exist at a time (`machine/reserved_vms.rs`).
        drop(execution);
        if let Some((steps, stop)) = found {
            let point = HistoryPoint { anchor: here.anchor, steps };
            return Ok(self.go_to(point)?.unwrap_or(stop));
        }
        let Some(last) = last else {
            let start = HistoryPoint { anchor: self.base.position.exits, steps: 0 };
            return Ok(self.go_to(start)?.unwrap_or(DebugStop::HistoryStart));
        };
        let mut execution = self.rebuild()?;
        let mut stop = DebugStop::HistoryStart;
        for _ in 0..last {
            stop = self.run_again(&mut execution, here.anchor)?;
        }
        let present = found_or_stop!(self.present_point()?);
        self.show(PastExecution { execution, point: None, present })?;
        if let DebugStop::Watchpoint(_) = stop {
            // Going back stops before the instruction that wrote.
            let before = self.step_back()?;
            return Ok(if before == DebugStop::Step { stop } else { before });
        }
        Ok(stop)
    }

    /// Runs forward from an earlier point: to the next breakpoint, or to the present and on from there.
    pub(super) fn run_to_present(&mut self) -> Result<DebugStop, Error> {
        let Some(mut past) = self.past.take() else { return self.run_on() };
        let here = linear_pc(&past.execution.machine)?;
        if self.breakpoints.contains(&Gva(here)) {
            self.past = Some(past);
            let stop = self.step_to_present()?;
            if stop != DebugStop::Step {
                return Ok(stop);
            }
            if self.breakpoints.contains(&self.pc(0)?) {
                return Ok(DebugStop::Breakpoint);
            }
            let Some(again) = self.past.take() else { return self.run_on() };
            past = again;
        }
        if past.execution.position.exits < past.present.anchor {
            past.point = None;
            let stop = self.run_again(&mut past.execution, past.present.anchor)?;
            if stop != DebugStop::Step {
                self.show(past)?;
                return Ok(stop);
            }
            past.point = Some(HistoryPoint { anchor: past.present.anchor, steps: 0 });
        }
        self.show(past)?;
        loop {
            let stop = self.step_to_present()?;
            if stop != DebugStop::Step {
                return Ok(stop);
            }
            if self.breakpoints.contains(&self.pc(0)?) {
                return Ok(DebugStop::Breakpoint);
            }
            if self.past.is_none() {
                return self.run_on();
            }
        }
    }

    /// Executes one instruction from an earlier point; it may lead to the present.
    pub(super) fn step_to_present(&mut self) -> Result<DebugStop, Error> {
        let here = found_or_stop!(self.shown_point()?);
        let Some(mut past) = self.past.take() else { return self.step_on() };
        let next = HistoryPoint { steps: here.steps.saturating_add(1), ..here };
        let watched = SoftWatchpoints::new(&past.execution.machine, &self.watchpoints)?;
        if next != past.present {
            if let HistoryResult::Stopped(stop) = self.step_again(&mut past.execution)? {
                self.show(past)?;
                return Ok(stop);
            }
            let is_exit =
                past.execution.position.exits == past.present.anchor && next.anchor < past.present.anchor;
            let anchor = HistoryPoint { anchor: past.present.anchor, steps: 0 };
            past.point = Some(if is_exit { anchor } else { next });
        }
        let stop = if next == past.present || past.point == Some(past.present) {
            self.return_to_present()?
        } else {
            self.show(past)?;
            DebugStop::Step
        };
        watched.check_step(stop, self.machine())
    }

    /// Goes to the point before the instruction that ended the run. Returns false if that is not possible.
    pub(super) fn step_before_end(&mut self) -> Result<bool, Error> {
        if self.end.is_none() || self.past.is_some() {
            return Ok(false);
        }
        let HistoryResult::Found(end) = self.shown_point()? else { return Ok(false) };
        let Some(steps) = end.steps.checked_sub(1) else { return Ok(false) };
        Ok(self.go_to(HistoryPoint { steps, ..end })?.is_none())
    }

    /// Point of the machine that the debugger shows.
    fn shown_point(&mut self) -> Result<HistoryResult<HistoryPoint>, Error> {
        if self.recording.overflowed() {
            return Ok(HistoryResult::Stopped(DebugStop::HistoryLost));
        }
        let Some(past) = &self.past else { return self.present_point() };
        if let Some(point) = past.point {
            return Ok(HistoryResult::Found(point));
        }
        let point = found!(self.locate(&past.execution)?);
        if let Some(past) = &mut self.past {
            past.point = Some(point);
        }
        Ok(HistoryResult::Found(point))
    }

    fn present_point(&self) -> Result<HistoryResult<HistoryPoint>, Error> {
        if let Some(past) = &self.past {
            return Ok(HistoryResult::Found(past.present));
        }
        if self.end.as_ref().is_some_and(|end| *end != End::Interrupted) {
            // The exit that ended the run is the last one; the state after it may be lost.
            let anchor = self.present.position.exits.saturating_sub(1).max(self.base.position.exits);
            return self.locate_end(anchor);
        }
        self.locate(&self.present)
    }

    /// Steps a second machine until its state is that of `wanted`.
    fn locate(&self, wanted: &Execution) -> Result<HistoryResult<HistoryPoint>, Error> {
        let anchor = wanted.position.exits;
        let mut execution = found!(self.rebuild_at(anchor)?);
        let target = ComparedState::new(&wanted.machine)?;
        let mut steps = 0;
        while !target.matches(&execution.machine)? {
            if execution.position.exits > anchor {
                return Ok(HistoryResult::Stopped(DebugStop::HistoryLost));
            }
            found!(self.step_again(&mut execution)?);
            steps += 1;
        }
        Ok(HistoryResult::Found(HistoryPoint { anchor, steps }))
    }

    /// Counts the instructions to the end of the run, including the one that ends it.
    fn locate_end(&self, anchor: u64) -> Result<HistoryResult<HistoryPoint>, Error> {
        let mut execution = found!(self.rebuild_at(anchor)?);
        let mut steps = 0;
        loop {
            match self.step_again(&mut execution)? {
                HistoryResult::Found(()) => steps += 1,
                HistoryResult::Stopped(DebugStop::Ended(End::Interrupted)) => {
                    return Ok(HistoryResult::Stopped(DebugStop::Ended(End::Interrupted)));
                }
                HistoryResult::Stopped(DebugStop::Ended(_)) => {
                    return Ok(HistoryResult::Found(HistoryPoint { anchor, steps: steps + 1 }));
                }
                HistoryResult::Stopped(stop) => return Ok(HistoryResult::Stopped(stop)),
            }
        }
    }

    /// Finds the point one instruction earlier.
    fn point_before(&self, point: HistoryPoint) -> Result<HistoryResult<HistoryPoint>, Error> {
        if let Some(steps) = point.steps.checked_sub(1) {
            return Ok(HistoryResult::Found(HistoryPoint { steps, ..point }));
        }
        // Over an exit. One instruction can make many, so the one before may lie some way back.
        let first = self.base.position.exits;
        let mut back = 1;
        loop {
            let Some(distance) = point.anchor.checked_sub(first).filter(|distance| *distance > 0) else {
                return Ok(HistoryResult::Stopped(DebugStop::HistoryStart));
            };
            let asked = point.anchor - distance.min(back);
            let mut execution = found!(self.rebuild_at(asked)?);
            let anchor = execution.position.exits;
            if anchor >= point.anchor {
                back *= 2;
                continue;
            }
            let mut steps = 0;
            loop {
                found!(self.step_again(&mut execution)?);
                if execution.position.exits >= point.anchor {
                    return Ok(HistoryResult::Found(HistoryPoint { anchor, steps }));
                }
                steps += 1;
            }
        }
    }

    /// Goes to an earlier point; `Some` with the reason if that failed, and then nothing has changed.
    fn go_to(&mut self, to: HistoryPoint) -> Result<Option<DebugStop>, Error> {
        let present = match self.present_point()? {
            HistoryResult::Found(point) => point,
            HistoryResult::Stopped(stop) => return Ok(Some(stop)),
        };
        let mut execution = match self.rebuild_at(to.anchor)? {
            HistoryResult::Found(execution) => execution,
            HistoryResult::Stopped(stop) => return Ok(Some(stop)),
        };
        for _ in 0..to.steps {
            if let HistoryResult::Stopped(stop) = self.step_again(&mut execution)? {
                return Ok(Some(stop));
            }
        }
        self.show(PastExecution { execution, point: Some(to), present })?;
        Ok(None)
    }

    fn show(&mut self, past: PastExecution) -> Result<(), Error> {
        self.interrupt_handle.watch(&past.execution.machine)?;
        self.past = Some(past);
        Ok(())
    }

    fn return_to_present(&mut self) -> Result<DebugStop, Error> {
        self.past = None;
        self.interrupt_handle.watch(&self.present.machine)?;
        Ok(self.end.clone().map_or(DebugStop::Step, DebugStop::Ended))
    }
}
