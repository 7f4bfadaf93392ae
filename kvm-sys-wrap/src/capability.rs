//! Table of the capabilities that this crate and its users ask for (`KVM_CHECK_EXTENSION`). The call is in `dev_kvm.rs`.
//!
//! A method checks what it is about to use, when it uses it ([`Kvm::require`](crate::Kvm::require)); programs that check a host
//! go through the whole table ([`Capability::ALL`]).

use kvm_ioctls::Cap;

/// Importance of a KVM capability for this crate: required, or needed by some feature only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// No guest can run on a host without the capability.
    Required,
    /// Only some feature needs the capability.
    Useful,
}

macro_rules! capabilities {
    ($($variant:ident = $name:literal, $cap:ident, $requirement:ident, $purpose:literal;)*) => {
        /// Capability of the host's KVM (api.rst, sections 4.4, 6, 7 and 8). Variants may be added in any release.
        #[expect(missing_docs, reason = "the table gives each its name and purpose")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Capability { $($variant,)* }

        impl Capability {
            /// All capabilities that this crate uses, the required ones first.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the name of the capability in the kernel's headers.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Returns the importance of the capability: required, or needed by some feature only.
            #[must_use]
            pub const fn requirement(self) -> Requirement {
                match self { $(Self::$variant => Requirement::$requirement,)* }
            }

            /// Returns the purpose of the capability as the end of a sentence, such as "for guest memory".
            #[must_use]
            pub const fn purpose(self) -> &'static str {
                match self { $(Self::$variant => $purpose,)* }
            }

            pub(crate) const fn cap(self) -> Cap {
                match self { $(Self::$variant => Cap::$cap,)* }
            }
        }
    };
}

capabilities! {
    UserMemory = "KVM_CAP_USER_MEMORY", UserMemory, Required, "for guest memory";
    SetTssAddr = "KVM_CAP_SET_TSS_ADDR", SetTssAddr, Required, "for KVM_SET_TSS_ADDR";
    ImmediateExit = "KVM_CAP_IMMEDIATE_EXIT", ImmediateExit, Required, "to stop a running guest";
    DestroyMemoryRegionWorks = "KVM_CAP_DESTROY_MEMORY_REGION_WORKS", DestroyMemoryRegionWorks, Required,
        "to delete and move memory slots";
    NrMemslots = "KVM_CAP_NR_MEMSLOTS", NrMemslots, Useful, "to know how many memory slots there can be";
    NrVcpus = "KVM_CAP_NR_VCPUS", NrVcpus, Useful, "to know how many vCPUs are advised";
    MaxVcpus = "KVM_CAP_MAX_VCPUS", MaxVcpus, Useful, "to know how many vCPUs are possible";
    MaxVcpuId = "KVM_CAP_MAX_VCPU_ID", MaxVcpuId, Useful, "to know how high vCPU numbers go";
    ReadonlyMem = "KVM_CAP_READONLY_MEM", ReadonlyMem, Useful, "for read-only memory";
    CoalescedMmio = "KVM_CAP_COALESCED_MMIO", CoalescedMmio, Useful, "to know where collected writes are";
    ExtCpuid = "KVM_CAP_EXT_CPUID", ExtCpuid, Useful, "to give guests the host's CPUID";
    InternalErrorData = "KVM_CAP_INTERNAL_ERROR_DATA", InternalErrorData, Useful,
        "to learn which instruction KVM could not run";
    SyncRegs = "KVM_CAP_SYNC_REGS", SyncRegs, Useful, "to read registers without a call";
    SetGuestDebug = "KVM_CAP_SET_GUEST_DEBUG", SetGuestDebug, Useful, "for single-stepping and breakpoints";
    CoalescedPio = "KVM_CAP_COALESCED_PIO", CoalescedPio, Useful, "for console output with fewer exits";
    Ioeventfd = "KVM_CAP_IOEVENTFD", Ioeventfd, Useful, "for doorbells without an exit";
    Irqchip = "KVM_CAP_IRQCHIP", Irqchip, Useful, "for interrupts";
    SplitIrqchip = "KVM_CAP_SPLIT_IRQCHIP", SplitIrqchip, Useful, "for a local APIC without PIC and IOAPIC";
    Pit2 = "KVM_CAP_PIT2", Pit2, Useful, "for the timer of old kernels";
    TscDeadlineTimer = "KVM_CAP_TSC_DEADLINE_TIMER", TscDeadlineTimer, Useful, "for the timer that new kernels prefer";
    MpState = "KVM_CAP_MP_STATE", MpState, Useful, "for several vCPUs";
    Xsave = "KVM_CAP_XSAVE", Xsave, Useful, "for snapshots";
    X86UserSpaceMsr = "KVM_CAP_X86_USER_SPACE_MSR", X86UserSpaceMsr, Useful, "to see unknown MSRs";
    MemoryFaultInfo = "KVM_CAP_MEMORY_FAULT_INFO", MemoryFaultInfo, Useful, "to learn which page failed";
}
