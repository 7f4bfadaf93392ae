//! vCPUs of VMs from the pool (`vm_pool.rs`): used again, since the kernel cannot delete one.
//!
//! The state of a new vCPU is saved before anything is done with it. When the [`Vcpu`] is dropped, the kernel completes the last
//! instruction, and the vCPU waits for the next machine, where its state is restored. A machine without local APICs takes any
//! idle vCPU: the number in the kernel is then not that in the machine ([`Vcpu::id`]).

use std::io;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

use crate::call::Call;
use crate::create_vcpu::{KernelVcpu, Vcpu};
use crate::create_vm::Vm;
use crate::debug::GuestDebug;
use crate::error::{Result, call_failed};
use crate::vm_pool::{IdleVcpu, ResetState, SetCpuid, VmSetup};

/// Number of exits that one instruction may take before its vCPU is given up: string instructions take many.
const MAX_COMPLETIONS: u32 = 64;
/// Bit 8 of `IA32_APIC_BASE`: the bootstrap processor (SDM vol. 3, 10.4.4). KVM sets it for number 0 in the kernel.
const APIC_BASE_BSP: u64 = 1 << 8;

impl Vm {
    /// Adds a vCPU to a VM from the pool: an idle one of the kernel's VM, or a new one (`KVM_CREATE_VCPU`).
    pub(crate) fn create_pooled_vcpu(&self, id: u64) -> Result<Vcpu> {
        self.add_pooled_vcpu(id)?;
        loop {
            let idle = self.kernel().lock().take_idle(id);
            let Some(idle) = idle else { return self.create_resettable_vcpu(id) };
            let IdleVcpu { area, fd, kernel_id, reset, cpuid } = idle;
            let kernel = KernelVcpu { area, fd, id: kernel_id };
            let mut vcpu = Vcpu::from_kernel(kernel, id, self);
            // One that does not take its state is not used again: it is closed, and stays in the kernel.
            if vcpu.restore_reset_state(&reset, cpuid.as_ref()).is_ok() {
                vcpu.cpuid = cpuid.map(OnceLock::from).unwrap_or_default();
                vcpu.reset = Some(reset);
                return Ok(vcpu);
            }
        }
    }

    /// Creates a vCPU and saves its state.
    fn create_resettable_vcpu(&self, id: u64) -> Result<Vcpu> {
        let (kernel_id, has_apics) = {
            let kernel = self.kernel().lock();
            (kernel.free_vcpu_id(id), kernel.has_local_apics())
        };
        let mut vcpu = Vcpu::from_kernel(self.create_kernel_vcpu(kernel_id)?, id, self);
        if kernel_id != id {
            vcpu.set_bootstrap_bit(id == 0)?;
        }
        let state = vcpu.save_with(&self.kvm().msr_index_list()?)?;
        let lapic = has_apics.then(|| vcpu.save_lapic()).transpose()?;
        vcpu.reset = Some(Box::new(ResetState { vcpu: state, lapic }));
        self.save_reset_irqchip()?;
        Ok(vcpu)
    }

    /// Saves the state of interrupt controllers and timer when the first vCPU is created.
    fn save_reset_irqchip(&self) -> Result<()> {
        let kernel = self.kernel().lock();
        let has_all = [VmSetup::Irqchip, VmSetup::Pit2].iter().all(|step| kernel.setup.contains(step));
        let is_first = kernel.reset_irqchip.is_none();
        drop(kernel);
        if has_all && is_first {
            let state = self.save_irqchip()?;
            self.kernel().lock().reset_irqchip = Some(state);
        }
        Ok(())
    }

    /// Puts the interrupt controllers of a VM from the pool into their state before the first vCPU ran: all inputs low
    /// (`KVM_IRQ_LINE`), PICs, IOAPIC and timer (`KVM_SET_IRQCHIP`, `KVM_SET_PIT2`).
    pub(crate) fn reset_irqchip(&self) -> Result<()> {
        let kernel = self.kernel().lock();
        let (state, is_used) = (kernel.reset_irqchip.clone(), !kernel.vcpu_ids.is_empty());
        drop(kernel);
        let Some(state) = state else {
            // Without a timer the state was not saved.
            let source = io::Error::from_raw_os_error(libc::EEXIST);
            let detail = "interrupt controllers of a VM that was used before";
            return if is_used { Err(call_failed(Call::CreateIrqchip, detail)(source)) } else { Ok(()) };
        };
        for gsi in 0..crate::irqchip::IOAPIC_PINS {
            self.set_irq_line(gsi, false)?;
        }
        self.restore_irqchip(&state)
    }
}

impl Vcpu {
    /// Keeps other machines from using this vCPU of a reserved VM ([`VmReservation`](crate::VmReservation)) later, because the
    /// kernel holds state of it that cannot be restored. Has no effect on other vCPUs.
    pub fn forbid_reuse(&mut self) {
        self.reset = None;
    }

    /// Restores the state before the first run, with the CPUID that was set then.
    fn restore_reset_state(&mut self, reset: &ResetState, cpuid: Option<&SetCpuid>) -> Result<()> {
        let ring = self.vm().kernel().lock().coalesced_ring;
        self.discard_coalesced(ring);
        self.area.clear();
        self.set_guest_debug(&GuestDebug::default())?;
        if let Some(lapic) = &reset.lapic {
            // The special registers enable the local APIC.
            self.set_sregs(&reset.vcpu.sregs)?;
            self.restore_lapic(lapic)?;
        }
        let mut state = reset.vcpu.clone();
        if let Some(SetCpuid { msrs, .. }) = cpuid {
            state.msrs.clone_from(msrs);
        }
        self.restore(&state)
    }

    /// Sets or clears the bit of the bootstrap processor in `IA32_APIC_BASE`, on kernels that show the register without a local
    /// APIC.
    fn set_bootstrap_bit(&self, is_bootstrap: bool) -> Result<()> {
        let mut sregs = self.sregs()?;
        let before = sregs.apic_base;
        if before == 0 {
            return Ok(());
        }
        sregs.apic_base = if is_bootstrap { before | APIC_BASE_BSP } else { before & !APIC_BASE_BSP };
        if sregs.apic_base == before { Ok(()) } else { self.set_sregs(&sregs) }
    }

    /// Makes the kernel complete the last instruction (`KVM_RUN` with `immediate_exit`). Returns false if it cannot.
    fn complete_for_reuse(&mut self) -> bool {
        self.deferred = None;
        if self.vm().is_released() {
            // KVM_RUN would reach the next machine.
            return !self.completion_pending;
        }
        for _ in 0..MAX_COMPLETIONS {
            if !self.completion_pending {
                return true;
            }
            match self.finish_instruction() {
                Ok(None) => return true,
                Ok(Some(_)) => {}
                Err(_) => return false,
            }
        }
        false
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.kick.clear_thread();
        let reset = self.reset.take().filter(|_| self.complete_for_reuse());
        // SAFETY: neither field is used after this, and this value is dropped once. The area is dropped before the descriptor.
        let area = unsafe { ManuallyDrop::take(&mut self.area) };
        // SAFETY: as above.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        let Some(reset) = reset else {
            drop(area);
            drop(fd);
            return;
        };
        let idle = IdleVcpu { area, fd, kernel_id: self.kernel_id, reset, cpuid: self.cpuid.take() };
        let unused = self.vm().kernel().lock().keep_vcpu(idle);
        drop(unused);
    }
}
