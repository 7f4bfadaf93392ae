//! Where a slot's memory comes from: what is behind it decides what `mmap` is asked for.
//!
//! | backing | `mmap` | good for |
//! |---|---|---|
//! | anonymous | private, no reserve | nearly everything: pages appear when they are touched |
//! | memfd | a new file in memory, shared | memory that somebody else is to see too |
//! | hugetlb | private, pages of 2 MiB from the host's pool | large guests; fails at once where the pool is too small |
//! | a copy of a file in memory | private: a page is copied when it is written | many machines from one picture |

use std::io;
use std::sync::Arc;

use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, MmapRegion};

use super::memory_file::MemoryFile;
use super::slot::Slot;
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Error, Result, call_failed};

const PAGE: u64 = 4096;
const HUGE_PAGE: u64 = 2 << 20;

const READ_WRITE: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// The memory behind a slot.
#[derive(Debug, Clone, Default)]
pub enum SlotBacking {
    /// Anonymous memory. It reads as zeros, and untouched pages cost nothing.
    #[default]
    Anonymous,
    /// A new [`MemoryFile`], shared: [`Vm::slot_file`] gives it to others. It reads as zeros.
    Memfd,
    /// Huge pages of 2 MiB that the host's administrator has set aside (Documentation/admin-guide/mm/hugetlbpage.rst). They
    /// are reserved here, so a guest never finds the pool empty. The size is a multiple of 2 MiB. It reads as zeros.
    Hugetlb,
    /// A private copy of part of a file: it reads as the file, and a page is copied when it is first written.
    CopyOf {
        /// The file.
        file: MemoryFile,
        /// Where in the file the slot begins; a multiple of 4 KiB. The slot must end where the file does, or before.
        offset: u64,
    },
}

impl SlotBacking {
    /// What is wrong with a slot of `size` bytes on this backing.
    pub(super) fn problem(&self, size: u64) -> Option<&'static str> {
        match self {
            Self::Anonymous | Self::Memfd => None,
            Self::Hugetlb => (!size.is_multiple_of(HUGE_PAGE))
                .then_some("is not made of whole 2 MiB pages, as hugetlb memory is"),
            Self::CopyOf { offset, .. } if !offset.is_multiple_of(PAGE) => {
                Some("does not begin at a page of its file")
            }
            Self::CopyOf { file, offset } => {
                let inside = offset.checked_add(size).is_some_and(|end| end <= file.size());
                (!inside).then_some("is larger than what it is a copy of")
            }
        }
    }

    /// What `mmap` is asked for, in words.
    #[must_use]
    pub const fn words(&self) -> &'static str {
        match self {
            Self::Anonymous => "private, anonymous, no reserve",
            Self::Memfd => "shared, of the memfd, no reserve",
            Self::Hugetlb => "private, anonymous, huge pages of 2 MiB",
            Self::CopyOf { .. } => "private, copy on write of a memfd, no reserve",
        }
    }
}

/// Host memory, and the file it shares its pages with, if any.
pub(super) type Reserved = (MmapRegion, Option<MemoryFile>);

impl Vm {
    /// `mmap`.
    pub(super) fn reserve(&self, slot: &Slot) -> Result<Reserved> {
        let size = slot.size;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let (file, offset, flags) = match &slot.backing {
            SlotBacking::Anonymous => {
                (None, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            }
            SlotBacking::Hugetlb => {
                // Without MAP_NORESERVE: pages that are not there make `mmap` fail, not the guest's first access.
                let huge = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
                (None, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | huge)
            }
            SlotBacking::Memfd => {
                let made = self.observed().call(Call::MemfdCreate, format_args!("{size:#x} bytes"), || {
                    MemoryFile::try_create(size)
                });
                let file = made.map_err(call_failed(Call::MemfdCreate, format!("{size:#x} bytes")))?;
                (Some(file), 0, libc::MAP_SHARED | libc::MAP_NORESERVE)
            }
            SlotBacking::CopyOf { file, offset } => {
                (Some(file.clone()), *offset, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            }
        };
        let place = file.as_ref().map(|file| FileOffset::from_arc(Arc::clone(file.file()), offset));
        let words = slot.backing.words();
        let mapping = self
            .observed()
            .call(Call::Mmap, format_args!("{size:#x} bytes, {words}"), || {
                MmapRegion::<()>::build(place, length, READ_WRITE, flags).map_err(mmap_error)
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

/// What the kernel said to an `mmap`.
pub(super) fn mmap_error(error: MmapRegionError) -> io::Error {
    if let MmapRegionError::Mmap(source) = error { source } else { io::Error::other(error) }
}
