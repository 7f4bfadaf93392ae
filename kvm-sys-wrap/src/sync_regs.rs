//! Registers that wait in the `kvm_run` area: the next `KVM_RUN` takes them along (`KVM_CAP_SYNC_REGS`; api.rst, section 5,
//! on `kvm_dirty_regs`), in place of a call for each kind.
//!
//! Until then the kernel still has the old ones. So every other call on the vCPU gets its descriptor from [`Vcpu::ready`],
//! which writes them in the ordinary way first: nobody reads what is no longer true, and nobody's change is overwritten.

use std::sync::atomic::Ordering;

use kvm_bindings::{
    KVM_SYNC_X86_EVENTS, KVM_SYNC_X86_REGS, KVM_SYNC_X86_SREGS, kvm_regs, kvm_sregs, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

use crate::call::Call;
use crate::capability::Capability;
use crate::create_vcpu::Vcpu;
use crate::kvm_run::RunArea;

/// All three kinds.
pub(crate) const ALL_SYNC_REGS: u64 = (KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS) as u64;

/// What waits.
#[derive(Clone, Copy)]
pub(crate) struct DirtyRegs {
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: kvm_sregs,
    pub(crate) events: kvm_vcpu_events,
}

impl Vcpu {
    /// Whether this kernel takes registers along.
    pub(crate) fn has_sync_regs(&self) -> bool {
        let taken = self.vm().kvm().capability(Capability::SyncRegs);
        u64::try_from(taken).unwrap_or(0) & ALL_SYNC_REGS == ALL_SYNC_REGS
    }

    /// Leaves registers for the next `KVM_RUN`.
    pub(crate) fn set_dirty_regs(&mut self, registers: &DirtyRegs) {
        self.area.stage(registers);
        self.staged.store(true, Ordering::Relaxed);
    }

    /// The descriptor, for a call other than `KVM_RUN`.
    pub(crate) fn flush_sync_regs(&self) -> Result<&VcpuFd, kvm_ioctls::Error> {
        if self.staged.swap(false, Ordering::Relaxed) {
            let DirtyRegs { regs, sregs, events } = self.area.staged();
            let observed = self.observed();
            observed.call(Call::SetSregs, &sregs, || self.fd.set_sregs(&sregs))?;
            observed.call(Call::SetRegs, &regs, || self.fd.set_regs(&regs))?;
            observed.call(Call::SetVcpuEvents, format_args!(""), || self.fd.set_vcpu_events(&events))?;
        }
        Ok(&self.fd)
    }
}

impl RunArea {
    fn stage(&mut self, registers: &DirtyRegs) {
        let area = &mut self.run_mut().s;
        // SAFETY: both members of the union are plain data.
        let area = unsafe { &mut area.regs };
        (area.regs, area.sregs, area.events) = (registers.regs, registers.sregs, registers.events);
    }

    fn staged(&self) -> DirtyRegs {
        // SAFETY: as above.
        let area = unsafe { self.run().s.regs };
        DirtyRegs { regs: area.regs, sregs: area.sregs, events: area.events }
    }
}
