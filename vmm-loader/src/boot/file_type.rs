//! What a file is that is no kernel for this machine: told by its first bytes, so that the error can say it.
//!
//! ELF files do not come here: what is wrong with those, their headers say. Each kind has a line of help that leads to
//! something that runs.

use crate::address::ByteSize;
use crate::bytes::{length, slice, u16_at, u32_at};

use super::boot_sector;

/// What a file is, in words that end an error message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileType {
    /// What it is: `a gzip-compressed file, which has to be unpacked first`.
    pub description: String,
    /// What the user can do.
    pub help: Option<String>,
    /// Whether this is only a way to say that the format is unknown.
    pub is_unknown: bool,
}

const UNPACK: &str = "which has to be unpacked first";
const NO_DISK: &str = "and no kernel: there is no BIOS here that could start it";
const NOT_X86: &str = "no kernel for x86";
const KERNEL_INSIDE: &str = "take the kernel's file out of it";
const AS_INITRD: &str = "an initramfs goes with a kernel: `--initrd FILE`";
const BUILD_FOR_X86: &str = "build the kernel for x86-64";
const USE_ELF: &str =
    "build an ELF file for bare x86: target x86_64-unknown-none, or `gcc -ffreestanding -nostdlib`";

/// Magic numbers: the offset, the bytes, what they mean, and what helps.
const MAGIC: &[(u64, &[u8], &str, &str, &str)] = &[
    (0, b"\x1f\x8b", "a gzip-compressed file,", UNPACK, "`gunzip -k FILE`"),
    (0, b"\xfd7zXZ\0", "an xz-compressed file,", UNPACK, "`unxz -k FILE`"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd-compressed file,", UNPACK, "`unzstd FILE`"),
    (0, b"BZh", "a bzip2-compressed file,", UNPACK, "`bunzip2 -k FILE`"),
    (0, b"\x04\x22\x4d\x18", "an lz4-compressed file,", UNPACK, "`unlz4 FILE`"),
    (0, b"\x02\x21\x4c\x18", "an lz4-compressed file,", UNPACK, "`unlz4 FILE`"),
    (0, b"\x5d\0\0", "an lzma-compressed file,", UNPACK, "`unlzma -k FILE`"),
    (0, b"\x89LZO\0\r\n\x1a\n", "an lzop-compressed file,", UNPACK, "`lzop -d FILE`"),
    (0, b"PK\x03\x04", "a zip archive,", UNPACK, KERNEL_INSIDE),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive,", UNPACK, KERNEL_INSIDE),
    (257, b"ustar", "a tar archive,", UNPACK, KERNEL_INSIDE),
    (0, b"070701", "a cpio archive, such as an initramfs,", "and no kernel", AS_INITRD),
    (0, b"070702", "a cpio archive, such as an initramfs,", "and no kernel", AS_INITRD),
    (0, b"!<arch>\ndebian", "a Debian package,", UNPACK, "`dpkg-deb -x FILE DIRECTORY`"),
    (
        0,
        b"!<arch>\n",
        "a library of object files (ar archive),",
        "and no program",
        "link it into one: `ld FILE.a ...`",
    ),
    (0, b"!<thin>\n", "a library of object files (thin ar archive),", "and no program", "link it into one"),
    (0, b"\xed\xab\xee\xdb", "an RPM package,", UNPACK, "`rpm2cpio FILE | cpio -id`"),
    (0x8001, b"CD001", "a CD image (ISO 9660),", NO_DISK, KERNEL_INSIDE),
    (0, b"QFI\xfb", "a disk image (qcow2),", NO_DISK, KERNEL_INSIDE),
    (0, b"KDMV", "a disk image (VMDK),", NO_DISK, KERNEL_INSIDE),
    (0, b"vhdxfile", "a disk image (VHDX),", NO_DISK, KERNEL_INSIDE),
    (0, b"conectix", "a disk image (VHD),", NO_DISK, KERNEL_INSIDE),
    (0x40, b"\x7f\x10\xda\xbe", "a disk image (VDI),", NO_DISK, KERNEL_INSIDE),
    (512, b"EFI PART", "a disk image with a GUID partition table,", NO_DISK, KERNEL_INSIDE),
    (0, b"hsqs", "a file system image (squashfs),", "and no kernel", KERNEL_INSIDE),
    (0x438, b"\x53\xef", "a file system image (ext2, ext3 or ext4),", "and no kernel", KERNEL_INSIDE),
    (0x28, b"_FVH", "a UEFI firmware image,", "and no kernel", "give the kernel's own file"),
    (0x38, b"ARM\x64", "a Linux kernel for ARM64 (Image),", NOT_X86, BUILD_FOR_X86),
    (0x38, b"RSC\x05", "a Linux kernel for RISC-V (Image),", NOT_X86, BUILD_FOR_X86),
    (0x24, b"\x18\x28\x6f\x01", "a Linux kernel for ARM (zImage),", NOT_X86, BUILD_FOR_X86),
    (0, b"\x27\x05\x19\x56", "an image for U-Boot (uImage),", NOT_X86, BUILD_FOR_X86),
    (0, b"\xd0\x0d\xfe\xed", "a device tree or an image for U-Boot (FIT),", NOT_X86, BUILD_FOR_X86),
    (0, b"\xcf\xfa\xed\xfe", "a program for macOS (Mach-O),", "and no kernel for this machine", USE_ELF),
    (0, b"\xce\xfa\xed\xfe", "a program for macOS (Mach-O),", "and no kernel for this machine", USE_ELF),
    (0, b"\xca\xfe\xba\xbe", "a universal program for macOS, or a Java class,", "and no kernel", USE_ELF),
    (0, b"\0asm", "a WebAssembly module,", "and no code for x86", USE_ELF),
    (0, b"BC\xc0\xde", "LLVM bitcode,", "which has not been compiled", USE_ELF),
    (0, b"\xde\xc0\x17\x0b", "LLVM bitcode,", "which has not been compiled", USE_ELF),
    (0, b"SQLite format 3\0", "a database (SQLite),", "and no kernel", ""),
    (0, b"%PDF-", "a document (PDF),", "and no kernel", ""),
    (0, b"\x89PNG\r\n\x1a\n", "an image (PNG),", "and no kernel", ""),
    (0, b"\xff\xd8\xff", "an image (JPEG),", "and no kernel", ""),
];

impl FileType {
    /// Says what a file is. Every file is something: bytes without a known format, if nothing else.
    #[must_use]
    pub fn from_bytes(file: &[u8]) -> Self {
        if file.is_empty() {
            return said("an empty file", None);
        }
        for (offset, magic, what, why, help) in MAGIC {
            if slice(file, *offset, length(magic.len())) == Some(*magic) {
                return said(format!("{what} {why}"), Some(*help).filter(|help| !help.is_empty()));
            }
        }
        if file.starts_with(b"MZ") {
            return windows_or_uefi(file);
        }
        if let Some(rest) = file.strip_prefix(b"#!") {
            let line = rest.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let line = line.get(..64).unwrap_or(line);
            let interpreter = String::from_utf8_lossy(line).trim().escape_debug().to_string();
            return said(format!("a script for {interpreter}, and no kernel"), Some("run it on the host"));
        }
        if boot_sector::has_signature(file) {
            let size = length(file.len());
            let what =
                format!("a disk image of {} that begins with a boot sector, {NO_DISK}", ByteSize(size));
            let help = "give the kernel's own file; or `--boot flat --set guest.address=0x7c00`, if all of it is code \
                        that needs no BIOS";
            return said(what, Some(help));
        }
        if is_text(file) {
            return said("text, and no kernel", Some("a configuration's name ends in `.toml`"));
        }
        if is_zero(file) {
            return said("nothing but zeros", None);
        }
        if is_firmware(file) {
            return said(
                "a firmware image for the reset vector, it seems, and no kernel",
                Some("give the kernel's own file"),
            );
        }
        let start: Vec<String> = file.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let help = "to run bytes as they are, say where they go: `--boot flat --set guest.address=0x100000`, and a `--mode`";
        let what = format!(
            "no format that is known here, and no header of a boot protocol: it begins with {}",
            start.join(" ")
        );
        Self { is_unknown: true, ..said(what, Some(help)) }
    }
}

fn said(what: impl Into<String>, help: Option<&str>) -> FileType {
    FileType { description: what.into(), help: help.map(str::to_owned), is_unknown: false }
}

/// A PE file (Microsoft's "PE Format"): for which CPU, and for Windows or UEFI.
fn windows_or_uefi(file: &[u8]) -> FileType {
    let header = u32_at(file, 0x3c).map(u64::from).filter(|at| slice(file, *at, 4) == Some(b"PE\0\0"));
    let Some(header) = header else {
        return said("a DOS program (MZ), and no kernel: there is no DOS here", Some(USE_ELF));
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
    let form = match u16_at(file, header + 24) {
        Some(0x20b) => "PE32+",
        Some(0x10b) => "PE32",
        Some(_) | None => "PE",
    };
    let kind = match u16_at(file, header + 24 + 68) {
        Some(10) => "a UEFI program",
        Some(11 | 12) => "a UEFI driver",
        Some(13) => "a UEFI ROM",
        Some(_) | None => "a Windows program",
    };
    if kind == "a Windows program" {
        return said(format!("{kind} ({form}, {cpu}), and no kernel"), Some(USE_ELF));
    }
    let what = format!("{kind} ({form}, {cpu}), and there is no UEFI firmware here");
    if has_section(file, header, b".linux\0\0") {
        let help =
            "it holds a Linux kernel: `objcopy -O binary --only-section=.linux FILE KERNEL`, then run KERNEL";
        return said(what, Some(help));
    }
    said(what, Some("build the kernel as an ELF file, or for multiboot, multiboot2, pvh or linux"))
}

/// Whether a PE file has a section of this name.
fn has_section(file: &[u8], header: u64, name: &[u8; 8]) -> bool {
    let (Some(count), Some(optional)) = (u16_at(file, header + 6), u16_at(file, header + 20)) else {
        return false;
    };
    let first = header + 24 + u64::from(optional);
    // At most 65535 sections of 40 bytes.
    (0..u64::from(count)).any(|number| slice(file, first + 40 * number, 8) == Some(name))
}

/// Whether the start of a file reads as text.
fn is_text(file: &[u8]) -> bool {
    let start = file.get(..4096).unwrap_or(file);
    let valid = match str::from_utf8(start) {
        Ok(text) => text,
        // The cut may go through a character.
        Err(error) if error.error_len().is_none() => {
            let valid = start.get(..error.valid_up_to()).unwrap_or_default();
            str::from_utf8(valid).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !valid.is_empty()
        && !valid.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c' | '\x1b'))
}

/// Whether a file is a flash chip's: whole blocks of 64 KiB, and a jump where the CPU starts after reset, 16 bytes before
/// the end (SDM vol. 3, 9.1.4).
fn is_firmware(file: &[u8]) -> bool {
    let jump = file.len().checked_sub(16).and_then(|at| file.get(at));
    file.len().is_multiple_of(64 << 10) && jump.is_some_and(|code| matches!(code, 0xe9..=0xeb))
}

/// Whether a file is nothing but zeros; of a large one only the start is looked at.
fn is_zero(file: &[u8]) -> bool {
    file.iter().take(1 << 20).all(|&byte| byte == 0)
}
