//! The layout as a table: memory and what is in it, holes, KVM's pages, devices.

use std::fmt;

use super::{Layout, Owner, Region};
use crate::Gpa;
use crate::span::{Bytes, Span};

/// What kind of address space a row lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Memory that the guest can write to.
    Memory,
    /// Memory that the guest can only read.
    ReadOnly,
    /// No memory.
    Hole,
}

impl Place {
    /// The word in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::ReadOnly => "read-only",
            Self::Hole => "hole",
        }
    }
}

/// A row: a range that is one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<'a> {
    /// Where it lies.
    pub range: Span,
    /// In what.
    pub place: Place,
    /// Whose it is; `None` if it is free.
    pub owner: Option<&'a Owner>,
}

impl Layout {
    /// The whole address space from 0 to the last thing in it, without gaps, sorted by address.
    #[must_use]
    pub fn rows(&self) -> Vec<Row<'_>> {
        let last_memory = self.memory().last().map(|region| region.range.end());
        let end = self.ranges().last().map(|placed| placed.range.end()).max(last_memory);
        let regions: Vec<Span> = self.memory().iter().map(|region| region.range).collect();
        let holes =
            Span::between(Gpa(0), end.unwrap_or_default()).map_or(Vec::new(), |all| all.without(&regions));
        let place = |region: &Region| if region.read_only { Place::ReadOnly } else { Place::Memory };
        let mut spaces: Vec<(Span, Place)> =
            self.memory().iter().map(|region| (region.range, place(region))).collect();
        spaces.extend(holes.into_iter().map(|hole| (hole, Place::Hole)));

        let taken: Vec<Span> = self.ranges().iter().map(|placed| placed.range).collect();
        let mut rows = Vec::new();
        for (space, place) in spaces {
            let here = self.ranges().iter().filter_map(|placed| {
                let range = placed.range.intersection(space)?;
                Some(Row { range, place, owner: Some(&placed.owner) })
            });
            rows.extend(here);
            rows.extend(space.without(&taken).into_iter().map(|range| Row { range, place, owner: None }));
        }
        rows.sort_by_key(|row| row.range);
        rows
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in self.rows() {
            let (size, place) = (Bytes(row.range.size()), row.place.name());
            write!(f, "{:<24} {size:>14}  {place:<9}  ", row.range.to_string())?;
            match (row.owner, row.place) {
                (Some(owner), _) => writeln!(f, "{owner}")?,
                (None, Place::Hole) => writeln!(f, "-")?,
                (None, Place::Memory | Place::ReadOnly) => writeln!(f, "free")?,
            }
        }
        Ok(())
    }
}
