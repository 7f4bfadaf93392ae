//! Interrupts of a vCPU whose interrupt controllers are not in the kernel: `KVM_INTERRUPT` (api.rst 4.16), `KVM_NMI` (api.rst
//! 4.64), and the fields of `kvm_run` that go with them (api.rst, section 5).
//!
//! The owner of the vCPU decides when an interrupt is delivered. At an exit the kernel tells whether the vCPU takes one
//! ([`Vcpu::is_ready_for_interrupt`]); if not, `KVM_RUN` returns as soon as it does ([`Vcpu::request_interrupt_window`]).

use std::io;
use std::os::fd::AsRawFd;

use kvm_bindings::kvm_interrupt;

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::error::{Result, call_failed};

/// `_IOW(KVMIO, 0x86, struct kvm_interrupt)` of linux/kvm.h.
const KVM_INTERRUPT: libc::Ioctl = 0x4004_ae86;

impl Vcpu {
    /// Queues an external interrupt, which the next `KVM_RUN` delivers through the IDT (`KVM_INTERRUPT`, api.rst 4.16). The vCPU must
    /// be ready for it ([`Vcpu::is_ready_for_interrupt`]): the kernel does not look at RFLAGS.IF again.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call): EEXIST if an interrupt is queued already, ENXIO if the interrupt controllers are in the
    /// kernel.
    pub fn inject_interrupt(&self, vector: u8) -> Result<()> {
        let interrupt = kvm_interrupt { irq: vector.into() };
        self.dispatcher()
            .call(Call::Interrupt, format_args!("vector {vector:#x}"), || {
                let fd = self.flush_sync_regs().map_err(io::Error::from)?.as_raw_fd();
                // SAFETY: KVM_INTERRUPT reads one `kvm_interrupt`, which is a live local.
                match unsafe { libc::ioctl(fd, KVM_INTERRUPT, &raw const interrupt) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            })
            .map_err(call_failed(Call::Interrupt, format!("vector {vector:#x}")))
    }

    /// Queues a non-maskable interrupt, which is delivered as soon as the vCPU takes it (`KVM_NMI`, api.rst 4.64).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn inject_nmi(&self) -> Result<()> {
        self.dispatcher()
            .call(Call::Nmi, format_args!(""), || self.flush_sync_regs()?.nmi())
            .map_err(call_failed(Call::Nmi, "a non-maskable interrupt"))
    }

    /// Returns true if the vCPU would take an external interrupt now, as of the last exit (`ready_for_interrupt_injection`): RFLAGS.IF
    /// is set, no instruction such as STI or MOV SS blocks interrupts, and none is queued. False before the first run.
    #[must_use]
    pub fn is_ready_for_interrupt(&self) -> bool {
        self.area.run().ready_for_interrupt_injection != 0
    }

    /// Makes `KVM_RUN` return with [`Exit::IrqWindowOpen`](crate::Exit::IrqWindowOpen) as soon as the vCPU takes an external
    /// interrupt (`request_interrupt_window`), or ends that.
    pub fn request_interrupt_window(&mut self, request: bool) {
        self.area.run_mut().request_interrupt_window = u8::from(request);
    }

    /// Returns CR8 as of the last exit: bits 4 to 7 of the task priority register.
    #[must_use]
    pub fn cr8(&self) -> u8 {
        u8::try_from(self.area.run().cr8 & 0xf).unwrap_or(0)
    }

    /// Sets CR8 (bits 0 to 3) for the next run. A MOV to CR8 that lowers it exits with [`Exit::SetTpr`](crate::Exit::SetTpr).
    pub fn set_cr8(&mut self, value: u8) {
        self.area.run_mut().cr8 = u64::from(value & 0xf);
    }

    /// Returns `IA32_APIC_BASE` as of the last exit (SDM vol. 3, 11.4.4): address, mode and BSP flag of the local APIC. `None` if no
    /// `KVM_RUN` of this vCPU has entered the guest yet: a signal can end it before, and then the kernel tells no registers.
    #[must_use]
    pub fn apic_base(&self) -> Option<u64> {
        Some(self.area.run().apic_base).filter(|base| *base != 0)
    }
}
