//! Layout of guest-physical memory, computed before anything is built.
//!
//! Input: the machine's description and the ranges that the guest's files occupy. Output: a sorted list of ranges and their
//! owners, from which the machine is built, or all problems at once. Nothing here calls KVM.
//!
//! | file | step |
//! |---|---|
//! | `bus.rs` | memory regions, KVM's own pages, devices that answer to addresses |
//! | `pinned.rs` | the parts whose address the user chose |
//! | `check_maps.rs` | the user's mappings: each alone, against each other, against the entries |
//! | `check.rs` | conflicts between all fixed ranges |
//! | `allocate.rs` | allocation of the other parts: first fit upwards for tables, the top of memory for the stack |
//! | `table.rs` | the layout as a table: memory, holes and their contents |
//! | `problem.rs` | errors |
//!
//! Tables take whole pages, first fit from 0x1000 up, so page 0 stays free for a real-mode vector table or to catch null
//! pointers. The stack ends at the top of the lowest memory. All parts are below the mode's address limit (1 MiB in real
//! mode, 4 GiB in 32-bit modes). They are mapped at their own addresses, so these are virtual addresses as well.

mod allocate;
mod bus;
mod check;
mod check_maps;
mod pinned;
mod problem;
mod table;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::cpu::gdt;
use crate::cpu::idt;
use crate::cpu::ring3_trap;
use crate::cpu::tss;
use crate::paging::Scheme;
use crate::paging::plan::PagingPlan;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;
use crate::spec::mode::{Mode, Ring};
use crate::{Gpa, PAGE_SIZE};

pub(crate) use bus::{IOAPIC, LOCAL_APIC};
pub use problem::{LayoutError, LayoutProblem, MappingProblem};
pub use table::{LayoutRow, LayoutRowKind};

/// Part of guest memory that the VMM allocates: a table, or a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayoutPart {
    /// Global descriptor table (GDT).
    Gdt,
    /// Interrupt descriptor table (IDT).
    Idt,
    /// Task state segment, with the I/O permission bitmap for ring 3.
    Tss,
    /// Trap page: handlers of all vectors for a guest in ring 3 ([`ring3_trap`]).
    TrapPage,
    /// Ring-0 stack for a guest in ring 3, used by the handlers.
    KernelStack,
    /// Page tables, with the root table first.
    PageTables,
    /// Stack that the guest starts with.
    Stack,
}

impl LayoutPart {
    /// Returns the name of the part in tables and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gdt => "GDT",
            Self::Idt => "IDT",
            Self::Tss => "TSS",
            Self::TrapPage => "trap page",
            Self::KernelStack => "ring-0 stack",
            Self::PageTables => "page tables",
            Self::Stack => "stack",
        }
    }

    /// Returns the alignment of the part's address in bytes; for the stack, of the initial stack pointer.
    ///
    /// The CPU accepts a GDT or an IDT at any address, but reads it faster at a multiple of 8 (SDM vol. 3, 3.5.1). A TSS
    /// should not cross a page (7.2.1), and a page table cannot. The System V ABI aligns stacks to 16 bytes.
    #[must_use]
    pub const fn alignment(self, mode: Mode) -> u64 {
        match self {
            Self::Gdt | Self::Idt => 8,
            Self::Tss | Self::TrapPage | Self::KernelStack | Self::PageTables => PAGE_SIZE,
            Self::Stack if !mode.is_protected() => 2,
            Self::Stack => 16,
        }
    }

    /// Returns the size of the part in bytes, 0 if the machine has no such part; `None` for page tables and stack, whose size
    /// depends on the rest of the layout.
    #[must_use]
    pub const fn fixed_size(self, mode: Mode, ring: Ring) -> Option<u16> {
        let has_trap_page = matches!(ring, Ring::User) && mode.is_protected();
        match self {
            Self::Gdt => Some(gdt::size(mode)),
            Self::Idt => Some(idt::size(mode)),
            Self::Tss => Some(tss::size(mode, ring)),
            Self::TrapPage => Some(if has_trap_page { ring3_trap::SIZE } else { 0 }),
            Self::KernelStack => Some(if has_trap_page { ring3_trap::STACK_SIZE } else { 0 }),
            Self::PageTables | Self::Stack => None,
        }
    }
}

/// Owner of a guest-physical range: memory, a device, a file of the guest, or a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeOwner {
    /// Memory region; the number counts from 1 in the order of the description.
    Memory(usize),
    /// Three pages of `KVM_SET_TSS_ADDR`, used by KVM on Intel hosts.
    TssPages,
    /// Page of `KVM_SET_IDENTITY_MAP_ADDR` at its default address, used by KVM on old Intel hosts.
    IdentityMap,
    /// MMIO registers of the device with this name.
    Device(String),
    /// Part of the guest's files, by its name in messages.
    Guest(String),
    /// Tables of a PC's firmware, by their name in messages.
    Firmware(&'static str),
    /// Part of guest memory that the VMM allocates.
    Part(LayoutPart),
}

impl fmt::Display for RangeOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(number) => write!(f, "memory region {number}"),
            Self::TssPages => f.write_str("KVM's TSS pages"),
            Self::IdentityMap => f.write_str("KVM's identity map page"),
            Self::Device(name) => write!(f, "device `{name}`"),
            Self::Guest(name) => f.write_str(name),
            Self::Firmware(name) => f.write_str(name),
            Self::Part(part) => f.write_str(part.name()),
        }
    }
}

/// Guest-physical range and its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutEntry {
    /// Owner of the guest-physical range.
    pub owner: RangeOwner,
    /// Guest-physical range of the owner.
    pub range: GpaRange,
}

impl LayoutEntry {
    /// Returns the entry of a range that the guest's files occupy; `name` is shown in messages and tables, such as
    /// `hello.elf segment 1`.
    #[must_use]
    pub fn guest(name: impl Into<String>, range: GpaRange) -> Self {
        Self { owner: RangeOwner::Guest(name.into()), range }
    }

    /// Returns the part of the layout that the entry is; `None` for memory, devices, firmware and the guest's files.
    #[must_use]
    pub const fn part(&self) -> Option<LayoutPart> {
        match self.owner {
            RangeOwner::Part(part) => Some(part),
            RangeOwner::Memory(_)
            | RangeOwner::TssPages
            | RangeOwner::IdentityMap
            | RangeOwner::Device(_)
            | RangeOwner::Guest(_)
            | RangeOwner::Firmware(_) => None,
        }
    }
}

impl fmt::Display for LayoutEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.owner, self.range)
    }
}

/// Memory region of a layout: a guest-physical range with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutRegion {
    /// Number of the region, counted from 1 in the order of the description.
    pub number: usize,
    /// Guest-physical range of the region.
    pub range: GpaRange,
    /// True if the guest cannot write to it.
    pub read_only: bool,
}

/// Layout of a machine: memory regions, all other ranges and their owners, and the plan of the page tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    memory: Vec<LayoutRegion>,
    ranges: Vec<LayoutEntry>,
    paging: Option<PagingPlan>,
}

/// Computes the layout of a machine whose guest occupies the given ranges.
///
/// # Errors
/// All problems with the memory regions, the TSS address, the devices, the guest's ranges, the pinned parts and the
/// mappings. If there are none, all parts for which there is no room.
pub fn compute(spec: &MachineSpec, occupied: &[LayoutEntry]) -> Result<Layout, LayoutError> {
    let checked = check::check(spec, occupied)?;
    let (ranges, paging) = allocate::place(spec, &checked)?;
    Ok(Layout { memory: checked.bus.memory, ranges, paging })
}

impl Layout {
    /// Returns the memory regions, sorted by address.
    #[must_use]
    pub fn memory(&self) -> &[LayoutRegion] {
        &self.memory
    }

    /// Returns all ranges in use except the memory regions, sorted by address and disjoint.
    #[must_use]
    pub fn ranges(&self) -> &[LayoutEntry] {
        &self.ranges
    }

    /// Returns the guest-physical range of a table or stack; `None` if the machine has none of that kind.
    #[must_use]
    pub fn part(&self, part: LayoutPart) -> Option<GpaRange> {
        self.ranges.iter().find(|placed| placed.part() == Some(part)).map(|placed| placed.range)
    }

    /// Returns the trap page of a guest in ring 3; `None` if the guest is not in ring 3.
    #[must_use]
    pub fn trap_page(&self) -> Option<ring3_trap::TrapPage> {
        self.part(LayoutPart::TrapPage).map(|range| ring3_trap::TrapPage { address: range.start() })
    }

    /// Returns the plan of the page tables; `None` in modes without paging.
    #[must_use]
    pub const fn paging(&self) -> Option<&PagingPlan> {
        self.paging.as_ref()
    }

    /// Returns the end of the stack: the initial stack pointer.
    #[must_use]
    pub fn stack_top(&self) -> Option<Gpa> {
        self.part(LayoutPart::Stack).map(GpaRange::end)
    }

    /// Returns true if a memory region contains the address.
    #[must_use]
    pub fn is_memory(&self, gpa: Gpa) -> bool {
        self.memory.iter().any(|region| region.range.start() <= gpa && gpa < region.range.end())
    }
}

/// Returns the end of the addresses that code can use without paging, or through the identity mapping.
const fn address_limit(spec: &MachineSpec) -> u64 {
    match Scheme::from_mode(spec.boot.mode, spec.boot.paging.five_level) {
        Some(scheme) => scheme.identity_end(),
        None => spec.boot.mode.address_limit(),
    }
}
