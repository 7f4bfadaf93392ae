//! Error type of ELF files. Each kind of error is defined beside the check that finds it.

use thiserror::Error;

use crate::elf::base::BaseError;
use crate::elf::dynamic::DynamicError;
use crate::elf::header::HeaderError;
use crate::elf::pt_load::SegmentError;
use crate::elf::relocate::RelocationError;

/// ELF file that cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ElfError {
    /// Invalid ELF header or program header table.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Segments that cannot be loaded.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// ELF file that needs a dynamic linker.
    #[error(transparent)]
    Dynamic(#[from] DynamicError),
    /// Base address that the file cannot be loaded at.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// Relocations that cannot be applied.
    #[error(transparent)]
    Relocation(#[from] RelocationError),
}

impl ElfError {
    /// Returns advice on the error for the user, if there is any: one sentence without a full stop.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Header(error) => error.help(),
            Self::Segment(error) => error.help(),
            Self::Dynamic(error) => error.help(),
            Self::Base(error) => error.help(),
            Self::Relocation(error) => error.help(),
        }
    }
}
