//! The guest between two stops: at full speed with traps in place, or instruction by instruction.

use std::collections::BTreeSet;

use kvm_sys_wrap::{Breakpoint, BreakpointCondition, termination_requested};

use super::execution::{Execution, ExecutionEvent, RecordMode};
use super::inserted_breakpoints::InsertedBreakpoints;
use super::soft_watchpoints::{SoftWatchpoints, fit_registers};
use super::{DebugCapabilities, DebugStop, Debugger, linear_pc};
use crate::Gva;
use crate::machine::end::End;
use crate::machine::error::Error;

/// What a machine is run with.
pub(super) struct ResumeSession<'a> {
    pub(super) abilities: DebugCapabilities,
    pub(super) breakpoints: &'a BTreeSet<Gva>,
    pub(super) watchpoints: &'a [Breakpoint],
    /// Stop once so many exits have been served.
    pub(super) until: Option<u64>,
}

impl ResumeSession<'_> {
    /// Runs until something stops the guest, between two instructions. [`Stop::Step`] stands for having got to `until`.
    pub(super) fn run(
        &self,
        track: &mut Execution,
        trail: &mut RecordMode<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        let in_registers = self.abilities.watchpoints && fit_registers(self.watchpoints);
        if !in_registers && !self.watchpoints.is_empty() {
            return self.step_along(track, trail, wants_stop);
        }
        let breakpoints: Vec<Gva> = self.breakpoints.iter().copied().collect();
        let traps =
            InsertedBreakpoints::place(&track.machine, self.abilities, &breakpoints, self.watchpoints)?;
        if traps.unplaced {
            traps.remove(&track.machine)?;
            return self.step_along(track, trail, wants_stop);
        }
        let stop = self.run_with(&traps, track, trail, wants_stop);
        traps.remove(&track.machine)?;
        let stop = stop?;
        if let DebugStop::Ended(_) = stop {
            return Ok(stop);
        }
        Ok(track.settle(trail)?.map_or(stop, after_step))
    }

    fn run_with(
        &self,
        traps: &InsertedBreakpoints,
        track: &mut Execution,
        trail: &mut RecordMode<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        loop {
            match track.turn(trail, traps)? {
                ExecutionEvent::Served if self.until.is_some_and(|exits| track.place.exits >= exits) => {
                    return Ok(DebugStop::Step);
                }
                ExecutionEvent::Kicked if termination_requested() => {
                    return Ok(DebugStop::Ended(End::Interrupted));
                }
                ExecutionEvent::Served | ExecutionEvent::Kicked if wants_stop() => {
                    return Ok(DebugStop::Asked);
                }
                ExecutionEvent::Served | ExecutionEvent::Kicked => {}
                ExecutionEvent::Debug(dr6) => match traps.fired(dr6) {
                    Some(Breakpoint { condition: BreakpointCondition::Execute, .. }) => {
                        return Ok(DebugStop::Breakpoint);
                    }
                    Some(watchpoint) => return Ok(DebugStop::Watchpoint(watchpoint)),
                    // Not ours: some hosts report an event too many.
                    None => {}
                },
                ExecutionEvent::Trap => return Ok(DebugStop::Breakpoint),
                ExecutionEvent::OwnInt3 => return Ok(DebugStop::OwnInt3),
                ExecutionEvent::Ended(end) => return Ok(DebugStop::Ended(end)),
                ExecutionEvent::Diverged => return Ok(DebugStop::HistoryLost),
            }
        }
    }

    /// For what cannot be put in place: breakpoints on pages that are not mapped yet, watchpoints without debug registers.
    fn step_along(
        &self,
        track: &mut Execution,
        trail: &mut RecordMode<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        let watched = SoftWatchpoints::of(&track.machine, self.watchpoints)?;
        loop {
            let stop = after_step(track.step(trail, self.abilities, wants_stop)?);
            let stop = watched.instead_of(stop, &track.machine)?;
            if stop != DebugStop::Step || self.until.is_some_and(|exits| track.place.exits >= exits) {
                return Ok(stop);
            }
            if self.breakpoints.contains(&Gva(linear_pc(&track.machine)?)) {
                return Ok(DebugStop::Breakpoint);
            }
            if wants_stop() {
                return Ok(DebugStop::Asked);
            }
        }
    }
}

impl Debugger<'_> {
    /// Whether there is a breakpoint at a linear address.
    #[must_use]
    pub fn has_breakpoint(&self, address: Gva) -> bool {
        self.breakpoints.contains(&address)
    }
}

pub(super) fn after_step(event: ExecutionEvent) -> DebugStop {
    match event {
        ExecutionEvent::Served | ExecutionEvent::Debug(_) | ExecutionEvent::Trap => DebugStop::Step,
        ExecutionEvent::Kicked if termination_requested() => DebugStop::Ended(End::Interrupted),
        ExecutionEvent::Kicked => DebugStop::Asked,
        ExecutionEvent::OwnInt3 => DebugStop::OwnInt3,
        ExecutionEvent::Ended(end) => DebugStop::Ended(end),
        ExecutionEvent::Diverged => DebugStop::HistoryLost,
    }
}
