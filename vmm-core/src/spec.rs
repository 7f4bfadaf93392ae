//! Description of a machine as plain data: all that a front-end decides before anything is built.
//!
//! A [`MachineSpec`] holds no descriptor, no memory and no open file. `vmm-cli` lowers a TOML file to one; a library user
//! starts from [`MachineSpec::new`] and sets fields, or uses the `with_*` methods. Nothing is checked here:
//! [`layout::compute`](crate::layout::compute) checks the whole description.
//!
//! The structures are exhaustive on purpose, so that a new field is a compile error wherever a description is written,
//! compared or saved.

pub mod cpuid_feature;
mod devices;
pub mod gpa_range;
pub mod host_file;
mod memory;
pub mod mode;
mod platform;
pub mod register;
pub mod table_image;
pub mod virtio;

use std::fmt;
use std::time::Duration;

use kvm_sys_wrap::{Gpa, Gva};
use serde::Deserialize;

use crate::spec::cpuid_feature::CpuidFeature;
use crate::spec::mode::{Mode, PageSize, Ring};
pub use crate::spec::register::{Register, RegisterFile};
pub use devices::*;
pub use host_file::HostFile;
pub use memory::{HUGE_PAGES_THRESHOLD, MemoryBacking, MemoryRegion};
pub use platform::{FwCfgFile, FwCfgSpec, PlatformSpec};
pub use virtio::{BlockAccess, BlockSpec, VirtioSpec};

/// Description of one machine: memory, initial state of its vCPU, devices and limits.
///
/// `E` is the type of the entry. A front-end that does not know the address yet, such as that of a symbol, uses another type
/// than [`EntryPoint`] until [`MachineSpec::with_entry`] completes the description.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineSpec<E = EntryPoint> {
    /// Memory regions; each becomes a KVM memory slot. At least one; none may overlap another.
    pub memory: Vec<MemoryRegion>,
    /// Address of the three pages of `KVM_SET_TSS_ADDR`: a multiple of 4 KiB, below 4 GiB, outside memory and devices.
    pub tss_address: Gpa,
    /// Number of vCPUs, at least 1. More than one requires [`MachineSpec::interrupts`].
    pub vcpus: u32,
    /// Interrupt controllers of the machine.
    pub interrupts: Interrupts,
    /// Place of the interrupt controllers.
    pub irqchip: IrqchipPlace,
    /// Initial state of the first vCPU.
    pub boot: BootSpec<E>,
    /// Addresses of tables and stack that the user chose. [`crate::layout`] chooses the others.
    pub pinned: PinnedAddresses,
    /// Devices of the machine.
    pub devices: DeviceSpecs,
    /// Effect of an access to an address that neither memory nor a device answers.
    pub unmapped: UnmappedPolicy,
    /// Meaning of a HLT from which nothing can wake the vCPU.
    pub halt: HaltPolicy,
    /// Meaning of a reset that the guest requests.
    pub reset: ResetPolicy,
    /// Limits at which the VMM stops the guest.
    pub limits: LimitSpec,
    /// CPUID leaves that the guest sees.
    pub cpuid: CpuidPolicy,
    /// Features that are hidden (`false`) or set (`true`) in the host's CPUID. Ignored with [`CpuidPolicy::None`].
    pub cpuid_changes: Vec<(CpuidFeature, bool)>,
    /// Arguments that the guest can read over the hypercall ports.
    pub arguments: Vec<String>,
}

impl<E> MachineSpec<E> {
    /// Returns the description with `entry` as the address of the first instruction.
    #[must_use]
    pub fn with_entry<F>(self, entry: F) -> MachineSpec<F> {
        let BootSpec { mode, ring, entry: _, paging, sse, registers, gdt_layout } = self.boot;
        MachineSpec {
            memory: self.memory,
            tss_address: self.tss_address,
            vcpus: self.vcpus,
            interrupts: self.interrupts,
            irqchip: self.irqchip,
            boot: BootSpec { mode, ring, entry, paging, sse, registers, gdt_layout },
            pinned: self.pinned,
            devices: self.devices,
            unmapped: self.unmapped,
            halt: self.halt,
            reset: self.reset,
            limits: self.limits,
            cpuid: self.cpuid,
            cpuid_changes: self.cpuid_changes,
            arguments: self.arguments,
        }
    }

    /// Returns the interrupt controllers of the machine that are in the kernel.
    #[must_use]
    pub const fn kernel_irqchip(&self) -> Interrupts {
        match self.irqchip {
            IrqchipPlace::Kernel => self.interrupts,
            IrqchipPlace::Userspace => Interrupts::None,
        }
    }

    /// Returns true if the machine has interrupt controllers, and they are in this process.
    #[must_use]
    pub fn has_userspace_irqchip(&self) -> bool {
        self.interrupts != Interrupts::None && self.irqchip == IrqchipPlace::Userspace
    }
}

impl MachineSpec {
    /// Default address for `KVM_SET_TSS_ADDR`: below the BIOS area, as in QEMU.
    pub const DEFAULT_TSS_ADDRESS: Gpa = Gpa(0xfffb_d000);

    /// Returns the description of a machine with `memory_size` bytes of memory at address 0 and the default devices, which
    /// starts in `mode` at `entry`.
    #[must_use]
    pub fn new(mode: Mode, memory_size: u64, entry: EntryPoint) -> Self {
        Self {
            memory: vec![MemoryRegion::new(Gpa(0), memory_size)],
            tss_address: Self::DEFAULT_TSS_ADDRESS,
            vcpus: 1,
            interrupts: Interrupts::default(),
            irqchip: IrqchipPlace::default(),
            boot: BootSpec::new(mode, entry),
            pinned: PinnedAddresses::default(),
            devices: DeviceSpecs::default(),
            unmapped: UnmappedPolicy::default(),
            halt: HaltPolicy::default(),
            reset: ResetPolicy::default(),
            limits: LimitSpec::default(),
            cpuid: CpuidPolicy::default(),
            cpuid_changes: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Returns the description with one more memory region.
    #[must_use]
    pub fn with_memory(mut self, region: MemoryRegion) -> Self {
        self.memory.push(region);
        self
    }

    /// Returns the description with `vcpus` vCPUs and the given interrupt controllers.
    #[must_use]
    pub const fn with_vcpus(mut self, vcpus: u32, interrupts: Interrupts) -> Self {
        (self.vcpus, self.interrupts) = (vcpus, interrupts);
        self
    }

    /// Returns the description with `ring` as the privilege level of the guest.
    #[must_use]
    pub const fn with_ring(mut self, ring: Ring) -> Self {
        self.boot.ring = ring;
        self
    }

    /// Returns the description with one more general register preset.
    #[must_use]
    pub fn with_register(mut self, register: Register, value: u64) -> Self {
        self.boot.registers.push((register, value));
        self
    }

    /// Returns the description with one more mapping in the page tables.
    #[must_use]
    pub fn with_mapping(mut self, mapping: Mapping) -> Self {
        self.boot.paging.maps.push(mapping);
        self
    }

    /// Returns the description with the given limits.
    #[must_use]
    pub const fn with_limits(mut self, limits: LimitSpec) -> Self {
        self.limits = limits;
        self
    }
}

/// Initial state of the first vCPU, with an entry of type `E`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSpec<E = EntryPoint> {
    /// CPU mode in which the guest starts.
    pub mode: Mode,
    /// Privilege level of the guest's code; must be [`Ring::Kernel`] in real mode.
    pub ring: Ring,
    /// Address of the first instruction.
    pub entry: E,
    /// Page tables that the guest starts with.
    pub paging: PagingSpec,
    /// True to enable SSE (CR0.MP, CR4.OSFXSR, CR4.OSXMMEXCPT). `None` enables it in long mode only.
    pub sse: Option<bool>,
    /// General registers with an initial value other than 0.
    pub registers: Vec<(Register, u64)>,
    /// Order of the descriptors in the GDT. Ignored in real mode.
    pub gdt_layout: GdtLayout,
}

/// Order of the descriptors in the initial GDT, which decides their selectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GdtLayout {
    /// GDT with ring-0 code 0x08 and data 0x10, ring-3 data 0x1b and code 0x23, as SYSCALL and SYSRET require.
    #[default]
    Sysret,
    /// GDT with ring-0 code 0x10 and data 0x18, no descriptors for ring 3: `__BOOT_CS` and `__BOOT_DS` of Linux
    /// (Documentation/arch/x86/boot.rst). Old 32-bit kernels load them before they have a GDT of their own.
    Linux,
}

impl BootSpec {
    /// Returns a description that starts in ring 0 at `entry` with identity-mapped memory and all registers 0.
    #[must_use]
    pub fn new(mode: Mode, entry: EntryPoint) -> Self {
        Self {
            mode,
            ring: Ring::Kernel,
            entry,
            paging: PagingSpec::default(),
            sse: None,
            registers: Vec::new(),
            gdt_layout: GdtLayout::default(),
        }
    }
}

/// Address of the guest's first instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryPoint {
    /// Entry at a virtual address. In real mode a linear address below 1 MiB, from which CS and IP are computed.
    Address(Gva),
    /// Entry given by CS and IP; real mode only.
    Segmented {
        /// Value of CS at the entry; its base is the value times 16.
        segment: u16,
        /// Value of IP at the entry.
        offset: u16,
    },
}

impl fmt::Display for EntryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(gva) => gva.fmt(f),
            Self::Segmented { segment, offset } => write!(f, "{segment:04x}:{offset:04x}"),
        }
    }
}

/// Page tables that the guest starts with. Ignored in modes without paging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagingSpec {
    /// Page size of the identity mapping, and largest page size for [`PagingSpec::maps`]. `None` means 2 MiB, or 4 MiB with
    /// two-level paging.
    pub page_size: Option<PageSize>,
    /// True for five-level paging (CR4.LA57); long mode only.
    pub five_level: bool,
    /// True to map all memory and all MMIO devices at their own addresses.
    pub identity: bool,
    /// Further mappings, each with precedence over the identity mapping.
    pub maps: Vec<Mapping>,
}

impl Default for PagingSpec {
    fn default() -> Self {
        Self { page_size: None, five_level: false, identity: true, maps: Vec::new() }
    }
}

/// Mapping of a virtual to a physical range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First virtual address; a multiple of 4 KiB.
    pub gva: Gva,
    /// First physical address; a multiple of 4 KiB.
    pub gpa: Gpa,
    /// Size of both ranges in bytes; a multiple of 4 KiB, not 0.
    pub size: u64,
    /// Permissions of the pages of the mapping.
    pub access: PagePermissions,
}

/// Permissions of a page: read, write, execute, and access from ring 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PagePermissions {
    /// True if the guest may write (R/W bit).
    pub writable: bool,
    /// True if ring 3 may access the page (U/S bit).
    pub user: bool,
    /// True if the guest may execute code (XD bit clear). Two-level paging has no XD bit and requires true.
    pub executable: bool,
}

/// Addresses of tables and stack that the user chose; `None` leaves the choice to the layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinnedAddresses {
    /// End of the stack: the initial stack pointer.
    pub stack_top: Option<Gpa>,
    /// Size of the stack in bytes. `None` means 64 KiB, or less in a small machine.
    pub stack_size: Option<u64>,
    /// Address of the global descriptor table; a multiple of 8.
    pub gdt: Option<Gpa>,
    /// Address of the interrupt descriptor table; a multiple of 8.
    pub idt: Option<Gpa>,
    /// Address of the task state segment; a multiple of 4 KiB.
    pub tss: Option<Gpa>,
    /// Address of the first page table (CR3); a multiple of 4 KiB. The other tables follow it.
    pub page_tables: Option<Gpa>,
}

/// Effect of an access to an address that neither memory nor a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum UnmappedPolicy {
    /// A read returns all ones, and a write is ignored, as on a PC's bus.
    #[default]
    #[serde(rename = "ones")]
    ReadOnes,
    /// An access stops the run with an error that names it.
    Stop,
}

/// Interrupt controllers of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Interrupts {
    /// No interrupt controllers: HLT ends the run, and the guest is never interrupted.
    #[default]
    None,
    /// Local APIC with its timer for each vCPU. Devices cannot interrupt.
    Split,
    /// Local APICs, IOAPIC, two PICs and the 8254 timer.
    Pc,
}

/// Place of the interrupt controllers of a machine. Without interrupt controllers it has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum IrqchipPlace {
    /// In the kernel: fast, a thread for each vCPU.
    #[default]
    Kernel,
    /// In this process: each interrupt is seen, and all vCPUs take turns on one thread.
    Userspace,
}

/// Meaning of a HLT with interrupts off, from which nothing can wake the machine. A HLT with interrupts on that nothing can wake
/// from is always a hang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HaltPolicy {
    /// HLT is success: the guest has finished.
    #[default]
    Success,
    /// HLT is a hang: the guest waits forever.
    Hung,
}

/// Meaning of a reset that the guest requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ResetPolicy {
    /// Reset is a failure: kernels reset the machine when they cannot continue.
    #[default]
    Failure,
    /// Reset is success: the guest has finished.
    Success,
}

/// Limits at which the VMM stops a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitSpec {
    /// Maximum wall-clock time from the first `KVM_RUN`; `None` for no limit.
    pub time: Option<Duration>,
    /// Maximum number of exits to user space; `None` for no limit.
    pub exits: Option<u64>,
}

/// Policy for the CPUID leaves that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CpuidPolicy {
    /// No CPUID is set: every leaf reads as zero, and KVM hides features that CPUID would announce. Fastest start.
    #[default]
    None,
    /// The guest sees all that KVM supports on the host (`KVM_GET_SUPPORTED_CPUID`).
    Host,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_sets_its_field_and_no_other() {
        let plain = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)));
        let access = PagePermissions { writable: true, user: true, executable: true };
        let mapping = Mapping { gva: Gva(1 << 30), gpa: Gpa(0), size: 4096, access };
        let limits = LimitSpec { time: None, exits: Some(7) };
        let region = MemoryRegion::new(Gpa(4 << 20), 4096);
        let spec = plain
            .clone()
            .with_memory(region.clone())
            .with_vcpus(2, Interrupts::Pc)
            .with_ring(Ring::User)
            .with_register(Register::Rdi, 1)
            .with_mapping(mapping)
            .with_limits(limits)
            .with_entry(EntryPoint::Address(Gva(0x9000)));
        let mut expected = plain;
        expected.memory.push(region);
        (expected.vcpus, expected.interrupts) = (2, Interrupts::Pc);
        expected.boot.ring = Ring::User;
        expected.boot.registers = vec![(Register::Rdi, 1)];
        expected.boot.paging.maps = vec![mapping];
        expected.limits = limits;
        expected.boot.entry = EntryPoint::Address(Gva(0x9000));
        assert_eq!(spec, expected);
    }
}
