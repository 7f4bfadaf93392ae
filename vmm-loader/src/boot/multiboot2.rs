//! Multiboot 2 (Multiboot2 Specification 2.0): a header of tags near the start of the file.
//!
//! As in version 1 the kernel is an ELF file or says itself where its bytes go, and is entered in 32-bit code. What it is
//! told is a list of tags, too: `multiboot2/info.rs`.
//!
//! A tag may be marked optional. One that is not, and cannot be obeyed, is refused: a framebuffer, a text display, or what
//! the specification does not know. Tags for UEFI machines mean nothing on this one and are passed over, as is the leave to
//! be relocated. A request for information that this machine lacks (a boot device, APM) is met with silence, as GRUB does;
//! the kernel sees which tags are there.

mod info;

use thiserror::Error;
use vm_memory::GuestAddress;

use super::boot_plan::{BootPlan, HeaderRequests, entry32};
use super::error::BootError;
use super::multiboot::{Addresses, check_entry};
use crate::bytes::{slice, u16_at, u32_at};
use crate::elf::header::is_elf;
use crate::elf::{self, ElfOptions};
use crate::protocol::{CodeWidth, Protocol};

pub(super) use info::handoff;

/// What the header begins with.
const MAGIC: u32 = 0xe852_50d6;
/// The header lies in so many bytes from the start, at a multiple of 8.
const SEARCH: u64 = 32768;
/// Architecture: 32-bit protected mode of i386.
const I386: u32 = 0;
/// Bytes before the first tag.
const FIRST_TAG: u64 = 16;

/// Tags of the header, 3.1.3 to 3.1.13.
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

/// The highest number of an information tag that the specification has.
const LAST_INFORMATION: u32 = 21;

/// Why a Multiboot 2 header cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Multiboot2Error {
    /// No header.
    #[error("no header in the first 32 KiB")]
    None,
    /// The magic number without a sum of 0 behind it.
    #[error("the header at {0:#x} has a wrong checksum")]
    Checksum(u64),
    /// For MIPS, or unknown.
    #[error("the header is for architecture {0}, not for the i386 (0)")]
    Architecture(u32),
    /// The header, or a tag in it, is cut off, or too short for what it is.
    #[error("the header's tag at {0:#x} is cut off")]
    Tag(u64),
    /// There is no display.
    #[error("the kernel demands {0}, and this machine has no display")]
    Display(&'static str),
    /// A tag that nobody has defined.
    #[error("the kernel demands what the specification does not know (header tag {0})")]
    UnknownTag(u16),
    /// A request for information that nobody has defined.
    #[error("the kernel demands information that the specification does not know (type {0})")]
    UnknownRequest(u32),
    /// Neither an ELF file nor addresses in the header.
    #[error("the file is no ELF file, and its header gives no addresses")]
    NoAddresses,
    /// Addresses without an entry.
    #[error("the header gives addresses and no entry")]
    NoEntry,
    /// The addresses contradict each other or the file.
    #[error("the header's addresses do not fit: {0}")]
    Addresses(&'static str),
}

impl Multiboot2Error {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Display(_) => {
                "mark the tag optional (bit 0 of its flags) if the kernel can do with a serial port alone"
            }
            Self::Checksum(_) => "magic, architecture, length and checksum have to add up to 0",
            Self::NoEntry => "add an entry address tag (3)",
            Self::None
            | Self::Architecture(_)
            | Self::Tag(_)
            | Self::UnknownTag(_)
            | Self::UnknownRequest(_)
            | Self::NoAddresses
            | Self::Addresses(_) => return None,
        };
        Some(text.to_owned())
    }
}

/// The header, as far as it is obeyed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// Where in the file it lies.
    offset: u64,
    /// `header_addr`, `load_addr`, `load_end_addr`, `bss_end_addr`.
    addresses: Option<[u32; 4]>,
    entry: Option<u32>,
    requests: Multiboot2Requests,
}

/// What decides over the information.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Multiboot2Requests {
    /// Types that were asked for.
    requests: Vec<u32>,
}

/// Where the header lies in the file; `None` if there is none.
pub(super) fn find(file: &[u8]) -> Option<u64> {
    search(file).ok()
}

/// Whether there is something like a header that is damaged.
pub(super) fn find_damaged(file: &[u8]) -> Option<Multiboot2Error> {
    search(file).err().filter(|error| *error != Multiboot2Error::None)
}

/// That what the header demands can be had.
pub(super) fn check(file: &[u8]) -> Result<(), Multiboot2Error> {
    read(file).map(|_| ())
}

fn search(file: &[u8]) -> Result<u64, Multiboot2Error> {
    let mut damaged = Multiboot2Error::None;
    for offset in (0..=SEARCH - FIRST_TAG).step_by(8) {
        let Some(magic) = u32_at(file, offset) else { break };
        if magic != MAGIC {
            continue;
        }
        let word = |number: u64| u32_at(file, offset + 4 * number);
        let (Some(architecture), Some(length), Some(checksum)) = (word(1), word(2), word(3)) else { break };
        if [architecture, length, checksum].iter().fold(magic, |sum, word| sum.wrapping_add(*word)) == 0 {
            return Ok(offset);
        }
        if damaged == Multiboot2Error::None {
            damaged = Multiboot2Error::Checksum(offset);
        }
    }
    Err(damaged)
}

/// Reads the header, and refuses what cannot be obeyed.
fn read(file: &[u8]) -> Result<Header, Multiboot2Error> {
    let offset = search(file)?;
    let cut_off = |at| Multiboot2Error::Tag(at);
    match u32_at(file, offset + 4) {
        Some(I386) => {}
        other => return Err(Multiboot2Error::Architecture(other.unwrap_or(u32::MAX))),
    }
    let length = u32_at(file, offset + 8).ok_or_else(|| cut_off(offset))?;
    let bytes = slice(file, offset, length.into()).ok_or_else(|| cut_off(offset))?;
    let mut header = Header { offset, ..Header::default() };
    let mut at = FIRST_TAG;
    loop {
        let place = offset + at;
        let (Some(kind), Some(flags), Some(size)) =
            (u16_at(bytes, at), u16_at(bytes, at + 2), u32_at(bytes, at + 4))
        else {
            // Some kernels leave the end tag out; the header's length ends the list as well.
            return if at >= length.into() { finish(header, file) } else { Err(cut_off(place)) };
        };
        if kind == tag::END {
            return finish(header, file);
        }
        // A tag without room for its own head would never lead to the next one.
        let content =
            slice(bytes, at, size.into()).filter(|tag| tag.len() >= 8).ok_or_else(|| cut_off(place))?;
        header.take(kind, flags & 1 != 0, content, place)?;
        at = at.saturating_add(u64::from(size).next_multiple_of(8));
    }
}

fn finish(header: Header, file: &[u8]) -> Result<Header, Multiboot2Error> {
    match (header.addresses, header.entry) {
        (None, _) if !is_elf(file) => Err(Multiboot2Error::NoAddresses),
        (Some(_), None) if !is_elf(file) => Err(Multiboot2Error::NoEntry),
        (_, _) => Ok(header),
    }
}

impl Header {
    fn take(&mut self, kind: u16, optional: bool, tag: &[u8], place: u64) -> Result<(), Multiboot2Error> {
        let word = |number: u64| u32_at(tag, 8 + 4 * number).ok_or(Multiboot2Error::Tag(place));
        match kind {
            tag::INFORMATION_REQUEST => {
                let types = tag
                    .get(8..)
                    .unwrap_or_default()
                    .as_chunks::<4>()
                    .0
                    .iter()
                    .map(|t| u32::from_le_bytes(*t));
                let requests: Vec<u32> = types.collect();
                if let (Some(unknown), false) =
                    (requests.iter().find(|kind| **kind > LAST_INFORMATION), optional)
                {
                    return Err(Multiboot2Error::UnknownRequest(*unknown));
                }
                self.requests.requests.extend(requests);
            }
            tag::ADDRESS => self.addresses = Some([word(0)?, word(1)?, word(2)?, word(3)?]),
            tag::ENTRY => self.entry = Some(word(0)?),
            // Bit 0: the kernel cannot do without a console of the loader's kind.
            tag::CONSOLE if word(0)? & 1 != 0 && !optional => {
                return Err(Multiboot2Error::Display("a console on a display"));
            }
            tag::FRAMEBUFFER if !optional => return Err(Multiboot2Error::Display("a framebuffer")),
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

/// Plans an image by the header.
pub(super) fn plan(file: &[u8], options: &ElfOptions) -> Result<BootPlan, BootError> {
    let header = read(file)?;
    let image = match header.addresses {
        None => elf::plan(file, options)?,
        Some([header_addr, load_addr, load_end, bss_end]) => {
            let load = (load_addr != u32::MAX).then_some(load_addr.into());
            let (load_end, bss_end) = (load_end.into(), bss_end.into());
            let addresses = Addresses { header: header_addr.into(), load, load_end, bss_end };
            addresses.image(file, header.offset).map_err(Multiboot2Error::Addresses)?
        }
    };
    let entry = match header.entry.map(u64::from) {
        Some(entry) => {
            check_entry(&image, entry).map_err(Multiboot2Error::Addresses)?;
            GuestAddress(entry)
        }
        None if header.addresses.is_some() => return Err(Multiboot2Error::NoEntry.into()),
        None => entry32(&image)?,
    };
    let (protocol, width) = (Protocol::Multiboot2, Some(CodeWidth::Bits32));
    Ok(BootPlan {
        protocol,
        image,
        entry: Some(entry),
        width,
        is_linux: false,
        requests: HeaderRequests::Multiboot2(header.requests),
    })
}
