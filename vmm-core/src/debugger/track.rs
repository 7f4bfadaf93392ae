//! A machine on its way through a run: for the first time, or once more along the record.
//!
//! The first time, each exit is served by the devices and written down. Once more, it is held against what was written
//! down, and the guest reads what it read then. In both cases the exits that breakpoints make are taken out: neither
//! the record nor the counts show that somebody watched.

use iced_x86::Mnemonic;
use kvm_sys_wrap::{Exit, GuestDebug, emulation_failure};

use super::detours::handlers;
use super::memory::Linear;
use super::successors::successors;
use super::trap_flag::Before;
use super::traps::Traps;
use super::{Abilities, Handlers};
use crate::Gva;
use crate::autopsy::moment::Registers;
use crate::end::End;
use crate::error::Error;
use crate::exit_counts::ExitKind;
use crate::landing;
use crate::machine::Machine;
use crate::record::{Recording, Signature};
use crate::run_loop::Turn;

/// The one-byte opcode of INT3.
const INT3: u8 = 0xcc;

/// What serves the exits.
#[derive(Debug)]
pub(super) enum Trail<'a> {
    /// The devices; the record grows.
    First(&'a mut Recording),
    /// The record.
    Again(&'a Recording),
}

/// How far a machine has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Exits served.
    pub(super) exits: u64,
    /// Bytes of answers given.
    pub(super) answers: usize,
}

/// A machine and how far it has come.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) machine: Machine,
    pub(super) place: Place,
}

/// What one turn came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// An exit was served.
    Served,
    /// Nothing but a signal.
    Kicked,
    /// A debug register fired (bits 0 to 3 of DR6), or a step is done.
    Debug(u64),
    /// A breakpoint that is a byte in memory was reached; the vCPU stands before its instruction.
    Trap,
    /// The guest's own `int3`, which KVM could not execute; the vCPU stands behind it.
    OwnInt3,
    /// The run ended.
    Ended(End),
    /// The run is not what it was the first time.
    Diverged,
}

impl Track {
    pub(super) fn new(machine: Machine, place: Place) -> Self {
        Self { machine, place }
    }

    /// Runs the guest up to its next exit, and serves that.
    pub(super) fn turn(&mut self, trail: &mut Trail<'_>, traps: &Traps) -> Result<Event, Error> {
        let exit = self.machine.boot.vcpu.run()?;
        self.take(&exit, trail, traps)
    }

    /// Brings the guest between two instructions: what the last exit left half done is completed. `Some` if the run
    /// ended with that.
    pub(super) fn settle(&mut self, trail: &mut Trail<'_>) -> Result<Option<Event>, Error> {
        while let Some(exit) = self.machine.boot.vcpu.complete()? {
            let event = self.take(&exit, trail, &Traps::none())?;
            if let Event::Ended(_) | Event::Diverged = event {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Executes one instruction, with the exits that it takes: [`Event::Debug`] if the guest can go on, or [`Event::Trap`]
    /// if it stands at the start of a handler.
    ///
    /// `wants_stop` is asked after each signal; [`Event::Kicked`] if it said yes, and then the instruction is not done.
    pub(super) fn step(
        &mut self,
        trail: &mut Trail<'_>,
        abilities: Abilities,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Event, Error> {
        if abilities.single_step {
            return self.step_alone(trail, abilities.handlers, wants_stop);
        }
        let next: Vec<Gva> = successors(&self.machine)?;
        if next.is_empty() {
            // It goes where we cannot follow; on with it, to whatever it exits with.
            return self.until_event(trail, &Traps::none(), wants_stop);
        }
        let traps = Traps::at(&self.machine, &next)?;
        let event = self.until_event(trail, &traps, wants_stop);
        traps.remove(&self.machine)?;
        event
    }

    /// The same with the trap flag.
    pub(super) fn step_alone(
        &mut self,
        trail: &mut Trail<'_>,
        into: Handlers,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Event, Error> {
        let registers = Registers::of(&self.machine)?;
        let memory = Linear::with(&self.machine, &registers);
        let before = Before { instruction: memory.next_instruction(&registers), registers };
        let detours = match into.opcode() {
            Some(opcode) => {
                let handlers = handlers(&self.machine, &memory, &before);
                Traps::in_ring_0(&self.machine, &memory, opcode, &handlers)?
            }
            None => Traps::none(),
        };
        let step = GuestDebug { single_step: true, ..GuestDebug::default() };
        self.machine.boot.vcpu.set_guest_debug(&step)?;
        let event = self.until_stepped(trail, &detours, wants_stop);
        self.machine.boot.vcpu.set_guest_debug(&GuestDebug::default())?;
        detours.remove(&self.machine)?;
        let event = event?;
        if !matches!(event, Event::Debug(_) | Event::Trap) {
            return Ok(event);
        }
        let after = Registers::of(&self.machine)?;
        if event != Event::Trap {
            // Out of ring 3 there is but one way: the HLT that the landing page has for it.
            if self.has_landed(&after) {
                return self.until_event(trail, &Traps::none(), wants_stop);
            }
            // Some hosts report a stepped HLT as a step like any other.
            let is_next = after.regs.rip == before.instruction.next_ip();
            if is_next && before.instruction.mnemonic() == Mnemonic::Hlt {
                return self.take(&Exit::Hlt, trail, &Traps::none());
            }
        }
        before.clean(&self.machine.boot.vcpu, &Linear::with(&self.machine, &after), &after)?;
        Ok(event)
    }

    /// Some hosts report an instruction that exits as a step, others only the one behind it. So it is completed by
    /// itself, and then the step is done.
    fn until_stepped(
        &mut self,
        trail: &mut Trail<'_>,
        detours: &Traps,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Event, Error> {
        self.until(trail, detours, wants_stop, |track, trail| {
            Ok(Some(track.settle(trail)?.unwrap_or(Event::Debug(0))))
        })
    }

    fn has_landed(&self, registers: &Registers) -> bool {
        let Some(landing) = self.machine.board.landing else { return false };
        let offset = registers.linear_rip().checked_sub(landing.address.0);
        offset.is_some_and(|offset| offset < landing::SIZE.into())
    }

    fn until_event(
        &mut self,
        trail: &mut Trail<'_>,
        traps: &Traps,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<Event, Error> {
        self.until(trail, traps, wants_stop, |_, _| Ok(None))
    }

    /// Turns until there is an event to tell. `served` says whether an exit that was served is one.
    fn until(
        &mut self,
        trail: &mut Trail<'_>,
        traps: &Traps,
        wants_stop: &mut dyn FnMut() -> bool,
        served: impl Fn(&mut Self, &mut Trail<'_>) -> Result<Option<Event>, Error>,
    ) -> Result<Event, Error> {
        loop {
            match self.turn(trail, traps)? {
                Event::Served => {
                    if let Some(event) = served(self, trail)? {
                        return Ok(event);
                    }
                }
                Event::Kicked if wants_stop() => return Ok(Event::Kicked),
                Event::Kicked => {}
                event @ (Event::Debug(_)
                | Event::Trap
                | Event::OwnInt3
                | Event::Ended(_)
                | Event::Diverged) => return Ok(event),
            }
        }
    }

    fn take(&mut self, exit: &Exit, trail: &mut Trail<'_>, traps: &Traps) -> Result<Event, Error> {
        if matches!(exit, Exit::Interrupted | Exit::Again) {
            return Ok(Event::Kicked);
        }
        if let Exit::Debug { dr6, .. } = exit {
            return Ok(Event::Debug(*dr6));
        }
        if traps.undo(&self.machine, exit)? {
            return Ok(Event::Trap);
        }
        if let Exit::InternalError { suberror: 1, data } = exit
            && emulation_failure(data).is_some_and(|bytes| bytes.first() == Some(&INT3))
        {
            let mut regs = self.machine.boot.vcpu.regs()?;
            regs.rip = regs.rip.wrapping_add(1);
            self.machine.boot.vcpu.set_regs(&regs)?;
            return Ok(Event::OwnInt3);
        }
        self.serve(exit, trail)
    }

    fn serve(&mut self, exit: &Exit, trail: &mut Trail<'_>) -> Result<Event, Error> {
        if let Trail::Again(recording) = trail
            && recording.signature(self.place.exits).is_some_and(|recorded| recorded != Signature::of(exit))
        {
            return Ok(Event::Diverged);
        }
        let machine = &mut self.machine;
        machine.boot.exits.record(ExitKind::from(exit));
        let turn = machine.serve(exit)?;
        match trail {
            Trail::First(recording) => recording.push(exit, &machine.boot.answer),
            Trail::Again(recording) => {
                if let Some(recorded) = recording.answer(self.place.answers, machine.boot.answer.len()) {
                    machine.boot.answer.copy_from_slice(recorded);
                }
            }
        }
        self.place.exits = self.place.exits.wrapping_add(1);
        self.place.answers = self.place.answers.saturating_add(machine.boot.answer.len());
        if !machine.boot.answer.is_empty() {
            machine.boot.vcpu.reply(&machine.boot.answer)?;
        }
        Ok(match turn {
            Turn::Served => Event::Served,
            Turn::Debug(event) => Event::Debug(event.dr6),
            Turn::Ended(end) => Event::Ended(end),
        })
    }
}
