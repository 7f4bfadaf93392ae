//! The second machine of a debugger: built again, it repeats the record of the first.

use std::collections::BTreeSet;

use super::debug_target::DebugStop;
use super::execution::{Execution, RecordMode};
use super::resume::{ResumeSession, after_step};
use super::soft_watchpoints::SoftWatchpoints;
use super::{Debugger, linear_pc};
use crate::Gva;
use crate::machine::error::Error;

/// Result of a search in the history.
pub(super) enum HistoryResult<T> {
    /// The point was found.
    Found(T),
    /// The search stopped before, for this reason.
    Stopped(DebugStop),
}

/// Returns from a search with the reason to stop.
macro_rules! found {
    ($found:expr) => {
        match $found {
            HistoryResult::Found(value) => value,
            HistoryResult::Stopped(stop) => return Ok(HistoryResult::Stopped(stop)),
        }
    };
}

/// Returns from a command with the reason to stop.
macro_rules! found_or_stop {
    ($found:expr) => {
        match $found {
            HistoryResult::Found(value) => value,
            HistoryResult::Stopped(stop) => return Ok(stop),
        }
    };
}

pub(super) use {found, found_or_stop};

impl Debugger<'_> {
    /// Builds a second machine at the start of the history.
    pub(super) fn rebuild(&self) -> Result<Execution, Error> {
        let mut machine = (self.build)()?;
        if let Some(checkpoint) = &self.base.checkpoint {
            machine.restore(checkpoint)?;
        }
        self.interrupt_handle.watch(&machine)?;
        Ok(Execution {
            machine,
            position: self.base.position,
            capabilities: self.present.capabilities,
            stop_check: self.present.stop_check.clone(),
        })
    }

    /// Builds a second machine and runs it to this number of exits.
    pub(super) fn rebuild_at(&self, exits: u64) -> Result<HistoryResult<Execution>, Error> {
        let mut execution = self.rebuild()?;
        let nothing = BTreeSet::new();
        if execution.position.exits < exits {
            let session = ResumeSession { breakpoints: &nothing, watchpoints: &[], until: Some(exits) };
            loop {
                match session.run(&mut execution, &mut RecordMode::Replay(&self.recording))? {
                    DebugStop::Step => break,
                    DebugStop::GuestInt3 => {}
                    stop @ (DebugStop::Breakpoint
                    | DebugStop::Watchpoint(_)
                    | DebugStop::Interrupted
                    | DebugStop::CannotStep
                    | DebugStop::HistoryStart
                    | DebugStop::HistoryLost
                    | DebugStop::Ended(_)) => return Ok(HistoryResult::Stopped(stop)),
                }
            }
        }
        Ok(HistoryResult::Found(execution))
    }

    /// Runs a second machine to its next stop, at most until `exits` exits: then [`DebugStop::Step`].
    pub(super) fn run_again(&self, execution: &mut Execution, exits: u64) -> Result<DebugStop, Error> {
        let mut mode = RecordMode::Replay(&self.recording);
        if execution.position.exits >= exits {
            return Ok(DebugStop::Step);
        }
        // Off a breakpoint that has been reached already.
        if self.breakpoints.contains(&Gva(linear_pc(&execution.machine)?)) {
            let watched = SoftWatchpoints::new(&execution.machine, &self.watchpoints)?;
            found_or_stop!(self.step_again(execution)?);
            if let Some(hit) = watched.changed(&execution.machine)? {
                return Ok(DebugStop::Watchpoint(hit));
            }
            if execution.position.exits >= exits {
                return Ok(DebugStop::Step);
            }
            if self.breakpoints.contains(&Gva(linear_pc(&execution.machine)?)) {
                return Ok(DebugStop::Breakpoint);
            }
        }
        let session = ResumeSession {
            breakpoints: &self.breakpoints,
            watchpoints: &self.watchpoints,
            until: Some(exits),
        };
        session.run(execution, &mut mode)
    }

    pub(super) fn step_again(&self, execution: &mut Execution) -> Result<HistoryResult<()>, Error> {
        let mut mode = RecordMode::Replay(&self.recording);
        let event = execution.step(&mut mode)?;
        if let Some(stop) = execution.stop_check.stop() {
            return Ok(HistoryResult::Stopped(stop));
        }
        Ok(match after_step(event) {
            DebugStop::Step | DebugStop::GuestInt3 => HistoryResult::Found(()),
            stop @ (DebugStop::Breakpoint
            | DebugStop::Watchpoint(_)
            | DebugStop::Interrupted
            | DebugStop::CannotStep
            | DebugStop::HistoryStart
            | DebugStop::HistoryLost
            | DebugStop::Ended(_)) => HistoryResult::Stopped(stop),
        })
    }
}
