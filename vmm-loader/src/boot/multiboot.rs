//! Multiboot 1 (Multiboot Specification 0.6.96): a header of a few words near the start of the file.
//!
//! The kernel is an ELF file, or anything whose header says itself where the bytes go (the "a.out kludge"). It is entered
//! in 32-bit code with a magic number in EAX and the address of the information structure in EBX.
//!
//! What is done as QEMU does it, since kernels are tried with QEMU: the command line begins with the name of the kernel's
//! file. What is done as GRUB does it: 64-bit ELF files are loaded too, and an entry may be a virtual address. They are
//! still entered in 32-bit code.

use std::ops::Range;

use thiserror::Error;
use vm_memory::GuestAddress;

use super::alloc::{FOUR_GIB, ONE_MIB, PageAllocator};
use super::boot_info::{BootHandoff, BootInfo};
use super::boot_plan::{BootPlan, HeaderRequests, entry32, raw};
use super::error::BootError;
use super::info_builder::{self, word};
use crate::bytes::{length, u32_at};
use crate::elf::header::is_elf;
use crate::elf::{self, ElfOptions};
use crate::plan::LoadPlan;
use crate::protocol::{CodeWidth, Protocol, Register};

/// What the header begins with.
const MAGIC: u32 = 0x1bad_b002;
/// What a kernel finds in EAX.
const IN_EAX: u64 = 0x2bad_b002;
/// The header lies in so many bytes from the start, at a multiple of 4.
const SEARCH: u64 = 8192;
/// What we call ourselves to the kernel.
pub(super) const LOADER: &str = "vmm";

// The header's flags, 3.1.2. The lower sixteen have to be understood, the upper ones may be ignored.
const PAGE_ALIGN: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const REQUIRED: u32 = 0xffff;
const HAS_ADDRESSES: u32 = 1 << 16;

/// Why a Multiboot header cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MultibootError {
    /// No header.
    #[error("no header in the first 8 KiB")]
    None,
    /// The magic number without a sum of 0 behind it.
    #[error("the header at {0:#x} has a wrong checksum")]
    Checksum(u64),
    /// Flag 2: there is no video.
    #[error("the kernel demands a video mode (flag 2), and this machine has no display")]
    Video,
    /// A flag that nobody has defined.
    #[error("the kernel demands what the specification does not know (flags {0:#x})")]
    Flags(u32),
    /// Neither an ELF file nor addresses in the header.
    #[error("the file is no ELF file, and its header gives no addresses (flag 16)")]
    NoAddresses,
    /// The addresses contradict each other or the file.
    #[error("the header's addresses do not fit: {0}")]
    Addresses(&'static str),
}

impl MultibootError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Video => {
                Some("build the kernel for text on a serial port, without flag 2 in its header".to_owned())
            }
            Self::Checksum(_) => Some("magic, flags and checksum have to add up to 0".to_owned()),
            Self::None | Self::Flags(_) | Self::NoAddresses | Self::Addresses(_) => None,
        }
    }
}

/// The header, as far as it is obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Header {
    /// Where in the file it lies.
    offset: u64,
    flags: u32,
}

/// Where the header lies in the file; `None` if there is none.
pub(super) fn find(file: &[u8]) -> Option<u64> {
    search(file).ok().map(|header| header.offset)
}

/// Whether there is something like a header that is damaged.
pub(super) fn find_damaged(file: &[u8]) -> Option<MultibootError> {
    search(file).err().filter(|error| *error != MultibootError::None)
}

/// That what the header demands can be had.
pub(super) fn check(file: &[u8]) -> Result<(), MultibootError> {
    let Header { flags, .. } = search(file)?;
    if flags & VIDEO_MODE != 0 {
        return Err(MultibootError::Video);
    }
    match flags & REQUIRED & !(PAGE_ALIGN | MEMORY_INFO) {
        0 if flags & HAS_ADDRESSES == 0 && !is_elf(file) => Err(MultibootError::NoAddresses),
        0 => Ok(()),
        unknown => Err(MultibootError::Flags(unknown)),
    }
}

fn search(file: &[u8]) -> Result<Header, MultibootError> {
    let mut damaged = MultibootError::None;
    // The header's first three words have to lie inside, too.
    for offset in (0..=SEARCH - 12).step_by(4) {
        let Some(magic) = u32_at(file, offset) else { break };
        if magic != MAGIC {
            continue;
        }
        let (Some(flags), Some(checksum)) = (u32_at(file, offset + 4), u32_at(file, offset + 8)) else {
            break;
        };
        if magic.wrapping_add(flags).wrapping_add(checksum) == 0 {
            return Ok(Header { offset, flags });
        }
        if damaged == MultibootError::None {
            damaged = MultibootError::Checksum(offset);
        }
    }
    Err(damaged)
}

/// Plans an image by the header.
pub(super) fn plan(file: &[u8], options: &ElfOptions) -> Result<BootPlan, BootError> {
    check(file)?;
    let header = search(file)?;
    let (image, entry) = if header.flags & HAS_ADDRESSES == 0 {
        let image = elf::plan(file, options)?;
        let entry = entry32(&image)?;
        (image, entry)
    } else {
        let field = |number: u64| u32_at(file, header.offset + 12 + 4 * number).map(u64::from);
        let all = (field(0), field(1), field(2), field(3), field(4));
        let (Some(header_addr), Some(load_addr), Some(load_end), Some(bss_end), Some(entry)) = all else {
            return Err(MultibootError::Addresses("they are cut off").into());
        };
        let addresses = Addresses { header: header_addr, load: Some(load_addr), load_end, bss_end };
        let image = addresses.image(file, header.offset).map_err(MultibootError::Addresses)?;
        check_entry(&image, entry).map_err(MultibootError::Addresses)?;
        (image, GuestAddress(entry))
    };
    let (protocol, width) = (Protocol::Multiboot, Some(CodeWidth::Bits32));
    Ok(BootPlan {
        protocol,
        image,
        entry: Some(entry),
        width,
        is_linux: false,
        requests: HeaderRequests::None,
    })
}

/// Addresses in a header, of either Multiboot: where the bytes of the file go.
pub(super) struct Addresses {
    /// Where the header itself goes.
    pub(super) header: u64,
    /// Where the first byte goes that is loaded; `None` means the start of the file.
    pub(super) load: Option<u64>,
    /// Where loading ends; 0 means the end of the file.
    pub(super) load_end: u64,
    /// Where memory ends that is to be zero; 0 means that there is none.
    pub(super) bss_end: u64,
}

impl Addresses {
    /// The image, or what is wrong.
    pub(super) fn image(&self, file: &[u8], header_offset: u64) -> Result<LoadPlan, &'static str> {
        let start = match self.load {
            Some(load) => {
                let before = self.header.checked_sub(load).ok_or("loading begins after the header")?;
                header_offset.checked_sub(before).ok_or("loading begins before the file")?
            }
            None => 0,
        };
        let load = match self.load {
            Some(load) => load,
            None => self.header.checked_sub(header_offset).ok_or("loading begins below address 0")?,
        };
        let rest = length(file.len()).checked_sub(start).ok_or("loading begins behind the file")?;
        let size = match self.load_end {
            0 => rest,
            end => end.checked_sub(load).ok_or("loading ends before it begins")?,
        };
        if size > rest {
            return Err("loading ends behind the file");
        }
        if size == 0 {
            return Err("nothing is loaded");
        }
        let end =
            load.checked_add(size).filter(|&end| end <= FOUR_GIB).ok_or("the image ends above 4 GiB")?;
        let memory = match self.bss_end {
            0 => size,
            bss_end if bss_end < end => return Err("the zeroed memory ends before the loaded bytes do"),
            bss_end => bss_end - load,
        };
        Ok(raw("image", file, (start, size), load, memory))
    }
}

/// An entry outside of the image leads nowhere.
pub(super) fn check_entry(image: &LoadPlan, entry: u64) -> Result<(), &'static str> {
    let inside = image.segments().iter().any(|segment| segment.phys_range().contains(&GuestAddress(entry)));
    if inside { Ok(()) } else { Err("the entry is outside of what is loaded") }
}

// The information structure's flags, 3.3.
const INFO_MEMORY: u32 = 1 << 0;
const INFO_COMMAND_LINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MEMORY_MAP: u32 = 1 << 6;
const INFO_LOADER: u32 = 1 << 9;
/// Size of the structure, with the fields that we leave 0.
const INFO_SIZE: u32 = 116;

/// The information structure, with all that it points to behind it.
pub(super) fn handoff(image: LoadPlan, boot_info: &BootInfo<'_>) -> Result<BootHandoff, BootError> {
    let mut area = PageAllocator::new(boot_info.memory_map, boot_info.reserved, &image.ranges());
    let modules = allocate_modules(&mut area, &image, boot_info)?;
    // QEMU's way: kernels skip the first word as the name of the program.
    let command_line = [boot_info.file_name, boot_info.command_line].join(" ").trim_end().to_owned();
    let (lower, upper) = (area.kib_from(0).min(640), area.kib_from(ONE_MIB));

    let info = info_builder::build(&mut area, "multiboot information", |block| {
        // The structure comes first and its pointers are filled in when what they point to has been written.
        block.u32(INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER);
        block.u32(lower);
        block.u32(upper);
        while block.len() < INFO_SIZE {
            block.u32(0);
        }
        let map = block.here();
        for entry in boot_info.memory_map {
            // The size of an entry does not count itself.
            block.u32(20);
            block.u64(entry.start.0);
            block.u64(entry.size);
            block.u32(entry.kind.e820());
        }
        let map_length = block.here().wrapping_sub(map);
        let texts: Vec<u32> =
            boot_info.modules.iter().map(|module| block.text(module.command_line)).collect();
        block.align(4);
        let list = block.here();
        for (range, text) in modules.iter().zip(texts) {
            block.u32(word(range.start));
            block.u32(word(range.end));
            block.u32(text);
            block.u32(0);
        }
        let command_line = block.text(&command_line);
        let loader = block.text(LOADER);
        block.patch(16, command_line);
        block.patch(20, u32::try_from(modules.len()).unwrap_or(u32::MAX));
        block.patch(24, list);
        block.patch(44, map_length);
        block.patch(48, map);
        block.patch(64, loader);
    })?;

    let mut summary = vec![
        format!("EAX = {IN_EAX:#x}, EBX = {:#x}: the information structure", info.address.0),
        format!("mem_lower {lower} KiB, mem_upper {upper} KiB"),
    ];
    summary.extend(common_summary(boot_info, &command_line, &modules));
    Ok(BootHandoff {
        image,
        modules: modules.iter().map(|range| range.start).collect(),
        registers: vec![(Register::Rax, IN_EAX), (Register::Rbx, info.address.0)],
        blobs: vec![info],
        summary,
    })
}

/// Modules go behind the kernel, each on pages of its own: kernels take their header's flag 0 for granted.
pub(super) fn allocate_modules(
    area: &mut PageAllocator,
    image: &LoadPlan,
    boot_info: &BootInfo<'_>,
) -> Result<Vec<Range<GuestAddress>>, BootError> {
    let end = image.segments().iter().map(|segment| segment.phys_range().end.0).max().unwrap_or(0);
    let floor = end.max(ONE_MIB);
    let place = |module: &super::boot_info::BootModule<'_>| {
        let start = area.lowest(module.size, floor, FOUR_GIB).ok_or_else(|| BootError::NoRoom {
            what: format!("the module `{}` behind the kernel", module.command_line.escape_debug()),
            size: module.size,
        })?;
        Ok(start..GuestAddress(start.0.saturating_add(module.size)))
    };
    boot_info.modules.iter().map(place).collect()
}

/// What the protocols have in common, in words.
pub(super) fn common_summary(
    boot_info: &BootInfo<'_>,
    command_line: &str,
    modules: &[Range<GuestAddress>],
) -> Vec<String> {
    let mut lines = vec![
        format!("command line {command_line:?}"),
        format!("memory map, {} entries", boot_info.memory_map.len()),
    ];
    for (module, range) in boot_info.modules.iter().zip(modules) {
        lines.push(format!("module {:#x}..{:#x} {:?}", range.start.0, range.end.0, module.command_line));
    }
    lines
}
