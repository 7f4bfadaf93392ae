//! Step 8: `KVM_GET_REGS` and `KVM_SET_REGS` (api.rst 4.11, 4.12): the general registers, RIP and RFLAGS.

use kvm_bindings::kvm_regs;

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

impl Vcpu {
    /// Reads the general registers, RIP and RFLAGS (`KVM_GET_REGS`, api.rst 4.11).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn regs(&self) -> Result<kvm_regs> {
        self.dispatcher()
            .call(Call::GetRegs, format_args!(""), || self.flush_sync_regs()?.get_regs())
            .map_err(call_failed(Call::GetRegs, format!("vCPU {}", self.id())))
    }

    /// Returns the general registers, RIP and RFLAGS as they were when the last `KVM_RUN` returned; later changes by other calls do
    /// not show. Makes no call where the kernel stores them in `kvm_run` (`KVM_CAP_SYNC_REGS`, Linux 4.17), otherwise
    /// `KVM_GET_REGS`.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn regs_at_exit(&self) -> Result<kvm_regs> {
        self.area.regs().map_or_else(|| self.regs(), Ok)
    }

    /// Sets the general registers, RIP and RFLAGS (`KVM_SET_REGS`, api.rst 4.12). KVM sets bit 1 of RFLAGS in any case.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<()> {
        self.dispatcher()
            .call(Call::SetRegs, regs, || self.flush_sync_regs()?.set_regs(regs))
            .map_err(call_failed(Call::SetRegs, format!("vCPU {}", self.id())))
    }
}
