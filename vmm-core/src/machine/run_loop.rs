//! Run loop: turns of the vCPU ([`crate::machine::turn`]) until something ends the run.
//!
//! A machine with several vCPUs or with interrupts has a loop for each vCPU (`smp.rs`).

use std::convert::Infallible;
use std::time::Duration;

use crate::cpu::exit_counts::ExitCounts;
use crate::machine::Machine;
use crate::machine::coalesced_pio::CoalescedPio;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::limits::Limits;
use crate::machine::observer::{ExitView, Observer};
use crate::machine::overlay_promotion::OverlayPromotion;
use crate::machine::round_robin;
use crate::machine::smp;
use crate::machine::stepper::{SingleStep, StepOutcome, can_step};
use crate::machine::turn::{ExitHooks, ExitOutcome};
use crate::spec::{Interrupts, LimitSpec};

/// Result of a run: its end, its exits and its duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOutcome {
    /// End of the run, with its data.
    pub end: End,
    /// Number of exits since the machine was made, of all vCPUs.
    pub exits: ExitCounts,
    /// Wall-clock time from the first `KVM_RUN` to the end.
    pub elapsed: Duration,
}

/// Limits and observers of a run.
pub(crate) struct RunControl<'a, 'o> {
    pub(crate) limits: Limits,
    pub(crate) observers: &'a mut [&'o mut dyn Observer],
    /// Exits of the vCPUs besides the one whose exits are handled; they count for the limit.
    pub(crate) other_exits: u64,
}

impl RunControl<'_, '_> {
    /// Starts to watch the limits, on the thread that runs the vCPU, without observers.
    pub(crate) fn with_limits(limits: LimitSpec) -> Result<Self, Error> {
        Ok(Self { limits: Limits::start(limits)?, observers: &mut [], other_exits: 0 })
    }
}

impl ExitHooks for RunControl<'_, '_> {
    type Interception = Infallible;

    #[inline]
    fn before_serve(&mut self, view: &ExitView<'_>) -> Result<Option<End>, Error> {
        if let Some(end) =
            self.limits.check(view.exit, || view.exits.total().saturating_add(self.other_exits))
        {
            return Ok(Some(end));
        }
        Ok(self.observers.iter_mut().find_map(|observer| observer.on_exit(view)))
    }

    #[inline]
    fn after_serve(&mut self, view: &ExitView<'_>, answer: &mut [u8]) {
        for observer in &mut *self.observers {
            observer.on_served(view, answer);
        }
    }
}

impl Machine {
    /// Runs the guest until it ends, crashes, or is stopped by a limit of its description. [`Machine::runner`] has observers,
    /// other limits, single steps and other points to stop at.
    ///
    /// # Errors
    /// Only where the host fails: a call to KVM, or the console. What the guest does is in the outcome.
    pub fn run(&mut self) -> Result<RunOutcome, Error> {
        self.runner().run()
    }

    /// Runs to the end, then checks the files that memory shows: an end caused by pages that somebody changed during the
    /// run is none of the guest's.
    pub(crate) fn run_to_end(&mut self, control: &mut RunControl<'_, '_>) -> Result<End, Error> {
        let end = self.run_turns(control);
        self.processors.bsp().vcpu.vm().check_mapped_files()?;
        end
    }

    fn run_turns(&mut self, control: &mut RunControl<'_, '_>) -> Result<End, Error> {
        if self.board.spec.interrupts != Interrupts::None {
            let is_round_robin = self.board.spec.has_userspace_irqchip();
            let (end, vcpu) =
                if is_round_robin { round_robin::run(self, control) } else { smp::run(self, control) }?;
            self.stopped_vcpu = vcpu;
            return Ok(end);
        }
        let (board, bsp) = (&self.board, self.processors.bsp_mut());
        let mut promotion = OverlayPromotion::start(bsp.vcpu.vm())?;
        let _coalesced = CoalescedPio::start(bsp.vcpu.vm(), &board.spec)?;
        loop {
            if let ExitOutcome::Ended(end) = bsp.turn(board, control)? {
                return Ok(end);
            }
            if let Some(watch) = &mut promotion
                && watch.poll(bsp.vcpu.vm())?
            {
                promotion = None;
            }
        }
    }

    /// Runs to the end one instruction at a time. Where the host cannot step ([`can_step`]) the guest runs to its next exit.
    pub(crate) fn step_to_end(&mut self, control: &mut RunControl<'_, '_>) -> Result<End, Error> {
        loop {
            if let Some(end) = self.step_or_turn(control)? {
                return Ok(end);
            }
        }
    }

    pub(crate) fn step_or_turn(&mut self, control: &mut RunControl<'_, '_>) -> Result<Option<End>, Error> {
        if self.board.spec.has_userspace_irqchip() {
            return Err(Error::NoInterruptDebugging);
        }
        let (board, bsp) = (&self.board, self.processors.bsp_mut());
        if can_step(&bsp.vcpu.sregs()?) {
            return self.step(control);
        }
        Ok(match bsp.turn(board, control)? {
            ExitOutcome::Served | ExitOutcome::Ignored | ExitOutcome::Debug(_) => None,
            ExitOutcome::Ended(end) => Some(end),
        })
    }

    /// Executes one instruction; `Some` if the run ended with it. Observers see it as an [`Exit::Debug`], whether KVM reports
    /// it or not.
    ///
    /// [`Exit::Debug`]: kvm_sys_wrap::Exit::Debug
    pub(crate) fn step(&mut self, control: &mut RunControl<'_, '_>) -> Result<Option<End>, Error> {
        let (board, bsp) = (&self.board, self.processors.bsp_mut());
        let step = SingleStep::new(bsp.next_hlt_end(board)?);
        Ok(match bsp.step(board, &step, control)? {
            StepOutcome::Reported(_) => None,
            StepOutcome::Ended(end) => Some(end),
            StepOutcome::Finished => {
                let report = bsp.step_report()?;
                match bsp.handle_exit(board, &report, control)? {
                    ExitOutcome::Served | ExitOutcome::Ignored | ExitOutcome::Debug(_) => None,
                    ExitOutcome::Ended(end) => Some(end),
                }
            }
        })
    }
}
