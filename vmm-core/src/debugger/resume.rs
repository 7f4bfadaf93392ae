//! Resumption of the guest: at full speed with breakpoints in place, or one instruction at a time.

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

/// Breakpoints and settings of one resumption.
pub(super) struct ResumeSession<'a> {
    pub(super) capabilities: DebugCapabilities,
    pub(super) breakpoints: &'a BTreeSet<Gva>,
    pub(super) watchpoints: &'a [Breakpoint],
    /// Number of served exits at which to stop.
    pub(super) until: Option<u64>,
}

impl ResumeSession<'_> {
    /// Runs until something stops the guest, between two instructions. [`Stop::Step`] stands for having got to `until`.
    pub(super) fn run(
        &self,
        execution: &mut Execution,
        mode: &mut RecordMode<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        let in_registers = self.capabilities.watchpoints && fit_registers(self.watchpoints);
        if !in_registers && !self.watchpoints.is_empty() {
            return self.run_stepped(execution, mode, wants_stop);
        }
        let breakpoints: Vec<Gva> = self.breakpoints.iter().copied().collect();
        let breakpoints = InsertedBreakpoints::place(
            &execution.machine,
            self.capabilities,
            &breakpoints,
            self.watchpoints,
        )?;
        if breakpoints.unplaced {
            breakpoints.remove(&execution.machine)?;
            return self.run_stepped(execution, mode, wants_stop);
        }
        let stop = self.run_with(&breakpoints, execution, mode, wants_stop);
        breakpoints.remove(&execution.machine)?;
        let stop = stop?;
        if let DebugStop::Ended(_) = stop {
            return Ok(stop);
        }
        Ok(execution.finish_instruction(mode)?.map_or(stop, after_step))
    }

    fn run_with(
        &self,
        breakpoints: &InsertedBreakpoints,
        execution: &mut Execution,
        mode: &mut RecordMode<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        loop {
            match execution.turn(mode, breakpoints, &mut || true)? {
                ExitOutcome::Served if self.until.is_some_and(|exits| execution.position.exits >= exits) => {
                    return Ok(DebugStop::Step);
                }
                ExitOutcome::Intercepted(ExecutionInterception::Signal) if termination_requested() => {
                    return Ok(DebugStop::Ended(End::Interrupted));
                }
                ExitOutcome::Served
                | ExitOutcome::Ignored
                | ExitOutcome::Intercepted(ExecutionInterception::Signal) => {
                    if wants_stop() {
                        return Ok(DebugStop::Interrupted);
                    }
                }
                ExitOutcome::Debug(event) => match breakpoints.fired(event.dr6) {
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
                ExitOutcome::Intercepted(ExecutionInterception::GuestInt3) => {
                    return Ok(DebugStop::GuestInt3);
                }
                ExitOutcome::Intercepted(ExecutionInterception::Diverged) => {
                    return Ok(DebugStop::HistoryLost);
                }
            }
        }
    }

    /// Steps until something stops the guest, for breakpoints on pages that are not mapped yet and watchpoints without debug
    /// registers.
    fn run_stepped(
        &self,
        execution: &mut Execution,
        mode: &mut RecordMode<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        let watched = SoftWatchpoints::of(&execution.machine, self.watchpoints)?;
        loop {
            let stop = after_step(execution.step(mode, self.capabilities, wants_stop)?);
            let stop = watched.instead_of(stop, &execution.machine)?;
            if stop != DebugStop::Step || self.until.is_some_and(|exits| execution.position.exits >= exits) {
                return Ok(stop);
            }
            if self.breakpoints.contains(&Gva(linear_pc(&execution.machine)?)) {
                return Ok(DebugStop::Breakpoint);
            }
            if wants_stop() {
                return Ok(DebugStop::Interrupted);
            }
        }
    }
}

impl Debugger<'_> {
    /// Returns true if there is a breakpoint at a linear address.
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
        ExitOutcome::Intercepted(ExecutionInterception::Signal) => DebugStop::Interrupted,
        ExitOutcome::Intercepted(ExecutionInterception::GuestInt3) => DebugStop::GuestInt3,
        ExitOutcome::Ended(end) => DebugStop::Ended(end),
        ExitOutcome::Intercepted(ExecutionInterception::Diverged) => DebugStop::HistoryLost,
    }
}
