//! Linux (Documentation/arch/x86/boot.rst in the kernel's tree): a bzImage by its setup header, a vmlinux by its notes.
//!
//! A bzImage is a boot sector of old, some sectors of 16-bit code, which nobody runs here, and the kernel proper, which
//! unpacks itself. It is loaded at the address it prefers. A kernel with the flag `XLF_KERNEL_64` is entered at
//! `startup_64`, 0x200 bytes into it, as 64-bit code with all memory mapped at its own address; an older or a 32-bit one
//! at its start, as 32-bit code. Both find the zero page by RSI (`linux/zero_page.rs`).
//!
//! A vmlinux is the ELF file that a bzImage has inside. Its entry is `startup_64` of the unpacked kernel, and it is told the
//! same by the same zero page, though it has no setup header to copy. One with a note for PVH is better started by that,
//! which is what that note is for.
//!
//! The structures are those of the linux-loader crate. Its own loading is not used: it writes to memory as it reads,
//! where everything here is planned and checked first.

mod zero_page;

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use thiserror::Error;
use vm_memory::{ByteValued, GuestAddress};

use super::alloc::FOUR_GIB;
use super::boot_plan::{BootPlan, HeaderRequests, physical_entry, raw};
use super::error::BootError;
use crate::bytes::{length, slice, u16_at, u32_at};
use crate::elf::class::ElfClass;
use crate::elf::header::{ElfHeaders, is_elf};
use crate::elf::notes::ElfNote;
use crate::elf::{self, ElfOptions};
use crate::error::LoadError;
use crate::protocol::{CodeWidth, Protocol};

pub(super) use zero_page::handoff;

/// Where the setup header begins in the file, and in the zero page.
const SETUP_HEADER: u64 = 0x1f1;
/// `boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
/// `header`: "HdrS".
const HDRS: u32 = 0x5372_6448;
/// Where a bzImage goes that names no address.
const USUAL_ADDRESS: u64 = 0x10_0000;
/// From its load address to the 64-bit entry.
const STARTUP_64: u64 = 0x200;
/// `XEN_ELFNOTE_GUEST_OS`.
const GUEST_OS: u32 = 6;
/// The setup header grew by version: 2.06 `cmdline_size`, 2.10 `pref_address`, 2.12 `xloadflags`.
const V2_00: u16 = 0x200;
const V2_06: u16 = 0x206;
const V2_10: u16 = 0x20a;
const V2_12: u16 = 0x20c;

/// Why a file cannot be started as Linux.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinuxError {
    /// Neither a bzImage nor an ELF file.
    #[error("neither a bzImage (no `HdrS` at 0x202) nor an ELF file")]
    None,
    /// A setup header before 2.00, or a kernel that is to be loaded low.
    #[error("a zImage of boot protocol {}.{:02}: too old to be loaded above 1 MiB", .0 >> 8, .0 & 0xff)]
    Old(u16),
    /// The file ends too early.
    #[error("the bzImage is cut off: it has {have} bytes of at least {need}")]
    CutOff {
        /// Bytes there are.
        have: u64,
        /// Bytes that the header speaks of.
        need: u64,
    },
    /// The preferred address and the size leave the address space of 32-bit pointers.
    #[error("the kernel wants {size:#x} bytes at {address:#x}, which ends above 4 GiB")]
    Address {
        /// `pref_address`.
        address: u64,
        /// `init_size`.
        size: u64,
    },
    /// An ELF file of 32 bits.
    #[error("an ELF kernel of 32 bits has no 64-bit entry")]
    Elf32,
    /// More than one file.
    #[error("Linux takes one initrd and no other modules; {0} are given")]
    Modules(usize),
    /// The memory map has more entries than the zero page.
    #[error("the memory map has {0} entries; the zero page has room for 128")]
    Map(usize),
}

impl LinuxError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Elf32 => "start it by its bzImage",
            Self::CutOff { .. } => "copy it again",
            Self::Modules(_) => "put the files into one cpio archive, or several one after the other",
            Self::None | Self::Old(_) | Self::Address { .. } | Self::Map(_) => return None,
        };
        Some(text.to_owned())
    }
}

/// What a kernel says about itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LinuxSetup {
    /// The setup header, for the zero page.
    pub(super) header: setup_header,
    /// The longest command line, without its NUL.
    pub(super) command_line: u32,
    /// The last address that an initrd may have.
    pub(super) initrd_last: u32,
}

// Numbers only: equality of them is an equivalence.
impl Eq for LinuxSetup {}

/// Whether the file has the setup header of a bzImage.
pub(super) fn is_bzimage(file: &[u8]) -> bool {
    u16_at(file, 0x1fe) == Some(BOOT_FLAG) && u32_at(file, 0x202) == Some(HDRS)
}

/// The protocol's version, and the kernel's own, of a bzImage: for people.
pub(super) fn describe(file: &[u8]) -> String {
    let version = u16_at(file, 0x206).unwrap_or(0);
    let kernel = u16_at(file, 0x20e).filter(|pointer| *pointer != 0).and_then(|pointer| {
        let text = crate::bytes::c_string(file, u64::from(pointer).checked_add(0x200)?, 256)?;
        Some(format!(", version {}", String::from_utf8_lossy(text).escape_debug()))
    });
    format!("bzImage, boot protocol {}.{:02}{}", version >> 8, version & 0xff, kernel.unwrap_or_default())
}

/// Whether notes are those of a Linux kernel.
pub(super) fn is_vmlinux(notes: &[ElfNote<'_>]) -> bool {
    notes.iter().any(|note| {
        note.owner == b"Linux"
            || note.owner == b"Xen" && note.number == GUEST_OS && note.text() == Some("linux")
    })
}

/// That the file can be started.
pub(super) fn check(file: &[u8]) -> Result<(), LinuxError> {
    if is_bzimage(file) {
        BzImage::read(file).map(|_| ())
    } else if is_elf(file) {
        Ok(())
    } else {
        Err(LinuxError::None)
    }
}

pub(super) fn plan(file: &[u8], options: &ElfOptions) -> Result<BootPlan, BootError> {
    if is_bzimage(file) {
        return Ok(BzImage::read(file)?.plan(file));
    }
    if !is_elf(file) {
        return Err(LinuxError::None.into());
    }
    let headers = ElfHeaders::read(file).map_err(LoadError::from)?;
    if headers.class == ElfClass::Elf32 {
        return Err(LinuxError::Elf32.into());
    }
    let image = elf::plan(file, options)?;
    let entry = physical_entry(&image)?;
    // What a bzImage's header would say: the kernel checks the two signatures, the rest are limits of all kernels.
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HDRS,
        version: V2_12,
        loadflags: LOADED_HIGH,
        kernel_alignment: 0x100_0000,
        ..Default::default()
    };
    let linux = LinuxSetup { header, command_line: 2047, initrd_last: 0x7fff_ffff };
    Ok(BootPlan {
        protocol: Protocol::Linux,
        image,
        entry: Some(entry),
        width: Some(CodeWidth::Bits64),
        is_linux: true,
        requests: HeaderRequests::Linux(linux),
    })
}

/// A bzImage, checked.
struct BzImage {
    header: setup_header,
    /// Where the kernel proper begins in the file.
    offset: u64,
    /// Where it goes.
    address: u64,
    /// The memory it needs there before it has read its memory map.
    size: u64,
}

impl BzImage {
    fn read(file: &[u8]) -> Result<Self, LinuxError> {
        let version = u16_at(file, 0x206).ok_or(LinuxError::None)?;
        let header = setup_header_of(file).ok_or(LinuxError::None)?;
        if version < V2_00 || header.loadflags & LOADED_HIGH == 0 {
            return Err(LinuxError::Old(version));
        }
        // boot.rst, "setup_sects": for compatibility, 0 means 4. The boot sector is one more.
        let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let offset = (sectors + 1) * 512;
        // In 16-byte units, the size of the kernel proper.
        let need = offset.saturating_add(u64::from(header.syssize) * 16).max(offset.saturating_add(1));
        let have = length(file.len());
        // The last unit need not be full.
        if have.next_multiple_of(16) < need {
            return Err(LinuxError::CutOff { have, need });
        }
        let modern = version >= V2_10;
        let address = if modern && header.pref_address != 0 { header.pref_address } else { USUAL_ADDRESS };
        let size = u64::from(if modern { header.init_size } else { 0 }).max(have - offset);
        if address.checked_add(size).is_none_or(|end| end > FOUR_GIB) {
            return Err(LinuxError::Address { address, size });
        }
        Ok(Self { header, offset, address, size })
    }

    fn plan(self, file: &[u8]) -> BootPlan {
        let Self { mut header, offset, address, size } = self;
        let version = header.version;
        let has_64 = version >= V2_12 && header.xloadflags & XLF_KERNEL_64 != 0;
        let (width, entry) =
            if has_64 { (CodeWidth::Bits64, address + STARTUP_64) } else { (CodeWidth::Bits32, address) };
        // Below 4 GiB, as `read` has checked.
        header.code32_start = u32::try_from(address).unwrap_or(u32::MAX);
        let linux = LinuxSetup {
            header,
            command_line: if version >= V2_06 { header.cmdline_size } else { 255 },
            initrd_last: match header.initrd_addr_max {
                0 => 0x37ff_ffff,
                last => last,
            },
        };
        let payload = (offset, length(file.len()) - offset);
        BootPlan {
            protocol: Protocol::Linux,
            image: raw("Linux kernel", file, payload, address, size),
            entry: Some(GuestAddress(entry)),
            width: Some(width),
            is_linux: true,
            requests: HeaderRequests::Linux(linux),
        }
    }
}

/// The setup header of a file: as much as it has, which the byte at 0x201 says; what it has not is 0.
fn setup_header_of(file: &[u8]) -> Option<setup_header> {
    let end = 0x202 + u64::from(*file.get(0x201)?);
    let bytes = slice(file, SETUP_HEADER, end - SETUP_HEADER)?;
    let mut header = setup_header::default();
    let whole = header.as_mut_slice();
    let length = whole.len().min(bytes.len());
    whole.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
    Some(header)
}
