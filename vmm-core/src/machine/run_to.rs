//! Runs a machine up to a point: an address, a number of exits, its end.
//!
//! To stop at an address, a hardware breakpoint is best: it needs no memory, works before the address is mapped, and the
//! guest cannot see it. But some hosts take one and never report it, so it is tried first, on a machine of two
//! instructions. Where it does not fire, the byte at the address becomes a HLT for the time being, which every host
//! reports: in ring 0 as an exit, in ring 3 as a #GP that the landing page catches, after which the vCPU is put back.
//! Where nothing is mapped there yet, the guest is single-stepped.
//!
//! So the address should be that of an instruction: inside of one, it is never reached, and a HLT would change what the
//! instruction does.
//!
//! What these means cost the guest is taken back: its memory, its registers, the number of its exits. Observers see
//! the exits all the same.

use std::io;
use std::time::Duration;

use kvm_sys_wrap::bindings::kvm_segment;
use kvm_sys_wrap::{Breakpoint, BreakpointCondition, GuestDebug, Kvm};
use vm_memory::Bytes;

use crate::cpu::exit_counts::ExitKind;
use crate::cpu::ring3_trap::ExceptionFrame;
use crate::devices::console::Console;
use crate::disassembly::linear_rip;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::host;
use crate::machine::image::FlatImage;
use crate::machine::limits::Limits;
use crate::machine::observer::Observer;
use crate::machine::run_loop::ExitOutcome;
use crate::machine::step::can_step;
use crate::spec::mode::{Mode, Ring};
use crate::spec::{self, EntryPoint, MachineSpec};
use crate::{Gpa, Gva};

/// Where to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before the first instruction.
    Start,
    /// Before the instruction at this virtual address is executed for the first time from now on.
    Address {
        /// The linear address: in real mode, the base of CS is counted in.
        gva: Gva,
        /// Where it lies in memory, for as long as the guest has not mapped it; `None` if that is not known.
        gpa: Option<Gpa>,
    },
    /// After this many exits since the start, and the end of the instruction that led to the last of them.
    Exits(u64),
    /// When this much time has passed, or what the limits allow if that is less.
    After(Duration),
    /// Where the run ends by itself.
    End,
}

/// `nop; nop; out %al, $0xf4; hlt`
const PROBE: [u8; 5] = [0x90, 0x90, 0xe6, 0xf4, 0xf4];
const PROBE_ADDRESS: u64 = 0x8000;
const HLT: u8 = 0xf4;
/// #GP, which HLT raises in ring 3.
const GENERAL_PROTECTION: u8 = 13;

/// Whether this host reports hardware breakpoints on execution in a mode and ring. Takes about as long as a short run.
///
/// # Errors
/// Where the host cannot do the mode.
pub fn breakpoints_fire(kvm: &Kvm, mode: Mode, ring: Ring) -> Result<bool, Error> {
    let mut spec = MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(PROBE_ADDRESS)));
    spec.boot.ring = ring;
    spec.limits.time = Some(Duration::from_secs(2));
    let mut limits = Limits::start(spec.limits)?;
    let guest = FlatImage { address: Gpa(PROBE_ADDRESS), bytes: &PROBE };
    let mut machine = Machine::build(kvm, spec, &guest, Console::to(io::sink()))?;
    let second = Gva(PROBE_ADDRESS + 1);
    machine.processors.bsp().vcpu.set_guest_debug(&execution_of(second))?;
    loop {
        match machine.run_one_exit(&mut limits, &mut [])? {
            ExitOutcome::Served => {}
            ExitOutcome::Debug(event) => return Ok(event.pc == second.0),
            ExitOutcome::Ended(_) => return Ok(false),
        }
    }
}

const fn execution_of(address: Gva) -> GuestDebug {
    let breakpoint = Breakpoint { address, condition: BreakpointCondition::Execute };
    GuestDebug {
        single_step: false,
        software_breakpoints: false,
        block_interrupts: false,
        inject_int3: false,
        breakpoints: [Some(breakpoint), None, None, None],
    }
}

impl Machine {
    /// Runs up to a point; `Some` if the run ended first.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run_to(
        &mut self,
        point: Point,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        let end = match point {
            Point::Start => None,
            Point::Address { gva, gpa } => self.run_to_address(gva, gpa, limits, observers)?,
            Point::Exits(count) => self.run_to_exit(count, limits, observers)?,
            Point::After(time) => self.run_for(time, observers)?,
            Point::End => Some(self.run_to_end(limits, observers)?),
        };
        self.board.output.sync().map_err(Error::Console)?;
        Ok(end)
    }

    /// Lets the kernel finish the instruction of the last exit, so that registers and memory are those between two
    /// instructions; `Some` if the run ended with that. An instruction that takes several exits is served to its end.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn finish_instruction(
        &mut self,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        while let Some(exit) = self.processors.bsp_mut().vcpu.finish_instruction()? {
            if let ExitOutcome::Ended(end) = self.handle_exit(&exit, limits, observers)? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// The linear address of the next instruction.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn next_instruction(&self) -> Result<Gva, Error> {
        Ok(Gva(linear_rip(&self.processors.bsp().vcpu.regs()?, &self.processors.bsp().vcpu.sregs()?)))
    }

    fn run_for(&mut self, time: Duration, observers: &mut [&mut dyn Observer]) -> Result<Option<End>, Error> {
        let spec::LimitSpec { time: limit, exits } = self.board.spec.limits;
        let mut own = Limits::start(spec::LimitSpec { time: Some(limit.unwrap_or(time).min(time)), exits })?;
        let end = self.run_to_end(&mut own, observers)?;
        // Time passes at a signal, between two instructions.
        Ok((end != End::TimeLimit(time)).then_some(end))
    }

    fn run_to_exit(
        &mut self,
        count: u64,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        while self.processors.bsp().exits.total() < count {
            if let ExitOutcome::Ended(end) = self.run_one_exit(limits, observers)? {
                return Ok(Some(end));
            }
        }
        self.finish_instruction(limits, observers)
    }

    fn run_to_address(
        &mut self,
        gva: Gva,
        gpa: Option<Gpa>,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        if self.next_instruction()? == gva {
            return Ok(None);
        }
        let boot = &self.board.spec.boot;
        if breakpoints_fire(self.processors.bsp().vcpu.vm().kvm(), boot.mode, boot.ring)? {
            return self.run_to_breakpoint(gva, limits, observers);
        }
        // Not by KVM_TRANSLATE, which may set accessed bits in the guest's tables.
        let gpa = self.walker()?.walk(&self.board.memory, gva).translation().map(|to| to.gpa).or(gpa);
        let covered: Option<u8> = gpa.and_then(|gpa| self.board.memory.read_obj(gpa.into()).ok());
        match (gpa, covered) {
            (Some(gpa), Some(covered)) => self.run_to_trap(gva, gpa, covered, limits, observers),
            (_, _) => self.step_to(gva, limits, observers),
        }
    }

    fn run_to_breakpoint(
        &mut self,
        gva: Gva,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        self.processors.bsp().vcpu.set_guest_debug(&execution_of(gva))?;
        let end = loop {
            match self.run_one_exit(limits, observers)? {
                ExitOutcome::Served => {}
                ExitOutcome::Debug(event) => {
                    self.processors.bsp_mut().exits.forget(ExitKind::Debug);
                    if event.pc == gva.0 {
                        break None;
                    }
                }
                ExitOutcome::Ended(end) => break Some(end),
            }
        };
        self.processors.bsp().vcpu.set_guest_debug(&GuestDebug::default())?;
        Ok(end)
    }

    fn step_to(
        &mut self,
        gva: Gva,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        while self.next_instruction()? != gva {
            let before = self.processors.bsp().exits.of(ExitKind::Debug);
            if !can_step(&self.processors.bsp().vcpu.sregs()?) {
                // Ring 3 cannot map the address either, so the guest never gets there.
                return self.run_to_end(limits, observers).map(Some);
            }
            if let Some(end) = self.step(limits, observers)? {
                return Ok(Some(end));
            }
            for _ in before..self.processors.bsp().exits.of(ExitKind::Debug) {
                self.processors.bsp_mut().exits.forget(ExitKind::Debug);
            }
        }
        Ok(None)
    }

    /// Puts a HLT in the place of the byte `covered`, until it is executed or the run ends.
    fn run_to_trap(
        &mut self,
        gva: Gva,
        gpa: Gpa,
        covered: u8,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        let sregs = self.processors.bsp().vcpu.sregs()?;
        let table = |source| Error::Table { what: "a breakpoint", source };
        self.board.memory.write_obj(HLT, gpa.into()).map_err(table)?;
        let end = self.run_to_end(limits, observers)?;
        self.board.memory.write_obj(covered, gpa.into()).map_err(table)?;
        if let End::Halt { .. } = &end
            && self.next_instruction()?.0 == gva.0.wrapping_add(1)
        {
            let mut regs = self.processors.bsp().vcpu.regs()?;
            regs.rip = regs.rip.wrapping_sub(1);
            self.processors.bsp().vcpu.set_regs(&regs)?;
        } else if let End::Exception { vector: GENERAL_PROTECTION, frame: Some(frame) } = &end
            && frame.rip == gva.0
        {
            self.back_to_ring_3(frame, sregs.cs, sregs.ss)?;
        } else {
            return Ok(Some(end));
        }
        self.processors.bsp_mut().exits.forget(ExitKind::Hlt);
        Ok(None)
    }

    /// Undoes what the CPU did on its way to the landing page.
    pub(crate) fn back_to_ring_3(
        &self,
        frame: &ExceptionFrame,
        cs: kvm_segment,
        ss: kvm_segment,
    ) -> Result<(), Error> {
        let mut sregs = self.processors.bsp().vcpu.sregs()?;
        (sregs.cs, sregs.ss) = (cs, ss);
        // What KVM reports is always busy; what it wants to be given depends on the host.
        sregs.tr.type_ = host::quirks(&self.board.spec).tr_type.kind();
        self.processors.bsp().vcpu.set_sregs(&sregs)?;
        let mut regs = self.processors.bsp().vcpu.regs()?;
        (regs.rip, regs.rflags, regs.rsp) = (frame.rip, frame.rflags, frame.rsp);
        Ok(self.processors.bsp().vcpu.set_regs(&regs)?)
    }
}
