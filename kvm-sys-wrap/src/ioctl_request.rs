//! Request numbers of KVM's `ioctl`s, computed as `linux/kvm.h` computes them: direction, size of the argument, type `0xae`, number.
//!
//! The calls themselves are made by kvm-ioctls. The numbers are for system call filters (seccomp) and for tracing.

use kvm_bindings as kvm;

use crate::call::Call;

/// `KVMIO`, the type of all requests of KVM.
const KVMIO: u32 = 0xae;
/// `_IOC_WRITE`: the kernel reads the argument.
const WRITE: u32 = 1;
/// `_IOC_READ`: the kernel writes the argument.
const READ: u32 = 2;

/// `_IOWR('f', 16, struct pm_scan_arg)` of linux/fs.h.
pub(crate) const PAGEMAP_SCAN: u32 = request(READ | WRITE, 0x66, 16, 96);

const fn request(direction: u32, kind: u32, number: u32, size: usize) -> u32 {
    // The size has 14 bits; arguments of KVM are shorter than 16 KiB.
    #[expect(clippy::cast_possible_truncation, reason = "at most 14 bits")]
    let size = (size & 0x3fff) as u32;
    direction << 30 | size << 16 | kind << 8 | number
}

/// `_IO` of a request of KVM.
const fn io(number: u32) -> Option<u32> {
    Some(request(0, KVMIO, number, 0))
}

/// `_IOR` of a request of KVM with an argument of type `T`.
const fn ior<T>(number: u32) -> Option<u32> {
    Some(request(READ, KVMIO, number, size_of::<T>()))
}

/// `_IOW` of a request of KVM with an argument of type `T`.
const fn iow<T>(number: u32) -> Option<u32> {
    Some(request(WRITE, KVMIO, number, size_of::<T>()))
}

/// `_IOWR` of a request of KVM with an argument of type `T`.
const fn iowr<T>(number: u32) -> Option<u32> {
    Some(request(READ | WRITE, KVMIO, number, size_of::<T>()))
}

impl Call {
    /// Returns the request number of the call if it is an `ioctl`, and `None` for other system calls.
    #[must_use]
    pub const fn ioctl_request(self) -> Option<u32> {
        match self {
            Self::OpenDevKvm
            | Self::MemfdCreate
            | Self::Mmap
            | Self::Madvise
            | Self::Mremap
            | Self::Pread
            | Self::MmapRun => None,
            Self::GetApiVersion => io(0x00),
            Self::CreateVm => io(0x01),
            Self::GetMsrIndexList => iowr::<kvm::kvm_msr_list>(0x02),
            Self::CheckExtension => io(0x03),
            Self::GetVcpuMmapSize => io(0x04),
            Self::GetSupportedCpuid => iowr::<kvm::kvm_cpuid2>(0x05),
            Self::CreateVcpu => io(0x41),
            Self::GetDirtyLog => iow::<kvm::kvm_dirty_log>(0x42),
            Self::SetUserMemoryRegion => iow::<kvm::kvm_userspace_memory_region>(0x46),
            Self::SetTssAddr => io(0x47),
            Self::CreateIrqchip => io(0x60),
            Self::IrqLine => iow::<kvm::kvm_irq_level>(0x61),
            Self::GetIrqchip => iowr::<kvm::kvm_irqchip>(0x62),
            Self::SetIrqchip => ior::<kvm::kvm_irqchip>(0x63),
            Self::RegisterCoalescedMmio => iow::<kvm::kvm_coalesced_mmio_zone>(0x67),
            Self::UnregisterCoalescedMmio => iow::<kvm::kvm_coalesced_mmio_zone>(0x68),
            Self::Irqfd => iow::<kvm::kvm_irqfd>(0x76),
            Self::CreatePit2 => iow::<kvm::kvm_pit_config>(0x77),
            Self::SetClock => iow::<kvm::kvm_clock_data>(0x7b),
            Self::GetClock => ior::<kvm::kvm_clock_data>(0x7c),
            Self::Run => io(0x80),
            Self::GetRegs => ior::<kvm::kvm_regs>(0x81),
            Self::SetRegs => iow::<kvm::kvm_regs>(0x82),
            Self::GetSregs => ior::<kvm::kvm_sregs>(0x83),
            Self::SetSregs => iow::<kvm::kvm_sregs>(0x84),
            Self::Translate => iowr::<kvm::kvm_translation>(0x85),
            Self::Interrupt => iow::<kvm::kvm_interrupt>(0x86),
            Self::Nmi => io(0x9a),
            Self::GetMsrs => iowr::<kvm::kvm_msrs>(0x88),
            Self::SetMsrs => iow::<kvm::kvm_msrs>(0x89),
            Self::GetLapic => ior::<kvm::kvm_lapic_state>(0x8e),
            Self::SetLapic => iow::<kvm::kvm_lapic_state>(0x8f),
            Self::SetCpuid2 => iow::<kvm::kvm_cpuid2>(0x90),
            Self::GetMpState => ior::<kvm::kvm_mp_state>(0x98),
            Self::SetMpState => iow::<kvm::kvm_mp_state>(0x99),
            Self::SetGuestDebug => iow::<kvm::kvm_guest_debug>(0x9b),
            Self::GetPit2 => ior::<kvm::kvm_pit_state2>(0x9f),
            Self::SetPit2 => iow::<kvm::kvm_pit_state2>(0xa0),
            Self::GetVcpuEvents => ior::<kvm::kvm_vcpu_events>(0x9f),
            Self::SetVcpuEvents => iow::<kvm::kvm_vcpu_events>(0xa0),
            Self::GetDebugregs => ior::<kvm::kvm_debugregs>(0xa1),
            Self::SetDebugregs => iow::<kvm::kvm_debugregs>(0xa2),
            Self::EnableCapVm => iow::<kvm::kvm_enable_cap>(0xa3),
            Self::GetXsave => ior::<kvm::kvm_xsave>(0xa4),
            Self::SetXsave => iow::<kvm::kvm_xsave>(0xa5),
            Self::GetXcrs => ior::<kvm::kvm_xcrs>(0xa6),
            Self::SetXcrs => iow::<kvm::kvm_xcrs>(0xa7),
            Self::GetVmStatsFd | Self::GetVcpuStatsFd => io(0xce),
            Self::PagemapScan => Some(PAGEMAP_SCAN),
        }
    }
}
