//! The second machine: built again, run along the record of the first.

use std::collections::BTreeSet;

use super::running::{Around, after_step};
use super::track::{Track, Trail};
use super::watched::Watched;
use super::{Debugger, Stop, linear_pc};
use crate::Gva;
use crate::error::Error;

pub(super) type WantsStop<'a> = &'a mut dyn FnMut() -> bool;

/// What looking for something in the past came to.
pub(super) enum Found<T> {
    Yes(T),
    /// The reason why not.
    No(Stop),
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
    pub(super) fn rebuild(&self) -> Result<Track, Error> {
        let mut machine = (self.build)()?;
        if let Some(checkpoint) = &self.base.checkpoint {
            machine.restore(checkpoint)?;
        }
        self.stopper.watch(&machine)?;
        Ok(Track::new(machine, self.base.place))
    }

    /// A second machine after so many exits.
    pub(super) fn rebuild_at(&self, exits: u64, wants_stop: WantsStop<'_>) -> Result<Found<Track>, Error> {
        let mut track = self.rebuild()?;
        let nothing = BTreeSet::new();
        if track.place.exits < exits {
            let around = Around {
                abilities: self.abilities,
                breakpoints: &nothing,
                watchpoints: &[],
                until: Some(exits),
            };
            loop {
                match around.run(&mut track, &mut Trail::Again(&self.recording), wants_stop)? {
                    Stop::Step => break,
                    Stop::OwnInt3 => {}
                    stop @ (Stop::Breakpoint
                    | Stop::Watchpoint(_)
                    | Stop::Asked
                    | Stop::NoSteps
                    | Stop::HistoryStart
                    | Stop::HistoryLost
                    | Stop::Ended(_)) => return Ok(Found::No(stop)),
                }
            }
        }
        Ok(Found::Yes(track))
    }

    /// Runs a second machine on to its next stop, at most until `exits` exits: then [`Stop::Step`].
    pub(super) fn run_again(
        &self,
        track: &mut Track,
        exits: u64,
        wants_stop: WantsStop<'_>,
    ) -> Result<Stop, Error> {
        let mut trail = Trail::Again(&self.recording);
        if track.place.exits >= exits {
            return Ok(Stop::Step);
        }
        // Off a breakpoint that has been reached already.
        if self.breakpoints.contains(&Gva(linear_pc(&track.machine)?)) {
            let watched = Watched::of(&track.machine, &self.watchpoints)?;
            found_or_stop!(self.step_again(track, wants_stop)?);
            if let Some(hit) = watched.changed(&track.machine)? {
                return Ok(Stop::Watchpoint(hit));
            }
            if track.place.exits >= exits {
                return Ok(Stop::Step);
            }
            if self.breakpoints.contains(&Gva(linear_pc(&track.machine)?)) {
                return Ok(Stop::Breakpoint);
            }
        }
        let around = Around {
            abilities: self.abilities,
            breakpoints: &self.breakpoints,
            watchpoints: &self.watchpoints,
            until: Some(exits),
        };
        around.run(track, &mut trail, wants_stop)
    }

    pub(super) fn step_again(
        &self,
        track: &mut Track,
        wants_stop: WantsStop<'_>,
    ) -> Result<Found<()>, Error> {
        let mut trail = Trail::Again(&self.recording);
        let event = track.step(&mut trail, self.abilities, wants_stop)?;
        if wants_stop() {
            return Ok(Found::No(Stop::Asked));
        }
        Ok(match after_step(event) {
            Stop::Step | Stop::OwnInt3 => Found::Yes(()),
            stop @ (Stop::Breakpoint
            | Stop::Watchpoint(_)
            | Stop::Asked
            | Stop::NoSteps
            | Stop::HistoryStart
            | Stop::HistoryLost
            | Stop::Ended(_)) => Found::No(stop),
        })
    }
}
