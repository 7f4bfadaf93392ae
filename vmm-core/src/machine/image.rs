//! Guest images: ranges of memory that a guest fills before its first instruction.
//!
//! The caller gets the bytes, from an ELF file, a flat file or its own data. vmm-core does not read the guest's file. It can
//! map an open file over memory, so that it need not be read at all.

use kvm_sys_wrap::{FileRange, Gpa, GuestMemory};
use vm_memory::{Bytes, GuestMemoryError};

use crate::layout::LayoutEntry;
use crate::spec::gpa_range::GpaRange;

/// Guest to be loaded into memory.
pub trait GuestImage {
    /// Ranges that the guest fills, named for messages. The layout places nothing else there.
    fn occupied(&self) -> Vec<LayoutEntry>;

    /// Parts of the guest that are mapped from files, with their addresses. They are mapped before [`GuestImage::place`] is
    /// called.
    fn mapped(&self) -> Vec<(Gpa, FileRange)> {
        Vec::new()
    }

    /// Writes the rest of the guest into memory, which reads as zeros before.
    ///
    /// # Errors
    /// Error of the image's own.
    fn place(&self, memory: &GuestMemory) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Guest that consists of bytes at an address.
#[derive(Debug, Clone, Copy)]
pub struct FlatImage<'a> {
    /// Guest-physical address of the first byte.
    pub address: Gpa,
    /// Bytes to load.
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
