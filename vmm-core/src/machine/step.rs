//! Single steps: one instruction of the guest at a time.
//!
//! `KVM_SET_GUEST_DEBUG` makes `KVM_RUN` return after each instruction. An instruction that exits by itself (a port, MMIO)
//! is served first, then completed ([`kvm_sys_wrap::Vcpu::complete`]), and reported; one that ends the run ends it. Hosts
//! differ: some do not report such an instruction until the next one is executed as well; some stop stepping without a word
//! after IRET or a write to CR0 or CR4, so stepping is switched on again before each step; and some report a stepped HLT
//! as a step like any other, so it is recognized by its byte, and served as the exit that it is.

use std::time::Instant;

use kvm_sys_wrap::bindings::kvm_sregs;
use kvm_sys_wrap::{Exit, GuestDebug, Gva};
use vm_memory::Bytes;

use crate::disassembly::{OperandWidth, linear_rip};
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::host;
use crate::machine::limits::Limits;
use crate::machine::observer::Observer;
use crate::machine::run_loop::{ExitOutcome, RunOutcome};

/// The one-byte opcode of HLT.
const HLT: u8 = 0xf4;

/// Whether this host can step a vCPU with these special registers. kvm-pvm runs 64-bit ring-3 code by itself instead of
/// interpreting it, and loses its way when that is to be stepped.
#[must_use]
pub fn can_step(sregs: &kvm_sregs) -> bool {
    let native = OperandWidth::from_sregs(sregs) == OperandWidth::Bits64 && sregs.cs.selector & 3 == 3;
    !(native && host::is_pvm())
}

impl Machine {
    /// Runs as [`Machine::run_observed`] does, one instruction at a time: observers see each as an
    /// [`Exit::Debug`](kvm_sys_wrap::Exit::Debug). Where the host cannot step ([`can_step`]) the guest runs freely to its
    /// next exit.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run_stepped(&mut self, observers: &mut [&mut dyn Observer]) -> Result<RunOutcome, Error> {
        let mut limits = Limits::start(self.board.spec.limits)?;
        let started = Instant::now();
        let end = loop {
            let end = if can_step(&self.processors.bsp().vcpu.sregs()?) {
                self.step(&mut limits, observers)?
            } else {
                match self.run_one_exit(&mut limits, observers)? {
                    ExitOutcome::Served | ExitOutcome::Debug(_) => None,
                    ExitOutcome::Ended(end) => Some(end),
                }
            };
            if let Some(end) = end {
                break end;
            }
        };
        let elapsed = started.elapsed();
        self.board.output.sync().map_err(Error::Console)?;
        Ok(RunOutcome { end, exits: self.processors.bsp().exits.clone(), elapsed })
    }

    /// Executes one instruction; `Some` if the run ended with it.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn step(
        &mut self,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        let halt = self.next_if_halt()?;
        self.processors
            .bsp()
            .vcpu
            .set_guest_debug(&GuestDebug { single_step: true, ..GuestDebug::default() })?;
        let end = loop {
            let exits = self.processors.bsp().exits.total();
            match self.run_one_exit(limits, observers)? {
                // A kick: nothing was executed.
                ExitOutcome::Served if self.processors.bsp().exits.total() == exits => {}
                ExitOutcome::Served => break self.complete_step(limits, observers)?,
                ExitOutcome::Debug(event) if Some(event.pc) == halt => {
                    match self.handle_exit(&Exit::Hlt, limits, observers)? {
                        ExitOutcome::Served | ExitOutcome::Debug(_) => {}
                        ExitOutcome::Ended(end) => break Some(end),
                    }
                }
                ExitOutcome::Debug(_) => break None,
                ExitOutcome::Ended(end) => break Some(end),
            }
        };
        self.processors.bsp().vcpu.set_guest_debug(&GuestDebug::default())?;
        Ok(end)
    }

    /// Ends the step of an instruction that exited. Some hosts report that as a step; others would execute the next
    /// instruction too before they do, so the report is made here.
    fn complete_step(
        &mut self,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Option<End>, Error> {
        loop {
            let exit = match self.processors.bsp_mut().vcpu.finish_instruction()? {
                Some(exit) => exit,
                None => self.stepped()?,
            };
            match self.handle_exit(&exit, limits, observers)? {
                ExitOutcome::Served => {}
                ExitOutcome::Debug(_) => return Ok(None),
                ExitOutcome::Ended(end) => return Ok(Some(end)),
            }
        }
    }

    /// What `KVM_RUN` says after a step: #DB with bit 14 of DR6, BS (SDM vol. 3, 17.2.3).
    fn stepped(&self) -> Result<Exit, Error> {
        let pc = linear_rip(&self.processors.bsp().vcpu.regs()?, &self.processors.bsp().vcpu.sregs()?);
        Ok(Exit::Debug { exception: 1, pc, dr6: 0xffff_0ff0 | 1 << 14, dr7: 0x400 })
    }

    /// Where the vCPU will be after the next instruction, if that is a HLT.
    pub(crate) fn next_if_halt(&self) -> Result<Option<u64>, Error> {
        let linear =
            self.processors.bsp().vcpu.sregs()?.cs.base.wrapping_add(self.processors.bsp().vcpu.regs()?.rip);
        let Some(gpa) = self.processors.bsp().vcpu.translate(Gva(linear))? else { return Ok(None) };
        let byte: Option<u8> = self.board.memory.read_obj(gpa.into()).ok();
        Ok((byte == Some(HLT)).then(|| linear.wrapping_add(1)))
    }
}
