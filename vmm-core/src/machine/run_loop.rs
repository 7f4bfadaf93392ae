//! The run loop: run, count, show to the observers, serve. Then again, until something ends it.
//!
//! How an exit is served is the processor's part ([`crate::machine::processor`]); machines with several vCPUs or with interrupts
//! have a loop for each vCPU ([`crate::together`]).

use std::time::{Duration, Instant};

use kvm_sys_wrap::Exit;

use crate::cpu::exit_counts::ExitCounts;
use crate::machine::Machine;
use crate::machine::coalesced_pio::CoalescedPio;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::limits::Limits;
use crate::machine::observer::Observer;
use crate::machine::overlay_promotion::OverlayPromotion;
use crate::machine::smp;
use crate::spec::Interrupts;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutcome {
    /// How it ended.
    pub end: End,
    /// The exits it took.
    pub exits: ExitCounts,
    /// Wall-clock time from the first `KVM_RUN` to the end.
    pub elapsed: Duration,
}

/// What one turn of the loop came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitOutcome {
    /// An exit was served; the guest can go on.
    Served,
    /// A debug event that somebody asked for with `KVM_SET_GUEST_DEBUG`; the guest can go on.
    Debug(DebugEvent),
    /// The run is over.
    Ended(End),
}

/// A debug event ([`Exit::Debug`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugEvent {
    /// The linear address of the next instruction.
    pub pc: u64,
    /// Which condition: bits 0 to 3 a breakpoint, bit 14 a single step (SDM vol. 3, 17.2.3).
    pub dr6: u64,
}

impl Machine {
    /// Runs the guest until it ends, dies, or is stopped by a limit.
    ///
    /// # Errors
    /// Only where the host fails: a call to KVM, or the console. What the guest does is in the outcome.
    pub fn run(&mut self) -> Result<RunOutcome, Error> {
        self.run_observed(&mut [])
    }

    /// The same, with observers, who see each exit before and after it is served.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run_observed(&mut self, observers: &mut [&mut dyn Observer]) -> Result<RunOutcome, Error> {
        let mut limits = Limits::start(self.board.spec.limits)?;
        let started = Instant::now();
        let end = self.run_to_end(&mut limits, observers)?;
        let elapsed = started.elapsed();
        self.board.output.sync().map_err(Error::Console)?;
        Ok(RunOutcome { end, exits: self.exits(), elapsed })
    }

    /// The whole loop, and a look at the files that memory shows: an end that came of pages which somebody changed during the
    /// run is none of the guest's.
    pub(crate) fn run_to_end(
        &mut self,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<End, Error> {
        let end = self.turns(limits, observers);
        self.processors.bsp().vcpu.vm().check_files()?;
        end
    }

    /// Turn by turn to the end. One vCPU that nothing interrupts has the loop to itself.
    fn turns(&mut self, limits: &mut Limits, observers: &mut [&mut dyn Observer]) -> Result<End, Error> {
        if self.board.spec.interrupts != Interrupts::None {
            let (end, vcpu) = smp::run(self, limits, observers)?;
            self.ended = vcpu;
            return Ok(end);
        }
        let mut fetch = OverlayPromotion::start(self.processors.bsp().vcpu.vm())?;
        let _collecting = CoalescedPio::start(self.processors.bsp().vcpu.vm(), &self.board.spec)?;
        loop {
            match self.run_one_exit(limits, observers)? {
                ExitOutcome::Served | ExitOutcome::Debug(_) => {}
                ExitOutcome::Ended(end) => return Ok(end),
            }
            if let Some(watch) = &mut fetch
                && watch.look(self.processors.bsp().vcpu.vm())?
            {
                fetch = None;
            }
        }
    }

    /// One turn of the first vCPU: runs it up to its next exit, and serves that.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run_one_exit(
        &mut self,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<ExitOutcome, Error> {
        let exit = self.processors.bsp_mut().vcpu.run()?;
        self.handle_exit(&exit, limits, observers)
    }

    /// The rest of a turn: counts an exit, shows it, serves it.
    pub(crate) fn handle_exit(
        &mut self,
        exit: &Exit,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<ExitOutcome, Error> {
        let (board, bsp) = (&self.board, self.processors.bsp_mut());
        bsp.count(exit);
        if let Some(end) = limits.check(exit, || bsp.exits.total()) {
            return Ok(ExitOutcome::Ended(end));
        }
        let view = bsp.view(exit, board);
        if let Some(end) = observers.iter_mut().find_map(|observer| observer.on_exit(&view)) {
            return Ok(ExitOutcome::Ended(end));
        }
        let turn = bsp.serve(board, exit)?;
        let view = bsp.view(exit, board);
        for observer in observers {
            observer.on_served(&view, &bsp.answer);
        }
        bsp.reply()?;
        Ok(turn)
    }

    /// Serves one exit. What the guest is to read is left in the processor's answer.
    pub(crate) fn serve(&mut self, exit: &Exit) -> Result<ExitOutcome, Error> {
        self.processors.bsp_mut().serve(&self.board, exit)
    }

    /// What a HLT was.
    pub(crate) fn halted(&self) -> Result<End, Error> {
        // Whoever steps by hand may have changed the registers since the exit.
        Ok(self.processors.bsp().halted(&self.board, &self.processors.bsp().vcpu.regs()?))
    }
}
