//! Errors of a layout, with the ranges in conflict and advice on what to change.

use thiserror::Error;

use super::{LayoutEntry, LayoutPart, RangeOwner};
use crate::paging::Scheme;
use crate::spec::gpa_range::{ByteSize, GpaRange};
use crate::spec::mode::{Mode, PageSize};
use crate::{Gpa, Gva};

/// Error of [`compute`](super::compute): all problems of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", joined(.problems))]
pub struct LayoutError {
    /// All problems; never empty.
    pub problems: Vec<LayoutProblem>,
}

impl LayoutError {
    /// Returns an error unless the list is empty.
    pub(super) fn unless_empty(problems: Vec<LayoutProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

fn joined(problems: &[LayoutProblem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// Problem of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutProblem {
    /// The machine has no memory.
    #[error("the machine has no memory")]
    NoMemory,
    /// A memory region has size 0.
    #[error("memory region {number} is empty")]
    EmptyRegion {
        /// Counted from 1.
        number: usize,
    },
    /// A memory region does not consist of whole pages.
    #[error("memory region {number}: {field} {value:#x} is not a multiple of 4 KiB")]
    RegionMisaligned {
        /// Counted from 1.
        number: usize,
        /// `address` or `size`.
        field: &'static str,
        /// Value of the field.
        value: u64,
    },
    /// The TSS address is not a multiple of 4 KiB, as KVM requires.
    #[error("TSS address {0} is not a multiple of 4 KiB")]
    TssAddressMisaligned(Gpa),
    /// The TSS pages do not end below 4 GiB, as KVM requires.
    #[error("TSS address {0}: its three pages do not end below 4 GiB")]
    TssAddressTooHigh(Gpa),
    /// A range ends above the limit for its kind.
    #[error("{owner} at {address} ({}) does not end below {limit:#x}", ByteSize(*.size))]
    TooHigh {
        /// Owner of the range.
        owner: RangeOwner,
        /// First address.
        address: Gpa,
        /// Size in bytes.
        size: u64,
        /// Highest end allowed.
        limit: u64,
    },
    /// Two ranges overlap.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// Range that starts lower.
        first: LayoutEntry,
        /// Range that starts higher.
        second: LayoutEntry,
    },
    /// A range must be in memory and is not.
    #[error("{entry}: no memory at {missing}")]
    OutsideMemory {
        /// Range and its owner.
        entry: LayoutEntry,
        /// First part of it without memory.
        missing: GpaRange,
    },
    /// A range must be writable and is not.
    #[error("{entry} lies in memory region {region}, which is read-only")]
    ReadOnly {
        /// Range and its owner.
        entry: LayoutEntry,
        /// Number of the memory region, counted from 1.
        region: usize,
    },
    /// The address of a pinned part is not aligned.
    #[error("{} at {address} is not at a multiple of {alignment}", .part.name())]
    Misaligned {
        /// The part.
        part: LayoutPart,
        /// Address of the part.
        address: Gpa,
        /// Alignment in bytes.
        alignment: u64,
    },
    /// The stack has size 0, or more bytes than there are addresses below its end.
    #[error("a stack of {} does not fit below {top}", ByteSize(*.size))]
    StackSize {
        /// Requested size in bytes.
        size: u64,
        /// End of the stack, or the mode's address limit.
        top: Gpa,
    },
    /// The mode does not have the pinned part.
    #[error("{mode} mode has no {}", .part.name())]
    NoSuchPart {
        /// The part.
        part: LayoutPart,
        /// The mode.
        mode: Mode,
    },
    /// A page would have to be both closed and open to ring 3.
    #[error("{ours} shares a page with {theirs}, which ring 3 must reach")]
    SharedPage {
        /// Table that is for ring 0 only.
        ours: LayoutEntry,
        /// Range that ring 3 must access.
        theirs: LayoutEntry,
    },
    /// No free range is large enough for a part.
    #[error("no room for the {} ({}) in writable memory below {limit:#x}", .part.name(), ByteSize(*.size))]
    NoRoom {
        /// The part.
        part: LayoutPart,
        /// Size of the part in bytes.
        size: u64,
        /// Highest end allowed.
        limit: u64,
    },
    /// The page tables would be larger than 1 GiB.
    #[error("the page tables would take {}, more than 1 GiB", ByteSize(*.size))]
    TooManyTables {
        /// Size of the tables in bytes.
        size: u64,
    },
    /// The machine starts in ring 3 in real mode, which has no rings.
    #[error("real mode has no ring 3")]
    RealModeRing,
    /// The mode cannot map pages of this size.
    #[error("{mode} mode has no {size} pages")]
    PageSize {
        /// The mode.
        mode: Mode,
        /// The page size.
        size: PageSize,
    },
    /// Five-level paging outside long mode.
    #[error("{0} mode has no five-level paging")]
    FiveLevel(Mode),
    /// A mapping is not possible.
    #[error(transparent)]
    Map(#[from] MappingProblem),
}

/// Problem of a mapping in [`PagingSpec::maps`](crate::spec::PagingSpec::maps). Mappings are counted from 1.
#[expect(
    missing_docs,
    reason = "the fields are those of the mapping, and the message says how they are meant"
)]
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MappingProblem {
    /// A field is not a multiple of the page size.
    #[error("paging.map {map}: {field} {value:#x} is not a multiple of 4 KiB")]
    Misaligned { map: usize, field: &'static str, value: u64 },
    /// The size is 0.
    #[error("paging.map {map} is empty")]
    Empty { map: usize },
    /// The paging scheme cannot translate all virtual addresses of the range.
    #[error("paging.map {map}: {} cannot address all of {gva} ({})", .scheme.name(), ByteSize(*.size))]
    Unaddressable { map: usize, scheme: Scheme, gva: Gva, size: u64 },
    /// A page table entry cannot hold all physical addresses of the range.
    #[error("paging.map {map}: {} cannot reach all of physical {gpa} ({})", .scheme.name(), ByteSize(*.size))]
    TooHigh { map: usize, scheme: Scheme, gpa: Gpa, size: u64 },
    /// Neither memory nor a device is in the physical range.
    #[error("paging.map {map}: nothing at physical {span}, neither memory nor a device")]
    NothingThere { map: usize, span: GpaRange },
    /// Two mappings map the same virtual page.
    #[error("paging.map {first} and paging.map {second} both map {gva}")]
    Overlap { first: usize, second: usize, gva: Gva },
    /// Entries of two-level paging have no XD bit.
    #[error("paging.map {map}: two-level paging cannot forbid execution")]
    NoExecuteDisable { map: usize },
    /// A mapping replaces the identity mapping of a table or of the stack.
    #[error("paging.map {map} hides the {hidden}")]
    Hides { map: usize, hidden: LayoutEntry },
}

impl LayoutProblem {
    /// Returns advice for the user; `None` if there is none.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::NoMemory => "add a memory region",
            Self::EmptyRegion { .. } | Self::RegionMisaligned { .. } => {
                "a region consists of whole pages of 4 KiB"
            }
            Self::TssAddressMisaligned(_) | Self::TssAddressTooHigh(_) => {
                "leave tss-address out to use 0xfffbd000"
            }
            Self::TooHigh { .. } => "move it down",
            Self::Overlap { .. } => "move or shrink one of the two",
            Self::OutsideMemory { entry: LayoutEntry { owner: RangeOwner::Firmware(_), .. }, .. } => {
                "a PC has at least 1 MiB of memory; or leave the tables out: `enabled = false` in [devices.acpi] and \
                 [devices.mp-table]"
            }
            Self::OutsideMemory { .. } => "move it, or make the memory larger",
            Self::ReadOnly { .. } => "move it to memory that can be written",
            Self::Misaligned { .. } | Self::SharedPage { .. } => {
                "move it, or leave it out of [layout] to have it placed"
            }
            Self::StackSize { .. } => "make the stack smaller",
            Self::NoSuchPart { .. } => "leave it out of [layout]",
            Self::NoRoom { .. } => "make the memory larger, or move the guest to leave room",
            Self::TooManyTables { .. } => "use larger pages (paging.page-size), or map less",
            Self::RealModeRing => "use ring 0, or one of the modes protected, paged, pae and long",
            Self::PageSize { mode, .. } => {
                let sizes: Vec<&str> = mode.page_sizes().iter().map(|size| size.name()).collect();
                return Some(format!("{mode} mode has pages of {}", sizes.join(", ")));
            }
            Self::FiveLevel(_) => "five-level paging exists in long mode only",
            Self::Map(problem) => return problem.help(),
        };
        Some(text.to_owned())
    }
}

impl MappingProblem {
    /// Returns advice for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Misaligned { .. } | Self::Empty { .. } => {
                Some("a mapping consists of whole pages of 4 KiB".to_owned())
            }
            Self::Unaddressable { scheme: Scheme::TwoLevel | Scheme::Pae, .. } => {
                Some("virtual addresses end at 4 GiB".to_owned())
            }
            Self::Unaddressable { scheme: scheme @ (Scheme::FourLevel | Scheme::FiveLevel), .. } => {
                let bit = scheme.address_bits() - 1;
                Some(format!("in a canonical address, bits 63 to {bit} are equal"))
            }
            Self::TooHigh { .. } => Some("map memory that lies lower".to_owned()),
            Self::NothingThere { .. } => Some("correct the address, or make the memory larger".to_owned()),
            Self::Overlap { .. } => Some("each virtual page can show one physical page".to_owned()),
            Self::NoExecuteDisable { .. } => {
                Some("use mode pae or long, or leave `executable` out".to_owned())
            }
            Self::Hides { .. } => Some("move one of the two, or map the range at its own address".to_owned()),
        }
    }
}
