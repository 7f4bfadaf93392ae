//! Address and range types that all modules share.
//!
//! Physical addresses are [`GuestAddress`]. Virtual addresses have their own type, [`VirtAddr`], so that the two cannot
//! be mixed up: each byte of a higher-half kernel has one of each.

use std::fmt;
use std::ops::Range;

use vm_memory::GuestAddress;

/// Highest guest-physical address of any x86 CPU: MAXPHYADDR is at most 52 bits (Intel SDM vol. 3, 4.1.4).
pub const MAX_PHYSICAL_ADDRESS: u64 = (1 << 52) - 1;

/// Guest-virtual address: an address before paging translates it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtAddr(pub u64);

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Range of guest-physical addresses with the name of its content.
///
/// Exhaustive: a name and a range are all that a memory map or an overlap message needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedRange {
    /// Name of the content, such as `segment 1 (rw-)` or `flat binary`.
    pub name: String,
    /// Guest-physical range: first address and exclusive end.
    pub range: Range<GuestAddress>,
}

impl NamedRange {
    /// Creates a range with a name.
    #[must_use]
    pub fn new(name: impl Into<String>, range: Range<GuestAddress>) -> Self {
        Self { name: name.into(), range }
    }

    /// Returns true if the two ranges have at least one address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.range.start < other.range.end && other.range.start < self.range.end
    }
}

/// Formats the range as `name at 0x1000..0x2000`.
impl fmt::Display for NamedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, DisplayRange(&self.range))
    }
}

/// Formats a physical range as `0x1000..0x2000`.
pub(crate) struct DisplayRange<'a>(pub &'a Range<GuestAddress>);

impl fmt::Display for DisplayRange<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.0.start.0, self.0.end.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let named = |start, end| NamedRange::new("", GuestAddress(start)..GuestAddress(end));
        assert!(!named(0, 16).overlaps(&named(16, 32)));
        assert!(named(0, 17).overlaps(&named(16, 32)));
        assert!(named(20, 21).overlaps(&named(16, 32)));
    }
}
