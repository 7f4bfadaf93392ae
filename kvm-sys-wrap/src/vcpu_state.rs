//! All of a vCPU's state as one value: read it, and write it back later.
//!
//! Beside the registers of `sregs.rs` and `regs.rs` that is the FPU with SSE and AVX (`KVM_GET_XSAVE`), XCR0, pending
//! exceptions and interrupts (`KVM_GET_VCPU_EVENTS`), debug registers, and MSRs: those that system calls use, or all that
//! KVM wants to have saved ([`crate::Kvm::msrs_to_save`]). Interrupt controllers and timers are in `interrupt_state.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::{kvm_debugregs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave};
use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};
use crate::sync_regs::DirtyRegs;

/// SYSENTER_CS, _ESP and _EIP; STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE; PAT (SDM vol. 4, table 2-2).
const MSRS: [u32; 9] =
    [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102, 0x277];

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
};

/// The state of a vCPU that is not running.
#[derive(Clone, Serialize, Deserialize)]
pub struct VcpuState {
    /// General registers.
    pub regs: kvm_regs,
    /// Special registers.
    pub sregs: kvm_sregs,
    /// Shared: 4 KiB that never change.
    xsave: Arc<kvm_xsave>,
    xcrs: kvm_xcrs,
    events: kvm_vcpu_events,
    debug: kvm_debugregs,
    /// Model-specific registers, as far as they were asked for.
    pub msrs: Vec<kvm_msr_entry>,
}

impl std::fmt::Debug for VcpuState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VcpuState")
            .field("regs", &self.regs)
            .field("sregs", &self.sregs)
            .finish_non_exhaustive()
    }
}

impl VcpuState {
    /// The x87 and SSE registers, as FXSAVE lays them out (SDM vol. 1, 10.5.1).
    #[must_use]
    pub fn fxsave(&self) -> [u8; 512] {
        let mut area = [0; 512];
        for (bytes, word) in area.chunks_exact_mut(4).zip(&self.xsave.region) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        area
    }

    /// Replaces them.
    pub fn set_fxsave(&mut self, area: &[u8; 512]) {
        let mut xsave = kvm_xsave { region: self.xsave.region, ..Default::default() };
        for (word, bytes) in xsave.region.iter_mut().zip(area.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        // XSTATE_BV, behind it, says which parts are not in their initial state: bits 0 and 1 are x87 and SSE (13.4.2).
        if let Some(parts) = xsave.region.get_mut(512 / 4) {
            *parts |= 0b11;
        }
        self.xsave = Arc::new(xsave);
    }
}

impl Vcpu {
    /// Reads the whole state, with the MSRs that system calls use.
    ///
    /// An exit that waits for its answer must have been completed before: the kernel holds that half of an instruction
    /// back, and it is in no register (api.rst, section 5, "KVM_EXIT_IO ... re-enter").
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn save(&self) -> Result<VcpuState> {
        self.save_with(&MSRS)
    }

    /// The same, with these MSRs; those that the vCPU does not have are left out.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn save_with(&self, msrs: &[u32]) -> Result<VcpuState> {
        let observed = self.observed();
        let call = |call| call_failed(call, format!("vCPU {}", self.id()));
        let xsave = observed.call(Call::GetXsave, format_args!(""), || self.flush_sync_regs()?.get_xsave());
        let xcrs = observed.call(Call::GetXcrs, format_args!(""), || self.flush_sync_regs()?.get_xcrs());
        let events = observed
            .call(Call::GetVcpuEvents, format_args!(""), || self.flush_sync_regs()?.get_vcpu_events());
        let debug =
            observed.call(Call::GetDebugregs, format_args!(""), || self.flush_sync_regs()?.get_debug_regs());
        Ok(VcpuState {
            regs: self.regs()?,
            sregs: self.sregs()?,
            xsave: Arc::new(xsave.map_err(call(Call::GetXsave))?),
            xcrs: xcrs.map_err(call(Call::GetXcrs))?,
            events: events.map_err(call(Call::GetVcpuEvents))?,
            debug: debug.map_err(call(Call::GetDebugregs))?,
            msrs: self.msrs(msrs)?,
        })
    }

    /// Writes the whole state to a vCPU that had it before, with as few calls as can be: registers wait for the next
    /// `KVM_RUN`, and what the guest cannot have changed is left alone. Not for a vCPU with a local APIC, whose state has an
    /// order of its own.
    ///
    /// # Errors
    /// As [`Vcpu::restore`].
    pub fn restore_incremental(&mut self, state: &VcpuState) -> Result<()> {
        let VcpuState { regs, sregs, events, .. } = *state;
        let registers = DirtyRegs { regs, sregs, events };
        if self.has_xsave.load(Ordering::Relaxed) || !self.has_sync_regs() {
            return self.restore(state);
        }
        self.set_xsave(state)?;
        self.set_debugregs(state)?;
        self.restore_msrs_incremental(&state.msrs)?;
        self.set_dirty_regs(&registers);
        Ok(())
    }

    /// Writes the whole state, on this vCPU or another one of the same host.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn restore(&self, state: &VcpuState) -> Result<()> {
        let observed = self.observed();
        let call = |call| call_failed(call, format!("vCPU {}", self.id()));
        self.set_sregs(&state.sregs)?;
        self.set_regs(&state.regs)?;
        // XCR0 first: it says which parts of the XSAVE area count.
        let xcrs =
            observed.call(Call::SetXcrs, format_args!(""), || self.flush_sync_regs()?.set_xcrs(&state.xcrs));
        xcrs.map_err(call(Call::SetXcrs))?;
        self.set_xsave(state)?;
        self.set_debugregs(state)?;
        self.restore_msrs(&state.msrs)?;
        let events = observed.call(Call::SetVcpuEvents, format_args!(""), || {
            self.flush_sync_regs()?.set_vcpu_events(&state.events)
        });
        events.map_err(call(Call::SetVcpuEvents))
    }

    fn set_xsave(&self, state: &VcpuState) -> Result<()> {
        let xsave = self.observed().call(Call::SetXsave, format_args!(""), || {
            // SAFETY: the kernel reads the size of its own XSAVE area. That is the 4 KiB of this struct as long as no
            // feature with a larger area (AMX) was switched on for guests with arch_prctl, which nothing here does.
            unsafe { self.flush_sync_regs()?.set_xsave(&state.xsave) }
        });
        xsave.map_err(call_failed(Call::SetXsave, format!("vCPU {}", self.id())))
    }

    fn set_debugregs(&self, state: &VcpuState) -> Result<()> {
        self.observed()
            .call(Call::SetDebugregs, format_args!(""), || {
                self.flush_sync_regs()?.set_debug_regs(&state.debug)
            })
            .map_err(call_failed(Call::SetDebugregs, format!("vCPU {}", self.id())))
    }
}
