//! Values that are one word out of a few. The comments are shown by editors.

use schemars::JsonSchema;
use serde::Deserialize;

/// A CPU mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// 16-bit real mode, the lowest 1 MiB.
    Real,
    /// 32-bit protected mode, flat, no paging.
    Protected,
    /// 32-bit with two-level paging, 4 KiB or 4 MiB pages.
    Paged,
    /// 32-bit with three-level paging (PAE), 4 KiB or 2 MiB pages.
    Pae,
    /// 64-bit, four-level paging, 4 KiB, 2 MiB or 1 GiB pages.
    Long,
}

/// How a guest is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// An ELF file, loaded and entered in `mode`.
    Elf,
    /// Multiboot 1: 32-bit entry, information in EBX.
    Multiboot,
    /// Multiboot 2: 32-bit entry, a list of tags in EBX.
    Multiboot2,
    /// PVH: the 32-bit entry of Xen's ELF note, start information in EBX.
    Pvh,
    /// A Linux bzImage or vmlinux by the Linux boot protocol, the zero page in RSI.
    Linux,
    /// Bytes loaded at `address` and entered in `mode`.
    Flat,
    /// 512 bytes at 0x7c00 in real mode, without a BIOS.
    BootSector,
}

/// What is behind guest memory on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Anonymous memory, which costs nothing until it is touched.
    Anonymous,
    /// A file in memory, which other processes can map too.
    Memfd,
    /// Reserved huge pages of 2 MiB.
    Hugetlb,
}

/// How files get into guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Loading {
    /// Large files are mapped, small ones copied.
    Auto,
    /// Everything is copied before the guest runs.
    Copy,
    /// Whatever consists of whole pages is mapped.
    Map,
}

/// What an access to nothing does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unmapped {
    /// Reads give all ones, writes vanish.
    Ones,
    /// The run ends with an error that names the access.
    Stop,
}

/// What a HLT means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Halt {
    /// The guest is done.
    Success,
    /// The guest has lost its way.
    Hung,
}

/// The interrupt controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Interrupts {
    /// None: HLT ends the run, nothing interrupts the guest.
    None,
    /// A local APIC with its timer for each vCPU; devices cannot interrupt.
    Split,
    /// Local APICs, IOAPIC, two PICs and the 8254 timer.
    Pc,
}

/// What a reset asked by the guest is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reset {
    /// The guest failed.
    Failure,
    /// The guest is done.
    Success,
}

/// The CPUID that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cpuid {
    /// Every leaf reads as zero: the fastest start.
    None,
    /// All that the host's KVM supports.
    Host,
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The guest executed HLT.
    Halt,
    /// The guest asked for the end with an exit code.
    Exit,
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest suspended the machine, and nothing wakes it.
    Suspend,
    /// Triple fault or another shutdown of the CPU.
    Shutdown,
    /// KVM could not go on (KVM_EXIT_INTERNAL_ERROR).
    InternalError,
    /// The CPU refused to enter the guest (KVM_EXIT_FAIL_ENTRY).
    FailEntry,
    /// An exception reached the landing page of a ring-3 guest.
    Exception,
    /// An access to nothing, where unmapped = "stop".
    Unmapped,
    /// limits.time was reached.
    TimeLimit,
    /// limits.exits was reached.
    ExitLimit,
}

impl End {
    /// The word, which is also that of [`vmm_core::machine::end::End::name`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Exit => "exit",
            Self::PowerOff => "power-off",
            Self::Reset => "reset",
            Self::Suspend => "suspend",
            Self::Shutdown => "shutdown",
            Self::InternalError => "internal-error",
            Self::FailEntry => "fail-entry",
            Self::Exception => "exception",
            Self::Unmapped => "unmapped",
            Self::TimeLimit => "time-limit",
            Self::ExitLimit => "exit-limit",
        }
    }
}
