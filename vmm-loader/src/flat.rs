//! Flat binaries: bytes without a format, loaded as they are at an address that the user gives.
//!
//! Execution starts at the first byte unless an address says otherwise. Virtual and physical address are the same.

use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{ByteSize, PHYSICAL_END, VirtAddr};
use crate::bytes::length;
use crate::error::LoadError;
use crate::plan::{ImageKind, LoadPlan};
use crate::segment::{Segment, SegmentFlags};
use crate::symbols::Symbols;

/// Why bytes cannot be loaded as they are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FlatError {
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The end is above the 52 bits of a physical address.
    #[error("{} at {:#x} would end after {:#x}, the last physical address there is", ByteSize(*.size), .address.0, PHYSICAL_END - 1)]
    AddressTooHigh {
        /// Where it was to be loaded.
        address: GuestAddress,
        /// Size of the file.
        size: u64,
    },
}

/// Plans how to load a flat binary at a guest-physical address.
///
/// # Errors
///
/// When the file is empty, or does not fit between the address and the end of the physical address space.
pub fn plan(file: &[u8], address: GuestAddress) -> Result<LoadPlan, LoadError> {
    let plan = data(file, address, "")?;
    Ok(LoadPlan { kind: ImageKind::Flat, entry: Some(VirtAddr(address.0)), ..plan })
}

/// Plans how to load bytes that nobody enters; `what` they are is for messages and maps: `module`.
///
/// # Errors
///
/// As [`plan`].
pub fn data(file: &[u8], address: GuestAddress, what: &'static str) -> Result<LoadPlan, LoadError> {
    let size = length(file.len());
    if size == 0 {
        return Err(FlatError::Empty.into());
    }
    if address.0.checked_add(size).is_none_or(|end| end > PHYSICAL_END) {
        return Err(FlatError::AddressTooHigh { address, size }.into());
    }
    let virt = VirtAddr(address.0);
    let segment = Segment {
        index: 0,
        phys: address,
        virt,
        file_offset: 0,
        file_size: size,
        mem_size: size,
        align: 1,
        flags: SegmentFlags::ALL,
    };
    Ok(LoadPlan {
        class: None,
        kind: ImageKind::Raw(what),
        file_size: size,
        segments: vec![segment],
        relocations: Vec::new(),
        entry: None,
        symbols: Symbols::default(),
        notes: Vec::new(),
    })
}
