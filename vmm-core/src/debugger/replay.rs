//! The second machine: built again, run along the record of the first.

use std::collections::BTreeSet;

use super::execution::{Execution, RecordMode};
use super::resume::{ResumeSession, after_step};
use super::soft_watchpoints::SoftWatchpoints;
use super::{DebugStop, Debugger, linear_pc};
use crate::Gva;
use crate::machine::error::Error;

pub(super) type WantsStop<'a> = &'a mut dyn FnMut() -> bool;

/// What looking for something in the past came to.
pub(super) enum Found<T> {
    Yes(T),
    /// The reason why not.
    No(DebugStop),
}

/// Passes on why something was not found.
macro_rules! found {
    ($found:expr) => {
        match $found {
            Found::Yes(value) => value,
            Found::No(stop) => return Ok(Found::No(stop)),
        }
    };
}

/// Gives up with the reason why something was not found.
macro_rules! found_or_stop {
    ($found:expr) => {
        match $found {
            Found::Yes(value) => value,
            Found::No(stop) => return Ok(stop),
        }
    };
}

pub(super) use {found, found_or_stop};

impl Debugger<'_> {
    /// A second machine at the base.
    pub(super) fn rebuild(&self) -> Result<Execution, Error> {
        let mut machine = (self.build)()?;
        if let Some(checkpoint) = &self.base.checkpoint {
            machine.restore(checkpoint)?;
        }
        self.interrupt_handle.watch(&machine)?;
        Ok(Execution::new(machine, self.base.position))
    }

    /// A second machine after so many exits.
    pub(super) fn rebuild_at(
        &self,
        exits: u64,
        wants_stop: WantsStop<'_>,
    ) -> Result<Found<Execution>, Error> {
        let mut track = self.rebuild()?;
        let nothing = BTreeSet::new();
        if track.position.exits < exits {
            let around = ResumeSession {
                capabilities: self.capabilities,
                breakpoints: &nothing,
                watchpoints: &[],
                until: Some(exits),
            };
            loop {
                match around.run(&mut track, &mut RecordMode::Replay(&self.recording), wants_stop)? {
                    DebugStop::Step => break,
                    DebugStop::OwnInt3 => {}
                    stop @ (DebugStop::Breakpoint
                    | DebugStop::Watchpoint(_)
                    | DebugStop::Asked
                    | DebugStop::NoSteps
                    | DebugStop::HistoryStart
                    | DebugStop::HistoryLost
                    | DebugStop::Ended(_)) => return Ok(Found::No(stop)),
                }
            }
        }
        Ok(Found::Yes(track))
    }

    /// Runs a second machine on to its next stop, at most until `exits` exits: then [`Stop::Step`].
    pub(super) fn run_again(
        &self,
        track: &mut Execution,
        exits: u64,
        wants_stop: WantsStop<'_>,
    ) -> Result<DebugStop, Error> {
        let mut trail = RecordMode::Replay(&self.recording);
        if track.position.exits >= exits {
            return Ok(DebugStop::Step);
        }
        // Off a breakpoint that has been reached already.
        if self.breakpoints.contains(&Gva(linear_pc(&track.machine)?)) {
            let watched = SoftWatchpoints::of(&track.machine, &self.watchpoints)?;
            found_or_stop!(self.step_again(track, wants_stop)?);
            if let Some(hit) = watched.changed(&track.machine)? {
                return Ok(DebugStop::Watchpoint(hit));
            }
            if track.position.exits >= exits {
                return Ok(DebugStop::Step);
            }
            if self.breakpoints.contains(&Gva(linear_pc(&track.machine)?)) {
                return Ok(DebugStop::Breakpoint);
            }
        }
        let around = ResumeSession {
            capabilities: self.capabilities,
            breakpoints: &self.breakpoints,
            watchpoints: &self.watchpoints,
            until: Some(exits),
        };
        around.run(track, &mut trail, wants_stop)
    }

    pub(super) fn step_again(
        &self,
        track: &mut Execution,
        wants_stop: WantsStop<'_>,
    ) -> Result<Found<()>, Error> {
        let mut trail = RecordMode::Replay(&self.recording);
        let event = track.step(&mut trail, self.capabilities, wants_stop)?;
        if wants_stop() {
            return Ok(Found::No(DebugStop::Asked));
        }
        Ok(match after_step(event) {
            DebugStop::Step | DebugStop::OwnInt3 => Found::Yes(()),
            stop @ (DebugStop::Breakpoint
            | DebugStop::Watchpoint(_)
            | DebugStop::Asked
            | DebugStop::NoSteps
            | DebugStop::HistoryStart
            | DebugStop::HistoryLost
            | DebugStop::Ended(_)) => Found::No(stop),
        })
    }
}
