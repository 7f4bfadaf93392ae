//! Allocator for boot structures and modules in usable guest memory.
//!
//! Allocates whole pages, first fit upwards or downwards, next to ranges that are in use.

use std::ops::Range;

use vm_memory::GuestAddress;

use crate::address::NamedRange;
use crate::memory_map::{MemoryMapEntry, MemoryMapKind};

/// Page size. Each allocation starts at a page boundary.
pub(super) const PAGE_SIZE: u64 = 4096;

/// Lowest address of an allocation.
///
/// Kernels start their other CPUs in low pages, usually 0, 0x7000 or 0x8000, and may do so before they have read all boot
/// information.
pub(super) const MIN_ADDRESS: u64 = 0x1_0000;

/// 1 MiB: the end of the memory that a PC's firmware uses.
pub(super) const ONE_MIB: u64 = 1 << 20;

/// 4 GiB: the end of the memory that 32-bit code reaches.
pub(super) const FOUR_GIB: u64 = 1 << 32;

/// Allocator of pages in usable memory.
#[derive(Debug, Clone)]
pub(super) struct PageAllocator {
    usable: Vec<Range<u64>>,
    in_use: Vec<Range<u64>>,
}

impl PageAllocator {
    /// Creates an allocator for the usable memory of a memory map without the `reserved` ranges and those of the `image`.
    pub(super) fn new(memory_map: &[MemoryMapEntry], reserved: &[NamedRange], image: &[NamedRange]) -> Self {
        let mut usable: Vec<Range<u64>> = Vec::new();
        for entry in memory_map.iter().filter(|entry| entry.kind == MemoryMapKind::Usable) {
            let end = entry.end().0;
            match usable.last_mut() {
                Some(last) if last.end == entry.start.0 => last.end = end,
                Some(_) | None => usable.push(entry.start.0..end),
            }
        }
        let ranges = reserved.iter().chain(image);
        let in_use = ranges.map(|named| named.range.start.0..named.range.end.0).collect();
        Self { usable, in_use }
    }

    /// Allocates `size` bytes at the lowest free page boundary from `min` on that lets them end at or below `limit`.
    pub(super) fn allocate_lowest(&mut self, size: u64, min: u64, limit: u64) -> Option<GuestAddress> {
        let start = self.usable.iter().find_map(|usable| {
            let mut start = usable.start.max(min).checked_next_multiple_of(PAGE_SIZE)?;
            loop {
                let end = start.checked_add(size.max(1))?;
                if end > usable.end.min(limit) {
                    return None;
                }
                let overlapping = self.in_use.iter().filter(|used| used.start < end && start < used.end);
                match overlapping.map(|used| used.end).max() {
                    // Each iteration moves past at least one more range.
                    Some(end) => start = end.checked_next_multiple_of(PAGE_SIZE)?,
                    None => return Some(start),
                }
            }
        })?;
        self.in_use.push(start..start.saturating_add(size));
        Some(GuestAddress(start))
    }

    /// Allocates `size` bytes at the highest free page boundary that lets them end at or below `limit`, but not below `min`.
    pub(super) fn allocate_highest(&mut self, size: u64, min: u64, limit: u64) -> Option<GuestAddress> {
        let start = self.usable.iter().rev().find_map(|usable| {
            let mut limit = usable.end.min(limit);
            loop {
                let start = limit.checked_sub(size.max(1))?;
                let start = start - start % PAGE_SIZE;
                let end = start.checked_add(size.max(1))?;
                if start < usable.start.max(min) {
                    return None;
                }
                let overlapping = self.in_use.iter().filter(|used| used.start < end && start < used.end);
                match overlapping.map(|used| used.start).min() {
                    Some(start) => limit = start,
                    None => return Some(start),
                }
            }
        })?;
        self.in_use.push(start..start.saturating_add(size));
        Some(GuestAddress(start))
    }

    /// Returns the size in KiB of the usable memory from `start` up to the next hole.
    pub(super) fn usable_kib_from(&self, start: u64) -> u32 {
        let region = self.usable.iter().find(|usable| usable.contains(&start));
        let kib = region.map_or(0, |usable| (usable.end - start) / 1024);
        u32::try_from(kib).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pc() -> Vec<MemoryMapEntry> {
        vec![
            MemoryMapEntry::usable(GuestAddress(0), 0x9_fc00),
            MemoryMapEntry::reserved(GuestAddress(0x9_fc00), 0x400),
            MemoryMapEntry::usable(GuestAddress(ONE_MIB), 15 << 20),
        ]
    }

    fn named(range: Range<u64>) -> NamedRange {
        NamedRange::new("", GuestAddress(range.start)..GuestAddress(range.end))
    }

    #[test]
    fn allocations_are_free_usable_and_whole_pages() {
        let mut allocator =
            PageAllocator::new(&pc(), &[named(0x1_0000..0x1_0001)], &[named(0x10_0000..0x20_0123)]);
        assert_eq!(allocator.allocate_lowest(10, MIN_ADDRESS, FOUR_GIB), Some(GuestAddress(0x1_1000)));
        assert_eq!(allocator.allocate_lowest(10, MIN_ADDRESS, FOUR_GIB), Some(GuestAddress(0x1_2000)));
        assert_eq!(
            allocator.allocate_lowest(0x9_0000, MIN_ADDRESS, FOUR_GIB),
            Some(GuestAddress(0x20_1000)),
            "no room below 1 MiB"
        );
        assert_eq!(allocator.allocate_lowest(10, ONE_MIB, 0x20_1000), None, "the image fills the window");
        assert_eq!(allocator.allocate_highest(0x1001, MIN_ADDRESS, FOUR_GIB), Some(GuestAddress(0xff_e000)));
        assert_eq!(allocator.allocate_highest(0x1001, MIN_ADDRESS, FOUR_GIB), Some(GuestAddress(0xff_c000)));
        assert_eq!(allocator.allocate_highest(1, MIN_ADDRESS, 0x30_0000), Some(GuestAddress(0x2f_f000)));
        assert_eq!(allocator.allocate_highest(64 << 20, MIN_ADDRESS, FOUR_GIB), None);
        assert_eq!(allocator.allocate_lowest(u64::MAX, MIN_ADDRESS, FOUR_GIB), None);
    }

    #[test]
    fn sizes_end_at_the_first_hole() {
        let allocator = PageAllocator::new(&pc(), &[], &[]);
        let kib = [0, ONE_MIB, 1 << 30].map(|start| allocator.usable_kib_from(start));
        assert_eq!(kib, [639, 15 << 10, 0]);
    }
}
