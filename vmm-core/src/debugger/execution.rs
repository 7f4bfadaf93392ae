//! A machine on its way through a run: for the first time, or once more along the record.
//!
//! The first time, each exit is served by the devices and written down. Once more, it is held against what was written
//! down, and the guest reads what it read then. In both cases the exits that breakpoints make are taken out: neither
//! the record nor the counts show that somebody watched.

use iced_x86::Mnemonic;
use kvm_sys_wrap::{Exit, GuestDebug, emulation_failure};

use super::handler_breakpoints::handler_breakpoints;
use super::inserted_breakpoints::InsertedBreakpoints;
use super::linear_memory::LinearMemory;
use super::next_pc::next_pcs;
use super::trap_flag::Before;
use super::{DebugCapabilities, StepIntoHandler};
use crate::Gva;
use crate::autopsy::moment::CpuState;
use crate::cpu::exit_counts::ExitKind;
use crate::cpu::ring3_trap;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::run_loop::ExitOutcome;
use crate::record::{Recording, Signature};

/// The one-byte opcode of INT3.
const INT3: u8 = 0xcc;

/// What serves the exits.
#[derive(Debug)]
pub(super) enum RecordMode<'a> {
    /// The devices; the record grows.
    First(&'a mut Recording),
    /// The record.
    Again(&'a Recording),
}

/// How far a machine has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RecordPosition {
    /// Exits served.
    pub(super) exits: u64,
    /// Bytes of answers given.
    pub(super) answers: usize,
}

/// A machine and how far it has come.
#[derive(Debug)]
pub(super) struct Execution {
    pub(super) machine: Machine,
    pub(super) place: RecordPosition,
}

/// What one turn came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ExecutionEvent {
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

impl Execution {
    pub(super) fn new(machine: Machine, place: RecordPosition) -> Self {
        Self { machine, place }
    }

    /// Runs the guest up to its next exit, and serves that.
    pub(super) fn turn(
        &mut self,
        trail: &mut RecordMode<'_>,
        traps: &InsertedBreakpoints,
    ) -> Result<ExecutionEvent, Error> {
        let exit = self.machine.processors.bsp_mut().vcpu.run()?;
        self.take(&exit, trail, traps)
    }

    /// Brings the guest between two instructions: what the last exit left half done is completed. `Some` if the run
    /// ended with that.
    pub(super) fn settle(&mut self, trail: &mut RecordMode<'_>) -> Result<Option<ExecutionEvent>, Error> {
        while let Some(exit) = self.machine.processors.bsp_mut().vcpu.finish_instruction()? {
            let event = self.take(&exit, trail, &InsertedBreakpoints::none())?;
            if let ExecutionEvent::Ended(_) | ExecutionEvent::Diverged = event {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Executes one instruction, with the exits that it takes: [`ExecutionEvent::Debug`] if the guest can go on, or [`ExecutionEvent::Trap`]
    /// if it stands at the start of a handler.
    ///
    /// `wants_stop` is asked after each signal; [`ExecutionEvent::Kicked`] if it said yes, and then the instruction is not done.
    pub(super) fn step(
        &mut self,
        trail: &mut RecordMode<'_>,
        abilities: DebugCapabilities,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<ExecutionEvent, Error> {
        if abilities.single_step {
            return self.step_alone(trail, abilities.handlers, wants_stop);
        }
        let next: Vec<Gva> = next_pcs(&self.machine)?;
        if next.is_empty() {
            // It goes where we cannot follow; on with it, to whatever it exits with.
            return self.until_event(trail, &InsertedBreakpoints::none(), wants_stop);
        }
        let traps = InsertedBreakpoints::at(&self.machine, &next)?;
        let event = self.until_event(trail, &traps, wants_stop);
        traps.remove(&self.machine)?;
        event
    }

    /// The same with the trap flag.
    pub(super) fn step_alone(
        &mut self,
        trail: &mut RecordMode<'_>,
        into: StepIntoHandler,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<ExecutionEvent, Error> {
        let registers = CpuState::of(&self.machine)?;
        let memory = LinearMemory::with(&self.machine, &registers);
        let before = Before { instruction: memory.next_instruction(&registers), registers };
        let detours = match into.opcode() {
            Some(opcode) => {
                let handlers = handler_breakpoints(&self.machine, &memory, &before);
                InsertedBreakpoints::in_ring_0(&self.machine, &memory, opcode, &handlers)?
            }
            None => InsertedBreakpoints::none(),
        };
        let step = GuestDebug { single_step: true, ..GuestDebug::default() };
        self.machine.processors.bsp().vcpu.set_guest_debug(&step)?;
        let event = self.until_stepped(trail, &detours, wants_stop);
        self.machine.processors.bsp().vcpu.set_guest_debug(&GuestDebug::default())?;
        detours.remove(&self.machine)?;
        let event = event?;
        if !matches!(event, ExecutionEvent::Debug(_) | ExecutionEvent::Trap) {
            return Ok(event);
        }
        let after = CpuState::of(&self.machine)?;
        if event != ExecutionEvent::Trap {
            // Out of ring 3 there is but one way: the HLT that the landing page has for it.
            if self.has_landed(&after) {
                return self.until_event(trail, &InsertedBreakpoints::none(), wants_stop);
            }
            // Some hosts report a stepped HLT as a step like any other.
            let is_next = after.regs.rip == before.instruction.next_ip();
            if is_next && before.instruction.mnemonic() == Mnemonic::Hlt {
                return self.take(&Exit::Hlt, trail, &InsertedBreakpoints::none());
            }
        }
        before.clean(
            &self.machine.processors.bsp().vcpu,
            &LinearMemory::with(&self.machine, &after),
            &after,
        )?;
        Ok(event)
    }

    /// Some hosts report an instruction that exits as a step, others only the one behind it. So it is completed by
    /// itself, and then the step is done.
    fn until_stepped(
        &mut self,
        trail: &mut RecordMode<'_>,
        detours: &InsertedBreakpoints,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<ExecutionEvent, Error> {
        self.until(trail, detours, wants_stop, |track, trail| {
            Ok(Some(track.settle(trail)?.unwrap_or(ExecutionEvent::Debug(0))))
        })
    }

    fn has_landed(&self, registers: &CpuState) -> bool {
        let Some(trap_page) = self.machine.board.landing else { return false };
        let offset = registers.linear_rip().checked_sub(trap_page.address.0);
        offset.is_some_and(|offset| offset < ring3_trap::SIZE.into())
    }

    fn until_event(
        &mut self,
        trail: &mut RecordMode<'_>,
        traps: &InsertedBreakpoints,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<ExecutionEvent, Error> {
        self.until(trail, traps, wants_stop, |_, _| Ok(None))
    }

    /// Turns until there is an event to tell. `served` says whether an exit that was served is one.
    fn until(
        &mut self,
        trail: &mut RecordMode<'_>,
        traps: &InsertedBreakpoints,
        wants_stop: &mut dyn FnMut() -> bool,
        served: impl Fn(&mut Self, &mut RecordMode<'_>) -> Result<Option<ExecutionEvent>, Error>,
    ) -> Result<ExecutionEvent, Error> {
        loop {
            match self.turn(trail, traps)? {
                ExecutionEvent::Served => {
                    if let Some(event) = served(self, trail)? {
                        return Ok(event);
                    }
                }
                ExecutionEvent::Kicked if wants_stop() => return Ok(ExecutionEvent::Kicked),
                ExecutionEvent::Kicked => {}
                event @ (ExecutionEvent::Debug(_)
                | ExecutionEvent::Trap
                | ExecutionEvent::OwnInt3
                | ExecutionEvent::Ended(_)
                | ExecutionEvent::Diverged) => return Ok(event),
            }
        }
    }

    fn take(
        &mut self,
        exit: &Exit,
        trail: &mut RecordMode<'_>,
        traps: &InsertedBreakpoints,
    ) -> Result<ExecutionEvent, Error> {
        if matches!(exit, Exit::Interrupted | Exit::Retry) {
            return Ok(ExecutionEvent::Kicked);
        }
        if let Exit::Debug { dr6, .. } = exit {
            return Ok(ExecutionEvent::Debug(*dr6));
        }
        if traps.undo(&self.machine, exit)? {
            return Ok(ExecutionEvent::Trap);
        }
        if let Exit::InternalError { suberror: 1, data } = exit
            && emulation_failure(data).is_some_and(|bytes| bytes.first() == Some(&INT3))
        {
            let mut regs = self.machine.processors.bsp().vcpu.regs()?;
            regs.rip = regs.rip.wrapping_add(1);
            self.machine.processors.bsp().vcpu.set_regs(&regs)?;
            return Ok(ExecutionEvent::OwnInt3);
        }
        self.serve(exit, trail)
    }

    fn serve(&mut self, exit: &Exit, trail: &mut RecordMode<'_>) -> Result<ExecutionEvent, Error> {
        if let RecordMode::Again(recording) = trail
            && recording.signature(self.place.exits).is_some_and(|recorded| recorded != Signature::of(exit))
        {
            return Ok(ExecutionEvent::Diverged);
        }
        let machine = &mut self.machine;
        machine.processors.bsp_mut().exits.record(ExitKind::from(exit));
        let turn = machine.serve(exit)?;
        match trail {
            RecordMode::First(recording) => recording.push(exit, &machine.processors.bsp().answer),
            RecordMode::Again(recording) => {
                if let Some(recorded) =
                    recording.answer(self.place.answers, machine.processors.bsp().answer.len())
                {
                    machine.processors.bsp_mut().answer.copy_from_slice(recorded);
                }
            }
        }
        self.place.exits = self.place.exits.wrapping_add(1);
        self.place.answers = self.place.answers.saturating_add(machine.processors.bsp().answer.len());
        machine.processors.bsp_mut().reply()?;
        Ok(match turn {
            ExitOutcome::Served => ExecutionEvent::Served,
            ExitOutcome::Debug(event) => ExecutionEvent::Debug(event.dr6),
            ExitOutcome::Ended(end) => ExecutionEvent::Ended(end),
        })
    }
}
