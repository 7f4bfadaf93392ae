//! Error type of all steps from a file to guest memory, for callers that take several of them. Each step has its own error.

use thiserror::Error;

use crate::bounds::BoundsError;
use crate::elf::error::ElfError;
use crate::entry::EntryError;
use crate::flat::FlatError;
use crate::load::WriteError;
use crate::symbols::SymbolError;

/// File that cannot be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// ELF file that cannot be loaded.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Flat binary that cannot be loaded.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// File without a usable entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// Symbol name that has no unique address.
    #[error(transparent)]
    Symbol(#[from] SymbolError),
    /// Plan that does not fit into memory or overlaps another plan.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    /// Plan that could not be written to guest memory.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl LoadError {
    /// Returns advice on the error for the user, if there is any: one sentence without a full stop.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Elf(error) => error.help(),
            Self::Entry(error) => error.help(),
            Self::Symbol(error) => error.help(),
            Self::Bounds(error) => error.help(),
            Self::Write(error) => error.help(),
            Self::Flat(_) => None,
        }
    }
}
