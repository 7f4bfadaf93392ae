//! Registers that the next `KVM_RUN` takes from the `kvm_run` area (`KVM_CAP_SYNC_REGS`, Linux 4.17; api.rst, section 5, on
//! `kvm_dirty_regs`): one call less for each of `KVM_SET_SREGS`, `KVM_SET_REGS` and `KVM_SET_VCPU_EVENTS`.
//!
//! Until then the kernel has the old values. So every other call on the vCPU takes its descriptor from
//! [`Vcpu::flush_sync_regs`], which first makes the ordinary calls: no stale register is read, and no change is overwritten.

use std::sync::atomic::Ordering;

use kvm_ioctls::VcpuFd;

use crate::call::Call;
use crate::capability::Capability;
use crate::create_vcpu::Vcpu;
use crate::kvm_run::{ALL_SYNC_REGS, DirtyRegs};

impl Vcpu {
    /// Returns true if this kernel has `KVM_CAP_SYNC_REGS` with all sets of registers.
    pub(crate) fn has_sync_regs(&self) -> bool {
        let supported = self.vm().kvm().capability(Capability::SyncRegs);
        u64::try_from(supported).unwrap_or(0) & ALL_SYNC_REGS == ALL_SYNC_REGS
    }

    /// Stores registers for the next `KVM_RUN`.
    pub(crate) fn set_dirty_regs(&mut self, registers: &DirtyRegs) {
        self.area.set_dirty_regs(registers);
        self.has_dirty_regs.store(true, Ordering::Relaxed);
    }

    /// Writes registers that are stored for the next `KVM_RUN` with the ordinary calls, and returns the descriptor for another
    /// call.
    pub(crate) fn flush_sync_regs(&self) -> Result<&VcpuFd, kvm_ioctls::Error> {
        if self.has_dirty_regs.swap(false, Ordering::Relaxed) {
            let DirtyRegs { regs, sregs, events } = self.area.dirty_regs();
            let dispatcher = self.dispatcher();
            dispatcher.call(Call::SetSregs, &sregs, || self.fd.set_sregs(&sregs))?;
            dispatcher.call(Call::SetRegs, &regs, || self.fd.set_regs(&regs))?;
            dispatcher.call(Call::SetVcpuEvents, format_args!(""), || self.fd.set_vcpu_events(&events))?;
        }
        Ok(&self.fd)
    }
}
