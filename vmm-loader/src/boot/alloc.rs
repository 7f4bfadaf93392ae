//! Free places in usable memory, for what a kernel is handed.
//!
//! First fit upwards from a floor, or last fit downwards from a limit. What is placed is taken from then on.

use std::ops::Range;

use vm_memory::GuestAddress;

use super::boot_info::{MemoryMapEntry, MemoryMapKind};
use crate::address::NamedRange;

/// Page size: what is handed over starts on a page of its own.
pub(super) const PAGE: u64 = 4096;

/// Below this nothing is placed. Kernels start their other CPUs in low pages of their choice, 0, 0x7000 and 0x8000 among
/// the usual ones, before they have read all that they were told.
pub(super) const FLOOR: u64 = 0x1_0000;

/// Where memory that has no meaning to a PC's firmware begins.
pub(super) const ONE_MIB: u64 = 1 << 20;

/// The end of what 32-bit code reaches.
pub(super) const FOUR_GIB: u64 = 1 << 32;

/// Usable memory, and what of it is free.
#[derive(Debug, Clone)]
pub(super) struct PageAllocator {
    usable: Vec<Range<u64>>,
    taken: Vec<Range<u64>>,
}

impl PageAllocator {
    pub(super) fn new(memory: &[MemoryMapEntry], taken: &[NamedRange], image: &[NamedRange]) -> Self {
        let mut usable: Vec<Range<u64>> = Vec::new();
        for entry in memory.iter().filter(|entry| entry.kind == MemoryMapKind::Usable) {
            let end = entry.start.0.saturating_add(entry.size);
            match usable.last_mut() {
                Some(last) if last.end == entry.start.0 => last.end = end,
                Some(_) | None => usable.push(entry.start.0..end),
            }
        }
        let ranges = taken.iter().chain(image);
        let taken = ranges.map(|named| named.range.start.0..named.range.end.0).collect();
        Self { usable, taken }
    }

    /// The lowest free place of `size` bytes at a multiple of a page, from `floor` on and below `limit`.
    pub(super) fn lowest(&mut self, size: u64, floor: u64, limit: u64) -> Option<GuestAddress> {
        let place = self.usable.iter().find_map(|usable| {
            let mut start = usable.start.max(floor).checked_next_multiple_of(PAGE)?;
            loop {
                let end = start.checked_add(size.max(1))?;
                if end > usable.end.min(limit) {
                    return None;
                }
                match self
                    .taken
                    .iter()
                    .filter(|taken| taken.start < end && start < taken.end)
                    .map(|t| t.end)
                    .max()
                {
                    // Each turn goes beyond one more of the ranges that are taken.
                    Some(beyond) => start = beyond.checked_next_multiple_of(PAGE)?,
                    None => return Some(start),
                }
            }
        })?;
        self.taken.push(place..place.saturating_add(size));
        Some(GuestAddress(place))
    }

    /// The highest free place of `size` bytes at a multiple of a page, from `floor` on and below `limit`.
    pub(super) fn highest(&mut self, size: u64, floor: u64, limit: u64) -> Option<GuestAddress> {
        let place = self.usable.iter().rev().find_map(|usable| {
            let mut end = usable.end.min(limit);
            loop {
                let start = end.checked_sub(size.max(1))?;
                let start = start - start % PAGE;
                let last = start.checked_add(size.max(1))?;
                if start < usable.start.max(floor) {
                    return None;
                }
                match self
                    .taken
                    .iter()
                    .filter(|taken| taken.start < last && start < taken.end)
                    .map(|t| t.start)
                    .min()
                {
                    Some(below) => end = below,
                    None => return Some(start),
                }
            }
        })?;
        self.taken.push(place..place.saturating_add(size));
        Some(GuestAddress(place))
    }

    /// KiB of usable memory from `start` on without a hole.
    pub(super) fn kib_from(&self, start: u64) -> u32 {
        let around = self.usable.iter().find(|usable| usable.contains(&start));
        let kib = around.map_or(0, |usable| (usable.end - start) / 1024);
        u32::try_from(kib).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pc() -> Vec<MemoryMapEntry> {
        let entry = |start, end, kind| MemoryMapEntry { start: GuestAddress(start), size: end - start, kind };
        vec![
            entry(0, 0x9_fc00, MemoryMapKind::Usable),
            entry(0x9_fc00, 0xa_0000, MemoryMapKind::Reserved),
            entry(ONE_MIB, 16 << 20, MemoryMapKind::Usable),
        ]
    }

    fn named(range: Range<u64>) -> NamedRange {
        NamedRange { name: String::new(), range: GuestAddress(range.start)..GuestAddress(range.end) }
    }

    #[test]
    fn places_are_free_usable_and_whole_pages() {
        let mut area =
            PageAllocator::new(&pc(), &[named(0x1_0000..0x1_0001)], &[named(0x10_0000..0x20_0123)]);
        assert_eq!(area.lowest(10, FLOOR, FOUR_GIB), Some(GuestAddress(0x1_1000)));
        assert_eq!(area.lowest(10, FLOOR, FOUR_GIB), Some(GuestAddress(0x1_2000)));
        assert_eq!(
            area.lowest(0x9_0000, FLOOR, FOUR_GIB),
            Some(GuestAddress(0x20_1000)),
            "no room below 1 MiB"
        );
        assert_eq!(area.lowest(10, ONE_MIB, 0x20_1000), None, "the image fills the window");
        assert_eq!(area.highest(0x1001, FLOOR, FOUR_GIB), Some(GuestAddress(0xff_e000)));
        assert_eq!(area.highest(0x1001, FLOOR, FOUR_GIB), Some(GuestAddress(0xff_c000)));
        assert_eq!(area.highest(1, FLOOR, 0x30_0000), Some(GuestAddress(0x2f_f000)));
        assert_eq!(area.highest(64 << 20, FLOOR, FOUR_GIB), None);
        assert_eq!(area.lowest(u64::MAX, FLOOR, FOUR_GIB), None);
    }

    #[test]
    fn sizes_end_at_the_first_hole() {
        let area = PageAllocator::new(&pc(), &[], &[]);
        assert_eq!((area.kib_from(0), area.kib_from(ONE_MIB), area.kib_from(1 << 30)), (639, 15 << 10, 0));
    }
}
