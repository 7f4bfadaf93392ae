//! A boot sector: what a PC's BIOS reads from the start of a disk to 0x7c00, and enters in 16-bit code.
//!
//! There is no BIOS here. Nothing can be read from the disk that the sector came from, and an `int 0x10` or `int 0x13` finds
//! a vector table of zeros. So only a sector that does all by itself can run, and a larger file is refused.

use thiserror::Error;
use vm_memory::GuestAddress;

use super::boot_plan::{BootPlan, HeaderRequests, raw};
use super::error::BootError;
use crate::address::ByteSize;
use crate::bytes::{length, u16_at};
use crate::protocol::{CodeWidth, Protocol};

/// Where every BIOS puts it.
const ADDRESS: u64 = 0x7c00;
/// The bytes 55 aa at its end.
const SIGNATURE: (u64, u16) = (510, 0xaa55);
/// Bytes of a sector.
const SIZE: u64 = 512;

/// Why a file is no boot sector that could run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BootSectorError {
    /// The bytes 55 aa are not there.
    #[error("bytes 510 and 511 are not 55 aa")]
    Signature,
    /// There is more than one sector.
    #[error("the file has {}, and only a BIOS could load more than the first 512 bytes", ByteSize(*.0))]
    ByteSize(u64),
}

impl BootSectorError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Signature => {
                Some("to run bytes as they are, use `boot = \"flat\"` with an address".to_owned())
            }
            Self::ByteSize(_) => Some(
                "there is no BIOS here; to load all of it, use `boot = \"flat\"` with `address = 0x7c00`"
                    .to_owned(),
            ),
        }
    }
}

/// Whether the file begins with a sector that a BIOS would start.
pub(super) fn has_signature(file: &[u8]) -> bool {
    u16_at(file, SIGNATURE.0) == Some(SIGNATURE.1)
}

/// Whether the file is one.
pub(super) fn check(file: &[u8]) -> Result<(), BootSectorError> {
    if !has_signature(file) {
        return Err(BootSectorError::Signature);
    }
    if length(file.len()) == SIZE { Ok(()) } else { Err(BootSectorError::ByteSize(length(file.len()))) }
}

pub(super) fn plan(file: &[u8]) -> Result<BootPlan, BootError> {
    check(file)?;
    Ok(BootPlan {
        protocol: Protocol::BootSector,
        image: raw("boot sector", file, (0, SIZE), ADDRESS, SIZE),
        entry: Some(GuestAddress(ADDRESS)),
        width: Some(CodeWidth::Bits16),
        is_linux: false,
        requests: HeaderRequests::None,
    })
}
