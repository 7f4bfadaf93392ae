//! Where execution starts: where the file says, at a symbol, or at an address.
//!
//! The result is a virtual address. Whether it is mapped is a question for those who build page tables; whether the
//! file has code there can be asked with [`LoadPlan::segment_at`].

use thiserror::Error;

use crate::address::VirtAddr;
use crate::plan::LoadPlan;
use crate::symbols::SymbolError;

/// How the user names the entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum EntryChoice {
    /// The one in the file: `e_entry` of an ELF file, the first byte of a flat binary.
    #[default]
    File,
    /// The address of a symbol.
    Symbol(String),
    /// An address, taken as it is. It need not be in this file: others may be loaded there.
    Address(VirtAddr),
}

/// Why there is no entry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// `e_entry` is 0 and nothing is loaded there.
    #[error("the file names no entry (e_entry is 0)")]
    None,
    /// `e_entry` is in no segment.
    #[error("the file's entry {0} is in none of its segments")]
    Outside(VirtAddr),
    /// The symbol has no address.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
}

impl EntryError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::None | Self::Outside(_) => {
                Some("name an entry, or link with `-e SYMBOL` and make the symbol global".to_owned())
            }
            Self::Symbol(error) => error.help(),
        }
    }
}

impl LoadPlan {
    /// The virtual address at which execution starts.
    ///
    /// # Errors
    ///
    /// When the file names no entry or one outside of all segments, or when there is no such symbol.
    pub fn resolve_entry(&self, choice: &EntryChoice) -> Result<VirtAddr, EntryError> {
        match choice {
            EntryChoice::File => {
                let entry = self.entry().ok_or(EntryError::None)?;
                self.segment_at(entry).map(|_| entry).ok_or(EntryError::Outside(entry))
            }
            EntryChoice::Symbol(name) => Ok(self.symbols().lookup(name)?.address),
            EntryChoice::Address(address) => Ok(*address),
        }
    }
}
