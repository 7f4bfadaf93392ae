//! Multiboot 1 (Multiboot Specification 0.6.96).
//!
//! The kernel is an ELF file, or any file whose header has load addresses (the "a.out kludge"). It is entered in 32-bit code
//! with a magic number in EAX and the address of the information structure in EBX.
//!
//! As in QEMU, the command line begins with the name of the kernel's file. As in GRUB, 64-bit ELF files are loaded too and
//! `e_entry` may be a virtual address; they are still entered in 32-bit code.

use std::ops::Range;

use memchr::memmem;
use thiserror::Error;
use vm_memory::GuestAddress;

use super::alloc::{FOUR_GIB, ONE_MIB, PageAllocator};
use super::boot_info::{BootHandoff, BootInfo, BootModule};
use super::boot_plan::{BootPlan, HeaderRequests, physical_entry32, single_segment};
use super::error::BootError;
use super::info_builder::{self, address32};
use crate::bytes::{length, u32_at};
use crate::elf::header::is_elf;
use crate::elf::{self, ElfOptions};
use crate::plan::LoadPlan;
use crate::protocol::{OperandWidth, Protocol};
use crate::register::Register;

/// `MULTIBOOT_HEADER_MAGIC`: first word of the header.
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// `MULTIBOOT_BOOTLOADER_MAGIC`: value of EAX at the entry.
const BOOTLOADER_MAGIC: u64 = 0x2bad_b002;
/// `MULTIBOOT_SEARCH`: the header lies in this many bytes from the start of the file, at a multiple of 4.
const SEARCH_SIZE: u64 = 8192;
/// Number of bytes in which a header is looked for that boot loaders do not find, to name it.
const MISPLACED_SEARCH_SIZE: usize = 128 << 10;
/// Boot loader name that the kernel gets.
pub(super) const BOOT_LOADER_NAME: &str = "vmm";

// Flags of the header (specification, 3.1.2). Bits 0 to 15 are requirements, bits 16 to 31 are optional.
const PAGE_ALIGN: u32 = 1 << 0;
const MEMORY_INFO: u32 = 1 << 1;
const VIDEO_MODE: u32 = 1 << 2;
const REQUIRED: u32 = 0xffff;
const HAS_ADDRESSES: u32 = 1 << 16;
const DEFINED_FLAGS: u32 = PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE | HAS_ADDRESSES;

/// Multiboot 1 header that is missing, damaged or cannot be satisfied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MultibootError {
    /// File without a Multiboot 1 header in its first 8 KiB.
    #[error("no header in the first 8 KiB")]
    NoHeader,
    /// Multiboot 1 header with a wrong checksum. Holds its file offset.
    #[error("the header at {0:#x} has a wrong checksum")]
    Checksum(u64),
    /// Valid Multiboot 1 header beyond the first 8 KiB. Holds its file offset.
    #[error("the header at {0:#x} is beyond the first 8 KiB, where boot loaders look")]
    TooLate(u64),
    /// Valid Multiboot 1 header that is not at a multiple of 4. Holds its file offset.
    #[error("the header at {0:#x} is not at a multiple of 4 bytes of the file")]
    Misaligned(u64),
    /// Kernel that requires a video mode (flag 2).
    #[error("the kernel demands a video mode (flag 2), and this machine has no display")]
    Video,
    /// Kernel that requires flags that the specification does not define.
    #[error("the kernel demands what the specification does not know (flags {0:#x})")]
    Flags(u32),
    /// File that is not an ELF file, with a header without addresses (flag 16).
    #[error("the file is no ELF file, and its header gives no addresses (flag 16)")]
    NoAddresses,
    /// Address fields that contradict each other or the file.
    #[error("the header's addresses do not fit: {0}")]
    Addresses(MultibootAddressError),
}

/// Contradiction in the address fields of a Multiboot 1 or 2 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MultibootAddressError {
    /// File that ends inside the address fields.
    #[error("they are cut off")]
    CutOff,
    /// `load_addr` that is above `header_addr`.
    #[error("loading begins after the header")]
    LoadAfterHeader,
    /// `load_addr` that belongs to bytes before the start of the file.
    #[error("loading begins before the file")]
    LoadBeforeFile,
    /// Start of the file at an address below 0.
    #[error("loading begins below address 0")]
    LoadBelowZero,
    /// `load_addr` that belongs to bytes after the end of the file.
    #[error("loading begins behind the file")]
    LoadAfterFile,
    /// `load_end_addr` that is below `load_addr`.
    #[error("loading ends before it begins")]
    EndBeforeLoad,
    /// `load_end_addr` that belongs to bytes after the end of the file.
    #[error("loading ends behind the file")]
    EndAfterFile,
    /// Addresses that leave no bytes to load.
    #[error("nothing is loaded")]
    Empty,
    /// Image that ends above 4 GiB.
    #[error("the image ends above 4 GiB")]
    TooHigh,
    /// `bss_end_addr` that is below the end of the loaded bytes.
    #[error("the zeroed memory ends before the loaded bytes do")]
    BssBeforeEnd,
    /// Entry that is outside the loaded image.
    #[error("the entry is outside of what is loaded")]
    EntryOutside,
}

impl MultibootError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Video => {
                Some("build the kernel for text on a serial port, without flag 2 in its header".to_owned())
            }
            Self::Checksum(_) => Some("magic, flags and checksum have to add up to 0".to_owned()),
            Self::TooLate(_) => {
                Some("put the header's section first in the linker script, before all others".to_owned())
            }
            Self::Misaligned(_) => Some("align the header's section to 4 bytes".to_owned()),
            Self::NoHeader | Self::Flags(_) | Self::NoAddresses | Self::Addresses(_) => None,
        }
    }
}

/// Multiboot 1 header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MultibootHeader {
    /// File offset.
    offset: u64,
    flags: u32,
}

/// Returns the file offset of the header.
pub(super) fn find(file: &[u8]) -> Option<u64> {
    search(file).ok().map(|header| header.offset)
}

/// Returns the problem of a damaged header if the file has one and no valid header.
pub(super) fn find_damaged(file: &[u8]) -> Option<MultibootError> {
    search(file).err().filter(|error| *error != MultibootError::NoHeader)
}

/// Returns the problem of a valid header at a place where boot loaders do not find it.
pub(super) fn find_misplaced(file: &[u8]) -> Option<MultibootError> {
    let offset = find_anywhere(file, HEADER_MAGIC, 3)?;
    Some(if offset > SEARCH_SIZE - 12 {
        MultibootError::TooLate(offset)
    } else {
        MultibootError::Misaligned(offset)
    })
}

/// Returns the file offset of the first valid header at any place in the first [`MISPLACED_SEARCH_SIZE`] bytes: `words` words
/// whose sum is 0, of which the first is `magic`.
pub(super) fn find_anywhere(file: &[u8], magic: u32, words: u64) -> Option<u64> {
    let searched = file.get(..MISPLACED_SEARCH_SIZE).unwrap_or(file);
    memmem::find_iter(searched, &magic.to_le_bytes()).map(length).find(|offset| {
        let sum =
            (0..words).try_fold(0_u32, |sum, word| Some(sum.wrapping_add(u32_at(file, offset + 4 * word)?)));
        sum == Some(0)
    })
}

/// Checks that the header's requirements can be satisfied.
pub(super) fn check(file: &[u8]) -> Result<(), MultibootError> {
    let MultibootHeader { flags, .. } = search(file)?;
    if flags & VIDEO_MODE != 0 {
        return Err(MultibootError::Video);
    }
    match flags & REQUIRED & !(PAGE_ALIGN | MEMORY_INFO) {
        0 if flags & HAS_ADDRESSES == 0 && !is_elf(file) => Err(MultibootError::NoAddresses),
        0 => Ok(()),
        unknown => Err(MultibootError::Flags(unknown)),
    }
}

/// Finds the first header with a valid checksum.
fn search(file: &[u8]) -> Result<MultibootHeader, MultibootError> {
    let mut damaged = MultibootError::NoHeader;
    // The first three words of the header have to be inside the searched range.
    for offset in (0..=SEARCH_SIZE - 12).step_by(4) {
        let Some(magic) = u32_at(file, offset) else { break };
        if magic != HEADER_MAGIC {
            continue;
        }
        let (Some(flags), Some(checksum)) = (u32_at(file, offset + 4), u32_at(file, offset + 8)) else {
            break;
        };
        if magic.wrapping_add(flags).wrapping_add(checksum) == 0 {
            return Ok(MultibootHeader { offset, flags });
        }
        // Other flags are not defined: the magic number is part of other data.
        if damaged == MultibootError::NoHeader && flags & !DEFINED_FLAGS == 0 {
            damaged = MultibootError::Checksum(offset);
        }
    }
    Err(damaged)
}

/// Plans the image and its entry.
pub(super) fn plan(file: &[u8], options: &ElfOptions) -> Result<BootPlan, BootError> {
    check(file)?;
    let header = search(file)?;
    let (image, entry) = if header.flags & HAS_ADDRESSES == 0 {
        let image = elf::plan(file, options)?;
        let entry = physical_entry32(&image)?;
        (image, entry)
    } else {
        let field = |number: u64| u32_at(file, header.offset + 12 + 4 * number).map(u64::from);
        let all = (field(0), field(1), field(2), field(3), field(4));
        let (Some(header_addr), Some(load_addr), Some(load_end), Some(bss_end), Some(entry)) = all else {
            return Err(MultibootError::Addresses(MultibootAddressError::CutOff).into());
        };
        let addresses = AddressFields { header: header_addr, load: Some(load_addr), load_end, bss_end };
        let image = addresses.image(file, header.offset).map_err(MultibootError::Addresses)?;
        check_entry(&image, entry).map_err(MultibootError::Addresses)?;
        (image, GuestAddress(entry))
    };
    let (protocol, width) = (Protocol::Multiboot, Some(OperandWidth::Bits32));
    Ok(BootPlan {
        protocol,
        image,
        entry: Some(entry),
        width,
        is_linux: false,
        requests: HeaderRequests::Multiboot,
    })
}

/// Address fields of a Multiboot 1 or 2 header.
pub(super) struct AddressFields {
    /// `header_addr`: load address of the header itself.
    pub(super) header: u64,
    /// `load_addr`: load address of the first loaded byte. `None` loads from the start of the file.
    pub(super) load: Option<u64>,
    /// `load_end_addr`: end of the loaded bytes. 0 loads up to the end of the file.
    pub(super) load_end: u64,
    /// `bss_end_addr`: end of the zeroed memory. 0 means no zeroed memory.
    pub(super) bss_end: u64,
}

impl AddressFields {
    /// Plans the image that the fields describe.
    pub(super) fn image(&self, file: &[u8], header_offset: u64) -> Result<LoadPlan, MultibootAddressError> {
        use MultibootAddressError as Problem;

        let start = match self.load {
            Some(load) => {
                let before = self.header.checked_sub(load).ok_or(Problem::LoadAfterHeader)?;
                header_offset.checked_sub(before).ok_or(Problem::LoadBeforeFile)?
            }
            None => 0,
        };
        let load = match self.load {
            Some(load) => load,
            None => self.header.checked_sub(header_offset).ok_or(Problem::LoadBelowZero)?,
        };
        let rest = length(file.len()).checked_sub(start).ok_or(Problem::LoadAfterFile)?;
        let size = match self.load_end {
            0 => rest,
            end => end.checked_sub(load).ok_or(Problem::EndBeforeLoad)?,
        };
        if size > rest {
            return Err(Problem::EndAfterFile);
        }
        if size == 0 {
            return Err(Problem::Empty);
        }
        let end = load.checked_add(size).filter(|&end| end <= FOUR_GIB).ok_or(Problem::TooHigh)?;
        let memory = match self.bss_end {
            0 => size,
            bss_end if bss_end < end => return Err(Problem::BssBeforeEnd),
            bss_end => bss_end - load,
        };
        Ok(single_segment("image", file, (start, size), load, memory))
    }
}

/// Checks that the entry is inside the image.
pub(super) fn check_entry(image: &LoadPlan, entry: u64) -> Result<(), MultibootAddressError> {
    let inside = image.segments().iter().any(|segment| segment.phys_range().contains(&GuestAddress(entry)));
    if inside { Ok(()) } else { Err(MultibootAddressError::EntryOutside) }
}

// Flags of the information structure (specification, 3.3).
const INFO_MEMORY: u32 = 1 << 0;
const INFO_COMMAND_LINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MEMORY_MAP: u32 = 1 << 6;
const INFO_LOADER_NAME: u32 = 1 << 9;
/// Size of the information structure in bytes, including the fields that stay 0.
const INFO_SIZE: u32 = 116;

/// Builds the information structure, followed by everything that it points to.
pub(super) fn handoff(image: LoadPlan, boot_info: &BootInfo<'_>) -> Result<BootHandoff, BootError> {
    let mut allocator = PageAllocator::new(boot_info.memory_map, boot_info.reserved, &image.ranges());
    let modules = allocate_modules(&mut allocator, &image, boot_info)?;
    // As in QEMU: kernels skip the first word of the command line.
    let command_line = [boot_info.file_name, boot_info.command_line].join(" ").trim_end().to_owned();
    let (lower, upper) = (allocator.usable_kib_from(0).min(640), allocator.usable_kib_from(ONE_MIB));

    let info = info_builder::build(&mut allocator, "multiboot information", |builder| {
        // The structure comes first. Its pointers are patched when their targets have been written.
        builder.u32(INFO_MEMORY | INFO_COMMAND_LINE | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER_NAME);
        builder.u32(lower);
        builder.u32(upper);
        while builder.len() < INFO_SIZE {
            builder.u32(0);
        }
        let map = builder.address();
        for entry in boot_info.memory_map {
            // `size` does not include itself.
            builder.u32(20);
            builder.u64(entry.start.0);
            builder.u64(entry.size);
            builder.u32(entry.kind.e820_type());
        }
        let map_length = builder.address().wrapping_sub(map);
        let texts: Vec<u32> =
            boot_info.modules.iter().map(|module| builder.c_string(module.command_line)).collect();
        builder.align(4);
        let list = builder.address();
        for (range, text) in modules.iter().zip(texts) {
            builder.u32(address32(range.start));
            builder.u32(address32(range.end));
            builder.u32(text);
            builder.u32(0);
        }
        let command_line = builder.c_string(&command_line);
        let loader = builder.c_string(BOOT_LOADER_NAME);
        builder.patch(16, command_line);
        builder.patch(20, u32::try_from(modules.len()).unwrap_or(u32::MAX));
        builder.patch(24, list);
        builder.patch(44, map_length);
        builder.patch(48, map);
        builder.patch(64, loader);
    })?;

    let mut summary = vec![
        format!("EAX = {BOOTLOADER_MAGIC:#x}, EBX = {:#x}: the information structure", info.address.0),
        format!("mem_lower {lower} KiB, mem_upper {upper} KiB"),
    ];
    summary.extend(common_summary(boot_info, &command_line, &modules));
    Ok(BootHandoff {
        image,
        modules: modules.iter().map(|range| range.start).collect(),
        registers: vec![(Register::Rax, BOOTLOADER_MAGIC), (Register::Rbx, info.address.0)],
        blobs: vec![info],
        summary,
    })
}

/// Allocates memory for the modules above the kernel, each at a page boundary.
///
/// Modules are always page-aligned, since kernels expect it even if flag 0 of their header is not set.
pub(super) fn allocate_modules(
    allocator: &mut PageAllocator,
    image: &LoadPlan,
    boot_info: &BootInfo<'_>,
) -> Result<Vec<Range<GuestAddress>>, BootError> {
    let end = image.segments().iter().map(|segment| segment.phys_range().end.0).max().unwrap_or(0);
    let floor = end.max(ONE_MIB);
    let allocate = |module: &BootModule<'_>| {
        let start = allocator.allocate_lowest(module.size, floor, FOUR_GIB).ok_or_else(|| {
            BootError::NoFreeMemory {
                what: format!("the module `{}` behind the kernel", module.command_line.escape_debug()),
                size: module.size,
            }
        })?;
        Ok(start..GuestAddress(start.0.saturating_add(module.size)))
    };
    boot_info.modules.iter().map(allocate).collect()
}

/// Summarizes the boot information that all protocols pass on.
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
