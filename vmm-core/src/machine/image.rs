//! What a guest is to a machine: ranges of memory that it fills.
//!
//! Where the bytes come from (an ELF, a flat file, a program's own data) is the caller's business; vmm-core reads no
//! files. It can lay an open one over memory, so that nobody has to read it.

use kvm_sys_wrap::{FileRange, Gpa, GuestMemory};
use vm_memory::{Bytes, GuestMemoryError};

use crate::layout::LayoutEntry;
use crate::spec::gpa_range::GpaRange;

/// A guest, as it is put into memory.
pub trait GuestImage {
    /// The ranges it fills, named for messages. The layout places nothing else there.
    fn occupied(&self) -> Vec<LayoutEntry>;

    /// Parts of it that are to be mapped from files, and where. Done before [`GuestImage::place`].
    fn mapped(&self) -> Vec<(Gpa, FileRange)> {
        Vec::new()
    }

    /// Puts the rest of it into fresh memory, which reads as zeros.
    ///
    /// # Errors
    /// Whatever the image ran into.
    fn place(&self, memory: &GuestMemory) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// A guest that is just bytes at an address.
#[derive(Debug, Clone, Copy)]
pub struct FlatImage<'a> {
    /// Where they go.
    pub address: Gpa,
    /// The bytes.
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
