//! Single steps: one instruction of the guest at a time.
//!
//! `KVM_SET_GUEST_DEBUG` makes `KVM_RUN` return after each instruction. An instruction that exits by itself (a port, MMIO)
//! is served first and reported then; one that ends the run ends it. Hosts differ: some stop stepping without a word
//! after IRET or a write to CR0 or CR4, so stepping is switched on again before each step; and some report a stepped HLT
//! as a step like any other, so it is recognized by its byte.

use kvm_sys_wrap::{GuestDebug, Gva};
use vm_memory::Bytes;

use crate::end::End;
use crate::error::Error;
use crate::limits::Limits;
use crate::machine::Machine;
use crate::observer::Observer;
use crate::run_loop::Turn;

/// The one-byte opcode of HLT.
const HLT: u8 = 0xf4;

impl Machine {
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
        self.vcpu.set_guest_debug(&GuestDebug { single_step: true, ..GuestDebug::default() })?;
        let end = loop {
            match self.turn(limits, observers)? {
                Turn::Served => {}
                Turn::Debug(event) if Some(event.pc) == halt => break Some(self.halted()?),
                Turn::Debug(_) => break None,
                Turn::Ended(end) => break Some(end),
            }
        };
        self.vcpu.set_guest_debug(&GuestDebug::default())?;
        Ok(end)
    }

    /// Where the vCPU will be after the next instruction, if that is a HLT.
    fn next_if_halt(&self) -> Result<Option<u64>, Error> {
        let linear = self.vcpu.sregs()?.cs.base.wrapping_add(self.vcpu.regs()?.rip);
        let Some(gpa) = self.vcpu.translate(Gva(linear))? else { return Ok(None) };
        let byte: Option<u8> = self.memory.read_obj(gpa.into()).ok();
        Ok((byte == Some(HLT)).then(|| linear.wrapping_add(1)))
    }
}
