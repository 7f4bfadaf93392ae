//! Error type of loading. Each kind of error is defined beside the check that finds it.

use thiserror::Error;

use crate::bounds::BoundsError;
use crate::elf::base::BaseError;
use crate::elf::dynamic::DynamicError;
use crate::elf::header::HeaderError;
use crate::elf::pt_load::SegmentError;
use crate::elf::relocate::RelocationError;
use crate::entry::EntryError;
use crate::flat::FlatError;
use crate::load::WriteError;
use crate::symbols::SymbolError;

/// File that cannot be loaded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Invalid ELF header or program header table.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Invalid segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// ELF file that needs a dynamic linker.
    #[error(transparent)]
    Dynamic(#[from] DynamicError),
    /// Base address that the file cannot be loaded at.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// Relocation that cannot be applied.
    #[error(transparent)]
    Relocation(#[from] RelocationError),
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
    /// Returns advice for the user, if there is any: one sentence without a full stop.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Header(error) => error.help(),
            Self::Segment(error) => error.help(),
            Self::Dynamic(error) => error.help(),
            Self::Base(error) => error.help(),
            Self::Relocation(error) => error.help(),
            Self::Entry(error) => error.help(),
            Self::Symbol(error) => error.help(),
            Self::Bounds(error) => error.help(),
            Self::Flat(_) | Self::Write(_) => None,
        }
    }
}
