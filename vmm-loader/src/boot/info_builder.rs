//! Builder for boot structures that contain pointers to other parts of themselves.
//!
//! A structure is written from front to back. A pointer is patched when its target has been written, or its target is written
//! first. Since the address depends on the size, each structure is built twice: at address 0 to learn its size, and then at
//! its real address.

use vm_memory::GuestAddress;

use super::alloc::{FOUR_GIB, MIN_ADDRESS, PageAllocator};
use super::boot_info::Blob;
use super::error::BootError;
use crate::bytes::length;

/// Builder for bytes at an address below 4 GiB.
#[derive(Debug, Clone)]
pub(super) struct InfoBuilder {
    base: u32,
    bytes: Vec<u8>,
}

impl InfoBuilder {
    fn new(base: u32) -> Self {
        Self { base, bytes: Vec::new() }
    }

    /// Returns the guest-physical address of the next byte.
    pub(super) fn address(&self) -> u32 {
        // `build` makes sure that the whole structure is below 4 GiB. The addresses of the first pass, at 0, are not used.
        self.base.wrapping_add(self.len())
    }

    /// Returns the number of bytes written.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// Appends a little-endian 32-bit number.
    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    /// Appends a little-endian 64-bit number.
    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    /// Appends bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Appends a text and a NUL. Returns the address of the text.
    pub(super) fn c_string(&mut self, text: &str) -> u32 {
        let start = self.address();
        self.bytes(text.as_bytes());
        self.bytes(&[0]);
        start
    }

    /// Appends zeros up to a multiple of `boundary`.
    pub(super) fn align(&mut self, boundary: usize) {
        let length = self.bytes.len().next_multiple_of(boundary);
        self.bytes.resize(length, 0);
    }

    /// Overwrites the 32-bit number at `offset`.
    pub(super) fn patch(&mut self, offset: u32, value: u32) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(word) = self.bytes.get_mut(start..).and_then(|rest| rest.first_chunk_mut()) {
            *word = value.to_le_bytes();
        }
    }
}

/// Builds a structure and allocates the lowest free memory for it.
pub(super) fn build(
    allocator: &mut PageAllocator,
    name: &'static str,
    mut write: impl FnMut(&mut InfoBuilder),
) -> Result<Blob, BootError> {
    let mut first_pass = InfoBuilder::new(0);
    write(&mut first_pass);
    let size = length(first_pass.bytes.len());
    let no_memory = || BootError::NoFreeMemory { what: name.to_owned(), size };
    let address = allocator.allocate_lowest(size, MIN_ADDRESS, FOUR_GIB).ok_or_else(no_memory)?;
    let mut builder = InfoBuilder::new(u32::try_from(address.0).map_err(|_| no_memory())?);
    write(&mut builder);
    Ok(Blob { name, address, bytes: builder.bytes })
}

/// Converts an address below 4 GiB to the form of 32-bit structures.
pub(super) fn address32(address: GuestAddress) -> u32 {
    u32::try_from(address.0).unwrap_or(u32::MAX)
}
