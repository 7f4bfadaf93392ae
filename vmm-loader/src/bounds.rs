//! Bounds and overlap checks on load plans: against the guest's memory map and against each other.
//!
//! The checks compare address ranges only. They need the memory map, but no guest memory.

use std::ops::Range;

use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{DisplayRange, NamedRange};
use crate::display::list;
use crate::plan::LoadPlan;

/// Plan that does not fit into guest memory or overlaps another plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BoundsError {
    /// Segment that is not completely inside guest memory.
    #[error("{what} is outside memory ({})", memory_list(.memory))]
    NoMemory {
        /// Name and range of the segment.
        what: NamedRange,
        /// Guest memory by ascending address, with adjoining regions merged.
        memory: Vec<Range<GuestAddress>>,
    },
    /// Two files that use the same memory.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// Range with the lower address. Its name begins with the name of its file.
        first: NamedRange,
        /// Range with the higher address. Its name begins with the name of its file.
        second: NamedRange,
    },
}

impl BoundsError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoMemory { what, .. } => Some(format!(
                "give the machine memory up to {:#x}, or link the guest to another load address",
                what.range.end.0
            )),
            Self::Overlap { .. } => Some("load one of the two at another address".to_owned()),
        }
    }
}

fn memory_list(memory: &[Range<GuestAddress>]) -> String {
    if memory.is_empty() { "there is none".to_owned() } else { list(memory.iter().map(DisplayRange)) }
}

impl LoadPlan {
    /// Checks that each segment lies in `memory`, in one region or across adjoining ones. The regions may be in any
    /// order.
    ///
    /// # Errors
    ///
    /// [`BoundsError::NoMemory`] for the first segment with an address outside `memory`.
    pub fn check_fits(&self, memory: &[Range<GuestAddress>]) -> Result<(), BoundsError> {
        let memory = merge(memory);
        for what in self.ranges() {
            let inside = |region: &Range<GuestAddress>| {
                region.start <= what.range.start && what.range.end <= region.end
            };
            if !memory.iter().any(inside) {
                return Err(BoundsError::NoMemory { what, memory });
            }
        }
        Ok(())
    }
}

/// Checks that the files for one guest do not overlap. Each plan comes with the file name for the message.
///
/// # Errors
///
/// [`BoundsError::Overlap`] for the two lowest ranges that overlap.
pub fn check_overlap(files: &[(&str, &LoadPlan)]) -> Result<(), BoundsError> {
    let ranges = files.iter().flat_map(|(file, plan)| {
        let prefix = move |named: NamedRange| NamedRange::new(format!("{file}: {}", named.name), named.range);
        plan.ranges().into_iter().map(prefix)
    });
    match first_overlap(ranges.collect()) {
        Some((first, second)) => Err(BoundsError::Overlap { first, second }),
        None => Ok(()),
    }
}

/// Finds the lowest two ranges that overlap. No range may be empty.
pub(crate) fn first_overlap(mut ranges: Vec<NamedRange>) -> Option<(NamedRange, NamedRange)> {
    ranges.sort_by_key(|named| named.range.start);
    ranges.windows(2).find_map(|pair| match pair {
        [first, second] if first.overlaps(second) => Some((first.clone(), second.clone())),
        _ => None,
    })
}

/// Sorts regions by address, merges adjoining and overlapping ones and drops empty ones.
fn merge(memory: &[Range<GuestAddress>]) -> Vec<Range<GuestAddress>> {
    let mut sorted: Vec<_> = memory.iter().filter(|region| region.start < region.end).cloned().collect();
    sorted.sort_by_key(|region| region.start);
    let mut merged: Vec<Range<GuestAddress>> = Vec::new();
    for region in sorted {
        match merged.last_mut() {
            Some(last) if region.start <= last.end => last.end = last.end.max(region.end),
            Some(_) | None => merged.push(region),
        }
    }
    merged
}
