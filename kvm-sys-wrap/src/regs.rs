//! Step 8: `KVM_GET_REGS` and `KVM_SET_REGS`: the general registers, RIP and RFLAGS.

use kvm_bindings::kvm_regs;

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

impl Vcpu {
    /// Reads the general registers (api.rst 4.11).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn regs(&self) -> Result<kvm_regs> {
        self.observed()
            .call(Call::GetRegs, format_args!(""), || self.flush_sync_regs()?.get_regs())
            .map_err(call_failed(Call::GetRegs, format!("vCPU {}", self.id())))
    }

    /// The general registers as the last `KVM_RUN` left them: of no meaning once something else has changed them. The kernel
    /// puts them into `kvm_run` (`KVM_CAP_SYNC_REGS`), so this is no call; one before 4.17 is asked.
    ///
    /// # Errors
    /// As [`Vcpu::regs`].
    pub fn regs_at_exit(&self) -> Result<kvm_regs> {
        self.area.regs().map_or_else(|| self.regs(), Ok)
    }

    /// Writes the general registers (api.rst 4.12). Bit 1 of RFLAGS is always set on x86.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn set_regs(&self, regs: &kvm_regs) -> Result<()> {
        self.observed()
            .call(Call::SetRegs, regs, || self.flush_sync_regs()?.set_regs(regs))
            .map_err(call_failed(Call::SetRegs, format!("vCPU {}", self.id())))
    }
}
