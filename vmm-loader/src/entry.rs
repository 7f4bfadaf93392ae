//! Entry of a file, checked against its segments.
//!
//! The result is a virtual address. This module does not check that page tables map it.

use thiserror::Error;

use crate::address::VirtAddr;
use crate::plan::LoadPlan;

/// File without a usable entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// File without an entry: `e_entry` is 0, and no segment is loaded there.
    #[error("the file names no entry (e_entry is 0)")]
    NoEntry,
    /// Entry `e_entry` that is outside all segments.
    #[error("the file's entry {0} is in none of its segments")]
    Outside(VirtAddr),
}

impl EntryError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoEntry | Self::Outside(_) => {
                Some("name an entry, or link with `-e SYMBOL` and make the symbol global".to_owned())
            }
        }
    }
}

impl LoadPlan {
    /// Returns the entry of the file, `e_entry` of an ELF file or the first byte of a flat binary, if it is in a segment.
    ///
    /// # Errors
    ///
    /// [`EntryError`] if the file has no entry, or one outside all segments.
    pub fn resolve_entry(&self) -> Result<VirtAddr, EntryError> {
        let entry = self.entry().ok_or(EntryError::NoEntry)?;
        self.segment_at(entry).map(|_| entry).ok_or(EntryError::Outside(entry))
    }
}
