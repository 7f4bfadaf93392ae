//! The layout: what lies where in guest-physical memory, computed before anything is built.
//!
//! Input are the machine's description and the ranges that the guest's files will occupy; output is a sorted list
//! of named ranges, or all the mistakes at once. The list can be printed, and the machine is built from it.
//!
//! | file | step |
//! |---|---|
//! | `bus.rs` | memory regions, KVM's own pages, devices that answer to addresses |
//! | `pinned.rs` | the parts that the user placed |
//! | `check_maps.rs` | the user's mappings: each alone, against each other, against the entries |
//! | `check.rs` | all that is fixed, held against each other: every conflict found |
//! | `place.rs` | what the user left open: first fit upwards for tables, the top for the stack |
//! | `table.rs` | the layout as a table of memory, holes and what is in them |
//! | `problem.rs` | the mistakes, in words |
//!
//! The policy: tables take whole pages, first fit from 0x1000 up, so page 0 stays free for a real-mode vector table
//! or for catching null pointers. The stack hangs from the top of the lowest memory. Where the CPU limits what an
//! address can be (1 MiB in real mode, 4 GiB in 32-bit modes), all stays below the limit.
//!
//! The same addresses serve as virtual ones: the paging plan maps all that is placed here at its own address.

mod bus;
mod check;
mod check_maps;
mod pinned;
mod place;
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

pub use problem::{LayoutError, LayoutProblem, MappingProblem};
pub use table::{LayoutRow, LayoutRowKind};

/// What the VMM itself puts into guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayoutPart {
    /// The global descriptor table.
    Gdt,
    /// The interrupt descriptor table.
    Idt,
    /// The task state segment, with the I/O permission bitmap in ring 3.
    Tss,
    /// Ring 3: the code that ends the run.
    Landing,
    /// Ring 3: the stack for entering the landing page.
    KernelStack,
    /// All page tables, the root first.
    PageTables,
    /// The guest's stack.
    Stack,
}

impl LayoutPart {
    /// The name in tables and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gdt => "GDT",
            Self::Idt => "IDT",
            Self::Tss => "TSS",
            Self::Landing => "landing page",
            Self::KernelStack => "ring-0 stack",
            Self::PageTables => "page tables",
            Self::Stack => "stack",
        }
    }

    /// What a pinned address must be a multiple of. For the stack it is the initial stack pointer that counts.
    ///
    /// The CPU takes a GDT or an IDT at any address, but reads it faster at a multiple of 8 (SDM vol. 3, 3.5.1). A
    /// TSS should not cross a page (7.2.1), and page tables cannot. The 16 bytes of a stack are those of the System
    /// V ABI.
    #[must_use]
    pub const fn alignment(self, mode: Mode) -> u64 {
        match self {
            Self::Gdt | Self::Idt => 8,
            Self::Tss | Self::Landing | Self::KernelStack | Self::PageTables => PAGE_SIZE,
            Self::Stack if matches!(mode, Mode::Real) => 2,
            Self::Stack => 16,
        }
    }

    /// Size in bytes; 0 if the machine has no such part. `None` for the two whose size is worked out later.
    #[must_use]
    pub const fn fixed_size(self, mode: Mode, ring: Ring) -> Option<u16> {
        let landing = matches!(ring, Ring::User) && !matches!(mode, Mode::Real);
        match self {
            Self::Gdt => Some(gdt::size(mode)),
            Self::Idt => Some(idt::size(mode)),
            Self::Tss => Some(tss::size(mode, ring)),
            Self::Landing => Some(if landing { ring3_trap::SIZE } else { 0 }),
            Self::KernelStack => Some(if landing { ring3_trap::STACK_SIZE } else { 0 }),
            Self::PageTables | Self::Stack => None,
        }
    }
}

/// Whose a range is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeOwner {
    /// A memory region, counted from 1.
    Memory(usize),
    /// The three pages of `KVM_SET_TSS_ADDR`, for KVM's own use on Intel hosts.
    TssPages,
    /// The page of `KVM_SET_IDENTITY_MAP_ADDR`, which KVM keeps on old Intel hosts; we leave it at its default.
    IdentityMap,
    /// A device's MMIO registers.
    Device(&'static str),
    /// A part of the guest.
    Guest(String),
    /// Tables that a PC's firmware would have left.
    Firmware(&'static str),
    /// A part of ours.
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
    /// Owner of the range.
    pub owner: RangeOwner,
    /// The range.
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

/// A memory region as the layout sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayoutRegion {
    /// Its number, counted from 1 in the order of the description.
    pub number: usize,
    /// Where it lies.
    pub range: GpaRange,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
}

/// What lies where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    memory: Vec<LayoutRegion>,
    ranges: Vec<LayoutEntry>,
    paging: Option<PagingPlan>,
}

/// Computes the layout of a machine whose guest will occupy the given ranges.
///
/// # Errors
/// All that is wrong with the memory regions, the TSS address, the devices, the guest's ranges, the pinned parts
/// and the mappings. If there is nothing, then what found no room.
pub fn compute(spec: &MachineSpec, occupied: &[LayoutEntry]) -> Result<Layout, LayoutError> {
    let checked = check::check(spec, occupied)?;
    let (ranges, paging) = place::place(spec, &checked)?;
    Ok(Layout { memory: checked.bus.memory, ranges, paging })
}

impl Layout {
    /// Memory regions, sorted by address.
    #[must_use]
    pub fn memory(&self) -> &[LayoutRegion] {
        &self.memory
    }

    /// All that is not memory itself, sorted by address; no two overlap.
    #[must_use]
    pub fn ranges(&self) -> &[LayoutEntry] {
        &self.ranges
    }

    /// Where a part lies; `None` if the machine has none of it.
    #[must_use]
    pub fn part(&self, part: LayoutPart) -> Option<GpaRange> {
        self.ranges.iter().find(|placed| placed.part() == Some(part)).map(|placed| placed.range)
    }

    /// The landing page; `None` where the guest is not in ring 3.
    #[must_use]
    pub fn landing(&self) -> Option<ring3_trap::TrapPage> {
        self.part(LayoutPart::Landing).map(|range| ring3_trap::TrapPage { address: range.start() })
    }

    /// What the page tables map; `None` in modes without paging.
    #[must_use]
    pub const fn paging(&self) -> Option<&PagingPlan> {
        self.paging.as_ref()
    }

    /// The address above the stack.
    #[must_use]
    pub fn stack_top(&self) -> Option<Gpa> {
        self.part(LayoutPart::Stack).map(GpaRange::end)
    }

    /// Whether memory is there.
    #[must_use]
    pub fn is_memory(&self, gpa: Gpa) -> bool {
        self.memory.iter().any(|region| region.range.start() <= gpa && gpa < region.range.end())
    }
}

/// Where the addresses end that code of a mode can use without paging, or with the identity mapping.
const fn address_limit(spec: &MachineSpec) -> u64 {
    match Scheme::from_mode(spec.boot.mode, spec.boot.paging.five_level) {
        Some(scheme) => scheme.identity_end(),
        None => spec.boot.mode.address_limit(),
    }
}
