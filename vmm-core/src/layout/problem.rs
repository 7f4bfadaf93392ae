//! What can be wrong with a layout, in words: who is in whose way, where, and what to change.

use thiserror::Error;

use super::{LayoutEntry, LayoutPart, RangeOwner};
use crate::paging::Scheme;
use crate::spec::gpa_range::{ByteSize, GpaRange};
use crate::spec::mode::{Mode, PageSize};
use crate::{Gpa, Gva};

/// The layout cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", joined(.problems))]
pub struct LayoutError {
    /// All that is wrong; never empty.
    pub problems: Vec<LayoutProblem>,
}

impl LayoutError {
    /// `Ok` if there are no problems.
    pub(super) fn unless_empty(problems: Vec<LayoutProblem>) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems }) }
    }
}

fn joined(problems: &[LayoutProblem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutProblem {
    /// The machine has no memory at all.
    #[error("the machine has no memory")]
    NoMemory,
    /// A memory region has no size.
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
        /// What it is.
        value: u64,
    },
    /// KVM takes only page-aligned addresses for its TSS pages.
    #[error("TSS address {0} is not a multiple of 4 KiB")]
    TssAddressMisaligned(Gpa),
    /// KVM takes only addresses below 4 GiB for its TSS pages.
    #[error("TSS address {0}: its three pages do not end below 4 GiB")]
    TssAddressTooHigh(Gpa),
    /// Something lies beyond what its kind may reach.
    #[error("{owner} at {address} ({}) does not end below {limit:#x}", ByteSize(*.size))]
    TooHigh {
        /// Owner of the range.
        owner: RangeOwner,
        /// Where it starts.
        address: Gpa,
        /// How long it is.
        size: u64,
        /// Where it must end.
        limit: u64,
    },
    /// Two things want the same addresses.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// The one that starts lower.
        first: LayoutEntry,
        /// The other.
        second: LayoutEntry,
    },
    /// Something must lie in memory and does not.
    #[error("{entry}: no memory at {missing}")]
    OutsideMemory {
        /// What it is.
        entry: LayoutEntry,
        /// The first addresses that are missing.
        missing: GpaRange,
    },
    /// Something must be writable and is not.
    #[error("{entry} lies in memory region {region}, which is read-only")]
    ReadOnly {
        /// What it is.
        entry: LayoutEntry,
        /// The region, counted from 1.
        region: usize,
    },
    /// A pinned address that the CPU does not take.
    #[error("{} at {address} is not at a multiple of {alignment}", .part.name())]
    Misaligned {
        /// The part.
        part: LayoutPart,
        /// Where it was put.
        address: Gpa,
        /// What it must be a multiple of.
        alignment: u64,
    },
    /// A stack of no bytes, or larger than the address below which it shall lie.
    #[error("a stack of {} does not fit below {top}", ByteSize(*.size))]
    StackSize {
        /// The size asked for.
        size: u64,
        /// The initial stack pointer, or the end of what the mode can address.
        top: Gpa,
    },
    /// A part was pinned that the mode does not have.
    #[error("{mode} mode has no {}", .part.name())]
    NoSuchPart {
        /// The part.
        part: LayoutPart,
        /// The mode.
        mode: Mode,
    },
    /// A page cannot belong to ring 0 and to ring 3.
    #[error("{ours} shares a page with {theirs}, which ring 3 must reach")]
    SharedPage {
        /// A table of ours.
        ours: LayoutEntry,
        /// What the guest needs.
        theirs: LayoutEntry,
    },
    /// Nothing is left that is large enough.
    #[error("no room for the {} ({}) in writable memory below {limit:#x}", .part.name(), ByteSize(*.size))]
    NoRoom {
        /// The part.
        part: LayoutPart,
        /// Its size in bytes.
        size: u64,
        /// Where it must end.
        limit: u64,
    },
    /// Page tables of a size that nobody means.
    #[error("the page tables would take {}, more than 1 GiB", ByteSize(*.size))]
    TooManyTables {
        /// Their size in bytes.
        size: u64,
    },
    /// Ring 3 in real mode.
    #[error("real mode has no ring 3")]
    RealModeRing,
    /// A page size that the mode cannot map.
    #[error("{mode} mode has no {size} pages")]
    PageSize {
        /// The mode.
        mode: Mode,
        /// The page size.
        size: PageSize,
    },
    /// Five levels outside long mode.
    #[error("{0} mode has no five-level paging")]
    FiveLevel(Mode),
    /// A mapping that cannot be made.
    #[error(transparent)]
    Map(#[from] MappingProblem),
}

/// What can be wrong with a `[[paging.map]]`. Mappings are counted from 1.
#[expect(
    missing_docs,
    reason = "the fields are those of the mapping, and the message says how they are meant"
)]
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MappingProblem {
    /// Not a whole number of pages.
    #[error("paging.map {map}: {field} {value:#x} is not a multiple of 4 KiB")]
    Misaligned { map: usize, field: &'static str, value: u64 },
    /// No size.
    #[error("paging.map {map} is empty")]
    Empty { map: usize },
    /// Virtual addresses that the mode does not have.
    #[error("paging.map {map}: {} cannot address all of {gva} ({})", .scheme.name(), ByteSize(*.size))]
    Unaddressable { map: usize, scheme: Scheme, gva: Gva, size: u64 },
    /// Physical addresses that an entry cannot hold.
    #[error("paging.map {map}: {} cannot reach all of physical {gpa} ({})", .scheme.name(), ByteSize(*.size))]
    TooHigh { map: usize, scheme: Scheme, gpa: Gpa, size: u64 },
    /// Neither memory nor a device.
    #[error("paging.map {map}: nothing at physical {span}, neither memory nor a device")]
    NothingThere { map: usize, span: GpaRange },
    /// Two mappings want the same virtual page.
    #[error("paging.map {first} and paging.map {second} both map {gva}")]
    Overlap { first: usize, second: usize, gva: Gva },
    /// Two-level entries have no XD bit.
    #[error("paging.map {map}: two-level paging cannot forbid execution")]
    NoExecuteDisable { map: usize },
    /// A mapping shows something else where the CPU looks for a table, or the guest for its stack.
    #[error("paging.map {map} hides the {hidden}")]
    Hides { map: usize, hidden: LayoutEntry },
}

impl LayoutProblem {
    /// What the user can do about it.
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
    /// What the user can do about it.
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
