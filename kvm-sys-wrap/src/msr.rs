//! Model-specific registers: `KVM_GET_MSR_INDEX_LIST`, `KVM_GET_MSRS`, `KVM_SET_MSRS`, and exits for unknown MSRs
//! (`KVM_CAP_X86_USER_SPACE_MSR`, api.rst 7.21).
//!
//! A guest's access to an MSR that KVM does not have raises #GP in the guest, without an exit, unless
//! [`Vm::enable_unknown_msr_exits`] was called.

use std::io;

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_INVAL, KVM_MSR_EXIT_REASON_UNKNOWN, Msrs, kvm_enable_cap,
    kvm_msr_entry,
};

use crate::call::Call;
use crate::capability::Capability;
use crate::create_vcpu::Vcpu;
use crate::create_vm::Vm;
use crate::dev_kvm::Kvm;
use crate::error::{Error, Result, call_failed};
use crate::vm_pool::VmSetup;

impl Kvm {
    /// Returns the MSRs that are part of a vCPU's state (`KVM_GET_MSR_INDEX_LIST`, api.rst 4.3). A vCPU may lack some, depending on
    /// its CPUID.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn msr_index_list(&self) -> Result<Vec<u32>> {
        let list = self
            .dispatcher()
            .call(Call::GetMsrIndexList, format_args!(""), || self.fd().get_msr_index_list())
            .map_err(call_failed(Call::GetMsrIndexList, "the MSRs of a vCPU"))?;
        Ok(list.as_slice().to_vec())
    }
}

impl Vcpu {
    /// Reads MSRs in the order of `indices` (`KVM_GET_MSRS`, api.rst 4.18). MSRs that the vCPU does not have are left out.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn msrs(&self, indices: &[u32]) -> Result<Vec<kvm_msr_entry>> {
        let mut values = Vec::with_capacity(indices.len());
        let mut left = indices;
        while !left.is_empty() {
            let wanted: Vec<_> =
                left.iter().map(|&index| kvm_msr_entry { index, ..Default::default() }).collect();
            let failed = |source| call_failed(Call::GetMsrs, format!("{} MSRs", wanted.len()))(source);
            let mut msrs = Msrs::from_entries(&wanted).map_err(|_| failed(too_many()))?;
            let count = self
                .dispatcher()
                .call(Call::GetMsrs, format_args!("{} MSRs", wanted.len()), || {
                    self.flush_sync_regs()?.get_msrs(&mut msrs)
                })
                .map_err(failed)?;
            values.extend(msrs.as_slice().iter().take(count));
            // The kernel stops at the first MSR that it does not have.
            left = left.get(count + 1..).unwrap_or_default();
        }
        Ok(values)
    }

    /// Writes the MSRs whose values differ now: some are read-only and refuse even the value that they hold.
    pub(crate) fn restore_msrs(&self, entries: &[kvm_msr_entry]) -> Result<()> {
        let indices: Vec<_> = entries.iter().map(|entry| entry.index).collect();
        let present = self.msrs(&indices)?;
        let differs = |entry: &&kvm_msr_entry| {
            !present.iter().any(|now| (now.index, now.data) == (entry.index, entry.data))
        };
        let changed: Vec<_> = entries.iter().filter(differs).copied().collect();
        self.set_msrs(&changed)
    }

    /// Writes MSRs like [`Vcpu::restore_msrs`], mostly with one call: read-only ones are remembered from the last time.
    pub(crate) fn restore_msrs_incremental(&mut self, entries: &[kvm_msr_entry]) -> Result<()> {
        let mut left: Vec<_> =
            entries.iter().filter(|entry| !self.read_only_msrs.contains(&entry.index)).copied().collect();
        while !left.is_empty() {
            let written = self.write_msrs(&left)?;
            let Some(refused) = left.get(written).copied() else { break };
            // No error if it holds the value.
            let holds = self.msrs(&[refused.index])?.first().map(|entry| entry.data);
            if holds != Some(refused.data) {
                return Err(refused_msr_error(&refused));
            }
            self.read_only_msrs.push(refused.index);
            left.drain(..=written);
        }
        Ok(())
    }

    /// Sets MSRs in the order of `entries` (`KVM_SET_MSRS`, api.rst 4.19).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), which names the first MSR that was refused; those before it are written.
    pub fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let written = self.write_msrs(entries)?;
        entries.get(written).map_or(Ok(()), |refused| Err(refused_msr_error(refused)))
    }

    /// Sets MSRs up to the first that is refused, and returns their number.
    fn write_msrs(&self, entries: &[kvm_msr_entry]) -> Result<usize> {
        let msrs = Msrs::from_entries(entries)
            .map_err(|_| call_failed(Call::SetMsrs, format!("{} MSRs", entries.len()))(too_many()))?;
        self.dispatcher()
            .call(Call::SetMsrs, format_args!("{} MSRs", entries.len()), || {
                self.flush_sync_regs()?.set_msrs(&msrs)
            })
            .map_err(call_failed(Call::SetMsrs, format!("{} MSRs", entries.len())))
    }
}

fn refused_msr_error(refused: &kvm_msr_entry) -> Error {
    let detail = format!("MSR {:#x} = {:#x}", refused.index, refused.data);
    call_failed(Call::SetMsrs, detail)(io::Error::from_raw_os_error(libc::EINVAL))
}

fn too_many() -> io::Error {
    io::Error::other("too many MSRs")
}

impl Vm {
    /// Makes accesses to MSRs that KVM does not have exit (`KVM_ENABLE_CAP` with `KVM_CAP_X86_USER_SPACE_MSR`, api.rst 7.21):
    /// [`Exit::ReadMsr`](crate::Exit::ReadMsr) and [`Exit::WriteMsr`](crate::Exit::WriteMsr), to be answered with
    /// [`Vcpu::inject_msr_fault`](crate::Vcpu::inject_msr_fault). Does nothing on a kernel before 5.10, which lacks the
    /// capability.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn enable_unknown_msr_exits(&self) -> Result<()> {
        self.enable_msr_exits(VmSetup::UnknownMsrExits, KVM_MSR_EXIT_REASON_UNKNOWN, "unknown MSRs")
    }

    /// Makes also those accesses to MSRs exit that KVM refuses (`KVM_MSR_EXIT_REASON_INVAL`): with interrupt controllers outside of the
    /// kernel, the registers of a local APIC in x2APIC mode. Otherwise as [`Vm::enable_unknown_msr_exits`].
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn enable_refused_msr_exits(&self) -> Result<()> {
        let reasons = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_INVAL;
        self.enable_msr_exits(VmSetup::RefusedMsrExits, reasons, "unknown and refused MSRs")
    }

    fn enable_msr_exits(&self, step: VmSetup, reasons: u32, what: &str) -> Result<()> {
        if !self.add_setup(step) || self.kvm().capability(Capability::X86UserSpaceMsr) == 0 {
            return Ok(());
        }
        let args = [reasons.into(), 0, 0, 0];
        let cap = kvm_enable_cap { cap: KVM_CAP_X86_USER_SPACE_MSR, args, ..Default::default() };
        self.dispatcher()
            .call(Call::EnableCapVm, format_args!("KVM_CAP_X86_USER_SPACE_MSR, {what}"), || {
                self.fd()?.enable_cap(&cap)
            })
            .map_err(call_failed(Call::EnableCapVm, format!("exits for {what}")))
    }
}
