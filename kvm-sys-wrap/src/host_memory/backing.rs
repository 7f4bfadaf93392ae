//! Host memory behind a slot: the kinds that there are, and the `mmap` for each.
//!
//! | backing | `mmap` | use |
//! |---|---|---|
//! | anonymous | private, no reserve | the usual one: pages are allocated when they are touched |
//! | memfd | a new file in memory, shared | memory that another process or mapping shows too |
//! | hugetlb | private, pages of 2 MiB from the host's pool | large guests; fails at once if the pool is too small |
//! | a copy of a file in memory | private: a page is copied when it is written | many machines from one snapshot |

use super::memory_file::MemoryFile;
use crate::address::PAGE_SIZE;
use crate::error::SlotShapeProblem;

const HUGE_PAGE: u64 = 2 << 20;

/// Host memory that a memory slot consists of. Variants may be added in any release.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum SlotBacking {
    /// Anonymous memory of this process. Reads as zeros; untouched pages take no memory.
    #[default]
    Anonymous,
    /// A new [`MemoryFile`], mapped shared ([`Vm::slot_file`](crate::Vm::slot_file) returns it). Reads as zeros.
    Memfd,
    /// Huge pages of 2 MiB from the host's pool (Documentation/admin-guide/mm/hugetlbpage.rst), reserved by `mmap`, so a guest
    /// never finds the pool empty. The slot's size must be a multiple of 2 MiB. Reads as zeros.
    Hugetlb,
    /// Private copy-on-write mapping of part of a file: reads as the file, and a page is copied when it is first written.
    CopyOf {
        /// File whose contents the slot shows.
        file: MemoryFile,
        /// Offset of the slot's first byte in the file; a multiple of 4 KiB. The slot must not end after the file.
        offset: u64,
    },
}

impl SlotBacking {
    /// Reason why a slot of `size` bytes cannot have this backing.
    pub(super) fn problem(&self, size: u64) -> Option<SlotShapeProblem> {
        match self {
            Self::Anonymous | Self::Memfd => None,
            Self::Hugetlb => (!size.is_multiple_of(HUGE_PAGE)).then_some(SlotShapeProblem::NotHugePages),
            Self::CopyOf { offset, .. } if !offset.is_multiple_of(PAGE_SIZE) => {
                Some(SlotShapeProblem::BackingOffset)
            }
            Self::CopyOf { file, offset } => {
                let inside = offset.checked_add(size).is_some_and(|end| end <= file.size());
                (!inside).then_some(SlotShapeProblem::BackingTooSmall)
            }
        }
    }

    /// Returns a description of the `mmap` for users.
    #[must_use]
    pub const fn describe(&self) -> &'static str {
        match self {
            Self::Anonymous => "private, anonymous, no reserve",
            Self::Memfd => "shared, of the memfd, no reserve",
            Self::Hugetlb => "private, anonymous, huge pages of 2 MiB",
            Self::CopyOf { .. } => "private, copy on write of a memfd, no reserve",
        }
    }
}
