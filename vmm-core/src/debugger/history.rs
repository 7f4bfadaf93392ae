//! Going back: the run once more, up to an earlier point.
//!
//! A point is an anchor, which is a number of exits, and the instructions since. Exits are counted while the guest runs
//! at full speed; instructions are not. So where the guest stands is found out when it is asked for: a second machine
//! runs to the anchor and is single-stepped from there until it is in the same state as the first, in its registers and
//! all of its memory. One instruction back is then one step less.
//!
//! What was changed by hand cannot be had by running again. After a change the way back ends there: the machine as it
//! was then is kept, and everything starts from that.

use super::execution::Execution;
use super::replay::{Found, WantsStop, found, found_or_stop};
use super::soft_watchpoints::SoftWatchpoints;
use super::state::ComparedState;
use super::{DebugStop, Debugger, linear_pc};
use crate::Gva;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::record::checkpoint::Checkpoint;
use crate::record::position::RecordPosition;

/// Where the way back ends.
#[derive(Debug, Default)]
pub(super) struct Base {
    pub(super) position: RecordPosition,
    /// `None` at the first instruction.
    pub(super) checkpoint: Option<Checkpoint>,
}

impl Base {
    /// Whether it is there because of a change by hand.
    pub(super) const fn is_change(&self) -> bool {
        self.checkpoint.is_some()
    }
}

/// A machine at an earlier point.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) track: Execution,
    /// Where it is, if that is known.
    point: Option<Point>,
    /// Where the present is.
    present: Point,
}

/// A point of the run: `steps` instructions after the one that made exit number `anchor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    anchor: u64,
    steps: u64,
}

impl Debugger<'_> {
    /// After a change by hand: from here on the run can be had again, before it not.
    pub(super) fn begin_history_here(&mut self) -> Result<(), Error> {
        let Execution { machine, position } = &self.present;
        self.base = Base { position: *position, checkpoint: Some(machine.checkpoint()?) };
        Ok(())
    }

    /// One instruction back.
    pub(super) fn step_back(&mut self, wants_stop: WantsStop<'_>) -> Result<DebugStop, Error> {
        let here = found_or_stop!(self.here(wants_stop)?);
        let before = found_or_stop!(self.before(here, wants_stop)?);
        Ok(self.go(before, wants_stop)?.unwrap_or(DebugStop::Step))
    }

    /// Back to the last breakpoint or write to watched memory before this point, or to the start.
    pub(super) fn run_back(&mut self, wants_stop: WantsStop<'_>) -> Result<DebugStop, Error> {
        let here = found_or_stop!(self.here(wants_stop)?);
        // Once to count the stops on the way here, once more to the last of them.
        let mut track = self.rebuild()?;
        let mut last = None;
        let mut count: u64 = 0;
        loop {
            match self.run_again(&mut track, here.anchor, wants_stop)? {
                DebugStop::Breakpoint | DebugStop::Watchpoint(_) | DebugStop::OwnInt3 => {
                    count += 1;
                    last = Some(count);
                }
                DebugStop::Step => break,
                stop @ (DebugStop::Asked
                | DebugStop::NoSteps
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
            if !at_start && self.breakpoints.contains(&Gva(linear_pc(&track.machine)?)) {
                found = Some((step, DebugStop::Breakpoint));
            }
            let watched = SoftWatchpoints::of(&track.machine, &self.watchpoints)?;
            // The last one leads here, and may be the end of the run.
            let is_last = step + 1 == here.steps;
            if !is_last {
                found_or_stop!(self.step_again(&mut track, wants_stop)?);
            }
            if let Some(hit) = watched.changed(if is_last { self.machine() } else { &track.machine })? {
                found = Some((step, DebugStop::Watchpoint(hit)));
            }
        }
        if let Some((steps, stop)) = found {
            let point = Point { anchor: here.anchor, steps };
            return Ok(self.go(point, wants_stop)?.unwrap_or(stop));
        }
        let Some(last) = last else {
            let start = Point { anchor: self.base.position.exits, steps: 0 };
            return Ok(self.go(start, wants_stop)?.unwrap_or(DebugStop::HistoryStart));
        };
        let mut track = self.rebuild()?;
        let mut stop = DebugStop::HistoryStart;
        for _ in 0..last {
            stop = self.run_again(&mut track, here.anchor, wants_stop)?;
        }
        let present = found_or_stop!(self.present_point(wants_stop)?);
        self.look_at(Past { track, point: None, present })?;
        if let DebugStop::Watchpoint(_) = stop {
            // Going back, one arrives before the instruction that wrote.
            let before = self.step_back(wants_stop)?;
            return Ok(if before == DebugStop::Step { stop } else { before });
        }
        Ok(stop)
    }

    /// Forward from an earlier point: to the next breakpoint, or to the present and on from there.
    pub(super) fn run_to_present(&mut self, wants_stop: WantsStop<'_>) -> Result<DebugStop, Error> {
        let Some(mut past) = self.past.take() else { return self.run_on(wants_stop) };
        let here = linear_pc(&past.track.machine)?;
        if self.breakpoints.contains(&Gva(here)) {
            self.past = Some(past);
            let stop = self.step_to_present(wants_stop)?;
            if stop != DebugStop::Step {
                return Ok(stop);
            }
            if self.breakpoints.contains(&self.pc()?) {
                return Ok(DebugStop::Breakpoint);
            }
            let Some(again) = self.past.take() else { return self.run_on(wants_stop) };
            past = again;
        }
        if past.track.position.exits < past.present.anchor {
            past.point = None;
            let stop = self.run_again(&mut past.track, past.present.anchor, wants_stop)?;
            if stop != DebugStop::Step {
                self.look_at(past)?;
                return Ok(stop);
            }
            past.point = Some(Point { anchor: past.present.anchor, steps: 0 });
        }
        self.look_at(past)?;
        loop {
            let stop = self.step_to_present(wants_stop)?;
            if stop != DebugStop::Step {
                return Ok(stop);
            }
            if self.breakpoints.contains(&self.pc()?) {
                return Ok(DebugStop::Breakpoint);
            }
            if self.past.is_none() {
                return self.run_on(wants_stop);
            }
        }
    }

    /// One instruction forward from an earlier point; that may be the one that leads to the present.
    pub(super) fn step_to_present(&mut self, wants_stop: WantsStop<'_>) -> Result<DebugStop, Error> {
        let here = found_or_stop!(self.here(wants_stop)?);
        let Some(mut past) = self.past.take() else { return self.step_on(wants_stop) };
        let next = Point { steps: here.steps.saturating_add(1), ..here };
        let watched = SoftWatchpoints::of(&past.track.machine, &self.watchpoints)?;
        if next != past.present {
            if let Found::No(stop) = self.step_again(&mut past.track, wants_stop)? {
                self.look_at(past)?;
                return Ok(stop);
            }
            let is_exit =
                past.track.position.exits == past.present.anchor && next.anchor < past.present.anchor;
            let anchor = Point { anchor: past.present.anchor, steps: 0 };
            past.point = Some(if is_exit { anchor } else { next });
        }
        let stop = if next == past.present || past.point == Some(past.present) {
            self.return_to_present()?
        } else {
            self.look_at(past)?;
            DebugStop::Step
        };
        watched.instead_of(stop, self.machine())
    }

    /// Before the instruction that ended the run: a vCPU that shut down may have lost its registers, but on the way
    /// there they can still be seen. Whether it could be done.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn look_before_end(&mut self, wants_stop: WantsStop<'_>) -> Result<bool, Error> {
        if self.end.is_none() || self.past.is_some() {
            return Ok(false);
        }
        let Found::Yes(end) = self.here(wants_stop)? else { return Ok(false) };
        let Some(steps) = end.steps.checked_sub(1) else { return Ok(false) };
        Ok(self.go(Point { steps, ..end }, wants_stop)?.is_none())
    }

    /// Where the machine that is looked at stands.
    fn here(&mut self, wants_stop: WantsStop<'_>) -> Result<Found<Point>, Error> {
        if self.recording.overflowed() {
            return Ok(Found::No(DebugStop::HistoryLost));
        }
        let Some(past) = &self.past else { return self.present_point(wants_stop) };
        if let Some(point) = past.point {
            return Ok(Found::Yes(point));
        }
        let point = found!(self.locate(&past.track, wants_stop)?);
        if let Some(past) = &mut self.past {
            past.point = Some(point);
        }
        Ok(Found::Yes(point))
    }

    fn present_point(&self, wants_stop: WantsStop<'_>) -> Result<Found<Point>, Error> {
        if let Some(past) = &self.past {
            return Ok(Found::Yes(past.present));
        }
        if self.end.as_ref().is_some_and(|end| *end != End::Interrupted) {
            // The exit that ended the run is the last one; what it left behind may say nothing.
            let anchor = self.present.position.exits.saturating_sub(1).max(self.base.position.exits);
            return self.locate_end(anchor, wants_stop);
        }
        self.locate(&self.present, wants_stop)
    }

    /// Steps a second machine until it is where `wanted` is.
    fn locate(&self, wanted: &Execution, wants_stop: WantsStop<'_>) -> Result<Found<Point>, Error> {
        let anchor = wanted.position.exits;
        let mut track = found!(self.rebuild_at(anchor, wants_stop)?);
        let target = ComparedState::of(&wanted.machine)?;
        let mut steps = 0;
        while !target.is_that_of(&track.machine)? {
            if track.position.exits > anchor {
                return Ok(Found::No(DebugStop::HistoryLost));
            }
            found!(self.step_again(&mut track, wants_stop)?);
            steps += 1;
        }
        Ok(Found::Yes(Point { anchor, steps }))
    }

    /// Counts the instructions to the end; the last one is that which ends the run.
    fn locate_end(&self, anchor: u64, wants_stop: WantsStop<'_>) -> Result<Found<Point>, Error> {
        let mut track = found!(self.rebuild_at(anchor, wants_stop)?);
        let mut steps = 0;
        loop {
            match self.step_again(&mut track, wants_stop)? {
                Found::Yes(()) => steps += 1,
                Found::No(DebugStop::Ended(End::Interrupted)) => {
                    return Ok(Found::No(DebugStop::Ended(End::Interrupted)));
                }
                Found::No(DebugStop::Ended(_)) => return Ok(Found::Yes(Point { anchor, steps: steps + 1 })),
                Found::No(stop) => return Ok(Found::No(stop)),
            }
        }
    }

    /// The point one instruction earlier.
    fn before(&self, point: Point, wants_stop: WantsStop<'_>) -> Result<Found<Point>, Error> {
        if let Some(steps) = point.steps.checked_sub(1) {
            return Ok(Found::Yes(Point { steps, ..point }));
        }
        // Over an exit. One instruction can make many, so the one before may lie some way back.
        let first = self.base.position.exits;
        let mut back = 1;
        loop {
            let Some(distance) = point.anchor.checked_sub(first).filter(|distance| *distance > 0) else {
                return Ok(Found::No(DebugStop::HistoryStart));
            };
            let asked = point.anchor - distance.min(back);
            let mut track = found!(self.rebuild_at(asked, wants_stop)?);
            let anchor = track.position.exits;
            if anchor >= point.anchor {
                back *= 2;
                continue;
            }
            let mut steps = 0;
            loop {
                found!(self.step_again(&mut track, wants_stop)?);
                if track.position.exits >= point.anchor {
                    return Ok(Found::Yes(Point { anchor, steps }));
                }
                steps += 1;
            }
        }
    }

    /// Looks at an earlier point; `Some` with the reason if that failed, and then everything is as it was.
    fn go(&mut self, to: Point, wants_stop: WantsStop<'_>) -> Result<Option<DebugStop>, Error> {
        let present = match self.present_point(wants_stop)? {
            Found::Yes(point) => point,
            Found::No(stop) => return Ok(Some(stop)),
        };
        let mut track = match self.rebuild_at(to.anchor, wants_stop)? {
            Found::Yes(track) => track,
            Found::No(stop) => return Ok(Some(stop)),
        };
        for _ in 0..to.steps {
            if let Found::No(stop) = self.step_again(&mut track, wants_stop)? {
                return Ok(Some(stop));
            }
        }
        self.look_at(Past { track, point: Some(to), present })?;
        Ok(None)
    }

    fn look_at(&mut self, past: Past) -> Result<(), Error> {
        self.interrupt_handle.watch(&past.track.machine)?;
        self.past = Some(past);
        Ok(())
    }

    fn return_to_present(&mut self) -> Result<DebugStop, Error> {
        self.past = None;
        self.interrupt_handle.watch(&self.present.machine)?;
        Ok(self.end.clone().map_or(DebugStop::Step, DebugStop::Ended))
    }
}
