//! Saved states of vCPUs and interrupt controllers as values. `vcpu_state.rs` and `interrupt_state.rs` read and write them.

use std::fmt;
use std::sync::Arc;

use kvm_bindings::{
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use serde::{Deserialize, Serialize};

/// These structures are saved as their bytes. Another size is another saved form: `vmm_core::snapshot::STATE_VERSION` has to be
/// raised with it.
const _: () = {
    assert!(size_of::<kvm_regs>() == 144);
    assert!(size_of::<kvm_sregs>() == 312);
    assert!(size_of::<kvm_xsave>() == 4096);
    assert!(size_of::<kvm_xcrs>() == 392);
    assert!(size_of::<kvm_vcpu_events>() == 64);
    assert!(size_of::<kvm_debugregs>() == 128);
    assert!(size_of::<kvm_msr_entry>() == 16);
    assert!(size_of::<kvm_irqchip>() == 520);
    assert!(size_of::<kvm_pit_state2>() == 112);
    assert!(size_of::<kvm_lapic_state>() == 1024);
    assert!(size_of::<kvm_mp_state>() == 4);
};

/// Saved state of a vCPU: its registers, and the state of its pending events ([`Vcpu::save`](crate::Vcpu::save)).
#[derive(Clone, Serialize, Deserialize)]
pub struct VcpuState {
    /// General registers, RIP and RFLAGS of the vCPU.
    pub regs: kvm_regs,
    /// Segments, descriptor tables, control registers and EFER.
    pub sregs: kvm_sregs,
    /// Shared between clones: 4 KiB that never change.
    pub(crate) xsave: Arc<kvm_xsave>,
    pub(crate) xcrs: kvm_xcrs,
    pub(crate) events: kvm_vcpu_events,
    pub(crate) debug: kvm_debugregs,
    /// Model-specific registers that were asked for and that the vCPU has.
    pub msrs: Vec<kvm_msr_entry>,
}

/// Saved state of the two PICs, the IOAPIC and the 8254 timer.
#[derive(Clone, Serialize, Deserialize)]
pub struct IrqchipState {
    pub(crate) chips: Vec<kvm_irqchip>,
    pub(crate) pit: kvm_pit_state2,
}

/// Saved state of a vCPU's local APIC, with its multiprocessing state (runnable, halted, waiting).
#[derive(Clone, Serialize, Deserialize)]
pub struct LapicState {
    pub(crate) lapic: kvm_lapic_state,
    pub(crate) mp_state: kvm_mp_state,
}

impl fmt::Debug for VcpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuState")
            .field("regs", &self.regs)
            .field("sregs", &self.sregs)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IrqchipState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqchipState").field("pit", &self.pit).finish_non_exhaustive()
    }
}

impl fmt::Debug for LapicState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LapicState").field("mp_state", &self.mp_state).finish_non_exhaustive()
    }
}
