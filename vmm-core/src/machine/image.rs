//! Guest images: ranges of memory that a guest fills before its first instruction.
//!
//! The caller gets the bytes, from an ELF file, a flat file or its own data. vmm-core does not read the guest's file. It can
//! map an open file over memory, so that it need not be read at all.

use kvm_sys_wrap::{FileRange, Gpa, GuestMemory};
use vm_memory::{Bytes, GuestMemoryError};

use crate::layout::LayoutEntry;
use crate::spec::gpa_range::GpaRange;

/// Guest that can be loaded into the memory of a machine.
pub trait GuestImage {
    /// Returns the ranges that the guest fills, named for messages. The layout places nothing else there.
    fn occupied(&self) -> Vec<LayoutEntry>;

    /// Returns the parts of the guest that are mapped from files, with their addresses. They are mapped before
    /// [`GuestImage::place`] is called.
    fn mapped(&self) -> Vec<(Gpa, FileRange)> {
        Vec::new()
    }

    /// Writes those parts of the guest into memory that are not mapped from files.
    ///
    /// # Errors
    /// Error of the image's own.
    fn place(&self, memory: &GuestMemory) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Guest that consists of bytes at one address.
#[derive(Debug, Clone, Copy)]
pub struct FlatImage<'a> {
    /// Guest-physical address of the first byte.
    pub address: Gpa,
    /// Bytes to load at the address.
    pub bytes: &'a [u8],
}

impl GuestImage for FlatImage<'_> {
    fn occupied(&self) -> Vec<LayoutEntry> {
        let size = u64::try_from(self.bytes.len()).unwrap_or(u64::MAX);
        let range = GpaRange::new(self.address, size);
        range.map(|range| LayoutEntry::guest("guest", range)).into_iter().collect()
    }

    fn place(&self, memory: &GuestMemory) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let written: Result<(), GuestMemoryError> = memory.write_slice(self.bytes, self.address.into());
        Ok(written?)
    }
}
