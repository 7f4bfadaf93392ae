//! Emulation of HLT, and cancellation of an IN, on a stopped vCPU (`KVM_SET_REGS`, `KVM_SET_VCPU_EVENTS`, `KVM_SET_MP_STATE`).
//!
//! Debuggers need both: an IN that was executed in place of the guest's own instruction has to be undone, and not every host can
//! single-step HLT. Registers are not enough: STI and loads of SS put the next instruction into an interrupt shadow (SDM vol. 3,
//! 6.8.3), and a halted vCPU is a state of its own.

use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_VCPUEVENT_VALID_SHADOW, kvm_mp_state, kvm_regs, kvm_vcpu_events,
};

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

impl Vcpu {
    /// Cancels the last exit, an [`Exit::PioIn`](crate::Exit::PioIn): the vCPU is before that instruction again, with its registers
    /// and interrupt shadow unchanged (`KVM_RUN` with `immediate_exit`, `KVM_SET_REGS`, `KVM_SET_VCPU_EVENTS`).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call); [`Error::Reply`](crate::Error::Reply) where the last exit was something else.
    pub fn cancel_pio_in(&mut self) -> Result<()> {
        let regs = self.regs()?;
        let events = self.events()?;
        // The kernel completes the instruction in any case: it gets some input, whose effect is undone.
        self.complete_io(&vec![0xff; self.pending_reply.length()])?;
        self.finish_instruction()?;
        self.set_regs(&regs)?;
        self.set_interrupt_shadow(events)
    }

    /// Emulates HLT on a VM with local APICs (`KVM_SET_REGS`, `KVM_SET_VCPU_EVENTS`, `KVM_SET_MP_STATE`): the vCPU is halted, and
    /// continues at `next`, an offset in CS, after an interrupt.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn emulate_hlt(&self, next: u64) -> Result<()> {
        self.set_regs(&kvm_regs { rip: next, ..self.regs()? })?;
        let mut events = self.events()?;
        events.interrupt.shadow = 0;
        self.set_interrupt_shadow(events)?;
        let state = kvm_mp_state { mp_state: KVM_MP_STATE_HALTED };
        self.dispatcher()
            .call(Call::SetMpState, format_args!("KVM_MP_STATE_HALTED"), || {
                self.flush_sync_regs()?.set_mp_state(state)
            })
            .map_err(call_failed(Call::SetMpState, format!("vCPU {}", self.id())))
    }

    fn events(&self) -> Result<kvm_vcpu_events> {
        self.dispatcher()
            .call(Call::GetVcpuEvents, format_args!(""), || self.flush_sync_regs()?.get_vcpu_events())
            .map_err(call_failed(Call::GetVcpuEvents, format!("vCPU {}", self.id())))
    }

    /// Sets only the interrupt shadow: an NMI that has arrived meanwhile stays pending.
    fn set_interrupt_shadow(&self, events: kvm_vcpu_events) -> Result<()> {
        let events = kvm_vcpu_events { flags: KVM_VCPUEVENT_VALID_SHADOW, ..events };
        self.dispatcher()
            .call(Call::SetVcpuEvents, format_args!("interrupt shadow"), || {
                self.flush_sync_regs()?.set_vcpu_events(&events)
            })
            .map_err(call_failed(Call::SetVcpuEvents, format!("vCPU {}", self.id())))
    }
}
