//! Replay: the machine is built again and follows its [`Recording`], exit by exit.
//!
//! The guest reads the recorded answers. Devices still serve every exit, because they may write to guest memory; their output
//! goes to the console of the machine that `build` makes, which should discard it. Each exit is compared with the record: the
//! run of a guest that uses a clock or random numbers differs, and the replay stops there with a [`Divergence`].
//!
//! Limits of the machine's description do not apply; a replay has a budget of its own.

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

/// Machine that repeats a recorded run.
pub struct Replayer<'a> {
    build: Box<dyn Fn() -> Result<Machine, Error> + 'a>,
    recording: &'a Recording,
    machine: Machine,
    position: RecordPosition,
    /// True if the machine ran since it was built.
    moved: bool,
    divergence: Option<Divergence>,
    deadline: Option<(Instant, KickTimer)>,
}

/// Point of a replay to which it can return.
#[derive(Debug, Clone)]
pub struct ReplayMark {
    checkpoint: Checkpoint,
    position: RecordPosition,
}

/// Result of one turn of a replay: the guest can go on, or the replay has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    /// An exit was served with the recorded answer; the guest can go on.
    Served,
    /// A debug event happened that was asked for; the guest can go on.
    Debug(DebugEvent),
    /// A signal ended `KVM_RUN`; the guest can go on.
    Interrupted,
    /// The replayed run ended.
    Ended(End),
    /// The run differs from the record ([`Replayer::divergence`]).
    Diverged,
    /// The time budget is used up, or the user pressed Ctrl-C.
    OutOfTime,
}

impl<'a> Replayer<'a> {
    /// Builds a machine for the replay, which stands before its first instruction.
    ///
    /// Every call of `build` makes the machine of the recorded run in its initial state, with a console that discards output.
    ///
    /// # Errors
    /// Errors of `build`.
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

    /// Returns the machine of the replay, which is stopped.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Returns the machine of the replay for calls that need it mutable. Running it breaks the replay.
    pub const fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// Returns the number of exits served so far.
    #[must_use]
    pub const fn exits(&self) -> u64 {
        self.position.exits
    }

    /// Returns true if the machine is no longer in its initial state.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.moved
    }

    /// Returns the first exit that differs from the record, if there was one.
    #[must_use]
    pub const fn divergence(&self) -> Option<Divergence> {
        self.divergence
    }

    /// Limits the time of the replay from now on. It must be called on the thread that runs the replay.
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

    /// Returns true if the time budget is used up, or the user pressed Ctrl-C.
    #[must_use]
    pub fn is_out_of_time(&self) -> bool {
        is_over(self.deadline.as_ref())
    }

    /// Runs the replay until `exits` exits have been served in total, and returns [`Replayed::Served`] then.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn replay_to(&mut self, exits: u64) -> Result<Replayed, Error> {
        while self.position.exits < exits {
            match self.turn()? {
                Replayed::Served | Replayed::Debug(_) | Replayed::Interrupted => {}
                other @ (Replayed::Ended(_) | Replayed::Diverged | Replayed::OutOfTime) => return Ok(other),
            }
        }
        Ok(Replayed::Served)
    }

    /// Runs the guest up to its next exit, and serves the exit from the record.
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
            ExitOutcome::Intercepted(ReplayInterception::Signal) => Replayed::Interrupted,
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

    /// Marks the current point of the replay.
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

    /// Goes back, or forward, to a marked point, in a newly built machine.
    ///
    /// # Errors
    /// Errors of `build`; [`Error::Kvm`] where the vCPU's state cannot be written.
    pub fn return_to(self, mark: &ReplayMark) -> Result<Self, Error> {
        let mut replayer = self.restart()?;
        replayer.machine.restore(&mark.checkpoint)?;
        Ok(Self { position: mark.position, moved: true, ..replayer })
    }

    /// Goes back to the first instruction, in a newly built machine. The present machine is dropped before, so that its VM can be
    /// used again ([`crate::machine::reserved_vms`]).
    ///
    /// # Errors
    /// Errors of `build`.
    pub fn restart(self) -> Result<Self, Error> {
        let Self { build, recording, machine, deadline, .. } = self;
        drop(machine);
        let machine = build()?;
        let position = RecordPosition::default();
        Ok(Self { build, recording, machine, position, moved: false, divergence: None, deadline })
    }
}

impl fmt::Debug for Replayer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayer").field("position", &self.position).finish_non_exhaustive()
    }
}
