//! Addresses, ranges and sizes: the types that the other files share, and how messages print them.
//!
//! Physical addresses are `vm_memory::GuestAddress`. Virtual ones get a type of their own, so that the two never
//! mix: a higher-half kernel has both for each byte.

use std::fmt;
use std::ops::Range;

use vm_memory::GuestAddress;

/// The first address that no x86 CPU can put on its memory bus: physical addresses have at most 52 bits
/// (Intel SDM vol. 3, 4.1.4, MAXPHYADDR).
pub const PHYSICAL_END: u64 = 1 << 52;

/// A guest-virtual address: where the code believes it runs, before paging translates it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtAddr(pub u64);

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A range of guest-physical addresses with the name of what lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRange {
    /// What it is: `segment 1 (rw-)`, `flat binary`.
    pub name: String,
    /// From the first address up to, not including, the end.
    pub range: Range<GuestAddress>,
}

impl NamedRange {
    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.range.start < other.range.end && other.range.start < self.range.end
    }
}

impl fmt::Display for NamedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, DisplayRange(&self.range))
    }
}

/// The lowest two ranges that overlap, if any do. None of them may be empty.
pub(crate) fn first_overlap(mut ranges: Vec<NamedRange>) -> Option<(NamedRange, NamedRange)> {
    ranges.sort_by_key(|named| named.range.start);
    ranges.windows(2).find_map(|pair| match pair {
        [first, second] if first.overlaps(second) => Some((first.clone(), second.clone())),
        _ => None,
    })
}

/// Prints a physical range as `0x1000..0x2000`.
pub(crate) struct DisplayRange<'a>(pub &'a Range<GuestAddress>);

impl fmt::Display for DisplayRange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.0.start.0, self.0.end.0)
    }
}

/// Prints a number of bytes in the largest unit that leaves no rest: `64 KiB`, `100 bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 6] = [
            (1 << 60, "EiB"),
            (1 << 50, "PiB"),
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        let whole = |unit: u64| self.0 >= unit && self.0.is_multiple_of(unit);
        match UNITS.into_iter().find(|&(unit, _)| whole(unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None if self.0 == 1 => f.write_str("1 byte"),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Joins what can be printed with commas: `a, b, c`.
pub(crate) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_in_the_largest_unit_that_fits() {
        let printed =
            [0, 1, 1023, 1024, 1025, 65536, 3 << 20, 1 << 52].map(|bytes| ByteSize(bytes).to_string());
        assert_eq!(
            printed,
            ["0 bytes", "1 byte", "1023 bytes", "1 KiB", "1025 bytes", "64 KiB", "3 MiB", "4 PiB"]
        );
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let named =
            |start, end| NamedRange { name: String::new(), range: GuestAddress(start)..GuestAddress(end) };
        assert!(!named(0, 16).overlaps(&named(16, 32)));
        assert!(named(0, 17).overlaps(&named(16, 32)));
        assert!(named(20, 21).overlaps(&named(16, 32)));
    }
}
