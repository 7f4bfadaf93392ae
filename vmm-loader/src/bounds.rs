//! Whether plans fit: into the memory there is, and next to each other.
//!
//! Pure functions on ranges. They need the machine's memory map and no memory, so `vmm-cli check` can ask them too.

use std::ops::Range;

use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{DisplayRange, NamedRange, first_overlap, list};
use crate::plan::LoadPlan;

/// Why plans do not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BoundsError {
    /// There is no memory for all of a segment.
    #[error("{what} is outside memory ({})", memory_list(.memory))]
    NoMemory {
        /// What does not fit, and where.
        what: NamedRange,
        /// The memory there is, lowest first, adjoining regions as one.
        memory: Vec<Range<GuestAddress>>,
    },
    /// Two files want the same memory.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// The one with the lower address, after the name of its file.
        first: NamedRange,
        /// The other.
        second: NamedRange,
    },
}

impl BoundsError {
    /// What the user can do about it.
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
    /// Checks that each segment lies in `memory`: inside one region or across several that adjoin. The regions may
    /// come in any order.
    ///
    /// # Errors
    ///
    /// [`BoundsError::NoMemory`] for the first segment that has an address outside.
    pub fn check_fits(&self, memory: &[Range<GuestAddress>]) -> Result<(), BoundsError> {
        let memory = merged(memory);
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

/// Checks that files which go into one machine do not overlap; each comes with the name to call it in a message.
///
/// # Errors
///
/// [`BoundsError::Overlap`] for the two lowest ranges that do.
pub fn check_overlap(files: &[(&str, &LoadPlan)]) -> Result<(), BoundsError> {
    let ranges = files.iter().flat_map(|(file, plan)| {
        let name = move |range: NamedRange| NamedRange { name: format!("{file}: {}", range.name), ..range };
        plan.ranges().into_iter().map(name)
    });
    match first_overlap(ranges.collect()) {
        Some((first, second)) => Err(BoundsError::Overlap { first, second }),
        None => Ok(()),
    }
}

/// The regions by address, adjoining and overlapping ones as one, empty ones left out.
fn merged(memory: &[Range<GuestAddress>]) -> Vec<Range<GuestAddress>> {
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
