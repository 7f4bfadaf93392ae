//! Points of a run to stop at: an address, a number of exits, a time, the end.
//!
//! To stop at an address, a hardware breakpoint is best: it needs no memory, works before the address is mapped, and the
//! guest cannot see it. Some hosts accept one and never report it, so that is probed first
//! ([`crate::machine::debug_capabilities`]). Where it is not reported, the byte at the address is replaced by a HLT until it
//! is reached, which every host reports: in ring 0 as an exit, in ring 3 as a #GP that the trap page catches, after which
//! the vCPU's state is put back. Where nothing is mapped at the address yet, the guest is single-stepped.
//!
//! The address should be that of an instruction: inside of one it is never reached, and a HLT would change what the
//! instruction does.
//!
//! Memory, registers and exit counts show nothing of this afterwards. Observers see the exits all the same.

use std::time::Duration;

use kvm_sys_wrap::{Breakpoint, BreakpointCondition, GuestDebug};
use vm_memory::Bytes;

use crate::cpu::exit_counts::ExitKind;
use crate::machine::Machine;
use crate::machine::debug_capabilities::DebugProbe;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::run_loop::RunControl;
use crate::machine::stepper::{HLT, can_step};
use crate::machine::turn::ExitOutcome;
use crate::spec::{Interrupts, LimitSpec};
use crate::{Gpa, Gva};

/// Point at which a run is to stop: an address, a number of exits, a time, or the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopPoint {
    /// Point before the first instruction.
    Start,
    /// Point before the instruction at a virtual address is executed for the first time from now on.
    Address {
        /// Linear address: in real mode, the base of CS is included.
        gva: Gva,
        /// Guest-physical address of the instruction until the guest has mapped it; `None` if that is not known.
        gpa: Option<Gpa>,
    },
    /// Point after a number of exits since the start, when the instruction that caused the last of them has ended.
    Exits(u64),
    /// Point after a duration, or when the time limit passes if that is sooner.
    After(Duration),
    /// End of the run.
    End,
}

/// Vector of #GP, which HLT raises in ring 3.
const GENERAL_PROTECTION: u8 = 13;

impl StopPoint {
    /// Limits of a run up to this point, given those of a run to the end.
    pub(crate) fn limits(self, limits: LimitSpec) -> LimitSpec {
        match self {
            Self::After(time) => {
                LimitSpec { time: Some(limits.time.unwrap_or(time).min(time)), exits: limits.exits }
            }
            Self::Start | Self::Address { .. } | Self::Exits(_) | Self::End => limits,
        }
    }

    /// Result of a run that ended: `None` if the time of [`StopPoint::After`] ended it.
    fn ended(self, end: End) -> Option<End> {
        match (self, &end) {
            (Self::After(time), End::TimeLimit(limit)) if *limit == time => None,
            (_, _) => Some(end),
        }
    }
}

impl Machine {
    /// Runs to a point; `Some` if the run ended before. `control` has the limits that [`StopPoint::limits`] gives.
    pub(crate) fn run_until(
        &mut self,
        point: StopPoint,
        control: &mut RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        match point {
            StopPoint::Start => Ok(None),
            StopPoint::Address { gva, gpa } => self.run_to_address(gva, gpa, control),
            StopPoint::Exits(count) => self.run_to_exit(count, control),
            StopPoint::After(_) | StopPoint::End => Ok(point.ended(self.run_to_end(control)?)),
        }
    }

    /// Runs to a point one instruction at a time; `Some` if the run ended before.
    pub(crate) fn step_until(
        &mut self,
        point: StopPoint,
        control: &mut RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        loop {
            let is_reached = match point {
                StopPoint::Start => true,
                StopPoint::Address { gva, .. } => self.next_instruction()? == gva,
                StopPoint::Exits(count) => self.processors.bsp().exits.total() >= count,
                StopPoint::After(_) | StopPoint::End => false,
            };
            if is_reached {
                return Ok(None);
            }
            if let Some(end) = self.step_or_turn(control)? {
                return Ok(point.ended(end));
            }
        }
    }

    /// Returns the linear address of the next instruction of the bootstrap processor.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn next_instruction(&self) -> Result<Gva, Error> {
        self.processors.bsp().linear_rip().map(Gva)
    }

    fn run_to_exit(&mut self, count: u64, control: &mut RunControl<'_, '_>) -> Result<Option<End>, Error> {
        if self.board.spec.has_userspace_irqchip() {
            return Err(Error::NoInterruptDebugging);
        }
        let (board, bsp) = (&self.board, self.processors.bsp_mut());
        while bsp.exits.total() < count {
            if let ExitOutcome::Ended(end) = bsp.turn(board, control)? {
                return Ok(Some(end));
            }
        }
        let is_end = |outcome: &_| matches!(outcome, ExitOutcome::Ended(_));
        Ok(match bsp.finish_instruction(board, control, is_end)? {
            Some(ExitOutcome::Ended(end)) => Some(end),
            Some(ExitOutcome::Served | ExitOutcome::Ignored | ExitOutcome::Debug(_)) | None => None,
        })
    }

    fn run_to_address(
        &mut self,
        gva: Gva,
        gpa: Option<Gpa>,
        control: &mut RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        if self.board.spec.interrupts != Interrupts::None {
            return Err(Error::NoBreakpoint { gva });
        }
        if self.next_instruction()? == gva {
            return Ok(None);
        }
        let probe = DebugProbe::new(self.processors.bsp().vcpu.vm().kvm(), &self.board.spec);
        if probe.hardware_breakpoint()? {
            return self.run_to_breakpoint(gva, control);
        }
        // Not by KVM_TRANSLATE, which may set accessed bits in the guest's tables.
        let gpa = self.walker()?.walk(&self.board.memory, gva).translation().map(|to| to.gpa).or(gpa);
        let covered: Option<u8> = gpa.and_then(|gpa| self.board.memory.read_obj(gpa.into()).ok());
        match (gpa, covered) {
            (Some(gpa), Some(covered)) => self.run_to_hlt(gva, gpa, covered, control),
            (_, _) => self.step_to(gva, control),
        }
    }

    fn run_to_breakpoint(
        &mut self,
        gva: Gva,
        control: &mut RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        let (board, bsp) = (&self.board, self.processors.bsp_mut());
        let breakpoint = Breakpoint { address: gva, condition: BreakpointCondition::Execute };
        bsp.vcpu.set_guest_debug(&GuestDebug {
            breakpoints: [Some(breakpoint), None, None, None],
            ..GuestDebug::default()
        })?;
        let end = loop {
            match bsp.turn(board, control)? {
                ExitOutcome::Served | ExitOutcome::Ignored => {}
                ExitOutcome::Debug(event) => {
                    bsp.exits.remove(ExitKind::Debug);
                    if event.pc == gva.0 {
                        break None;
                    }
                }
                ExitOutcome::Ended(end) => break Some(end),
            }
        };
        bsp.vcpu.set_guest_debug(&GuestDebug::default())?;
        Ok(end)
    }

    fn step_to(&mut self, gva: Gva, control: &mut RunControl<'_, '_>) -> Result<Option<End>, Error> {
        while self.next_instruction()? != gva {
            let before = self.processors.bsp().exits.get(ExitKind::Debug);
            if !can_step(&self.processors.bsp().vcpu.sregs()?) {
                // Ring 3 cannot map the address either, so the guest never gets there.
                return self.run_to_end(control).map(Some);
            }
            if let Some(end) = self.step(control)? {
                return Ok(Some(end));
            }
            let exits = &mut self.processors.bsp_mut().exits;
            for _ in before..exits.get(ExitKind::Debug) {
                exits.remove(ExitKind::Debug);
            }
        }
        Ok(None)
    }

    /// Replaces the byte `covered` by a HLT until that is executed or the run ends.
    fn run_to_hlt(
        &mut self,
        gva: Gva,
        gpa: Gpa,
        covered: u8,
        control: &mut RunControl<'_, '_>,
    ) -> Result<Option<End>, Error> {
        let sregs = self.processors.bsp().vcpu.sregs()?;
        let table = |source| Error::Table { what: "a breakpoint", source };
        self.board.memory.write_obj(HLT, gpa.into()).map_err(table)?;
        let end = self.run_to_end(control)?;
        self.board.memory.write_obj(covered, gpa.into()).map_err(table)?;
        let (board, bsp) = (&self.board, self.processors.bsp_mut());
        if let End::Halt { .. } = &end
            && bsp.linear_rip()? == gva.0.wrapping_add(1)
        {
            let mut regs = bsp.vcpu.regs()?;
            regs.rip = regs.rip.wrapping_sub(1);
            bsp.vcpu.set_regs(&regs)?;
        } else if let End::Exception { vector: GENERAL_PROTECTION, frame: Some(frame) } = &end
            && frame.rip == gva.0
        {
            bsp.return_to_ring_3(board, frame, sregs.cs, sregs.ss)?;
        } else {
            return Ok(Some(end));
        }
        bsp.exits.remove(ExitKind::Hlt);
        Ok(None)
    }
}
