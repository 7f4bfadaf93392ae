//! The one error type that a caller meets. Each kind of mistake is defined beside the check that finds it.

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

/// Why a file cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file's headers rule it out.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A segment cannot be loaded.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The file needs a dynamic linker.
    #[error(transparent)]
    DynamicSection(#[from] DynamicError),
    /// The file cannot go to the base asked for.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A relocation cannot be applied.
    #[error(transparent)]
    Relocation(#[from] RelocationError),
    /// A flat binary cannot be loaded.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// There is no entry.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The plan does not fit into memory or beside another one.
    #[error(transparent)]
    Fit(#[from] BoundsError),
    /// The plan could not be carried out.
    #[error(transparent)]
    Place(#[from] WriteError),
}

impl LoadError {
    /// What the user can do about it, where there is something: one sentence for a `help:` line.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Header(error) => error.help(),
            Self::Segment(error) => error.help(),
            Self::DynamicSection(error) => error.help(),
            Self::Base(error) => error.help(),
            Self::Relocation(error) => error.help(),
            Self::Entry(error) => error.help(),
            Self::Fit(error) => error.help(),
            Self::Flat(_) | Self::Place(_) => None,
        }
    }
}
