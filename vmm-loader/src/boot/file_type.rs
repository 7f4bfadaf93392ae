//! Type of a file that is not a kernel, by its magic number, for error messages.
//!
//! ELF files do not get here: [`ElfError`](crate::ElfError) describes their problems.

use FileCategory::{
    Archive, Compressed, DiskImage, Document, FileSystemImage, Firmware, ForeignKernel, ForeignProgram,
    Initramfs, ObjectLibrary, Package,
};

use super::boot_sector;
use crate::bytes::{length, slice, u16_at, u32_at};
use crate::display::ByteSize;

/// Type of a file that is not a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileType {
    /// Category, for code that handles some types in a special way.
    pub category: FileCategory,
    /// Description for people, such as `a gzip-compressed file, which has to be unpacked first`.
    pub description: String,
    /// Advice for the user of such a file, if there is any.
    pub help: Option<String>,
}

/// Category of a file that is not a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileCategory {
    /// Empty file.
    Empty,
    /// Compressed file.
    Compressed,
    /// Archive of files, such as a tar file.
    Archive,
    /// cpio archive, the format of an initramfs.
    Initramfs,
    /// Software package, such as a Debian or RPM package.
    Package,
    /// Library of object files.
    ObjectLibrary,
    /// Disk or CD image, recognized by its format.
    DiskImage,
    /// File of more than 512 bytes that begins with a boot sector: a disk image, or code.
    BootableDisk,
    /// File system image.
    FileSystemImage,
    /// Firmware image.
    Firmware,
    /// Kernel for another CPU than x86.
    ForeignKernel,
    /// Program for another operating system or virtual machine.
    ForeignProgram,
    /// UEFI program or driver.
    UefiProgram,
    /// Script that begins with a `#!` line.
    Script,
    /// Document, database or picture.
    Document,
    /// Text file without a `#!` line.
    Text,
    /// File whose bytes are all zero.
    Zeros,
    /// File of an unknown format.
    Unknown,
}

const UNPACK: &str = "which has to be unpacked first";
const NO_DISK: &str = "and no kernel: there is no BIOS here that could start it";
const NOT_X86: &str = "no kernel for x86";
const KERNEL_INSIDE: &str = "take the kernel's file out of it";
const AS_INITRD: &str = "an initramfs goes with a kernel, as its initrd";
const BUILD_FOR_X86: &str = "build the kernel for x86-64";
const USE_ELF: &str =
    "build an ELF file for bare x86: target x86_64-unknown-none, or `gcc -ffreestanding -nostdlib`";

/// Magic number: offset, bytes, category, the two parts of the description, and advice (empty for none).
type MagicNumber = (u64, &'static [u8], FileCategory, &'static str, &'static str, &'static str);

const MAGIC_NUMBERS: &[MagicNumber] = &[
    (0, b"\x1f\x8b", Compressed, "a gzip-compressed file,", UNPACK, "`gunzip -k FILE`"),
    (0, b"\xfd7zXZ\0", Compressed, "an xz-compressed file,", UNPACK, "`unxz -k FILE`"),
    (0, b"\x28\xb5\x2f\xfd", Compressed, "a zstd-compressed file,", UNPACK, "`unzstd FILE`"),
    (0, b"BZh", Compressed, "a bzip2-compressed file,", UNPACK, "`bunzip2 -k FILE`"),
    (0, b"\x04\x22\x4d\x18", Compressed, "an lz4-compressed file,", UNPACK, "`unlz4 FILE`"),
    (0, b"\x02\x21\x4c\x18", Compressed, "an lz4-compressed file,", UNPACK, "`unlz4 FILE`"),
    (0, b"\x5d\0\0", Compressed, "an lzma-compressed file,", UNPACK, "`unlzma -k FILE`"),
    (0, b"\x89LZO\0\r\n\x1a\n", Compressed, "an lzop-compressed file,", UNPACK, "`lzop -d FILE`"),
    (0, b"PK\x03\x04", Archive, "a zip archive,", UNPACK, KERNEL_INSIDE),
    (0, b"7z\xbc\xaf\x27\x1c", Archive, "a 7z archive,", UNPACK, KERNEL_INSIDE),
    (257, b"ustar", Archive, "a tar archive,", UNPACK, KERNEL_INSIDE),
    (0, b"070701", Initramfs, "a cpio archive, such as an initramfs,", "and no kernel", AS_INITRD),
    (0, b"070702", Initramfs, "a cpio archive, such as an initramfs,", "and no kernel", AS_INITRD),
    (0, b"!<arch>\ndebian", Package, "a Debian package,", UNPACK, "`dpkg-deb -x FILE DIRECTORY`"),
    (
        0,
        b"!<arch>\n",
        ObjectLibrary,
        "a library of object files (ar archive),",
        "and no program",
        "link it into one: `ld FILE.a ...`",
    ),
    (
        0,
        b"!<thin>\n",
        ObjectLibrary,
        "a library of object files (thin ar archive),",
        "and no program",
        "link it into one",
    ),
    (0, b"\xed\xab\xee\xdb", Package, "an RPM package,", UNPACK, "`rpm2cpio FILE | cpio -id`"),
    (0x8001, b"CD001", DiskImage, "a CD image (ISO 9660),", NO_DISK, KERNEL_INSIDE),
    (0, b"QFI\xfb", DiskImage, "a disk image (qcow2),", NO_DISK, KERNEL_INSIDE),
    (0, b"KDMV", DiskImage, "a disk image (VMDK),", NO_DISK, KERNEL_INSIDE),
    (0, b"vhdxfile", DiskImage, "a disk image (VHDX),", NO_DISK, KERNEL_INSIDE),
    (0, b"conectix", DiskImage, "a disk image (VHD),", NO_DISK, KERNEL_INSIDE),
    (0x40, b"\x7f\x10\xda\xbe", DiskImage, "a disk image (VDI),", NO_DISK, KERNEL_INSIDE),
    (512, b"EFI PART", DiskImage, "a disk image with a GUID partition table,", NO_DISK, KERNEL_INSIDE),
    (0, b"hsqs", FileSystemImage, "a file system image (squashfs),", "and no kernel", KERNEL_INSIDE),
    (
        0x438,
        b"\x53\xef",
        FileSystemImage,
        "a file system image (ext2, ext3 or ext4),",
        "and no kernel",
        KERNEL_INSIDE,
    ),
    (0x28, b"_FVH", Firmware, "a UEFI firmware image,", "and no kernel", "give the kernel's own file"),
    (0x38, b"ARM\x64", ForeignKernel, "a Linux kernel for ARM64 (Image),", NOT_X86, BUILD_FOR_X86),
    (0x38, b"RSC\x05", ForeignKernel, "a Linux kernel for RISC-V (Image),", NOT_X86, BUILD_FOR_X86),
    (0x24, b"\x18\x28\x6f\x01", ForeignKernel, "a Linux kernel for ARM (zImage),", NOT_X86, BUILD_FOR_X86),
    (0, b"\x27\x05\x19\x56", ForeignKernel, "an image for U-Boot (uImage),", NOT_X86, BUILD_FOR_X86),
    (
        0,
        b"\xd0\x0d\xfe\xed",
        ForeignKernel,
        "a device tree or an image for U-Boot (FIT),",
        NOT_X86,
        BUILD_FOR_X86,
    ),
    (
        0,
        b"\xcf\xfa\xed\xfe",
        ForeignProgram,
        "a program for macOS (Mach-O),",
        "and no kernel for this machine",
        USE_ELF,
    ),
    (
        0,
        b"\xce\xfa\xed\xfe",
        ForeignProgram,
        "a program for macOS (Mach-O),",
        "and no kernel for this machine",
        USE_ELF,
    ),
    (
        0,
        b"\xca\xfe\xba\xbe",
        ForeignProgram,
        "a universal program for macOS, or a Java class,",
        "and no kernel",
        USE_ELF,
    ),
    (0, b"\0asm", ForeignProgram, "a WebAssembly module,", "and no code for x86", USE_ELF),
    (0, b"BC\xc0\xde", ForeignProgram, "LLVM bitcode,", "which has not been compiled", USE_ELF),
    (0, b"\xde\xc0\x17\x0b", ForeignProgram, "LLVM bitcode,", "which has not been compiled", USE_ELF),
    (0, b"SQLite format 3\0", Document, "a database (SQLite),", "and no kernel", ""),
    (0, b"%PDF-", Document, "a document (PDF),", "and no kernel", ""),
    (0, b"\x89PNG\r\n\x1a\n", Document, "an image (PNG),", "and no kernel", ""),
    (0, b"\xff\xd8\xff", Document, "an image (JPEG),", "and no kernel", ""),
];

impl FileType {
    /// Identifies the type of a file from its contents. A file of no known format has the category
    /// [`FileCategory::Unknown`].
    #[must_use]
    pub fn from_bytes(file: &[u8]) -> Self {
        if file.is_empty() {
            return Self::new(FileCategory::Empty, "an empty file", None);
        }
        for (offset, magic, category, what, why, help) in MAGIC_NUMBERS {
            if slice(file, *offset, length(magic.len())) == Some(*magic) {
                let help = Some(*help).filter(|help| !help.is_empty());
                return Self::new(*category, format!("{what} {why}"), help);
            }
        }
        if file.starts_with(b"MZ") {
            return Self::from_pe(file);
        }
        if let Some(rest) = file.strip_prefix(b"#!") {
            let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let line = line.get(..64).unwrap_or(line);
            let interpreter = String::from_utf8_lossy(line).trim().escape_debug().to_string();
            let description = format!("a script for {interpreter}, and no kernel");
            return Self::new(FileCategory::Script, description, Some("run it on the host"));
        }
        if boot_sector::has_signature(file) {
            let size = ByteSize(length(file.len()));
            let description = format!("a disk image of {size} that begins with a boot sector, {NO_DISK}");
            let help = "give the kernel's own file; or load it as a flat binary at 0x7c00, if all of it is code that \
                        needs no BIOS";
            return Self::new(FileCategory::BootableDisk, description, Some(help));
        }
        if is_text(file) {
            return Self::new(FileCategory::Text, "text, and no kernel", None);
        }
        if is_zero(file) {
            return Self::new(FileCategory::Zeros, "nothing but zeros", None);
        }
        if is_firmware(file) {
            let description = "a firmware image for the reset vector, it seems, and no kernel";
            return Self::new(Firmware, description, Some("give the kernel's own file"));
        }
        let start: Vec<String> = file.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let description = format!(
            "no format that is known here, and no header of a boot protocol: it begins with {}",
            start.join(" ")
        );
        let help = "to run bytes as they are, load them as a flat binary at an address";
        Self::new(FileCategory::Unknown, description, Some(help))
    }

    fn new(category: FileCategory, description: impl Into<String>, help: Option<&str>) -> Self {
        Self { category, description: description.into(), help: help.map(str::to_owned) }
    }

    /// Identifies a file that begins with `MZ`: a PE file (Microsoft, "PE Format") by CPU and subsystem, or a DOS program.
    fn from_pe(file: &[u8]) -> Self {
        let header = u32_at(file, 0x3c).map(u64::from).filter(|at| slice(file, *at, 4) == Some(b"PE\0\0"));
        let Some(header) = header else {
            let description = "a DOS program (MZ), and no kernel: there is no DOS here";
            return Self::new(ForeignProgram, description, Some(USE_ELF));
        };
        let cpu = match u16_at(file, header + 4) {
            Some(0x8664) => "x86-64",
            Some(0x14c) => "i386",
            Some(0xaa64) => "ARM64",
            Some(0x1c0 | 0x1c2 | 0x1c4) => "ARM",
            Some(0x5064) => "RISC-V",
            Some(0x200) => "Itanium",
            Some(0xebc) => "EFI byte code",
            Some(_) | None => "an unknown CPU",
        };
        let format = match u16_at(file, header + 24) {
            Some(0x20b) => "PE32+",
            Some(0x10b) => "PE32",
            Some(_) | None => "PE",
        };
        let uefi = match u16_at(file, header + 24 + 68) {
            Some(10) => "a UEFI program",
            Some(11 | 12) => "a UEFI driver",
            Some(13) => "a UEFI ROM",
            Some(_) | None => {
                let description = format!("a Windows program ({format}, {cpu}), and no kernel");
                return Self::new(ForeignProgram, description, Some(USE_ELF));
            }
        };
        let description = format!("{uefi} ({format}, {cpu}), and there is no UEFI firmware here");
        let help = if has_section(file, header, b".linux\0\0") {
            "it holds a Linux kernel: `objcopy -O binary --only-section=.linux FILE KERNEL`, then run KERNEL"
        } else {
            "build the kernel as an ELF file, or for multiboot, multiboot2, pvh or linux"
        };
        Self::new(FileCategory::UefiProgram, description, Some(help))
    }
}

/// Returns true if a PE file has a section with this name.
fn has_section(file: &[u8], header: u64, name: &[u8; 8]) -> bool {
    let (Some(count), Some(optional)) = (u16_at(file, header + 6), u16_at(file, header + 20)) else {
        return false;
    };
    let first = header + 24 + u64::from(optional);
    // At most 65535 sections of 40 bytes.
    (0..u64::from(count)).any(|number| slice(file, first + 40 * number, 8) == Some(name))
}

/// Returns true if the first 4 KiB are text.
fn is_text(file: &[u8]) -> bool {
    let start = file.get(..4096).unwrap_or(file);
    let valid = match str::from_utf8(start) {
        Ok(text) => text,
        // The limit may split a character.
        Err(error) if error.error_len().is_none() => {
            let valid = start.get(..error.valid_up_to()).unwrap_or_default();
            str::from_utf8(valid).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty()
        && !valid.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c' | '\x1b'))
}

/// Returns true if the file resembles the content of a firmware flash chip: blocks of 64 KiB with a jump at the reset
/// vector, 16 bytes before the end (Intel SDM vol. 3, 9.1.4).
fn is_firmware(file: &[u8]) -> bool {
    let jump = file.len().checked_sub(16).and_then(|at| file.get(at));
    file.len().is_multiple_of(64 << 10) && jump.is_some_and(|code| matches!(code, 0xe9..=0xeb))
}

/// Returns true if the first MiB consists of zeros.
fn is_zero(file: &[u8]) -> bool {
    file.iter().take(1 << 20).all(|&byte| byte == 0)
}
