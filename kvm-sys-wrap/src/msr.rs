//! MSRs that KVM does not have: the guest's accesses to them, made visible (api.rst 7.21, `KVM_CAP_X86_USER_SPACE_MSR`).
//!
//! Otherwise KVM raises #GP in the guest, and nobody learns of it.

use kvm_bindings::{KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN, kvm_enable_cap};

use crate::call::Call;
use crate::capability::Capability;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};

impl Vm {
    /// Makes accesses to MSRs that KVM does not have exits, where the host can: [`Exit::ReadMsr`](crate::Exit::ReadMsr) and
    /// [`Exit::WriteMsr`](crate::Exit::WriteMsr), to be answered with [`Vcpu::refuse_msr`](crate::Vcpu::refuse_msr).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn show_unknown_msrs(&self) -> Result<()> {
        if self.kvm().capability(Capability::X86UserSpaceMsr) == 0 {
            return Ok(());
        }
        let args = [KVM_MSR_EXIT_REASON_UNKNOWN.into(), 0, 0, 0];
        let cap = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, args, ..Default::default() };
        self.observed()
            .call(Call::EnableCapVm, format_args!("KVM_CAP_X86_USER_SPACE_MSR, unknown MSRs"), || {
                self.fd().enable_cap(&cap)
            })
            .map_err(call_failed(Call::EnableCapVm, "exits for unknown MSRs"))
    }
}
