//! Linux/x86 boot protocol (`Documentation/arch/x86/boot.rst` in the kernel's tree) for a bzImage or a vmlinux.
//!
//! A bzImage consists of a boot sector, 16-bit setup code, which is not used, and a compressed kernel, which is loaded at its
//! preferred address. A kernel with `XLF_KERNEL_64` is entered in 64-bit code at `startup_64`, 0x200 bytes after its load
//! address. Other kernels are entered in 32-bit code at their load address. RSI points to the zero page
//! (`linux/zero_page.rs`).
//!
//! A vmlinux is the ELF file inside a bzImage. Its entry is `startup_64` of the uncompressed kernel. It has no setup header,
//! so the zero page gets default values. A vmlinux with a PVH note is started by PVH instead.
//!
//! The structures come from the linux-loader crate. Its loading functions are not used, since they write to guest memory
//! before everything is checked.

mod zero_page;

use linux_loader::bootparam::{LOADED_HIGH, XLF_KERNEL_64, setup_header};
use thiserror::Error;
use vm_memory::{ByteValued, GuestAddress};

use super::alloc::FOUR_GIB;
use super::boot_plan::{BootPlan, HeaderRequests, physical_entry, single_segment};
use super::error::BootError;
use crate::bytes::{length, slice, u16_at, u32_at};
use crate::elf::error::ElfError;
use crate::elf::header::{ElfHeaders, is_elf};
use crate::elf::notes::ElfNote;
use crate::elf::{self, ElfOptions};
use crate::elf_class::ElfClass;
use crate::protocol::{OperandWidth, Protocol};

pub(super) use zero_page::handoff;

/// Offset of the setup header in the file and in the zero page.
const SETUP_HEADER: u64 = 0x1f1;
/// Value of `boot_flag`.
const BOOT_FLAG: u16 = 0xaa55;
/// Value of `header`: "HdrS".
const HDRS: u32 = 0x5372_6448;
/// Load address of a bzImage without a preferred address.
const DEFAULT_LOAD_ADDRESS: u64 = 0x10_0000;
/// Offset of the 64-bit entry from the load address.
const STARTUP_64_OFFSET: u64 = 0x200;
/// Xen ELF note with the name of the operating system (xen/include/public/elfnote.h).
const XEN_ELFNOTE_GUEST_OS: u32 = 6;
// Protocol versions that added fields: 2.06 `cmdline_size`, 2.10 `pref_address`, 2.12 `xloadflags`.
const V2_00: u16 = 0x200;
const V2_06: u16 = 0x206;
const V2_10: u16 = 0x20a;
const V2_12: u16 = 0x20c;

/// File that cannot be started by the Linux boot protocol, or boot information that Linux does not accept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LinuxError {
    /// File that is neither a bzImage nor an ELF file.
    #[error("neither a bzImage (no `HdrS` at 0x202) nor an ELF file")]
    NotLinux,
    /// Kernel with a setup header before 2.00 or without `LOADED_HIGH`. Holds the protocol version.
    #[error("a zImage of boot protocol {}.{:02}: too old to be loaded above 1 MiB", .0 >> 8, .0 & 0xff)]
    TooOld(u16),
    /// File that ends before the kernel does.
    #[error("the bzImage is cut off: it has {have} bytes of at least {need}")]
    CutOff {
        /// Size of the file in bytes.
        have: u64,
        /// Minimum size in bytes according to the header.
        need: u64,
    },
    /// Kernel that would end above 4 GiB.
    #[error("the kernel wants {size:#x} bytes at {address:#x}, which ends above 4 GiB")]
    TooHigh {
        /// Address that the kernel prefers (`pref_address` of its setup header).
        address: u64,
        /// Memory that the kernel needs, in bytes (`init_size` of its setup header).
        size: u64,
    },
    /// ELF32 file: the Linux boot protocol starts only x86-64 vmlinux files.
    #[error("an ELF kernel of 32 bits has no 64-bit entry")]
    Elf32,
    /// More than one boot module, where Linux takes only an initrd. Holds their number.
    #[error("Linux takes one initrd and no other modules; {0} are given")]
    TooManyModules(usize),
    /// Memory map with more entries than the zero page has room for. Holds their number.
    #[error("the memory map has {0} entries; the zero page has room for 128")]
    MemoryMapTooLong(usize),
}

impl LinuxError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::Elf32 => "start it by its bzImage",
            Self::CutOff { .. } => "copy it again",
            Self::TooManyModules(_) => "put the files into one cpio archive, or several one after the other",
            Self::NotLinux | Self::TooOld(_) | Self::TooHigh { .. } | Self::MemoryMapTooLong(_) => {
                return None;
            }
        };
        Some(text.to_owned())
    }
}

/// Setup data of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LinuxSetup {
    /// Setup header for the zero page.
    pub(super) header: setup_header,
    /// Maximum length of the command line in bytes, without its NUL (`cmdline_size`).
    pub(super) max_command_line: u32,
    /// Highest address of an initrd (`initrd_addr_max`).
    pub(super) max_initrd_address: u32,
}

// All fields are integers, so equality is reflexive.
impl Eq for LinuxSetup {}

/// Returns true if the file has the setup header of a bzImage.
pub(super) fn is_bzimage(file: &[u8]) -> bool {
    u16_at(file, 0x1fe) == Some(BOOT_FLAG) && u32_at(file, 0x202) == Some(HDRS)
}

/// Describes a bzImage by the versions of its boot protocol and its kernel.
pub(super) fn describe(file: &[u8]) -> String {
    let version = u16_at(file, 0x206).unwrap_or(0);
    let kernel = u16_at(file, 0x20e).filter(|pointer| *pointer != 0).and_then(|pointer| {
        let text = crate::bytes::c_string(file, u64::from(pointer).checked_add(0x200)?, 256)?;
        Some(format!(", version {}", String::from_utf8_lossy(text).escape_debug()))
    });
    format!("bzImage, boot protocol {}.{:02}{}", version >> 8, version & 0xff, kernel.unwrap_or_default())
}

/// Returns true if the notes are those of a Linux kernel.
pub(super) fn is_vmlinux(notes: &[ElfNote<'_>]) -> bool {
    notes.iter().any(|note| {
        note.name == b"Linux"
            || note.name == b"Xen" && note.note_type == XEN_ELFNOTE_GUEST_OS && note.text() == Some("linux")
    })
}

/// Checks that the file is a bzImage that can be started, or an ELF file.
pub(super) fn check(file: &[u8]) -> Result<(), LinuxError> {
    if is_bzimage(file) {
        BzImage::read(file).map(|_| ())
    } else if is_elf(file) {
        Ok(())
    } else {
        Err(LinuxError::NotLinux)
    }
}

/// Plans how to start a bzImage or a vmlinux.
pub(super) fn plan(file: &[u8], options: &ElfOptions) -> Result<BootPlan, BootError> {
    if is_bzimage(file) {
        return Ok(BzImage::read(file)?.plan(file));
    }
    if !is_elf(file) {
        return Err(LinuxError::NotLinux.into());
    }
    let headers = ElfHeaders::read(file).map_err(ElfError::from)?;
    if headers.class == ElfClass::Elf32 {
        return Err(LinuxError::Elf32.into());
    }
    let image = elf::plan(file, options)?;
    let entry = physical_entry(&image)?;
    // Default values of a bzImage's header. The kernel checks the two signatures; the limits hold for all kernels.
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: HDRS,
        version: V2_12,
        loadflags: LOADED_HIGH,
        kernel_alignment: 0x100_0000,
        ..Default::default()
    };
    let setup = LinuxSetup { header, max_command_line: 2047, max_initrd_address: 0x7fff_ffff };
    Ok(BootPlan {
        protocol: Protocol::Linux,
        image,
        entry: Some(entry),
        width: Some(OperandWidth::Bits64),
        is_linux: true,
        requests: HeaderRequests::Linux(setup),
    })
}

/// Checked bzImage.
struct BzImage {
    header: setup_header,
    /// File offset of the compressed kernel.
    offset: u64,
    /// Load address.
    address: u64,
    /// Size in bytes of the memory that the kernel uses before it reads its memory map (`init_size`).
    size: u64,
}

impl BzImage {
    fn read(file: &[u8]) -> Result<Self, LinuxError> {
        let version = u16_at(file, 0x206).ok_or(LinuxError::NotLinux)?;
        let header = setup_header_of(file).ok_or(LinuxError::NotLinux)?;
        if version < V2_00 || header.loadflags & LOADED_HIGH == 0 {
            return Err(LinuxError::TooOld(version));
        }
        // boot.rst, "setup_sects": 0 means 4. The boot sector is not counted.
        let sectors = if header.setup_sects == 0 { 4 } else { u64::from(header.setup_sects) };
        let offset = (sectors + 1) * 512;
        // `syssize` is the size of the compressed kernel in units of 16 bytes.
        let need = offset.saturating_add(u64::from(header.syssize) * 16).max(offset.saturating_add(1));
        let have = length(file.len());
        // The last unit may be incomplete.
        if have.next_multiple_of(16) < need {
            return Err(LinuxError::CutOff { have, need });
        }
        let modern = version >= V2_10;
        let address =
            if modern && header.pref_address != 0 { header.pref_address } else { DEFAULT_LOAD_ADDRESS };
        let size = u64::from(if modern { header.init_size } else { 0 }).max(have - offset);
        if address.checked_add(size).is_none_or(|end| end > FOUR_GIB) {
            return Err(LinuxError::TooHigh { address, size });
        }
        Ok(Self { header, offset, address, size })
    }

    fn plan(self, file: &[u8]) -> BootPlan {
        let Self { mut header, offset, address, size } = self;
        let version = header.version;
        let has_64 = version >= V2_12 && header.xloadflags & XLF_KERNEL_64 != 0;
        let (width, entry) = if has_64 {
            (OperandWidth::Bits64, address + STARTUP_64_OFFSET)
        } else {
            (OperandWidth::Bits32, address)
        };
        // `read` has checked that the address is below 4 GiB.
        header.code32_start = u32::try_from(address).unwrap_or(u32::MAX);
        let setup = LinuxSetup {
            header,
            max_command_line: if version >= V2_06 { header.cmdline_size } else { 255 },
            max_initrd_address: match header.initrd_addr_max {
                0 => 0x37ff_ffff,
                last => last,
            },
        };
        let payload = (offset, length(file.len()) - offset);
        BootPlan {
            protocol: Protocol::Linux,
            image: single_segment("Linux kernel", file, payload, address, size),
            entry: Some(GuestAddress(entry)),
            width: Some(width),
            is_linux: true,
            requests: HeaderRequests::Linux(setup),
        }
    }
}

/// Copies the setup header of a file. The byte at 0x201 gives its size; fields after its end are 0.
fn setup_header_of(file: &[u8]) -> Option<setup_header> {
    let end = 0x202 + u64::from(*file.get(0x201)?);
    let bytes = slice(file, SETUP_HEADER, end - SETUP_HEADER)?;
    let mut header = setup_header::default();
    let whole = header.as_mut_slice();
    let length = whole.len().min(bytes.len());
    whole.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
    Some(header)
}
