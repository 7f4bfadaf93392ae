//! A segment: a piece of a file and the guest memory that it fills.
//!
//! A segment is loaded at its *physical* address: there is no paging yet when the loader runs. Its virtual address is
//! kept, since entry and symbols are virtual.

use std::fmt;
use std::ops::Range;

use vm_memory::GuestAddress;

use crate::address::{NamedRange, VirtAddr};
use crate::bytes::slice;

/// A piece of the file and the guest memory that it fills.
///
/// In a [`LoadPlan`](crate::LoadPlan) these hold: the bytes in the file exist, `file_size <= mem_size`,
/// `mem_size > 0`, and neither address range wraps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its number among the program headers, as `readelf -l` counts them; 0 for a flat binary.
    pub index: usize,
    /// First guest-physical address: where it is loaded.
    pub phys: GuestAddress,
    /// First virtual address: where its code and symbols believe they are.
    pub virt: VirtAddr,
    /// Where its bytes begin in the file.
    pub file_offset: u64,
    /// Bytes that come from the file.
    pub file_size: u64,
    /// Bytes in memory; those after the first `file_size` are zero (.bss).
    pub mem_size: u64,
    /// Required alignment in bytes, a power of two; 1 for none.
    pub align: u64,
    /// What the guest means to do with it. Page tables may honour that; the loader does not enforce it.
    pub flags: SegmentFlags,
}

/// A segment's permissions (`p_flags`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentFlags {
    /// PF_R.
    pub read: bool,
    /// PF_W.
    pub write: bool,
    /// PF_X.
    pub execute: bool,
}

impl SegmentFlags {
    /// Readable, writable and executable, as a flat binary has to be.
    pub const ALL: Self = Self { read: true, write: true, execute: true };
}

impl fmt::Display for SegmentFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |set, letter| if set { letter } else { '-' };
        write!(f, "{}{}{}", letter(self.read, 'r'), letter(self.write, 'w'), letter(self.execute, 'x'))
    }
}

impl Segment {
    /// The physical range, from the first address up to, not including, the end.
    #[must_use]
    pub fn phys_range(&self) -> Range<GuestAddress> {
        self.phys..GuestAddress(self.phys.0.saturating_add(self.mem_size))
    }

    /// How far `address` is into the segment, or `None` where it is outside.
    #[must_use]
    pub fn offset_of(&self, address: VirtAddr) -> Option<u64> {
        address.0.checked_sub(self.virt.0).filter(|&offset| offset < self.mem_size)
    }

    /// The `size` bytes that the file gives for the virtual addresses from `address` on; `None` where they are not
    /// all inside the file's part of the segment.
    pub(crate) fn file_bytes<'f>(&self, file: &'f [u8], address: VirtAddr, size: u64) -> Option<&'f [u8]> {
        let offset = self.offset_of(address)?;
        (offset.checked_add(size)? <= self.file_size).then_some(())?;
        slice(file, self.file_offset.checked_add(offset)?, size)
    }

    /// Its physical range under the name that messages and memory maps use.
    #[must_use]
    pub fn named_range(&self) -> NamedRange {
        NamedRange { name: format!("segment {} ({})", self.index, self.flags), range: self.phys_range() }
    }
}
