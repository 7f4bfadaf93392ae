//! Resolution of an entry choice to an address.
//!
//! The result is a virtual address. This module does not check that page tables map it;
//! [`LoadPlan::segment_at`] tells if the file has bytes there.

use thiserror::Error;

use crate::address::VirtAddr;
use crate::entry::{EntryChoice, EntryPoint};
use crate::plan::LoadPlan;
use crate::symbols::SymbolError;

/// Entry choice that has no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// `e_entry` is 0, and no segment is loaded there.
    #[error("the file names no entry (e_entry is 0)")]
    NoEntry,
    /// `e_entry` is outside all segments.
    #[error("the file's entry {0} is in none of its segments")]
    Outside(VirtAddr),
    /// Symbol without an address.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
}

impl EntryError {
    /// Returns advice for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoEntry | Self::Outside(_) => {
                Some("name an entry, or link with `-e SYMBOL` and make the symbol global".to_owned())
            }
            Self::Symbol(error) => error.help(),
        }
    }
}

impl LoadPlan {
    /// Resolves an entry choice to the address of the first instruction.
    ///
    /// # Errors
    ///
    /// [`EntryError`] if the file's entry is asked for and missing or outside all segments, or if the symbol has no unique
    /// address.
    pub fn resolve_entry(&self, choice: &EntryChoice) -> Result<EntryPoint, EntryError> {
        let address = match choice {
            EntryChoice::File => {
                let entry = self.entry().ok_or(EntryError::NoEntry)?;
                self.segment_at(entry).map(|_| entry).ok_or(EntryError::Outside(entry))?
            }
            EntryChoice::Symbol(name) => self.symbols().lookup(name)?.address,
            EntryChoice::Address(address) => *address,
            EntryChoice::Segmented { segment, offset } => {
                return Ok(EntryPoint::Segmented { segment: *segment, offset: *offset });
            }
        };
        Ok(EntryPoint::Address(address))
    }
}
