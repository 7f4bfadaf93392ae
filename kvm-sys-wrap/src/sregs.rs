//! Step 7: `KVM_GET_SREGS` and `KVM_SET_SREGS` (api.rst 4.13, 4.14): segments, descriptor tables, control registers, EFER.
//!
//! `KVM_SET_SREGS` may return 0 although the host did not take all bits; only reading back shows which.

use std::sync::atomic::Ordering;

use kvm_bindings::kvm_sregs;

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

impl Vcpu {
    /// Reads segments, descriptor tables, control registers and EFER (`KVM_GET_SREGS`, api.rst 4.13).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn sregs(&self) -> Result<kvm_sregs> {
        self.dispatcher()
            .call(Call::GetSregs, format_args!(""), || self.flush_sync_regs()?.get_sregs())
            .map_err(call_failed(Call::GetSregs, format!("vCPU {}", self.id())))
    }

    /// Returns the special registers as they were when the last `KVM_RUN` returned; later changes by other calls do not show. The
    /// first call on a vCPU makes `KVM_GET_SREGS`; from then on the kernel stores them in `kvm_run` (`KVM_CAP_SYNC_REGS`, Linux
    /// 4.17).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn sregs_at_exit(&self) -> Result<kvm_sregs> {
        self.wants_sregs.store(true, Ordering::Relaxed);
        self.area.sregs().map_or_else(|| self.sregs(), Ok)
    }

    /// Sets segments, descriptor tables, control registers and EFER (`KVM_SET_SREGS`, api.rst 4.14).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call): EINVAL where no CPU could be in such a state or the host lacks a bit of CR4 or EFER.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        self.dispatcher()
            .call(Call::SetSregs, sregs, || self.flush_sync_regs()?.set_sregs(sregs))
            .map_err(call_failed(Call::SetSregs, format!("vCPU {}", self.id())))
    }
}
