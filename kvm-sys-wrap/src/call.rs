//! Names of the system calls that this crate makes, with the descriptor and the section of the documentation for each.
//!
//! A [`Call`] labels errors ([`crate::Error::Call`]) and observations ([`crate::CallRecord`]). It makes no call.

use std::fmt;

/// Kind of the file descriptor that a system call is made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FdKind {
    /// File descriptor of `/dev/kvm`, the KVM subsystem.
    Kvm,
    /// File descriptor of a VM, which `KVM_CREATE_VM` returns.
    Vm,
    /// File descriptor of a vCPU, which `KVM_CREATE_VCPU` returns.
    Vcpu,
    /// No descriptor of KVM: an ordinary system call of the process, such as `mmap`.
    Process,
}

impl fmt::Display for FdKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "/dev/kvm",
            Self::Vm => "VM",
            Self::Vcpu => "vCPU",
            Self::Process => "process",
        })
    }
}

macro_rules! calls {
    ($($(#[$doc:meta])* $variant:ident = $name:literal on $fd:ident, $section:literal;)*) => {
        /// System call that this crate makes. Variants may be added in any release.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Call {
            $($(#[$doc])* $variant,)*
        }

        impl Call {
            /// All system calls that this crate makes, in the order in which a VMM makes them first.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the name of the call in the kernel's headers.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the kind of descriptor that the call is made on.
            #[must_use]
            pub const fn fd_kind(self) -> FdKind {
                match self { $(Self::$variant => FdKind::$fd,)* }
            }

            /// Returns the section of Documentation/virt/kvm/api.rst, or the manual page, that documents the call.
            #[must_use]
            pub const fn section(self) -> &'static str {
                match self { $(Self::$variant => $section,)* }
            }
        }
    };
}

calls! {
    /// `open` of the device file: opens the KVM subsystem.
    OpenDevKvm = "open(\"/dev/kvm\")" on Process, "open(2)";
    /// `KVM_GET_API_VERSION`: returns the version of the API.
    GetApiVersion = "KVM_GET_API_VERSION" on Kvm, "4.1";
    /// `KVM_CHECK_EXTENSION`: returns the value of a capability.
    CheckExtension = "KVM_CHECK_EXTENSION" on Kvm, "4.4";
    /// `KVM_GET_SUPPORTED_CPUID`: returns the CPUID leaves that KVM can give to a guest.
    GetSupportedCpuid = "KVM_GET_SUPPORTED_CPUID" on Kvm, "4.46";
    /// `KVM_GET_MSR_INDEX_LIST`: returns the MSRs that are part of a vCPU's state.
    GetMsrIndexList = "KVM_GET_MSR_INDEX_LIST" on Kvm, "4.3";
    /// `KVM_CREATE_VM`: creates a virtual machine without memory and vCPUs.
    CreateVm = "KVM_CREATE_VM" on Kvm, "4.2";
    /// `KVM_SET_TSS_ADDR`: sets the three scratch pages that Intel hosts need.
    SetTssAddr = "KVM_SET_TSS_ADDR" on Vm, "4.36";
    /// `memfd_create`: creates a file in memory, which several mappings can share.
    MemfdCreate = "memfd_create" on Process, "memfd_create(2)";
    /// `mmap`: reserves host memory for the guest, or maps a file over it.
    Mmap = "mmap" on Process, "mmap(2)";
    /// `madvise`: advises the host about guest memory, or discards pages of it.
    Madvise = "madvise" on Process, "madvise(2)";
    /// `mremap`: moves a copy over a file in guest memory.
    Mremap = "mremap" on Process, "mremap(2)";
    /// `PAGEMAP_SCAN`: lists the pages of a copy-on-write slot that were written.
    PagemapScan = "PAGEMAP_SCAN" on Process, "pagemap.rst";
    /// `pread`: copies part of a file to guest memory.
    Pread = "pread" on Process, "pread(2)";
    /// `KVM_SET_USER_MEMORY_REGION`: creates, moves, changes or deletes a memory slot.
    SetUserMemoryRegion = "KVM_SET_USER_MEMORY_REGION" on Vm, "4.35";
    /// `KVM_GET_DIRTY_LOG`: returns and clears the bitmap of a slot's written pages.
    GetDirtyLog = "KVM_GET_DIRTY_LOG" on Vm, "4.8";
    /// `KVM_CREATE_VCPU`: adds a vCPU to a VM.
    CreateVcpu = "KVM_CREATE_VCPU" on Vm, "4.7";
    /// `KVM_GET_VCPU_MMAP_SIZE`: returns the size of the area shared with each vCPU.
    GetVcpuMmapSize = "KVM_GET_VCPU_MMAP_SIZE" on Kvm, "4.5";
    /// `mmap` of a vCPU: maps the area that begins with `struct kvm_run`.
    MmapRun = "mmap(vCPU)" on Process, "5";
    /// `KVM_SET_CPUID2`: sets the vCPU's CPUID leaves.
    SetCpuid2 = "KVM_SET_CPUID2" on Vcpu, "4.20";
    /// `KVM_GET_SREGS`: reads segments, descriptor tables and control registers.
    GetSregs = "KVM_GET_SREGS" on Vcpu, "4.13";
    /// `KVM_SET_SREGS`: sets segments, descriptor tables and control registers.
    SetSregs = "KVM_SET_SREGS" on Vcpu, "4.14";
    /// `KVM_GET_REGS`: reads the general registers, RIP and RFLAGS.
    GetRegs = "KVM_GET_REGS" on Vcpu, "4.11";
    /// `KVM_SET_REGS`: sets the general registers, RIP and RFLAGS.
    SetRegs = "KVM_SET_REGS" on Vcpu, "4.12";
    /// `KVM_RUN`: runs the guest until something needs user space.
    Run = "KVM_RUN" on Vcpu, "4.10";
    /// `KVM_TRANSLATE`: translates a guest-virtual address with the vCPU's current paging.
    Translate = "KVM_TRANSLATE" on Vcpu, "4.15";
    /// `KVM_SET_GUEST_DEBUG`: sets the debug events that make the vCPU exit.
    SetGuestDebug = "KVM_SET_GUEST_DEBUG" on Vcpu, "4.87";
    /// `KVM_GET_XSAVE`: reads the FPU, SSE and AVX registers.
    GetXsave = "KVM_GET_XSAVE" on Vcpu, "4.42";
    /// `KVM_SET_XSAVE`: sets the FPU, SSE and AVX registers.
    SetXsave = "KVM_SET_XSAVE" on Vcpu, "4.43";
    /// `KVM_GET_XCRS`: reads XCR0.
    GetXcrs = "KVM_GET_XCRS" on Vcpu, "4.44";
    /// `KVM_SET_XCRS`: sets XCR0.
    SetXcrs = "KVM_SET_XCRS" on Vcpu, "4.45";
    /// `KVM_GET_VCPU_EVENTS`: reads pending exceptions, interrupts and NMIs.
    GetVcpuEvents = "KVM_GET_VCPU_EVENTS" on Vcpu, "4.31";
    /// `KVM_SET_VCPU_EVENTS`: sets pending exceptions, interrupts and NMIs.
    SetVcpuEvents = "KVM_SET_VCPU_EVENTS" on Vcpu, "4.32";
    /// `KVM_GET_DEBUGREGS`: reads DR0 to DR3, DR6 and DR7.
    GetDebugregs = "KVM_GET_DEBUGREGS" on Vcpu, "4.33";
    /// `KVM_SET_DEBUGREGS`: sets DR0 to DR3, DR6 and DR7.
    SetDebugregs = "KVM_SET_DEBUGREGS" on Vcpu, "4.34";
    /// `KVM_GET_MSRS`: reads model-specific registers.
    GetMsrs = "KVM_GET_MSRS" on Vcpu, "4.18";
    /// `KVM_SET_MSRS`: sets model-specific registers.
    SetMsrs = "KVM_SET_MSRS" on Vcpu, "4.19";
    /// `KVM_REGISTER_COALESCED_MMIO`: makes the kernel collect writes to a port instead of exiting for each.
    RegisterCoalescedMmio = "KVM_REGISTER_COALESCED_MMIO" on Vm, "4.116";
    /// `KVM_UNREGISTER_COALESCED_MMIO`: makes each write to the port exit again.
    UnregisterCoalescedMmio = "KVM_UNREGISTER_COALESCED_MMIO" on Vm, "4.116";
    /// `KVM_CREATE_IRQCHIP`: creates two PICs, an IOAPIC, and a local APIC for each vCPU.
    CreateIrqchip = "KVM_CREATE_IRQCHIP" on Vm, "4.24";
    /// `KVM_ENABLE_CAP` on a VM: enables a capability.
    EnableCapVm = "KVM_ENABLE_CAP" on Vm, "4.37";
    /// `KVM_CREATE_PIT2`: creates the 8254 timer.
    CreatePit2 = "KVM_CREATE_PIT2" on Vm, "4.71";
    /// `KVM_IRQ_LINE`: sets the level of an interrupt line.
    IrqLine = "KVM_IRQ_LINE" on Vm, "4.25";
    /// `KVM_IRQFD`: connects an eventfd to an interrupt line.
    Irqfd = "KVM_IRQFD" on Vm, "4.75";
    /// `KVM_GET_IRQCHIP`: reads the state of a PIC or of the IOAPIC.
    GetIrqchip = "KVM_GET_IRQCHIP" on Vm, "4.26";
    /// `KVM_SET_IRQCHIP`: sets the state of a PIC or of the IOAPIC.
    SetIrqchip = "KVM_SET_IRQCHIP" on Vm, "4.27";
    /// `KVM_GET_PIT2`: reads the state of the 8254 timer.
    GetPit2 = "KVM_GET_PIT2" on Vm, "4.72";
    /// `KVM_SET_PIT2`: sets the state of the 8254 timer.
    SetPit2 = "KVM_SET_PIT2" on Vm, "4.73";
    /// `KVM_GET_CLOCK`: reads the paravirtual clock.
    GetClock = "KVM_GET_CLOCK" on Vm, "4.29";
    /// `KVM_SET_CLOCK`: sets the paravirtual clock.
    SetClock = "KVM_SET_CLOCK" on Vm, "4.30";
    /// `KVM_INTERRUPT`: queues an external interrupt.
    Interrupt = "KVM_INTERRUPT" on Vcpu, "4.16";
    /// `KVM_NMI`: queues a non-maskable interrupt.
    Nmi = "KVM_NMI" on Vcpu, "4.64";
    /// `KVM_GET_LAPIC`: reads the registers of the local APIC.
    GetLapic = "KVM_GET_LAPIC" on Vcpu, "4.57";
    /// `KVM_SET_LAPIC`: sets the registers of the local APIC.
    SetLapic = "KVM_SET_LAPIC" on Vcpu, "4.58";
    /// `KVM_GET_MP_STATE`: returns the vCPU's multiprocessing state: runnable, halted, waiting for SIPI.
    GetMpState = "KVM_GET_MP_STATE" on Vcpu, "4.38";
    /// `KVM_SET_MP_STATE`: sets the vCPU's multiprocessing state.
    SetMpState = "KVM_SET_MP_STATE" on Vcpu, "4.39";
    /// `KVM_GET_STATS_FD` on a VM: opens the kernel's counters of the VM.
    GetVmStatsFd = "KVM_GET_STATS_FD" on Vm, "4.133";
    /// `KVM_GET_STATS_FD` on a vCPU: opens the kernel's counters of the vCPU.
    GetVcpuStatsFd = "KVM_GET_STATS_FD" on Vcpu, "4.133";
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
