//! Step 7: `KVM_GET_SREGS` and `KVM_SET_SREGS`: segments, descriptor tables, control registers, EFER.
//!
//! `KVM_SET_SREGS` may return 0 although the host did not take all of it; reading back tells (vmm-core's `verify.rs`).

use std::sync::atomic::Ordering;

use kvm_bindings::kvm_sregs;

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

impl Vcpu {
    /// Reads the special registers (api.rst 4.13).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn sregs(&self) -> Result<kvm_sregs> {
        self.observed()
            .call(Call::GetSregs, format_args!(""), || self.flush_sync_regs()?.get_sregs())
            .map_err(call_failed(Call::GetSregs, format!("vCPU {}", self.id())))
    }

    /// The special registers as the last `KVM_RUN` left them: of no meaning once something else has changed them. The first
    /// time this is a call; from then on the kernel puts them into `kvm_run` (`KVM_CAP_SYNC_REGS`), if it is 4.17 or newer.
    ///
    /// # Errors
    /// As [`Vcpu::sregs`].
    pub fn sregs_at_exit(&self) -> Result<kvm_sregs> {
        self.sregs_wanted.store(true, Ordering::Relaxed);
        self.area.sregs().map_or_else(|| self.sregs(), Ok)
    }

    /// Writes the special registers (api.rst 4.14).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), EINVAL where the CPU could never be in such a state or the host lacks a bit
    /// of CR4 or EFER.
    pub fn set_sregs(&self, sregs: &kvm_sregs) -> Result<()> {
        self.observed()
            .call(Call::SetSregs, sregs, || self.flush_sync_regs()?.set_sregs(sregs))
            .map_err(call_failed(Call::SetSregs, format!("vCPU {}", self.id())))
    }
}
