//! Who lies where in guest-physical address space: slots, the TSS pages, devices.
//!
//! The kernel checks that slots do not overlap each other, and nothing else: the pages of `KVM_SET_TSS_ADDR` and the
//! ranges that a VMM serves as MMIO are not known to it as such. So every range is entered here first, and an overlap
//! is refused with the names of both.

use std::fmt;
use std::ops::Range;

use crate::address::Gpa;

/// What occupies a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeOwner {
    /// A memory slot.
    Slot(u32),
    /// The three pages of `KVM_SET_TSS_ADDR`.
    TssPages,
    /// A device's MMIO range.
    Mmio(String),
}

impl fmt::Display for RangeOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(number) => write!(f, "memory slot {number}"),
            Self::TssPages => f.write_str("the TSS pages"),
            Self::Mmio(name) => write!(f, "device `{name}`"),
        }
    }
}

/// Two things would lie on the same addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} ({}..{}) overlaps {} ({}..{})",
    requested.1, requested.0.start, requested.0.end, existing.1, existing.0.start, existing.0.end
)]
pub struct Overlap {
    /// The range that was to be entered.
    pub requested: (Range<Gpa>, RangeOwner),
    /// The one that is there.
    pub existing: (Range<Gpa>, RangeOwner),
}

/// The ranges in use; each belongs to one occupant.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressMap(Vec<(Range<Gpa>, RangeOwner)>);

impl AddressMap {
    /// Enters a range, or says what is there already. An empty range never overlaps.
    pub(crate) fn insert(&mut self, range: Range<Gpa>, occupant: RangeOwner) -> Result<(), Overlap> {
        if let Some(existing) = self.0.iter().find(|(r, _)| r.start < range.end && range.start < r.end) {
            return Err(Overlap { requested: (range, occupant), existing: existing.clone() });
        }
        self.0.push((range, occupant));
        Ok(())
    }

    /// Takes all ranges of an occupant out and returns them.
    pub(crate) fn remove(&mut self, occupant: &RangeOwner) -> Vec<(Range<Gpa>, RangeOwner)> {
        self.0.extract_if(.., |(_, o)| o == occupant).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_fit_and_overlaps_name_both() {
        let mut map = AddressMap::default();
        map.insert(Gpa(0)..Gpa(0x20_0000), RangeOwner::Slot(0)).unwrap();
        map.insert(Gpa(0x20_0000)..Gpa(0x20_3000), RangeOwner::TssPages).unwrap();
        let error =
            map.insert(Gpa(0x20_2000)..Gpa(0x20_4000), RangeOwner::Mmio("serial".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "device `serial` (0x202000..0x204000) overlaps the TSS pages (0x200000..0x203000)"
        );
    }

    #[test]
    fn a_removed_range_is_free_again() {
        let mut map = AddressMap::default();
        map.insert(Gpa(0)..Gpa(0x1000), RangeOwner::Slot(3)).unwrap();
        assert_eq!(map.remove(&RangeOwner::Slot(3)).len(), 1);
        map.insert(Gpa(0)..Gpa(0x1000), RangeOwner::TssPages).unwrap();
    }
}
