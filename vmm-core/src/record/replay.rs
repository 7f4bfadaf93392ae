//! A run once more: the machine is built again and led along its [`Recording`], exit by exit.
//!
//! What the guest read the first time it reads again, whatever the outside says now. Devices still serve every exit, for
//! what they write to the guest's memory; their output goes wherever the closure that builds the machine sends it, which
//! should be nowhere. Each exit is held against the record: a guest that looked at a clock or at random numbers leaves the
//! trail, and the replay stops there with a [`Divergence`].
//!
//! Time limits of the machine's description do not count here; a replay has a budget of its own.

mod hooks;
mod step;

use std::fmt;
use std::time::{Duration, Instant};

use kvm_sys_wrap::KickTimer;

use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::turn::{DebugEvent, ExitOutcome};
use crate::record::checkpoint::Checkpoint;
use crate::record::position::RecordPosition;
use crate::record::{Divergence, Recording};

use hooks::{ReplayHooks, ReplayInterception, is_over};
pub use step::{HandlerTrap, ReplayStep};

/// A machine on its way through a recorded run.
pub struct Replayer<'a> {
    build: Box<dyn Fn() -> Result<Machine, Error> + 'a>,
    recording: &'a Recording,
    machine: Machine,
    position: RecordPosition,
    /// Whether it ran since it was built.
    moved: bool,
    divergence: Option<Divergence>,
    deadline: Option<(Instant, KickTimer)>,
}

/// A place in a run to come back to.
#[derive(Debug, Clone)]
pub struct ReplayMark {
    checkpoint: Checkpoint,
    position: RecordPosition,
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
        Ok(Self {
            build: Box::new(build),
            recording,
            machine,
            position: RecordPosition::default(),
            moved: false,
            divergence: None,
            deadline: None,
        })
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
            Some(at) => Some((at, KickTimer::new(budget)?)),
            None => None,
        };
        Ok(())
    }

    /// Whether the budget is used up.
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        is_over(self.deadline.as_ref())
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

    /// Runs the guest up to its next exit, and serves that from the record.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn turn(&mut self) -> Result<Replayed, Error> {
        self.moved = true;
        let mut hooks = ReplayHooks {
            recording: self.recording,
            position: &mut self.position,
            divergence: &mut self.divergence,
            deadline: self.deadline.as_ref(),
            step: None,
        };
        let Machine { board, processors, .. } = &mut self.machine;
        let outcome = processors.bsp_mut().turn(board, &mut hooks)?;
        Ok(match outcome {
            ExitOutcome::Served if self.is_late() => Replayed::OutOfTime,
            ExitOutcome::Served | ExitOutcome::Ignored => Replayed::Served,
            ExitOutcome::Debug(event) => Replayed::Debug(event),
            ExitOutcome::Ended(end) => Replayed::Ended(end),
            ExitOutcome::Intercepted(ReplayInterception::Signal) => Replayed::Kicked,
            ExitOutcome::Intercepted(ReplayInterception::OutOfTime) => Replayed::OutOfTime,
            ExitOutcome::Intercepted(ReplayInterception::Diverged) => Replayed::Diverged,
            // Only steps look for these.
            ExitOutcome::Intercepted(ReplayInterception::AtHandler | ReplayInterception::StaleHlt) => {
                Replayed::Served
            }
        })
    }

    /// Returns true if the budget is used up, looking only after every 64th exit. A deadline that passes while the guest exits
    /// all the time is not noticed by a signal alone.
    fn is_late(&self) -> bool {
        self.position.exits.is_multiple_of(64) && self.is_out_of_time()
    }

    /// Remembers this place.
    ///
    /// # Errors
    /// As [`Machine::run`]; [`Error::Kvm`] where the vCPU's state cannot be read.
    pub fn mark(&mut self) -> Result<ReplayMark, Error> {
        // Half an instruction is in no register. Finishing it may take further exits, of the same instruction.
        let mut hooks = ReplayHooks {
            recording: self.recording,
            position: &mut self.position,
            divergence: &mut self.divergence,
            deadline: self.deadline.as_ref(),
            step: None,
        };
        let Machine { board, processors, .. } = &mut self.machine;
        processors.bsp_mut().finish_instruction(board, &mut hooks, |outcome| {
            use ReplayInterception::{Diverged, OutOfTime};
            matches!(outcome, ExitOutcome::Ended(_) | ExitOutcome::Intercepted(Diverged | OutOfTime))
        })?;
        Ok(ReplayMark { checkpoint: self.machine.checkpoint()?, position: self.position })
    }

    /// Returns true if the general registers and the number of exits are those of `mark`.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn is_at(&self, mark: Option<&ReplayMark>) -> Result<bool, Error> {
        let Some(mark) = mark.filter(|mark| mark.position == self.position) else { return Ok(false) };
        Ok(mark.checkpoint.regs() == Some(&self.machine.processors.bsp().vcpu.regs()?))
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
        self.position = RecordPosition::default();
        self.moved = false;
        self.divergence = None;
        Ok(())
    }
}

impl fmt::Debug for Replayer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayer").field("position", &self.position).finish_non_exhaustive()
    }
}
