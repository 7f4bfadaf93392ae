//! Segment: a range of the file and the guest memory that it fills.
//!
//! A segment is loaded at its physical address, since the loader runs before paging. Its virtual address is kept because
//! the entry and the symbols are virtual addresses.

use std::fmt;
use std::ops::Range;

use vm_memory::GuestAddress;

use crate::address::{NamedRange, VirtAddr};
use crate::bytes::slice;

/// Range of the file and the guest memory that it fills: a PT_LOAD segment, or a whole flat binary.
///
/// In a [`LoadPlan`](crate::LoadPlan), the file range lies inside the file, `file_size <= mem_size`, `mem_size > 0`, and
/// neither address range wraps.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// Number of the segment's program header, as `readelf -l` counts; 0 for a flat binary.
    pub index: usize,
    /// First guest-physical address (`p_paddr`): the load address.
    pub phys: GuestAddress,
    /// First virtual address (`p_vaddr`): the address that code and symbols are linked to.
    pub virt: VirtAddr,
    /// Offset of the first byte in the file (`p_offset`).
    pub file_offset: u64,
    /// Number of bytes from the file (`p_filesz`).
    pub file_size: u64,
    /// Number of bytes in memory (`p_memsz`). Bytes after the first `file_size` are zero (.bss).
    pub mem_size: u64,
    /// Required alignment in bytes (`p_align`): a power of two; 1 for none.
    pub align: u64,
    /// Permissions that the file asks for (`p_flags`). The loader does not enforce them; page tables may.
    pub flags: SegmentFlags,
}

/// Permissions of a segment (`p_flags`).
///
/// Exhaustive: the gABI defines no other permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentFlags {
    /// True if the segment is readable (PF_R).
    pub read: bool,
    /// True if the segment is writable (PF_W).
    pub write: bool,
    /// True if the segment is executable (PF_X).
    pub execute: bool,
}

impl SegmentFlags {
    /// All permissions, as a flat binary has them.
    pub const ALL: Self = Self { read: true, write: true, execute: true };
}

/// Writes the flags as `rwx`, with `-` for a missing one.
impl fmt::Display for SegmentFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |set, letter| if set { letter } else { '-' };
        write!(f, "{}{}{}", letter(self.read, 'r'), letter(self.write, 'w'), letter(self.execute, 'x'))
    }
}

impl Segment {
    /// Returns the physical range: first address and exclusive end.
    #[must_use]
    pub fn phys_range(&self) -> Range<GuestAddress> {
        self.phys..GuestAddress(self.phys.0.saturating_add(self.mem_size))
    }

    /// Returns the offset of a virtual address in the segment, or `None` if the address is outside.
    #[must_use]
    pub fn offset_of(&self, address: VirtAddr) -> Option<u64> {
        address.0.checked_sub(self.virt.0).filter(|&offset| offset < self.mem_size)
    }

    /// Returns the bytes of the file for `size` virtual addresses from `address` on, or `None` if they are not all inside
    /// the file's part of the segment.
    pub(crate) fn file_bytes<'f>(&self, file: &'f [u8], address: VirtAddr, size: u64) -> Option<&'f [u8]> {
        let offset = self.offset_of(address)?;
        (offset.checked_add(size)? <= self.file_size).then_some(())?;
        slice(file, self.file_offset.checked_add(offset)?, size)
    }

    /// Returns the physical range with the segment's name for messages and memory maps, such as `segment 1 (rw-)`.
    #[must_use]
    pub fn named_range(&self) -> NamedRange {
        NamedRange::new(format!("segment {} ({})", self.index, self.flags), self.phys_range())
    }
}
