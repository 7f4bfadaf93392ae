//! The calls of the flow, by name: what each is made on and where the kernel documents it.
//!
//! A [`Call`] is a name, not a request. It labels errors ([`crate::Error::Call`]) and observations
//! ([`crate::observe`]), so that both speak of `KVM_SET_SREGS` and not of a function of ours.

use std::fmt;

/// The descriptor that a call is made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FdKind {
    /// `/dev/kvm`, the subsystem.
    Kvm,
    /// What `KVM_CREATE_VM` returned.
    Vm,
    /// What `KVM_CREATE_VCPU` returned.
    Vcpu,
    /// None: an ordinary system call of the process, such as `mmap`.
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
        /// A system call that this crate makes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Call {
            $($(#[$doc])* $variant,)*
        }

        impl Call {
            /// Every call, in the order of the flow.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the kernel's headers.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What the call is made on.
            #[must_use]
            pub const fn fd_kind(self) -> FdKind {
                match self { $(Self::$variant => FdKind::$fd,)* }
            }

            /// Where it is documented: a section of Documentation/virt/kvm/api.rst, or a manual page.
            #[must_use]
            pub const fn section(self) -> &'static str {
                match self { $(Self::$variant => $section,)* }
            }
        }
    };
}

calls! {
    /// Opens the KVM subsystem.
    OpenDevKvm = "open(\"/dev/kvm\")" on Process, "open(2)";
    /// Asks for the version of the API.
    GetApiVersion = "KVM_GET_API_VERSION" on Kvm, "4.1";
    /// Asks whether, or how far, something is supported.
    CheckExtension = "KVM_CHECK_EXTENSION" on Kvm, "4.4";
    /// Asks which CPUID leaves KVM can give to a guest.
    GetSupportedCpuid = "KVM_GET_SUPPORTED_CPUID" on Kvm, "4.46";
    /// Asks which MSRs are part of a vCPU's state.
    GetMsrIndexList = "KVM_GET_MSR_INDEX_LIST" on Kvm, "4.3";
    /// Makes a virtual machine without memory and vCPUs.
    CreateVm = "KVM_CREATE_VM" on Kvm, "4.2";
    /// Tells Intel hosts where three scratch pages may lie.
    SetTssAddr = "KVM_SET_TSS_ADDR" on Vm, "4.36";
    /// Makes a file in memory, which guests can share.
    MemfdCreate = "memfd_create" on Process, "memfd_create(2)";
    /// Reserves host memory for the guest.
    Mmap = "mmap" on Process, "mmap(2)";
    /// Advises the host about that memory.
    Madvise = "madvise" on Process, "madvise(2)";
    /// Lets a copy take the place of a file in guest memory.
    Mremap = "mremap" on Process, "mremap(2)";
    /// Lists the pages of guest memory that were written since they showed a file.
    PagemapScan = "PAGEMAP_SCAN" on Process, "pagemap.rst";
    /// Copies such pages from their file again.
    Pread = "pread" on Process, "pread(2)";
    /// Makes host memory appear at a guest-physical address.
    SetUserMemoryRegion = "KVM_SET_USER_MEMORY_REGION" on Vm, "4.35";
    /// Fetches and clears the bitmap of written pages.
    GetDirtyLog = "KVM_GET_DIRTY_LOG" on Vm, "4.8";
    /// Adds a vCPU.
    CreateVcpu = "KVM_CREATE_VCPU" on Vm, "4.7";
    /// Asks for the size of the area shared with each vCPU.
    GetVcpuMmapSize = "KVM_GET_VCPU_MMAP_SIZE" on Kvm, "4.5";
    /// Maps that area: struct kvm_run and what follows it.
    MmapRun = "mmap(vCPU)" on Process, "5";
    /// Gives the vCPU its CPUID.
    SetCpuid2 = "KVM_SET_CPUID2" on Vcpu, "4.20";
    /// Reads segments, descriptor tables and control registers.
    GetSregs = "KVM_GET_SREGS" on Vcpu, "4.13";
    /// Writes them.
    SetSregs = "KVM_SET_SREGS" on Vcpu, "4.14";
    /// Reads the general registers, RIP and RFLAGS.
    GetRegs = "KVM_GET_REGS" on Vcpu, "4.11";
    /// Writes them.
    SetRegs = "KVM_SET_REGS" on Vcpu, "4.12";
    /// Runs the guest until something needs user space.
    Run = "KVM_RUN" on Vcpu, "4.10";
    /// Translates a guest-virtual address as the vCPU would now.
    Translate = "KVM_TRANSLATE" on Vcpu, "4.15";
    /// Chooses which debug events are reported.
    SetGuestDebug = "KVM_SET_GUEST_DEBUG" on Vcpu, "4.87";
    /// Reads the FPU, SSE and AVX registers.
    GetXsave = "KVM_GET_XSAVE" on Vcpu, "4.42";
    /// Writes them.
    SetXsave = "KVM_SET_XSAVE" on Vcpu, "4.43";
    /// Reads XCR0.
    GetXcrs = "KVM_GET_XCRS" on Vcpu, "4.44";
    /// Writes it.
    SetXcrs = "KVM_SET_XCRS" on Vcpu, "4.45";
    /// Reads pending exceptions, interrupts and NMIs.
    GetVcpuEvents = "KVM_GET_VCPU_EVENTS" on Vcpu, "4.31";
    /// Writes them.
    SetVcpuEvents = "KVM_SET_VCPU_EVENTS" on Vcpu, "4.32";
    /// Reads DR0 to DR7.
    GetDebugregs = "KVM_GET_DEBUGREGS" on Vcpu, "4.33";
    /// Writes them.
    SetDebugregs = "KVM_SET_DEBUGREGS" on Vcpu, "4.34";
    /// Reads model-specific registers.
    GetMsrs = "KVM_GET_MSRS" on Vcpu, "4.18";
    /// Writes them.
    SetMsrs = "KVM_SET_MSRS" on Vcpu, "4.19";
    /// Has the kernel collect writes to a port, in place of an exit for each.
    RegisterCoalescedMmio = "KVM_REGISTER_COALESCED_MMIO" on Vm, "4.116";
    /// Has each write make an exit again.
    UnregisterCoalescedMmio = "KVM_UNREGISTER_COALESCED_MMIO" on Vm, "4.116";
    /// Makes the interrupt controllers of a PC in the kernel: two PICs, an IOAPIC, and a local APIC for each vCPU.
    CreateIrqchip = "KVM_CREATE_IRQCHIP" on Vm, "4.24";
    /// Switches a capability on for the whole VM.
    EnableCapVm = "KVM_ENABLE_CAP" on Vm, "4.37";
    /// Makes the timer of a PC in the kernel.
    CreatePit2 = "KVM_CREATE_PIT2" on Vm, "4.71";
    /// Sets the level of an interrupt line.
    IrqLine = "KVM_IRQ_LINE" on Vm, "4.25";
    /// Connects an eventfd to an interrupt line.
    Irqfd = "KVM_IRQFD" on Vm, "4.75";
    /// Reads the state of a PIC or of the IOAPIC.
    GetIrqchip = "KVM_GET_IRQCHIP" on Vm, "4.26";
    /// Writes it.
    SetIrqchip = "KVM_SET_IRQCHIP" on Vm, "4.27";
    /// Reads the counters of the timer.
    GetPit2 = "KVM_GET_PIT2" on Vm, "4.72";
    /// Writes them.
    SetPit2 = "KVM_SET_PIT2" on Vm, "4.73";
    /// Reads the clock that a guest may share with KVM.
    GetClock = "KVM_GET_CLOCK" on Vm, "4.29";
    /// Sets it.
    SetClock = "KVM_SET_CLOCK" on Vm, "4.30";
    /// Reads the registers of the local APIC.
    GetLapic = "KVM_GET_LAPIC" on Vcpu, "4.57";
    /// Writes them.
    SetLapic = "KVM_SET_LAPIC" on Vcpu, "4.58";
    /// Asks whether the vCPU runs, halts, or waits for its start.
    GetMpState = "KVM_GET_MP_STATE" on Vcpu, "4.38";
    /// Puts a vCPU to sleep.
    SetMpState = "KVM_SET_MP_STATE" on Vcpu, "4.39";
    /// Opens the kernel's counters of a VM.
    GetVmStatsFd = "KVM_GET_STATS_FD" on Vm, "4.133";
    /// Opens those of a vCPU.
    GetVcpuStatsFd = "KVM_GET_STATS_FD" on Vcpu, "4.133";
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
