//! Resumption of the guest: at full speed with breakpoints in place, or one instruction at a time.

use std::collections::BTreeSet;

use kvm_sys_wrap::{Breakpoint, BreakpointCondition, termination_requested};

use super::debug_target::{DebugStop, DebugTarget, ExecDirection};
use super::execution::{Execution, ExecutionInterception, ExecutionOutcome, RecordMode};
use super::inserted_breakpoints::InsertedBreakpoints;
use super::soft_watchpoints::{SoftWatchpoints, fit_registers};
use super::{Debugger, linear_pc};
use crate::Gva;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::turn::ExitOutcome;

/// Breakpoints and settings of one resumption.
pub(super) struct ResumeSession<'a> {
    pub(super) breakpoints: &'a BTreeSet<Gva>,
    pub(super) watchpoints: &'a [Breakpoint],
    /// Number of served exits at which to stop.
    pub(super) until: Option<u64>,
}

impl ResumeSession<'_> {
    /// Runs until something stops the guest, between two instructions. [`DebugStop::Step`] if `until` was reached.
    pub(super) fn run(
        &self,
        execution: &mut Execution,
        mode: &mut RecordMode<'_>,
    ) -> Result<DebugStop, Error> {
        let in_registers = execution.capabilities.watchpoints && fit_registers(self.watchpoints);
        if !in_registers && !self.watchpoints.is_empty() {
            return self.run_stepped(execution, mode);
        }
        let breakpoints: Vec<Gva> = self.breakpoints.iter().copied().collect();
        let breakpoints = InsertedBreakpoints::place(
            &execution.machine,
            execution.capabilities,
            &breakpoints,
            self.watchpoints,
        )?;
        if breakpoints.unplaced {
            breakpoints.remove(&execution.machine)?;
            return self.run_stepped(execution, mode);
        }
        let stop = self.run_with(&breakpoints, execution, mode);
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
    ) -> Result<DebugStop, Error> {
        loop {
            match execution.turn(mode, breakpoints)? {
                ExitOutcome::Served if self.until.is_some_and(|exits| execution.position.exits >= exits) => {
                    return Ok(DebugStop::Step);
                }
                ExitOutcome::Served
                | ExitOutcome::Ignored
                | ExitOutcome::Intercepted(ExecutionInterception::Signal) => {
                    if let Some(stop) = execution.stop_check.stop() {
                        return Ok(stop);
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
    fn run_stepped(&self, execution: &mut Execution, mode: &mut RecordMode<'_>) -> Result<DebugStop, Error> {
        let watched = SoftWatchpoints::new(&execution.machine, self.watchpoints)?;
        loop {
            let stop = after_step(execution.step(mode)?);
            let stop = watched.check_step(stop, &execution.machine)?;
            if stop != DebugStop::Step || self.until.is_some_and(|exits| execution.position.exits >= exits) {
                return Ok(stop);
            }
            if self.breakpoints.contains(&Gva(linear_pc(&execution.machine)?)) {
                return Ok(DebugStop::Breakpoint);
            }
            if let Some(stop) = execution.stop_check.stop() {
                return Ok(stop);
            }
        }
    }
}

impl Debugger<'_> {
    /// Steps forward while the next instruction is at or after `start` and before `end`: a source line.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn step_range(&mut self, start: u64, end: u64) -> Result<DebugStop, Error> {
        loop {
            let stop = self.step(ExecDirection::Forward)?;
            let pc = self.pc(0)?;
            if stop != DebugStop::Step || !(start..end).contains(&pc.0) {
                return Ok(stop);
            }
            if self.breakpoints.contains(&pc) {
                return Ok(DebugStop::Breakpoint);
            }
            if let Some(stop) = self.present.stop_check.stop() {
                return Ok(stop);
            }
        }
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
