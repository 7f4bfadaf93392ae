//! Save and restore of a vCPU's state as one value.
//!
//! Besides the registers of `sregs.rs` and `regs.rs` that is the FPU with SSE and AVX (`KVM_GET_XSAVE`), XCR0 (`KVM_GET_XCRS`),
//! pending exceptions and interrupts (`KVM_GET_VCPU_EVENTS`), debug registers (`KVM_GET_DEBUGREGS`), and MSRs: those that
//! system calls use, or all of [`crate::Kvm::msr_index_list`]. Interrupt controllers and timers are in `interrupt_state.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use kvm_bindings::kvm_xsave;

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};
use crate::kvm_run::DirtyRegs;
use crate::saved_state::VcpuState;

/// SYSENTER_CS, _ESP and _EIP; STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE; PAT (SDM vol. 4, table 2-2).
const SYSCALL_MSRS: [u32; 9] =
    [0x174, 0x175, 0x176, 0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102, 0x277];

impl VcpuState {
    /// Returns the x87 and SSE registers in the layout of FXSAVE (SDM vol. 1, 10.5.1).
    #[must_use]
    pub fn fxsave(&self) -> [u8; 512] {
        let mut area = [0; 512];
        for (bytes, word) in area.chunks_exact_mut(4).zip(&self.xsave.region) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        area
    }

    /// Sets the x87 and SSE registers from the layout of FXSAVE (SDM vol. 1, 10.5.1).
    pub fn set_fxsave(&mut self, area: &[u8; 512]) {
        let mut xsave = kvm_xsave { region: self.xsave.region, ..Default::default() };
        for (word, bytes) in xsave.region.iter_mut().zip(area.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        // XSTATE_BV, after it, says which parts are not in their initial state: bits 0 and 1 are x87 and SSE (13.4.2).
        if let Some(parts) = xsave.region.get_mut(512 / 4) {
            *parts |= 0b11;
        }
        self.xsave = Arc::new(xsave);
    }
}

impl Vcpu {
    /// Saves the state, with the MSRs that system calls use (`KVM_GET_REGS`, `KVM_GET_SREGS`, `KVM_GET_XSAVE`, `KVM_GET_XCRS`,
    /// `KVM_GET_VCPU_EVENTS`, `KVM_GET_DEBUGREGS`, `KVM_GET_MSRS`).
    ///
    /// Complete the last exit before ([`Vcpu::finish_instruction`]): the kernel holds the rest of the instruction back, and it is in
    /// no register (api.rst, section 5, "KVM_EXIT_IO ... re-enter").
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn save(&self) -> Result<VcpuState> {
        self.save_with(&SYSCALL_MSRS)
    }

    /// Saves the state of the vCPU with the given MSRs; those that the vCPU does not have are left out.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn save_with(&self, msrs: &[u32]) -> Result<VcpuState> {
        let dispatcher = self.dispatcher();
        let call = |call| call_failed(call, format!("vCPU {}", self.id()));
        let xsave = dispatcher.call(Call::GetXsave, format_args!(""), || self.flush_sync_regs()?.get_xsave());
        let xcrs = dispatcher.call(Call::GetXcrs, format_args!(""), || self.flush_sync_regs()?.get_xcrs());
        let events = dispatcher
            .call(Call::GetVcpuEvents, format_args!(""), || self.flush_sync_regs()?.get_vcpu_events());
        let debug = dispatcher
            .call(Call::GetDebugregs, format_args!(""), || self.flush_sync_regs()?.get_debug_regs());
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

    /// Restores the state on a vCPU that had it before, with few calls: registers are stored for the next `KVM_RUN`
    /// (`KVM_CAP_SYNC_REGS`), and what the guest cannot have changed is not written. Not for a vCPU with a local APIC, whose state
    /// has to be restored in a certain order.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
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

    /// Restores the state, on the vCPU that it was saved from or another one of the same host (`KVM_SET_SREGS`, `KVM_SET_REGS`,
    /// `KVM_SET_XCRS`, `KVM_SET_XSAVE`, `KVM_SET_DEBUGREGS`, `KVM_SET_MSRS`, `KVM_SET_VCPU_EVENTS`).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn restore(&self, state: &VcpuState) -> Result<()> {
        let dispatcher = self.dispatcher();
        let call = |call| call_failed(call, format!("vCPU {}", self.id()));
        self.set_sregs(&state.sregs)?;
        self.set_regs(&state.regs)?;
        // XCR0 first: it selects the parts of the XSAVE area that are loaded.
        let xcrs = dispatcher
            .call(Call::SetXcrs, format_args!(""), || self.flush_sync_regs()?.set_xcrs(&state.xcrs));
        xcrs.map_err(call(Call::SetXcrs))?;
        self.set_xsave(state)?;
        self.set_debugregs(state)?;
        self.restore_msrs(&state.msrs)?;
        let events = dispatcher.call(Call::SetVcpuEvents, format_args!(""), || {
            self.flush_sync_regs()?.set_vcpu_events(&state.events)
        });
        events.map_err(call(Call::SetVcpuEvents))
    }

    fn set_xsave(&self, state: &VcpuState) -> Result<()> {
        let xsave = self.dispatcher().call(Call::SetXsave, format_args!(""), || {
            // SAFETY: the kernel reads the size of its own XSAVE area. That is the 4 KiB of this struct as long as no
            // feature with a larger area (AMX) was switched on for guests with arch_prctl, which nothing here does.
            unsafe { self.flush_sync_regs()?.set_xsave(&state.xsave) }
        });
        xsave.map_err(call_failed(Call::SetXsave, format!("vCPU {}", self.id())))
    }

    fn set_debugregs(&self, state: &VcpuState) -> Result<()> {
        self.dispatcher()
            .call(Call::SetDebugregs, format_args!(""), || {
                self.flush_sync_regs()?.set_debug_regs(&state.debug)
            })
            .map_err(call_failed(Call::SetDebugregs, format!("vCPU {}", self.id())))
    }
}
