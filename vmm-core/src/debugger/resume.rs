//! The guest between two stops: at full speed with traps in place, or instruction by instruction.

use std::collections::BTreeSet;

use kvm_sys_wrap::{Breakpoint, BreakpointCondition, termination_requested};

use super::execution::{Execution, ExecutionInterception, ExecutionOutcome, RecordMode};
use super::inserted_breakpoints::InsertedBreakpoints;
use super::soft_watchpoints::{SoftWatchpoints, fit_registers};
use super::{DebugCapabilities, DebugStop, Debugger, linear_pc};
use crate::Gva;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::turn::ExitOutcome;

/// What a machine is run with.
pub(super) struct ResumeSession<'a> {
    pub(super) capabilities: DebugCapabilities,
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
        let in_registers = self.capabilities.watchpoints && fit_registers(self.watchpoints);
        if !in_registers && !self.watchpoints.is_empty() {
            return self.step_along(track, trail, wants_stop);
        }
        let breakpoints: Vec<Gva> = self.breakpoints.iter().copied().collect();
        let traps =
            InsertedBreakpoints::place(&track.machine, self.capabilities, &breakpoints, self.watchpoints)?;
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
        Ok(track.finish_instruction(trail)?.map_or(stop, after_step))
    }

    fn run_with(
        &self,
        traps: &InsertedBreakpoints,
        track: &mut Execution,
        trail: &mut RecordMode<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        loop {
            match track.turn(trail, traps, &mut || true)? {
                ExitOutcome::Served if self.until.is_some_and(|exits| track.position.exits >= exits) => {
                    return Ok(DebugStop::Step);
                }
                ExitOutcome::Intercepted(ExecutionInterception::Signal) if termination_requested() => {
                    return Ok(DebugStop::Ended(End::Interrupted));
                }
                ExitOutcome::Served
                | ExitOutcome::Ignored
                | ExitOutcome::Intercepted(ExecutionInterception::Signal) => {
                    if wants_stop() {
                        return Ok(DebugStop::Asked);
                    }
                }
                ExitOutcome::Debug(event) => match traps.fired(event.dr6) {
                    Some(Breakpoint { condition: BreakpointCondition::Execute, .. }) => {
                        return Ok(DebugStop::Breakpoint);
                    }
                    Some(watchpoint) => return Ok(DebugStop::Watchpoint(watchpoint)),
                    // Not ours: some hosts report an event too many.
                    None => {}
                },
                ExitOutcome::Ended(end) => return Ok(DebugStop::Ended(end)),
                ExitOutcome::Intercepted(ExecutionInterception::Breakpoint) => {
                    return Ok(DebugStop::Breakpoint);
                }
                ExitOutcome::Intercepted(ExecutionInterception::GuestInt3) => return Ok(DebugStop::OwnInt3),
                ExitOutcome::Intercepted(ExecutionInterception::Diverged) => {
                    return Ok(DebugStop::HistoryLost);
                }
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
            let stop = after_step(track.step(trail, self.capabilities, wants_stop)?);
            let stop = watched.instead_of(stop, &track.machine)?;
            if stop != DebugStop::Step || self.until.is_some_and(|exits| track.position.exits >= exits) {
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

/// Stop that follows from the outcome of one step.
pub(super) fn after_step(outcome: ExecutionOutcome) -> DebugStop {
    match outcome {
        ExitOutcome::Served
        | ExitOutcome::Ignored
        | ExitOutcome::Debug(_)
        | ExitOutcome::Intercepted(ExecutionInterception::Breakpoint) => DebugStop::Step,
        ExitOutcome::Intercepted(ExecutionInterception::Signal) if termination_requested() => {
            DebugStop::Ended(End::Interrupted)
        }
        ExitOutcome::Intercepted(ExecutionInterception::Signal) => DebugStop::Asked,
        ExitOutcome::Intercepted(ExecutionInterception::GuestInt3) => DebugStop::OwnInt3,
        ExitOutcome::Ended(end) => DebugStop::Ended(end),
        ExitOutcome::Intercepted(ExecutionInterception::Diverged) => DebugStop::HistoryLost,
    }
}
