//! What a machine is, as plain data: everything a front-end has to decide before anything is built.
//!
//! A [`MachineSpec`] holds no descriptor, no memory and no file. `vmm-cli` lowers a TOML file to one; a library user
//! writes one by hand or starts from [`MachineSpec::new`].

pub mod cpuid_feature;
pub mod gpa_range;
mod memory;
pub mod mode;
mod platform;
pub mod register;
pub mod table_image;
pub mod virtio;

use std::fmt;
use std::time::Duration;

use kvm_sys_wrap::{Gpa, Gva, Port};
use serde::Deserialize;

use crate::spec::cpuid_feature::CpuidFeature;
use crate::spec::mode::{Mode, PageSize, Ring};
pub use crate::spec::register::Register;
pub use memory::{HUGE_PAGES_THRESHOLD, MemoryBacking, MemoryRegion};
pub use platform::{FwCfgFile, FwCfgSpec, PlatformSpec};
pub use virtio::{BlockAccess, BlockSpec, VirtioSpec};

/// One machine: memory, the boot state of its vCPU, devices, and when to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct MachineSpec {
    /// Memory regions, each a slot of its own; at least one, none overlapping.
    pub memory: Vec<MemoryRegion>,
    /// Where the three pages of `KVM_SET_TSS_ADDR` lie: page-aligned, below 4 GiB, in a hole of the memory map.
    pub tss_address: Gpa,
    /// Number of vCPUs, at least 1; more than 1 need interrupts.
    pub vcpus: u32,
    /// The interrupt controllers.
    pub interrupts: Interrupts,
    /// The CPU mode and what belongs to it.
    pub boot: BootSpec,
    /// Tables that the user placed; the rest is placed by [`crate::layout`].
    pub pinned: PinnedAddresses,
    /// Devices on the bus.
    pub devices: DeviceSpecs,
    /// What an access to an address with no device and no memory does.
    pub unmapped: UnmappedPolicy,
    /// What a HLT means on a machine on which nothing can wake the vCPU.
    pub halt: HaltPolicy,
    /// What a reset that the guest asks for is worth.
    pub reset: ResetPolicy,
    /// When the VMM stops the guest.
    pub limits: LimitSpec,
    /// The CPUID the guest sees.
    pub cpuid: CpuidPolicy,
    /// Features that are hidden (`false`) or set (`true`) in the host's CPUID; without meaning where that is not used.
    pub cpuid_changes: Vec<(CpuidFeature, bool)>,
    /// Arguments that the guest can ask for over the hypercall ports.
    pub arguments: Vec<String>,
}

impl MachineSpec {
    /// Where `KVM_SET_TSS_ADDR` puts its pages unless told otherwise: below the BIOS area, as QEMU has it.
    pub const DEFAULT_TSS_ADDRESS: Gpa = Gpa(0xfffb_d000);

    /// A machine with `memory_size` bytes of memory at 0, started in `mode` at `entry`, with the default devices.
    #[must_use]
    pub fn new(mode: Mode, memory_size: u64, entry: EntryPoint) -> Self {
        Self {
            memory: vec![MemoryRegion::new(Gpa(0), memory_size)],
            tss_address: Self::DEFAULT_TSS_ADDRESS,
            vcpus: 1,
            interrupts: Interrupts::default(),
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
}

/// How the vCPU starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSpec {
    /// The CPU mode.
    pub mode: Mode,
    /// The privilege level of the guest's code; always [`Ring::Kernel`] in real mode.
    pub ring: Ring,
    /// Where execution starts.
    pub entry: EntryPoint,
    /// Page size, depth and mappings.
    pub paging: PagingSpec,
    /// Enable SSE (CR0.MP, CR4.OSFXSR, CR4.OSXMMEXCPT); `None` means in long mode only.
    pub sse: Option<bool>,
    /// General registers that are not 0 at the start.
    pub registers: Vec<(Register, u64)>,
    /// Which selectors the first segments have; without meaning in real mode.
    pub gdt_layout: GdtLayout,
}

/// The order of the descriptors in the GDT that the guest starts with, and so their selectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GdtLayout {
    /// Ring-0 code 0x08 and data 0x10, ring-3 data 0x1b and code 0x23: what SYSCALL and SYSRET want.
    #[default]
    Sysret,
    /// Ring-0 code 0x10 and data 0x18, nothing for ring 3: `__BOOT_CS` and `__BOOT_DS` of Linux
    /// (Documentation/arch/x86/boot.rst). Old 32-bit kernels load them before they have a GDT of their own.
    Linux,
}

impl BootSpec {
    /// Ring 0 at `entry`, identity-mapped, nothing preset.
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

/// Where execution starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryPoint {
    /// A virtual address. In real mode a linear address below 1 MiB, from which CS and IP are made.
    Address(Gva),
    /// Real mode only: CS and IP as given.
    Segmented {
        /// The value of CS; its base is this times 16.
        segment: u16,
        /// The value of IP.
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

/// The page tables that the guest starts with; without meaning in modes that have no paging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagingSpec {
    /// The page size of the identity mapping and the largest used for [`PagingSpec::maps`]; `None` means 2 MiB, or
    /// 4 MiB in two-level paging.
    pub page_size: Option<PageSize>,
    /// Five-level paging (CR4.LA57); long mode only.
    pub five_level: bool,
    /// Map all memory at its own address.
    pub identity: bool,
    /// More mappings. Where one covers a page of the identity mapping, the one given here counts.
    pub maps: Vec<Mapping>,
}

impl Default for PagingSpec {
    fn default() -> Self {
        Self { page_size: None, five_level: false, identity: true, maps: Vec::new() }
    }
}

/// A range of virtual addresses and the physical range behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    /// First virtual address; a multiple of 4 KiB.
    pub gva: Gva,
    /// First physical address; a multiple of 4 KiB.
    pub gpa: Gpa,
    /// Size in bytes; a multiple of 4 KiB, not 0.
    pub size: u64,
    /// What the guest may do with it.
    pub access: PagePermissions,
}

/// Page permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PagePermissions {
    /// The R/W bit.
    pub writable: bool,
    /// The U/S bit: ring 3 may use the page.
    pub user: bool,
    /// No XD bit. Two-level paging has none: there every page is executable, and `false` is refused.
    pub executable: bool,
}

/// What the user placed by hand; `None` leaves it to the layout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinnedAddresses {
    /// The address above the stack: the initial stack pointer.
    pub stack_top: Option<Gpa>,
    /// Bytes kept free below the stack top; `None` means 64 KiB, or less in a small machine.
    pub stack_size: Option<u64>,
    /// The global descriptor table; a multiple of 8.
    pub gdt: Option<Gpa>,
    /// The interrupt descriptor table; a multiple of 8.
    pub idt: Option<Gpa>,
    /// The task state segment; a multiple of 4 KiB.
    pub tss: Option<Gpa>,
    /// The first page table (CR3); a multiple of 4 KiB. The other tables follow it.
    pub page_tables: Option<Gpa>,
}

/// Which devices the machine has, and where; `None` leaves one out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpecs {
    /// Bytes written here go to the console (Bochs' and QEMU's debug console). Default: port 0xe9.
    pub debug_console: Option<DebugConsoleSpec>,
    /// A 16550 serial port, 8 registers. Default: port 0x3f8 (COM1).
    pub serial: Option<SerialSpec>,
    /// A write ends the run, as with QEMU's isa-debug-exit. Default: port 0xf4.
    pub debug_exit: Option<DebugExitSpec>,
    /// The hypercall registers (64 bytes). Default: port 0x500.
    pub hypercall: Option<DeviceAddress>,
    /// The rest of a PC. Default: none of it.
    pub platform: PlatformSpec,
    /// Virtio devices; the place in this list decides on window and interrupt ([`virtio::window`]). Default: none.
    pub virtio: Vec<VirtioSpec>,
}

impl Default for DeviceSpecs {
    fn default() -> Self {
        Self {
            debug_console: Some(DebugConsoleSpec { at: DeviceAddress::Port(Port(0xe9)), collect: false }),
            serial: Some(SerialSpec { at: DeviceAddress::Port(Port(0x3f8)), input: true }),
            debug_exit: Some(DebugExitSpec { at: DeviceAddress::Port(Port(0xf4)), success: vec![0] }),
            hypercall: Some(DeviceAddress::Port(Port(0x500))),
            platform: PlatformSpec::default(),
            virtio: Vec::new(),
        }
    }
}

/// Where a device answers: on I/O ports or in guest-physical address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceAddress {
    /// The first of its ports.
    Port(Port),
    /// The first of its addresses.
    Mmio(Gpa),
}

/// The debug console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugConsoleSpec {
    /// Its one register.
    pub at: DeviceAddress,
    /// Whether the kernel collects what is written to its port, in place of an exit for each byte, where it can. Only
    /// without interrupts: a vCPU that sleeps in the kernel would keep what it wrote.
    pub collect: bool,
}

/// The serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SerialSpec {
    /// Its first register.
    pub at: DeviceAddress,
    /// Whether it receives what comes in on the console.
    pub input: bool,
}

/// The exit port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugExitSpec {
    /// Its address; 1, 2 or 4 bytes wide accesses are taken.
    pub at: DeviceAddress,
    /// Values that mean success. Any other value `v` ends the run with the code `v * 2 + 1`, as in QEMU.
    pub success: Vec<u32>,
}

/// Effect of an access to an address that neither memory nor a device answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum UnmappedPolicy {
    /// Reads return all ones, and writes are ignored, as on a PC's bus.
    #[default]
    #[serde(rename = "ones")]
    ReadOnes,
    /// Stops the run with an error that names the access.
    Stop,
}

/// Interrupt controllers of a machine, all in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Interrupts {
    /// None: HLT ends the run, and the guest is never interrupted.
    #[default]
    None,
    /// Local APIC with its timer for each vCPU. Devices cannot interrupt.
    Split,
    /// Local APICs, IOAPIC, two PICs and the 8254 timer.
    Pc,
}

/// Meaning of a HLT from which nothing can wake the machine. Without interrupt controllers, that is every HLT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HaltPolicy {
    /// The guest finished successfully.
    #[default]
    Success,
    /// The guest hung.
    Hung,
}

/// Meaning of a reset that the guest requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ResetPolicy {
    /// The guest failed: kernels reset the machine when they cannot continue.
    #[default]
    Failure,
    /// The guest finished successfully.
    Success,
}

/// When the VMM stops a guest that does not stop by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LimitSpec {
    /// Wall-clock time since the first `KVM_RUN`.
    pub time: Option<Duration>,
    /// Number of exits to user space.
    pub exits: Option<u64>,
}

/// CPUID that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CpuidPolicy {
    /// No CPUID is set: every leaf reads as zero, and KVM hides features that CPUID would announce. Fastest start.
    #[default]
    None,
    /// All that KVM supports on the host (`KVM_GET_SUPPORTED_CPUID`).
    Host,
}
