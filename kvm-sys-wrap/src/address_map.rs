//! Guest-physical ranges in use and their owners: slots, the TSS pages, devices.
//!
//! The kernel checks only that slots do not overlap each other: it does not know the ranges that a VMM serves as MMIO, and
//! does not check the pages of `KVM_SET_TSS_ADDR`. So each range is entered here first, and an overlap is an error that names
//! both owners.

use std::fmt;
use std::ops::Range;

use crate::address::Gpa;

/// Owner of a range of guest-physical addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RangeOwner {
    /// Memory slot, with its number.
    Slot(u32),
    /// The three pages of `KVM_SET_TSS_ADDR`.
    TssPages,
    /// Device with MMIO, with its name ([`Vm::reserve_mmio`](crate::Vm::reserve_mmio)).
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

/// Two ranges of guest-physical addresses overlap.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error(
    "{} ({}..{}) overlaps {} ({}..{})",
    requested.1, requested.0.start, requested.0.end, existing.1, existing.0.start, existing.0.end
)]
pub struct Overlap {
    /// The range that was refused, and its owner.
    pub requested: (Range<Gpa>, RangeOwner),
    /// The range that was there before, and its owner.
    pub existing: (Range<Gpa>, RangeOwner),
}

/// Ranges in use, each with its owner.
#[derive(Debug, Clone, Default)]
pub(crate) struct AddressMap(Vec<(Range<Gpa>, RangeOwner)>);

impl AddressMap {
    /// Enters a range. Fails if it overlaps another one; an empty range never does.
    pub(crate) fn insert(&mut self, range: Range<Gpa>, owner: RangeOwner) -> Result<(), Overlap> {
        if let Some(existing) = self.0.iter().find(|(r, _)| r.start < range.end && range.start < r.end) {
            return Err(Overlap { requested: (range, owner), existing: existing.clone() });
        }
        self.0.push((range, owner));
        Ok(())
    }

    /// Removes all ranges of an owner and returns them.
    pub(crate) fn remove(&mut self, owner: &RangeOwner) -> Vec<(Range<Gpa>, RangeOwner)> {
        self.0.extract_if(.., |(_, o)| o == owner).collect()
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
