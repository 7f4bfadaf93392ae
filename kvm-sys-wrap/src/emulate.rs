//! What an instruction does to a stopped vCPU, done, or undone, in its place.
//!
//! Debuggers need it: an IN that stood where the guest has something else must not have happened, and HLT is an instruction
//! that not every host can step over. Both are more than registers: STI and loads of SS put the next instruction into a
//! shadow, where interrupts wait (SDM vol. 3, 6.8.3), and a vCPU that sleeps has a state of its own.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_VCPUEVENT_VALID_SHADOW, kvm_mp_state, kvm_regs, kvm_vcpu_events,
};

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

impl Vcpu {
    /// Takes the last exit back, an [`Exit::PioIn`](crate::Exit::PioIn): the vCPU stands before that instruction again,
    /// as if it had not begun it.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call); [`Error::Reply`](crate::Error::Reply) where the last exit was something else.
    pub fn cancel_pio_in(&mut self) -> Result<()> {
        let regs = self.regs()?;
        let events = self.events()?;
        // The kernel finishes the instruction in any case, so it is given something, which is then undone.
        self.complete_io(&vec![0xff; self.pending.length()])?;
        self.finish_instruction()?;
        self.set_regs(&regs)?;
        self.set_shadow(events)
    }

    /// Does what HLT does on a machine with a local APIC: the vCPU sleeps, and `next`, an offset in CS, is what it executes
    /// when it wakes up.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn emulate_hlt(&self, next: u64) -> Result<()> {
        self.set_regs(&kvm_regs { rip: next, ..self.regs()? })?;
        let mut events = self.events()?;
        events.interrupt.shadow = 0;
        self.set_shadow(events)?;
        let state = kvm_mp_state { mp_state: KVM_MP_STATE_HALTED };
        self.observed()
            .call(Call::SetMpState, format_args!("KVM_MP_STATE_HALTED"), || {
                self.flush_sync_regs()?.set_mp_state(state)
            })
            .map_err(call_failed(Call::SetMpState, format!("vCPU {}", self.id())))
    }

    fn events(&self) -> Result<kvm_vcpu_events> {
        self.observed()
            .call(Call::GetVcpuEvents, format_args!(""), || self.flush_sync_regs()?.get_vcpu_events())
            .map_err(call_failed(Call::GetVcpuEvents, format!("vCPU {}", self.id())))
    }

    /// Only the shadow: an NMI that has arrived meanwhile stays.
    fn set_shadow(&self, events: kvm_vcpu_events) -> Result<()> {
        let events = kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SHADOW, ..events };
        self.observed()
            .call(Call::SetVcpuEvents, format_args!("interrupt shadow"), || {
                self.flush_sync_regs()?.set_vcpu_events(&events)
            })
            .map_err(call_failed(Call::SetVcpuEvents, format!("vCPU {}", self.id())))
    }
}
