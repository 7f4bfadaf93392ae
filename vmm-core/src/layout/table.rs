//! The layout as a table: memory and its contents, holes, KVM's pages and devices.

use std::fmt;

use super::{Layout, LayoutRegion, RangeOwner};
use crate::Gpa;
use crate::spec::gpa_range::{ByteSize, GpaRange};

/// Kind of the guest-physical addresses of a row in the layout table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutRowKind {
    /// Memory that the guest can write.
    Memory,
    /// Memory that the guest cannot write.
    ReadOnly,
    /// Addresses without memory.
    Hole,
}

impl LayoutRowKind {
    /// Returns the name of the kind in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::ReadOnly => "read-only",
            Self::Hole => "hole",
        }
    }
}

/// Row of the layout table: a range with one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutRow<'a> {
    /// Guest-physical range of the row.
    pub range: GpaRange,
    /// Kind of the row's addresses: memory, read-only memory or hole.
    pub kind: LayoutRowKind,
    /// Owner of the range; `None` if the range is free or a hole.
    pub owner: Option<&'a RangeOwner>,
}

impl Layout {
    /// Returns rows for the whole address space from 0 to the last entry, without gaps, sorted by address.
    #[must_use]
    pub fn rows(&self) -> Vec<LayoutRow<'_>> {
        let last_memory = self.memory().last().map(|region| region.range.end());
        let end = self.ranges().last().map(|placed| placed.range.end()).max(last_memory);
        let regions: Vec<GpaRange> = self.memory().iter().map(|region| region.range).collect();
        let holes = GpaRange::between(Gpa(0), end.unwrap_or_default())
            .map_or(Vec::new(), |all| all.without(&regions));
        let kind = |region: &LayoutRegion| {
            if region.read_only { LayoutRowKind::ReadOnly } else { LayoutRowKind::Memory }
        };
        let mut spaces: Vec<(GpaRange, LayoutRowKind)> =
            self.memory().iter().map(|region| (region.range, kind(region))).collect();
        spaces.extend(holes.into_iter().map(|hole| (hole, LayoutRowKind::Hole)));

        let taken: Vec<GpaRange> = self.ranges().iter().map(|placed| placed.range).collect();
        let mut rows = Vec::new();
        for (space, kind) in spaces {
            let here = self.ranges().iter().filter_map(|placed| {
                let range = placed.range.intersection(space)?;
                Some(LayoutRow { range, kind, owner: Some(&placed.owner) })
            });
            rows.extend(here);
            rows.extend(space.without(&taken).into_iter().map(|range| LayoutRow {
                range,
                kind,
                owner: None,
            }));
        }
        rows.sort_by_key(|row| row.range);
        rows
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.rows() {
            let (size, kind) = (ByteSize(row.range.size()), row.kind.name());
            write!(f, "{:<24} {size:>14}  {kind:<9}  ", row.range.to_string())?;
            match (row.owner, row.kind) {
                (Some(owner), _) => writeln!(f, "{owner}")?,
                (None, LayoutRowKind::Hole) => writeln!(f, "-")?,
                (None, LayoutRowKind::Memory | LayoutRowKind::ReadOnly) => writeln!(f, "free")?,
            }
        }
        Ok(())
    }
}
