//! Guest-physical address ranges that are never empty and never wrap.

use std::fmt;

use crate::{Gpa, PAGE_SIZE};

/// Guest-physical address range: from `start` up to but not including `end`, at least one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpaRange {
    start: Gpa,
    end: Gpa,
}

impl GpaRange {
    /// Returns the range of `size` bytes from `start`; `None` if `size` is 0 or the range exceeds the address space.
    #[must_use]
    pub const fn new(start: Gpa, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) => Self::between(start, end),
            None => None,
        }
    }

    /// Returns the range from `start` up to `end`; `None` if it is empty.
    #[must_use]
    pub const fn between(start: Gpa, end: Gpa) -> Option<Self> {
        if start.0 < end.0 { Some(Self { start, end }) } else { None }
    }

    /// Returns the first address of the range.
    #[must_use]
    pub const fn start(self) -> Gpa {
        self.start
    }

    /// Returns the address after the last one of the range.
    #[must_use]
    pub const fn end(self) -> Gpa {
        self.end
    }

    /// Returns the number of bytes in the range, at least 1.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Returns true if the two ranges share an address.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }

    /// Returns the addresses that both ranges contain; `None` if there are none.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        Self::between(self.start.max(other.start), self.end.min(other.end))
    }

    /// Returns true if all of `other` lies in this range.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end.0 <= self.end.0
    }

    /// Returns the range extended to whole pages of 4 KiB. The last page of the address space is not completed.
    #[must_use]
    pub const fn to_pages(self) -> Self {
        let end = match self.end.0.checked_next_multiple_of(PAGE_SIZE) {
            Some(end) => end,
            None => self.end.0,
        };
        Self { start: Gpa(self.start.0 - self.start.0 % PAGE_SIZE), end: Gpa(end) }
    }

    /// Returns the parts of the range outside the ranges in `taken`, which are sorted by their start.
    #[must_use]
    pub fn without(self, taken: &[Self]) -> Vec<Self> {
        let mut rest = Vec::new();
        let mut start = self.start;
        for other in taken.iter().filter(|other| other.overlaps(self)) {
            rest.extend(Self::between(start, other.start));
            start = start.max(other.end);
        }
        rest.extend(Self::between(start, self.end));
        rest
    }
}

impl fmt::Display for GpaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

/// Number of bytes, shown in the largest unit that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let unit = units.into_iter().find(|(size, _)| self.0 != 0 && self.0.is_multiple_of(*size));
        let (size, name) = unit.unwrap_or((1, "B"));
        f.pad(&format!("{} {name}", self.0 / size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u64, end: u64) -> GpaRange {
        GpaRange::between(Gpa(start), Gpa(end)).unwrap()
    }

    #[test]
    fn an_empty_or_wrapping_range_cannot_be_made() {
        assert_eq!(GpaRange::new(Gpa(5), 0), None);
        assert_eq!(GpaRange::new(Gpa(u64::MAX), 2), None);
        assert_eq!(GpaRange::between(Gpa(5), Gpa(5)), None);
    }

    #[test]
    fn what_is_left_between_others() {
        let whole = span(0, 100);
        assert_eq!(whole.without(&[]), [whole]);
        assert_eq!(whole.without(&[span(0, 10), span(5, 20), span(90, 200)]), [span(20, 90)]);
        assert_eq!(whole.without(&[span(10, 60), span(20, 30)]), [span(0, 10), span(60, 100)]);
        assert_eq!(whole.without(&[span(0, 100)]), []);
    }

    #[test]
    fn sizes_take_the_largest_unit_that_divides_them() {
        for (size, text) in
            [(0, "0 B"), (8297, "8297 B"), (4096, "4 KiB"), (3 << 20, "3 MiB"), (1 << 40, "1 TiB")]
        {
            assert_eq!(ByteSize(size).to_string(), text);
        }
    }
}
