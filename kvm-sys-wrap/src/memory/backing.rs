//! Host memory behind a slot: the kinds that there are, and the `mmap` for each.
//!
//! | backing | `mmap` | use |
//! |---|---|---|
//! | anonymous | private, no reserve | the usual one: pages are allocated when they are touched |
//! | memfd | a new file in memory, shared | memory that another process or mapping shows too |
//! | hugetlb | private, pages of 2 MiB from the host's pool | large guests; fails at once if the pool is too small |
//! | a copy of a file in memory | private: a page is copied when it is written | many machines from one snapshot |

use std::io;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

use super::memory_file::MemoryFile;
use super::slot::Slot;
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Error, Result, SlotShapeProblem, call_failed};

const PAGE: u64 = 4096;
const HUGE_PAGE: u64 = 2 << 20;

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Host memory behind a slot. Variants may be added in any release.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum SlotBacking {
    /// Anonymous memory. Reads as zeros; untouched pages take no memory.
    #[default]
    Anonymous,
    /// A new [`MemoryFile`], shared ([`Vm::slot_file`] returns it). Reads as zeros.
    Memfd,
    /// Huge pages of 2 MiB from the host's pool (Documentation/admin-guide/mm/hugetlbpage.rst), reserved by `mmap`, so a guest
    /// never finds the pool empty. The slot's size must be a multiple of 2 MiB. Reads as zeros.
    Hugetlb,
    /// Private copy-on-write mapping of part of a file: reads as the file, and a page is copied when it is first written.
    CopyOf {
        /// The file.
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
            Self::CopyOf { offset, .. } if !offset.is_multiple_of(PAGE) => {
                Some(SlotShapeProblem::BackingOffset)
            }
            Self::CopyOf { file, offset } => {
                let inside = offset.checked_add(size).is_some_and(|end| end <= file.size());
                (!inside).then_some(SlotShapeProblem::BackingTooSmall)
            }
        }
    }

    /// Description of the `mmap`, as it is shown to users.
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

/// Host memory, and the file whose pages it shares, if any.
pub(super) type ReservedMemory = (MmapRegion, Option<MemoryFile>);

impl Vm {
    /// `mmap` of the host memory for a slot.
    pub(super) fn reserve(&self, slot: &Slot) -> Result<ReservedMemory> {
        let size = slot.size;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let (file, offset, flags) = match &slot.backing {
            SlotBacking::Anonymous => {
                (None, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            }
            SlotBacking::Hugetlb => {
                // Without MAP_NORESERVE, so that an empty pool makes `mmap` fail, not the guest's first access.
                let huge = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
                (None, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | huge)
            }
            SlotBacking::Memfd => {
                let made = self.dispatcher().call(Call::MemfdCreate, format_args!("{size:#x} bytes"), || {
                    MemoryFile::try_create(size)
                });
                let file = made.map_err(call_failed(Call::MemfdCreate, format!("{size:#x} bytes")))?;
                (Some(file), 0, libc::MAP_SHARED | libc::MAP_NORESERVE)
            }
            SlotBacking::CopyOf { file, offset } => {
                (Some(file.clone()), *offset, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            }
        };
        let file_offset = file.as_ref().map(|file| FileOffset::from_arc(Arc::clone(file.file()), offset));
        let description = slot.backing.describe();
        let mapping = self
            .dispatcher()
            .call(Call::Mmap, format_args!("{size:#x} bytes, {description}"), || {
                MmapRegion::<()>::build(file_offset, length, READ_WRITE, flags).map_err(mmap_error)
            })
            .map_err(|source| match slot.backing {
                SlotBacking::Hugetlb => Error::HugePages { size, source },
                SlotBacking::Anonymous | SlotBacking::Memfd | SlotBacking::CopyOf { .. } => {
                    call_failed(Call::Mmap, format!("{size:#x} bytes for {}", slot.describe()))(source)
                }
            })?;
        let shared = matches!(slot.backing, SlotBacking::Memfd).then_some(file).flatten();
        Ok((mapping, shared))
    }
}

/// Error of the `mmap` itself.
pub(super) fn mmap_error(error: MmapRegionError) -> io::Error {
    if let MmapRegionError::Mmap(source) = error { source } else { io::Error::other(error) }
}
