//! Flat binaries: bytes without a format, loaded unchanged at an address that the caller gives.
//!
//! The entry is the first byte. Virtual and physical addresses are equal.

use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{MAX_PHYSICAL_ADDRESS, VirtAddr};
use crate::bytes::length;
use crate::display::ByteSize;
use crate::plan::{ImageKind, LoadPlan};
use crate::segment::{Segment, SegmentFlags};
use crate::symbols::Symbols;

/// Bytes that cannot be loaded as a flat binary.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FlatError {
    /// Empty file, which has no instruction to run.
    #[error("the file is empty")]
    Empty,
    /// File that would end above the highest physical address of any x86 CPU ([`MAX_PHYSICAL_ADDRESS`]).
    #[error("{} at {:#x} would end after {:#x}, the last physical address there is", ByteSize(*.size), .address.0, MAX_PHYSICAL_ADDRESS)]
    AddressTooHigh {
        /// Guest-physical address that the file was to be loaded at.
        address: GuestAddress,
        /// Size of the file in bytes.
        size: u64,
    },
}

/// Plans how to load a flat binary at a guest-physical address.
///
/// # Errors
///
/// [`FlatError`] if the file is empty, or if the file would end above [`MAX_PHYSICAL_ADDRESS`].
pub fn plan(file: &[u8], address: GuestAddress) -> Result<LoadPlan, FlatError> {
    let plan = plan_data(file, address, "")?;
    Ok(LoadPlan { kind: ImageKind::Flat, entry: Some(VirtAddr(address.0)), ..plan })
}

/// Plans how to load bytes that are not entered, such as a boot module. `name` is for messages and memory maps.
///
/// # Errors
///
/// [`FlatError`] if there are no bytes, or if they would end above [`MAX_PHYSICAL_ADDRESS`].
pub fn plan_data(bytes: &[u8], address: GuestAddress, name: &'static str) -> Result<LoadPlan, FlatError> {
    let size = length(bytes.len());
    if size == 0 {
        return Err(FlatError::Empty);
    }
    if address.0.checked_add(size - 1).is_none_or(|last| last > MAX_PHYSICAL_ADDRESS) {
        return Err(FlatError::AddressTooHigh { address, size });
    }
    let segment = Segment {
        index: 0,
        phys: address,
        virt: VirtAddr(address.0),
        file_offset: 0,
        file_size: size,
        mem_size: size,
        align: 1,
        flags: SegmentFlags::ALL,
    };
    Ok(LoadPlan {
        class: None,
        kind: ImageKind::Raw(name),
        file_size: size,
        segments: vec![segment],
        relocations: Vec::new(),
        entry: None,
        symbols: Symbols::default(),
        notes: Vec::new(),
    })
}
