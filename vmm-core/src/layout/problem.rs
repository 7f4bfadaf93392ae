//! Errors of a layout, with the ranges in conflict.

use std::fmt;

use thiserror::Error;

use super::{LayoutEntry, LayoutPart, RangeOwner};
use crate::paging::Scheme;
use crate::spec::gpa_range::{ByteSize, GpaRange};
use crate::spec::mode::{Mode, PageSize};
use crate::{Gpa, Gva};

/// Memory layout that is not possible, with all its problems.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", joined(.problems))]
pub struct LayoutError {
    /// All problems of the layout; never empty.
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

/// Problem of a memory layout that a machine's description asks for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutProblem {
    /// The machine has no memory.
    #[error("the machine has no memory")]
    NoMemory,
    /// A memory region has size 0.
    #[error("memory region {number} is empty")]
    EmptyRegion {
        /// Number of the memory region, counted from 1.
        number: usize,
    },
    /// A memory region does not consist of whole pages.
    #[error("memory region {number}: {field} {value:#x} is not a multiple of 4 KiB")]
    RegionMisaligned {
        /// Number of the memory region, counted from 1.
        number: usize,
        /// Field of the region that is misaligned: `address` or `size`.
        field: &'static str,
        /// Value of the misaligned field.
        value: u64,
    },
    /// The TSS address is not a multiple of 4 KiB, as KVM requires.
    #[error("TSS address {0} is not a multiple of 4 KiB")]
    TssAddressMisaligned(Gpa),
    /// The TSS pages do not end below 4 GiB, as KVM requires.
    #[error("TSS address {0}: its three pages do not end below 4 GiB")]
    TssAddressTooHigh(Gpa),
    /// A guest-physical range ends above the limit for its kind.
    #[error("{owner} at {address} ({}) does not end below {limit:#x}", ByteSize(*.size))]
    TooHigh {
        /// Owner of the range that is too high.
        owner: RangeOwner,
        /// First address of the range.
        address: Gpa,
        /// Size of the range in bytes.
        size: u64,
        /// Highest end that the range may have.
        limit: u64,
    },
    /// Two guest-physical ranges overlap.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// Range that starts at the lower address, and its owner.
        first: LayoutEntry,
        /// Range that starts at the higher address, and its owner.
        second: LayoutEntry,
    },
    /// A guest-physical range must be in memory and is not.
    #[error("{entry}: no memory at {missing}")]
    OutsideMemory {
        /// Range that must be in memory, and its owner.
        entry: LayoutEntry,
        /// First part of the range that is not in memory.
        missing: GpaRange,
    },
    /// A guest-physical range must be writable and is not.
    #[error("{entry} lies in memory region {region}, which is read-only")]
    ReadOnly {
        /// Range that must be writable, and its owner.
        entry: LayoutEntry,
        /// Number of the memory region, counted from 1.
        region: usize,
    },
    /// The address that was chosen for a table or stack is not aligned.
    #[error("{} at {address} is not at a multiple of {alignment}", .part.name())]
    Misaligned {
        /// Table or stack whose address is misaligned.
        part: LayoutPart,
        /// Address that was chosen for the table or stack.
        address: Gpa,
        /// Alignment that the table or stack needs, in bytes.
        alignment: u64,
    },
    /// The stack has size 0, or more bytes than there are addresses below its end.
    #[error("a stack of {} does not fit below {top}", ByteSize(*.size))]
    StackSize {
        /// Size of the stack that was requested, in bytes.
        size: u64,
        /// End of the stack, or the mode's address limit.
        top: Gpa,
    },
    /// An address was chosen for a table that does not exist in the CPU mode.
    #[error("{mode} mode has no {}", .part.name())]
    NoSuchPart {
        /// Table whose address was chosen.
        part: LayoutPart,
        /// CPU mode in which the guest is to start.
        mode: Mode,
    },
    /// A page holds both a table for ring 0 only and a range that ring 3 must access.
    #[error("{ours} shares a page with {theirs}, which ring 3 must reach")]
    SharedPage {
        /// Table that is for ring 0 only.
        ours: LayoutEntry,
        /// Range that ring 3 must access.
        theirs: LayoutEntry,
    },
    /// No free range of guest memory is large enough for a table or stack.
    #[error("no room for the {} ({}) in writable memory below {limit:#x}", .part.name(), ByteSize(*.size))]
    NoRoom {
        /// Table or stack for which there is no room.
        part: LayoutPart,
        /// Size of the table or stack in bytes.
        size: u64,
        /// Highest end that the table or stack may have.
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
    /// The CPU mode cannot map pages of the requested size.
    #[error("{mode} mode has no {size} pages")]
    PageSize {
        /// CPU mode in which the guest is to start.
        mode: Mode,
        /// Page size that was requested.
        size: PageSize,
    },
    /// Five-level paging was requested outside long mode.
    #[error("{0} mode has no five-level paging")]
    FiveLevel(Mode),
    /// A mapping of the description is not possible.
    #[error(transparent)]
    Map(#[from] MappingProblem),
}

/// Problem of a mapping that a description wants in page tables ([`PagingSpec::maps`](crate::spec::PagingSpec::maps)).
/// Mappings are counted from 1.
#[expect(
    missing_docs,
    reason = "the fields are those of the mapping, and the message says how they are meant"
)]
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MappingProblem {
    /// A field of a mapping is not a multiple of the page size.
    Misaligned { map: usize, field: &'static str, value: u64 },
    /// The size of a mapping is 0.
    Empty { map: usize },
    /// The paging scheme cannot translate all virtual addresses of a mapping.
    Unaddressable { map: usize, scheme: Scheme, gva: Gva, size: u64 },
    /// A page table entry cannot hold all physical addresses of a mapping.
    TooHigh { map: usize, scheme: Scheme, gpa: Gpa, size: u64 },
    /// The physical range of a mapping has neither memory nor a device.
    NothingThere { map: usize, span: GpaRange },
    /// Two mappings map the same virtual page.
    Overlap { first: usize, second: usize, gva: Gva },
    /// A mapping is not executable, but entries of two-level paging have no XD bit.
    NoExecuteDisable { map: usize },
    /// A mapping replaces the identity mapping of a table or of the stack.
    Hides { map: usize, hidden: LayoutEntry },
}

impl MappingProblem {
    /// Returns the message with `noun` in front of the number of each mapping, for a front-end that has its own name for
    /// mappings. [`Display`](fmt::Display) calls one a `mapping`.
    #[must_use]
    pub fn message(&self, noun: &str) -> String {
        match self {
            Self::Misaligned { map, field, value } => {
                format!("{noun} {map}: {field} {value:#x} is not a multiple of 4 KiB")
            }
            Self::Empty { map } => format!("{noun} {map} is empty"),
            Self::Unaddressable { map, scheme, gva, size } => {
                format!("{noun} {map}: {} cannot address all of {gva} ({})", scheme.name(), ByteSize(*size))
            }
            Self::TooHigh { map, scheme, gpa, size } => {
                let size = ByteSize(*size);
                format!("{noun} {map}: {} cannot reach all of physical {gpa} ({size})", scheme.name())
            }
            Self::NothingThere { map, span } => {
                format!("{noun} {map}: nothing at physical {span}, neither memory nor a device")
            }
            Self::Overlap { first, second, gva } => {
                format!("{noun} {first} and {noun} {second} both map {gva}")
            }
            Self::NoExecuteDisable { map } => {
                format!("{noun} {map}: two-level paging cannot forbid execution")
            }
            Self::Hides { map, hidden } => format!("{noun} {map} hides the {hidden}"),
        }
    }
}

impl fmt::Display for MappingProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message("mapping"))
    }
}
