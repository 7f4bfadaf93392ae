//! The guest between two stops: at full speed with traps in place, or instruction by instruction.

use std::collections::BTreeSet;

use kvm_sys_wrap::{Breakpoint, Watch, interrupted};

use super::track::{Event, Track, Trail};
use super::traps::Traps;
use super::watched::{Watched, fit_registers};
use super::{Abilities, Debugger, Stop, linear_pc};
use crate::Gva;
use crate::end::End;
use crate::error::Error;

/// What a machine is run with.
pub(super) struct Around<'a> {
    pub(super) abilities: Abilities,
    pub(super) breakpoints: &'a BTreeSet<Gva>,
    pub(super) watchpoints: &'a [Breakpoint],
    /// Stop once so many exits have been served.
    pub(super) until: Option<u64>,
}

impl Around<'_> {
    /// Runs until something stops the guest, between two instructions. [`Stop::Step`] stands for having got to `until`.
    pub(super) fn run(
        &self,
        track: &mut Track,
        trail: &mut Trail<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, Error> {
        let in_registers = self.abilities.watchpoints && fit_registers(self.watchpoints);
        if !in_registers && !self.watchpoints.is_empty() {
            return self.step_along(track, trail, wants_stop);
        }
        let breakpoints: Vec<Gva> = self.breakpoints.iter().copied().collect();
        let traps = Traps::place(&track.machine, self.abilities, &breakpoints, self.watchpoints)?;
        if traps.unplaced {
            traps.remove(&track.machine)?;
            return self.step_along(track, trail, wants_stop);
        }
        let stop = self.run_with(&traps, track, trail, wants_stop);
        traps.remove(&track.machine)?;
        let stop = stop?;
        if let Stop::Ended(_) = stop {
            return Ok(stop);
        }
        Ok(track.settle(trail)?.map_or(stop, after_step))
    }

    fn run_with(
        &self,
        traps: &Traps,
        track: &mut Track,
        trail: &mut Trail<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, Error> {
        loop {
            match track.turn(trail, traps)? {
                Event::Served if self.until.is_some_and(|exits| track.place.exits >= exits) => {
                    return Ok(Stop::Step);
                }
                Event::Kicked if interrupted() => return Ok(Stop::Ended(End::Interrupted)),
                Event::Served | Event::Kicked if wants_stop() => return Ok(Stop::Asked),
                Event::Served | Event::Kicked => {}
                Event::Debug(dr6) => match traps.fired(dr6) {
                    Some(Breakpoint { watch: Watch::Execute, .. }) => return Ok(Stop::Breakpoint),
                    Some(watchpoint) => return Ok(Stop::Watchpoint(watchpoint)),
                    // Not ours: some hosts report an event too many.
                    None => {}
                },
                Event::Trap => return Ok(Stop::Breakpoint),
                Event::OwnInt3 => return Ok(Stop::OwnInt3),
                Event::Ended(end) => return Ok(Stop::Ended(end)),
                Event::Diverged => return Ok(Stop::HistoryLost),
            }
        }
    }

    /// For what cannot be put in place: breakpoints on pages that are not mapped yet, watchpoints without debug registers.
    fn step_along(
        &self,
        track: &mut Track,
        trail: &mut Trail<'_>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Stop, Error> {
        let watched = Watched::of(&track.machine, self.watchpoints)?;
        loop {
            let stop = after_step(track.step(trail, self.abilities, wants_stop)?);
            let stop = watched.instead_of(stop, &track.machine)?;
            if stop != Stop::Step || self.until.is_some_and(|exits| track.place.exits >= exits) {
                return Ok(stop);
            }
            if self.breakpoints.contains(&Gva(linear_pc(&track.machine)?)) {
                return Ok(Stop::Breakpoint);
            }
            if wants_stop() {
                return Ok(Stop::Asked);
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

pub(super) fn after_step(event: Event) -> Stop {
    match event {
        Event::Served | Event::Debug(_) | Event::Trap => Stop::Step,
        Event::Kicked if interrupted() => Stop::Ended(End::Interrupted),
        Event::Kicked => Stop::Asked,
        Event::OwnInt3 => Stop::OwnInt3,
        Event::Ended(end) => Stop::Ended(end),
        Event::Diverged => Stop::HistoryLost,
    }
}
