//! Multiboot 2 (Multiboot2 Specification 2.0).
//!
//! The kernel is an ELF file, or any file whose header has load addresses. It is entered in 32-bit code. The header is a list
//! of tags, and so is the boot information (`multiboot2/info.rs`).
//!
//! A required header tag that cannot be satisfied is an error: a framebuffer, a text display, or a tag that the specification
//! does not define. Tags for UEFI machines and the relocatable tag are ignored. As in GRUB, requested information that the
//! machine lacks (boot device, APM) is left out; the kernel sees which tags it got.

mod info;

use std::fmt;

use thiserror::Error;
use vm_memory::GuestAddress;

use super::boot_plan::{BootPlan, HeaderRequests, physical_entry32};
use super::error::BootError;
use super::multiboot::{AddressFields, MultibootAddressError, check_entry, find_anywhere};
use crate::bytes::{slice, u16_at, u32_at};
use crate::elf::header::is_elf;
use crate::elf::{self, ElfOptions};
use crate::protocol::{OperandWidth, Protocol};

pub(super) use info::handoff;

/// `MULTIBOOT2_HEADER_MAGIC`: first word of the header.
const HEADER_MAGIC: u32 = 0xe852_50d6;
/// `MULTIBOOT_SEARCH`: the header lies in this many bytes from the start of the file, at a multiple of 8.
const SEARCH_SIZE: u64 = 32768;
/// Architecture 0: 32-bit protected mode of the i386.
const ARCHITECTURE_I386: u32 = 0;
/// Offset of the first tag in the header.
const FIRST_TAG: u64 = 16;

/// Header tags (specification, 3.1.3 to 3.1.13).
mod tag {
    pub(super) const END: u16 = 0;
    pub(super) const INFORMATION_REQUEST: u16 = 1;
    pub(super) const ADDRESS: u16 = 2;
    pub(super) const ENTRY: u16 = 3;
    pub(super) const CONSOLE: u16 = 4;
    pub(super) const FRAMEBUFFER: u16 = 5;
    pub(super) const MODULE_ALIGN: u16 = 6;
    pub(super) const EFI_BOOT_SERVICES: u16 = 7;
    pub(super) const EFI_ENTRY_I386: u16 = 8;
    pub(super) const EFI_ENTRY_AMD64: u16 = 9;
    pub(super) const RELOCATABLE: u16 = 10;
}

/// Highest type of an information tag that the specification defines.
const MAX_INFORMATION_TYPE: u32 = 21;

/// Multiboot 2 header that is missing, damaged or cannot be satisfied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Multiboot2Error {
    /// File without a Multiboot 2 header in its first 32 KiB.
    #[error("no header in the first 32 KiB")]
    NoHeader,
    /// Multiboot 2 header with a wrong checksum. Holds its file offset.
    #[error("the header at {0:#x} has a wrong checksum")]
    Checksum(u64),
    /// Valid header beyond the first 32 KiB. Holds its file offset.
    #[error("the header at {0:#x} is beyond the first 32 KiB, where boot loaders look")]
    TooLate(u64),
    /// Valid header that is not at a multiple of 8. Holds its file offset.
    #[error("the header at {0:#x} is not at a multiple of 8 bytes of the file")]
    Misaligned(u64),
    /// Header for another architecture than the i386: MIPS (4), or an unknown one.
    #[error("the header is for architecture {0}, not for the i386 (0)")]
    Architecture(u32),
    /// Header or tag that is cut off or too short. Holds its file offset.
    #[error("the header's tag at {0:#x} is cut off")]
    TagCutOff(u64),
    /// Kernel that requires a display, which the machine does not have.
    #[error("the kernel demands {0}, and this machine has no display")]
    Display(DisplayRequest),
    /// Header tag that is required and that the specification does not define.
    #[error("the kernel demands what the specification does not know (header tag {0})")]
    UnknownTag(u16),
    /// Information type that is required and that the specification does not define.
    #[error("the kernel demands information that the specification does not know (type {0})")]
    UnknownRequest(u32),
    /// File that is not an ELF file, with a header without addresses.
    #[error("the file is no ELF file, and its header gives no addresses")]
    NoAddresses,
    /// Header with addresses and without an entry.
    #[error("the header gives addresses and no entry")]
    NoEntry,
    /// Address fields that contradict each other or the file.
    #[error("the header's addresses do not fit: {0}")]
    Addresses(MultibootAddressError),
}

/// Display that a Multiboot 2 header requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisplayRequest {
    /// Text console (console flags tag).
    Console,
    /// Linear framebuffer (framebuffer tag).
    Framebuffer,
}

/// Writes the request as it appears in a message: `a framebuffer`.
impl fmt::Display for DisplayRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Console => "a console on a display",
            Self::Framebuffer => "a framebuffer",
        })
    }
}

impl Multiboot2Error {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Display(_) => {
                "mark the tag optional (bit 0 of its flags) if the kernel can do with a serial port alone"
            }
            Self::Checksum(_) => "magic, architecture, length and checksum have to add up to 0",
            Self::TooLate(_) => "put the header's section first in the linker script, before all others",
            Self::Misaligned(_) => "align the header's section to 8 bytes",
            Self::NoEntry => "add an entry address tag (3)",
            Self::NoHeader
            | Self::Architecture(_)
            | Self::TagCutOff(_)
            | Self::UnknownTag(_)
            | Self::UnknownRequest(_)
            | Self::NoAddresses
            | Self::Addresses(_) => return None,
        };
        Some(text.to_owned())
    }
}

/// Multiboot 2 header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Multiboot2Header {
    /// File offset.
    offset: u64,
    /// `header_addr`, `load_addr`, `load_end_addr`, `bss_end_addr`.
    addresses: Option<[u32; 4]>,
    entry: Option<u32>,
    requests: InformationRequests,
}

/// Information request tags of the header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct InformationRequests {
    /// Requested information types.
    types: Vec<u32>,
}

/// Returns the file offset of the header.
pub(super) fn find(file: &[u8]) -> Option<u64> {
    search(file).ok()
}

/// Returns the problem of a damaged header if the file has one and no valid header.
pub(super) fn find_damaged(file: &[u8]) -> Option<Multiboot2Error> {
    search(file).err().filter(|error| *error != Multiboot2Error::NoHeader)
}

/// Returns the problem of a valid header at a place where boot loaders do not find it.
pub(super) fn find_misplaced(file: &[u8]) -> Option<Multiboot2Error> {
    let offset = find_anywhere(file, HEADER_MAGIC, 4)?;
    let is_late = offset > SEARCH_SIZE - FIRST_TAG;
    Some(if is_late { Multiboot2Error::TooLate(offset) } else { Multiboot2Error::Misaligned(offset) })
}

/// Checks that the header's requirements can be satisfied.
pub(super) fn check(file: &[u8]) -> Result<(), Multiboot2Error> {
    read(file).map(|_| ())
}

/// Finds the first header with a valid checksum and returns its file offset.
fn search(file: &[u8]) -> Result<u64, Multiboot2Error> {
    let mut damaged = Multiboot2Error::NoHeader;
    for offset in (0..=SEARCH_SIZE - FIRST_TAG).step_by(8) {
        let Some(magic) = u32_at(file, offset) else { break };
        if magic != HEADER_MAGIC {
            continue;
        }
        let word = |number: u64| u32_at(file, offset + 4 * number);
        let (Some(architecture), Some(length), Some(checksum)) = (word(1), word(2), word(3)) else { break };
        if [architecture, length, checksum].iter().fold(magic, |sum, word| sum.wrapping_add(*word)) == 0 {
            return Ok(offset);
        }
        if damaged == Multiboot2Error::NoHeader {
            damaged = Multiboot2Error::Checksum(offset);
        }
    }
    Err(damaged)
}

/// Reads the header. Refuses required tags that cannot be satisfied.
fn read(file: &[u8]) -> Result<Multiboot2Header, Multiboot2Error> {
    let offset = search(file)?;
    let cut_off = |at| Multiboot2Error::TagCutOff(at);
    match u32_at(file, offset + 4) {
        Some(ARCHITECTURE_I386) => {}
        other => return Err(Multiboot2Error::Architecture(other.unwrap_or(u32::MAX))),
    }
    let length = u32_at(file, offset + 8).ok_or_else(|| cut_off(offset))?;
    let bytes = slice(file, offset, length.into()).ok_or_else(|| cut_off(offset))?;
    let mut header = Multiboot2Header { offset, ..Multiboot2Header::default() };
    let mut at = FIRST_TAG;
    loop {
        let file_offset = offset + at;
        let (Some(kind), Some(flags), Some(size)) =
            (u16_at(bytes, at), u16_at(bytes, at + 2), u32_at(bytes, at + 4))
        else {
            // Some kernels have no end tag. The header's length ends the list too.
            return if at >= length.into() { finish(header, file) } else { Err(cut_off(file_offset)) };
        };
        if kind == tag::END {
            return finish(header, file);
        }
        // A size below that of a tag's own header would make the loop endless.
        let tag =
            slice(bytes, at, size.into()).filter(|tag| tag.len() >= 8).ok_or_else(|| cut_off(file_offset))?;
        header.apply(kind, flags & 1 != 0, tag, file_offset)?;
        at = at.saturating_add(u64::from(size).next_multiple_of(8));
    }
}

/// Checks that the header has the tags that a file needs which is not an ELF file.
fn finish(header: Multiboot2Header, file: &[u8]) -> Result<Multiboot2Header, Multiboot2Error> {
    match (header.addresses, header.entry) {
        (None, _) if !is_elf(file) => Err(Multiboot2Error::NoAddresses),
        (Some(_), None) if !is_elf(file) => Err(Multiboot2Error::NoEntry),
        (_, _) => Ok(header),
    }
}

impl Multiboot2Header {
    /// Applies one tag of the header.
    fn apply(
        &mut self,
        kind: u16,
        optional: bool,
        tag: &[u8],
        file_offset: u64,
    ) -> Result<(), Multiboot2Error> {
        let word = |number: u64| u32_at(tag, 8 + 4 * number).ok_or(Multiboot2Error::TagCutOff(file_offset));
        match kind {
            tag::INFORMATION_REQUEST => {
                let words = tag.get(8..).unwrap_or_default().as_chunks::<4>().0;
                let types: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
                let unknown = types.iter().find(|kind| **kind > MAX_INFORMATION_TYPE);
                if let (Some(unknown), false) = (unknown, optional) {
                    return Err(Multiboot2Error::UnknownRequest(*unknown));
                }
                self.requests.types.extend(types);
            }
            tag::ADDRESS => self.addresses = Some([word(0)?, word(1)?, word(2)?, word(3)?]),
            tag::ENTRY => self.entry = Some(word(0)?),
            // Bit 0: the kernel requires a console.
            tag::CONSOLE if word(0)? & 1 != 0 && !optional => {
                return Err(Multiboot2Error::Display(DisplayRequest::Console));
            }
            tag::FRAMEBUFFER if !optional => {
                return Err(Multiboot2Error::Display(DisplayRequest::Framebuffer));
            }
            tag::CONSOLE
            | tag::FRAMEBUFFER
            | tag::MODULE_ALIGN
            | tag::EFI_BOOT_SERVICES
            | tag::EFI_ENTRY_I386
            | tag::EFI_ENTRY_AMD64
            | tag::RELOCATABLE => {}
            unknown if !optional => return Err(Multiboot2Error::UnknownTag(unknown)),
            _ => {}
        }
        Ok(())
    }
}

/// Plans the image and its entry.
pub(super) fn plan(file: &[u8], options: &ElfOptions) -> Result<BootPlan, BootError> {
    let header = read(file)?;
    let image = match header.addresses {
        None => elf::plan(file, options)?,
        Some([header_addr, load_addr, load_end, bss_end]) => {
            let load = (load_addr != u32::MAX).then_some(load_addr.into());
            let (load_end, bss_end) = (load_end.into(), bss_end.into());
            let addresses = AddressFields { header: header_addr.into(), load, load_end, bss_end };
            addresses.image(file, header.offset).map_err(Multiboot2Error::Addresses)?
        }
    };
    let entry = match header.entry.map(u64::from) {
        Some(entry) => {
            check_entry(&image, entry).map_err(Multiboot2Error::Addresses)?;
            GuestAddress(entry)
        }
        None if header.addresses.is_some() => return Err(Multiboot2Error::NoEntry.into()),
        None => physical_entry32(&image)?,
    };
    let (protocol, width) = (Protocol::Multiboot2, Some(OperandWidth::Bits32));
    Ok(BootPlan {
        protocol,
        image,
        entry: Some(entry),
        width,
        is_linux: false,
        requests: HeaderRequests::Multiboot2(header.requests),
    })
}
