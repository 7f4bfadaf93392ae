//! A block of bytes at an address: numbers, and texts that the numbers point to.
//!
//! Every protocol hands over structures with pointers in them. A block is written front to back; what has to be pointed to
//! is written first, or its address is computed. Since an address can only be chosen when the size is known, blocks are
//! built twice: at 0 to learn the size, then in place.

use vm_memory::GuestAddress;

use super::alloc::{FLOOR, FOUR_GIB, PageAllocator};
use super::boot_info::Blob;
use super::error::BootError;
use crate::bytes::length;

/// Bytes that begin at an address below 4 GiB.
#[derive(Debug, Clone)]
pub(super) struct InfoBuilder {
    base: u32,
    bytes: Vec<u8>,
}

impl InfoBuilder {
    fn at(base: u32) -> Self {
        Self { base, bytes: Vec::new() }
    }

    /// The address of the next byte.
    pub(super) fn here(&self) -> u32 {
        // A block lies below 4 GiB as a whole: `build` has seen to that. At 0, nobody reads the addresses.
        self.base.wrapping_add(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX))
    }

    /// The number of bytes so far.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Writes a text and its NUL; returns where it begins.
    pub(super) fn text(&mut self, text: &str) -> u32 {
        let start = self.here();
        self.bytes(text.as_bytes());
        self.bytes(&[0]);
        start
    }

    /// Fills up to a multiple of `boundary` with zeros.
    pub(super) fn align(&mut self, boundary: usize) {
        let length = self.bytes.len().next_multiple_of(boundary);
        self.bytes.resize(length, 0);
    }

    /// Writes over an earlier number.
    pub(super) fn patch(&mut self, offset: u32, value: u32) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(place) = self.bytes.get_mut(start..).and_then(|rest| rest.first_chunk_mut()) {
            *place = value.to_le_bytes();
        }
    }
}

/// Builds a block in the lowest place that is free for it, and takes that place.
pub(super) fn build(
    area: &mut PageAllocator,
    name: &'static str,
    mut write: impl FnMut(&mut InfoBuilder),
) -> Result<Blob, BootError> {
    let mut trial = InfoBuilder::at(0);
    write(&mut trial);
    let size = length(trial.bytes.len());
    let no_room = || BootError::NoRoom { what: name.to_owned(), size };
    let address = area.lowest(size, FLOOR, FOUR_GIB).ok_or_else(no_room)?;
    let mut block = InfoBuilder::at(u32::try_from(address.0).map_err(|_| no_room())?);
    write(&mut block);
    Ok(Blob { name, address, bytes: block.bytes })
}

/// An address below 4 GiB as 32-bit structures hold it.
pub(super) fn word(address: GuestAddress) -> u32 {
    u32::try_from(address.0).unwrap_or(u32::MAX)
}
