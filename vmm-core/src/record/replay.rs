//! A run once more: the machine is built again and led along its [`Recording`], exit by exit.
//!
//! What the guest read the first time it reads again, whatever the outside says now. Devices still serve every exit, for
//! what they write to the guest's memory; their output goes wherever the closure that builds the machine sends it, which
//! should be nowhere. Each exit is held against the record: a guest that looked at a clock or at random numbers leaves the
//! trail, and the replay stops there with a [`Divergence`].
//!
//! Time limits of the machine's description do not count here; a replay has a budget of its own.

mod step;

use std::fmt;
use std::time::{Duration, Instant};

use kvm_sys_wrap::{Alarm, Exit, GuestDebug, termination_requested};

use crate::cpu::exit_counts::ExitKind;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::run_loop::{DebugEvent, ExitOutcome};
use crate::record::checkpoint::Checkpoint;
use crate::record::{Recording, Signature, is_recorded};

pub(crate) use step::{HandlerTrap, ReplayStep};

/// A machine on its way through a recorded run.
pub struct Replayer<'a> {
    build: Box<dyn Fn() -> Result<Machine, Error> + 'a>,
    recording: &'a Recording,
    machine: Machine,
    position: ReplayPosition,
    /// Whether it ran since it was built.
    moved: bool,
    /// An exit that came when an instruction was completed, and is to be served next.
    next: Option<Exit>,
    divergence: Option<Divergence>,
    deadline: Option<(Instant, Alarm)>,
}

/// How far a replay has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct ReplayPosition {
    /// Exits served.
    exits: u64,
    /// Bytes of answers given.
    answers: usize,
}

/// A place in a run to come back to.
#[derive(Debug, Clone)]
pub struct ReplayMark {
    checkpoint: Checkpoint,
    position: ReplayPosition,
}

/// What one turn of a replay came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// An exit was served as it was the first time; the guest can go on.
    Served,
    /// A debug event that somebody asked for; the guest can go on.
    Debug(DebugEvent),
    /// A kick; the guest can go on.
    Kicked,
    /// The run ended.
    Ended(End),
    /// The run left the recorded trail ([`Replayer::divergence`]).
    Diverged,
    /// The budget is used up, or Ctrl-C.
    OutOfTime,
}

/// Where a replay left the trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divergence {
    /// The number of the exit, counted from 0.
    pub exit: u64,
    /// What it was the first time.
    pub recorded: Signature,
    /// What it is now.
    pub found: Signature,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exit, recorded, found } = self;
        let data = if recorded.to_string() == found.to_string() { " with other data" } else { "" };
        write!(f, "exit {exit} was {recorded}, and is {found}{data} when run again")
    }
}

impl<'a> Replayer<'a> {
    /// Builds the machine once; it stands before its first instruction.
    ///
    /// `build` gives the machine of the recorded run in its initial state, on every call, with a console that goes
    /// nowhere.
    ///
    /// # Errors
    /// What `build` ran into.
    pub fn new(
        build: impl Fn() -> Result<Machine, Error> + 'a,
        recording: &'a Recording,
    ) -> Result<Self, Error> {
        let machine = build()?;
        let (position, next) = Default::default();
        let build = Box::new(build);
        let (moved, divergence, deadline) = (false, None, None);
        Ok(Self { build, recording, machine, position, moved, next, divergence, deadline })
    }

    /// The machine, stopped.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The same, to look at it with calls that need it mutable. Running it would leave the trail.
    pub const fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Number of exits served so far.
    #[must_use]
    pub const fn exits(&self) -> u64 {
        self.position.exits
    }

    /// Whether the machine is no longer in its first state.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.moved
    }

    /// Where the replay left the trail, if it did.
    #[must_use]
    pub const fn divergence(&self) -> Option<Divergence> {
        self.divergence
    }

    /// From now on the replay has this much time, on this thread.
    ///
    /// # Errors
    /// [`Error::Kvm`] where the host has no timer for us.
    pub fn set_budget(&mut self, budget: Duration) -> Result<(), Error> {
        self.deadline = match Instant::now().checked_add(budget) {
            Some(at) => Some((at, Alarm::set(budget)?)),
            None => None,
        };
        Ok(())
    }

    /// Whether the budget is used up.
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        termination_requested() || self.deadline.as_ref().is_some_and(|(at, _)| Instant::now() >= *at)
    }

    /// Runs on until `exits` exits have been served in total. [`Replayed::Served`] if it got there.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn replay_to(&mut self, exits: u64) -> Result<Replayed, Error> {
        while self.position.exits < exits {
            match self.turn()? {
                Replayed::Served | Replayed::Debug(_) | Replayed::Kicked => {}
                other @ (Replayed::Ended(_) | Replayed::Diverged | Replayed::OutOfTime) => return Ok(other),
            }
        }
        Ok(Replayed::Served)
    }

    /// One turn: runs the guest up to its next exit, and serves that from the record.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn turn(&mut self) -> Result<Replayed, Error> {
        let exit = match self.next.take() {
            Some(exit) => exit,
            None => self.enter()?,
        };
        self.serve(&exit)
    }

    fn enter(&mut self) -> Result<Exit, Error> {
        self.moved = true;
        Ok(self.machine.processors.bsp_mut().vcpu.run()?)
    }

    /// Executes one instruction. [`Replayed::Debug`] if the guest can go on; exits on the way are served.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn step(&mut self) -> Result<Replayed, Error> {
        let halt = self.machine.next_if_halt()?;
        let step = GuestDebug { single_step: true, ..GuestDebug::default() };
        self.machine.processors.bsp().vcpu.set_guest_debug(&step)?;
        let result = loop {
            match self.turn()? {
                Replayed::Served => {}
                Replayed::Debug(event) if Some(event.pc) == halt => {
                    break Replayed::Ended(self.machine.halted()?);
                }
                other @ (Replayed::Debug(_)
                | Replayed::Kicked
                | Replayed::Ended(_)
                | Replayed::Diverged
                | Replayed::OutOfTime) => break other,
            }
        };
        self.machine.processors.bsp().vcpu.set_guest_debug(&GuestDebug::default())?;
        Ok(result)
    }

    /// Remembers this place.
    ///
    /// # Errors
    /// As [`Machine::run`]; [`Error::Kvm`] where the vCPU's state cannot be read.
    pub fn mark(&mut self) -> Result<ReplayMark, Error> {
        // Half an instruction is in no register. Completing it may take further exits, of the same instruction.
        while self.next.is_none() {
            let Some(exit) = self.machine.processors.bsp_mut().vcpu.finish_instruction()? else { break };

            match self.serve(&exit)? {
                Replayed::Served | Replayed::Debug(_) | Replayed::Kicked => {}
                Replayed::Ended(_) | Replayed::Diverged | Replayed::OutOfTime => break,
            }
        }
        Ok(ReplayMark { checkpoint: self.machine.checkpoint()?, position: self.position })
    }

    /// Whether the general registers and the number of exits are those of a place.
    pub(crate) fn is_at(&self, mark: Option<&ReplayMark>) -> Result<bool, Error> {
        let Some(mark) = mark.filter(|mark| mark.position == self.position) else { return Ok(false) };
        Ok(mark.checkpoint.vcpu().regs == self.machine.processors.bsp().vcpu.regs()?)
    }

    /// Goes back, or forward, to a place of this run: in a machine that is built anew.
    ///
    /// # Errors
    /// What building ran into; [`Error::Kvm`] where the vCPU's state cannot be written.
    pub fn return_to(&mut self, mark: &ReplayMark) -> Result<(), Error> {
        self.restart()?;
        self.machine.restore(&mark.checkpoint)?;
        self.position = mark.position;
        self.moved = true;
        Ok(())
    }

    /// Goes back to the first instruction, in a machine that is built anew.
    ///
    /// # Errors
    /// What building ran into.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.machine = (self.build)()?;
        self.position = ReplayPosition::default();
        self.moved = false;
        self.next = None;
        self.divergence = None;
        Ok(())
    }

    /// Serves one exit: devices first, then the answer of the record in place of theirs.
    fn serve(&mut self, exit: &Exit) -> Result<Replayed, Error> {
        if let Exit::Debug { pc, dr6, .. } = exit {
            return Ok(Replayed::Debug(DebugEvent { pc: *pc, dr6: *dr6 }));
        }
        if !is_recorded(exit) {
            return Ok(if self.is_out_of_time() { Replayed::OutOfTime } else { Replayed::Kicked });
        }
        let found = Signature::of(exit);
        if let Some(recorded) = self.recording.signature(self.position.exits)
            && recorded != found
        {
            self.divergence = Some(Divergence { exit: self.position.exits, recorded, found });
            return Ok(Replayed::Diverged);
        }
        let machine = &mut self.machine;
        machine.processors.bsp_mut().exits.record(ExitKind::from(exit));
        let turn = machine.serve(exit)?;
        if let Some(recorded) =
            self.recording.answer(self.position.answers, machine.processors.bsp().answer.len())
        {
            machine.processors.bsp_mut().answer.copy_from_slice(recorded);
            self.position.answers = self.position.answers.saturating_add(recorded.len());
        }
        machine.processors.bsp_mut().reply()?;
        self.position.exits = self.position.exits.wrapping_add(1);
        // A deadline that passes while the guest exits all the time is not noticed by a kick alone.
        let late = self.position.exits.is_multiple_of(64) && self.is_out_of_time();
        Ok(match turn {
            ExitOutcome::Ended(end) => Replayed::Ended(end),
            ExitOutcome::Served if late => Replayed::OutOfTime,
            ExitOutcome::Served => Replayed::Served,
            ExitOutcome::Debug(event) => Replayed::Debug(event),
        })
    }
}

impl fmt::Debug for Replayer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayer").field("position", &self.position).finish_non_exhaustive()
    }
}
