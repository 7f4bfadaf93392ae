//! `KVM_GET_SUPPORTED_CPUID` and `KVM_SET_CPUID2`: the results of the guest's CPUID instruction.
//!
//! Optional: reading the host's table takes about 0.3 ms, a third of a short run. Without it every leaf reads as zero, and
//! KVM treats features that CPUID would announce as absent.

use std::sync::atomic::Ordering;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::dev_kvm::Kvm;
use crate::error::{Result, call_failed};
use crate::vm_pool::SetCpuid;

/// CPUID.1:ECX.XSAVE (SDM vol. 2, CPUID). Without it KVM lets no guest set CR4.OSXSAVE, which XSETBV needs.
const XSAVE: u32 = 1 << 26;

impl Kvm {
    /// Returns all CPUID leaves that this host's KVM can give to a guest (`KVM_GET_SUPPORTED_CPUID`, api.rst 4.46). Needs
    /// `KVM_CAP_EXT_CPUID`.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn supported_cpuid(&self) -> Result<CpuId> {
        self.dispatcher()
            .call(Call::GetSupportedCpuid, format_args!("room for {KVM_MAX_CPUID_ENTRIES} leaves"), || {
                self.fd().get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            })
            .map_err(call_failed(Call::GetSupportedCpuid, "the host's CPUID leaves"))
    }
}

impl Vcpu {
    /// Sets the vCPU's CPUID leaves (`KVM_SET_CPUID2`, api.rst 4.20). Call it before the first `KVM_RUN`. Makes no call for leaves
    /// that a vCPU from the pool ([`VmReservation`](crate::VmReservation)) has already.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn set_cpuid2(&self, cpuid: &CpuId) -> Result<()> {
        let leaves = cpuid.as_slice().len();
        let has_xsave = cpuid.as_slice().iter().any(|leaf| leaf.function == 1 && leaf.ecx & XSAVE != 0);
        self.has_xsave.store(has_xsave, Ordering::Relaxed);
        if self.cpuid.get().is_some_and(|known| known.leaves == cpuid.as_slice()) {
            return Ok(());
        }
        self.dispatcher()
            .call(Call::SetCpuid2, format_args!("{leaves} leaves"), || {
                self.flush_sync_regs()?.set_cpuid2(cpuid)
            })
            .map_err(call_failed(Call::SetCpuid2, format!("{leaves} leaves for vCPU {}", self.id())))?;
        if let Some(reset) = &self.reset {
            let indices: Vec<_> = reset.vcpu.msrs.iter().map(|msr| msr.index).collect();
            let (leaves, msrs) = (cpuid.as_slice().to_vec(), self.msrs(&indices)?);
            self.cpuid.get_or_init(|| SetCpuid { leaves, msrs });
        }
        Ok(())
    }
}
