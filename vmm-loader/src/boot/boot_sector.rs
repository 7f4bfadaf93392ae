//! Boot sector: the first 512 bytes of a disk, which a PC's BIOS loads at 0x7c00 and enters in 16-bit code.
//!
//! There is no BIOS: the disk cannot be read, and `int 0x10` or `int 0x13` find a vector table of zeros. Only a sector that
//! needs neither can run, so a larger file is refused.

use thiserror::Error;
use vm_memory::GuestAddress;

use super::boot_info::BootHandoff;
use super::boot_plan::{BootPlan, HeaderRequests, single_segment};
use super::error::BootError;
use crate::bytes::{length, u16_at};
use crate::display::ByteSize;
use crate::plan::LoadPlan;
use crate::protocol::{OperandWidth, Protocol};
use crate::register::Register;

/// Load address of every BIOS.
const LOAD_ADDRESS: u64 = 0x7c00;
/// Offset of the signature, the bytes 55 aa.
const SIGNATURE_OFFSET: u64 = 510;
/// Signature as a little-endian number.
const SIGNATURE: u16 = 0xaa55;
/// Size of a sector in bytes.
const SECTOR_SIZE: u64 = 512;

/// File that is not a boot sector, or cannot run without a BIOS.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BootSectorError {
    /// Boot sector without the signature 0xaa55.
    #[error("bytes 510 and 511 are not 55 aa")]
    Signature,
    /// File of more than one sector. Holds its size in bytes.
    #[error("the file has {}, and only a BIOS could load more than the first 512 bytes", ByteSize(*.0))]
    Size(u64),
}

impl BootSectorError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Signature => "to run bytes as they are, load them as a flat binary at an address",
            Self::Size(_) => "there is no BIOS here; to load all of it, load it as a flat binary at 0x7c00",
        };
        Some(text.to_owned())
    }
}

/// Returns true if the file begins with a sector that a BIOS would start.
pub(super) fn has_signature(file: &[u8]) -> bool {
    u16_at(file, SIGNATURE_OFFSET) == Some(SIGNATURE)
}

/// Checks that the file is a boot sector and nothing else.
pub(super) fn check(file: &[u8]) -> Result<(), BootSectorError> {
    if !has_signature(file) {
        return Err(BootSectorError::Signature);
    }
    let size = length(file.len());
    if size == SECTOR_SIZE { Ok(()) } else { Err(BootSectorError::Size(size)) }
}

/// Plans how to start a boot sector.
pub(super) fn plan(file: &[u8]) -> Result<BootPlan, BootError> {
    check(file)?;
    Ok(BootPlan {
        protocol: Protocol::BootSector,
        image: single_segment("boot sector", file, (0, SECTOR_SIZE), LOAD_ADDRESS, SECTOR_SIZE),
        entry: Some(GuestAddress(LOAD_ADDRESS)),
        width: Some(OperandWidth::Bits16),
        is_linux: false,
        requests: HeaderRequests::BootSector,
    })
}

/// Passes the number of the boot drive in DL, as a BIOS does: 0x80 is the first hard disk.
pub(super) fn handoff(image: LoadPlan) -> BootHandoff {
    BootHandoff::without_boot_info(image, vec![(Register::Rdx, 0x80)])
}
