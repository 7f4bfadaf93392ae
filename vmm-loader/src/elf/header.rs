//! Step 1 of an ELF file: is it one, is it for x86, and can it be run as it is?
//!
//! Reads the ELF header and the program header table (gABI, "ELF Header" and "Program Header") and believes neither
//! before it has been checked against the size of the file. What the segments say is step 2, in `segment.rs`.

use goblin::elf::Elf;
use goblin::elf::header::{
    EI_CLASS, EI_DATA, EI_VERSION, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, ELFMAG, EM_386,
    EM_AARCH64, EM_PPC, EM_PPC64, EM_RISCV, EM_X86_64, ET_CORE, ET_DYN, ET_EXEC, ET_REL, EV_CURRENT, Header,
    SIZEOF_IDENT, machine_to_str,
};
use goblin::elf::program_header::ProgramHeader;
use thiserror::Error;

use crate::address::ByteSize;
use crate::bytes::{length, slice};
use crate::elf::class::ElfClass;

/// `e_phnum` for "too many to count here" (gABI, PN_XNUM): the true number is in section header 0.
const PN_XNUM: u16 = 0xffff;

/// Why the headers of a file rule it out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// The magic number is missing.
    #[error("not an ELF file: it starts with {}, not 7f 45 4c 46", hex(.start))]
    NotElf {
        /// The file's first bytes, at most four.
        start: Vec<u8>,
    },
    /// The file ends inside the ELF header.
    #[error("the ELF header is cut off: {} of {}", .have, ByteSize(*.need))]
    Truncated {
        /// Bytes there are.
        have: u64,
        /// Bytes the header has.
        need: u64,
    },
    /// `EI_CLASS` is neither 1 nor 2.
    #[error("unknown ELF class {0}: neither 32-bit (1) nor 64-bit (2)")]
    Class(u8),
    /// `EI_DATA` is neither 1 nor 2.
    #[error("unknown data encoding {0}: neither little-endian (1) nor big-endian (2)")]
    Encoding(u8),
    /// `EI_DATA` says big-endian.
    #[error("the file is big-endian; x86 is little-endian")]
    BigEndian,
    /// `EI_VERSION` or `e_version` is not 1.
    #[error("unknown ELF version {0}, not 1")]
    Version(u32),
    /// The code is for another CPU.
    #[error("the file is for {} (e_machine {number}), not for x86", machine_name(*.0), number = .0)]
    Machine(u16),
    /// An x86-64 file in 32-bit form: the x32 ABI.
    #[error("an ELF32 file with x86-64 code (the x32 ABI)")]
    X32,
    /// An i386 file in 64-bit form, which no ABI knows.
    #[error("an ELF64 file for the i386, which no toolchain makes")]
    I386InElf64,
    /// ET_REL: an object file.
    #[error("an object file (ET_REL) that has not been linked")]
    Object,
    /// ET_CORE: a memory dump.
    #[error("a core dump (ET_CORE), not a program")]
    Core,
    /// Neither ET_EXEC nor ET_DYN, nor another type with a name.
    #[error("unknown ELF type {0:#x}, neither ET_EXEC nor ET_DYN")]
    Type(u16),
    /// `e_phnum` is 0.
    #[error("no program headers, so nothing to load")]
    NoProgramHeaders,
    /// `e_phnum` is PN_XNUM.
    #[error("more than 65534 program headers")]
    TooManyProgramHeaders,
    /// `e_phentsize` is not the size of the class.
    #[error("program headers of {}, not {}", ByteSize(u64::from(*.have)), .need)]
    EntrySize {
        /// What the header says.
        have: u16,
        /// What the class has.
        need: u64,
    },
    /// The program header table is not inside the file.
    #[error("the program headers (offset {offset:#x}, {}) are outside the file of {}", ByteSize(*.size), ByteSize(*.file))]
    TableOutside {
        /// `e_phoff`.
        offset: u64,
        /// `e_phnum` times `e_phentsize`.
        size: u64,
        /// Size of the file.
        file: u64,
    },
}

impl HeaderError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::NotElf { .. } => "to load it as it is, give it as a flat binary with an address",
            Self::BigEndian | Self::Machine(_) => {
                "build it for x86: `gcc -m64` or `gcc -m32`, or Rust's target x86_64-unknown-none"
            }
            Self::X32 => "compile with `-m64` for long mode or `-m32` for the 32-bit modes",
            Self::Object => "link it first, for example with `ld -o guest.elf guest.o`",
            Self::NoProgramHeaders => "link it to an executable; a file of sections alone cannot be loaded",
            Self::Empty
            | Self::Truncated { .. }
            | Self::Class(_)
            | Self::Encoding(_)
            | Self::Version(_)
            | Self::I386InElf64
            | Self::Core
            | Self::Type(_)
            | Self::TooManyProgramHeaders
            | Self::EntrySize { .. }
            | Self::TableOutside { .. } => return None,
        };
        Some(text.to_owned())
    }
}

/// The machine's name as its makers write it where that is well known, and as in `EM_` otherwise.
fn machine_name(number: u16) -> &'static str {
    match number {
        EM_AARCH64 => "AArch64",
        EM_RISCV => "RISC-V",
        EM_PPC | EM_PPC64 => "PowerPC",
        _ => match machine_to_str(number) {
            "EM_UNKNOWN" => "an unknown machine",
            name => name,
        },
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// Whether the file starts as every ELF file does.
#[must_use]
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(ELFMAG)
}

/// The headers of a file that this loader could run, as far as they alone can tell.
pub(crate) struct ElfHeaders {
    pub class: ElfClass,
    pub header: Header,
    pub program_headers: Vec<ProgramHeader>,
}

impl ElfHeaders {
    pub(crate) fn read(file: &[u8]) -> Result<Self, HeaderError> {
        let class = identify(file)?;
        // goblin reads exactly the header here and nothing that the header points to.
        let header = Elf::parse_header(file).map_err(|_| truncated(file, class.header_size()))?;
        check(&header, class)?;
        let program_headers = program_headers(file, &header, class)?;
        Ok(Self { class, header, program_headers })
    }

    /// Whether the file was linked to run at any address (ET_DYN) instead of one (ET_EXEC).
    pub(crate) fn is_position_independent(&self) -> bool {
        self.header.e_type == ET_DYN
    }
}

/// Looks at `e_ident`, the sixteen bytes that say how to read the others.
fn identify(file: &[u8]) -> Result<ElfClass, HeaderError> {
    if file.is_empty() {
        return Err(HeaderError::Empty);
    }
    if !is_elf(file) {
        return Err(HeaderError::NotElf { start: file.iter().copied().take(ELFMAG.len()).collect() });
    }
    let ident = file.get(..SIZEOF_IDENT).ok_or_else(|| truncated(file, SIZEOF_IDENT))?;
    let byte = |at: usize| ident.get(at).copied().unwrap_or(0);
    let class = match byte(EI_CLASS) {
        ELFCLASS32 => ElfClass::Elf32,
        ELFCLASS64 => ElfClass::Elf64,
        other => return Err(HeaderError::Class(other)),
    };
    if !matches!(byte(EI_DATA), ELFDATA2LSB | ELFDATA2MSB) {
        return Err(HeaderError::Encoding(byte(EI_DATA)));
    }
    if byte(EI_VERSION) != EV_CURRENT {
        return Err(HeaderError::Version(byte(EI_VERSION).into()));
    }
    if file.len() < class.header_size() {
        return Err(truncated(file, class.header_size()));
    }
    Ok(class)
}

/// The machine comes before the byte order: "for S390" says more than "big-endian".
fn check(header: &Header, class: ElfClass) -> Result<(), HeaderError> {
    match header.e_machine {
        EM_386 | EM_X86_64 => {}
        other => return Err(HeaderError::Machine(other)),
    }
    if header.e_ident.get(EI_DATA) == Some(&ELFDATA2MSB) {
        return Err(HeaderError::BigEndian);
    }
    if header.e_machine != class.machine() {
        return Err(match class {
            ElfClass::Elf32 => HeaderError::X32,
            ElfClass::Elf64 => HeaderError::I386InElf64,
        });
    }
    if header.e_version != u32::from(EV_CURRENT) {
        return Err(HeaderError::Version(header.e_version));
    }
    match header.e_type {
        ET_EXEC | ET_DYN => Ok(()),
        ET_REL => Err(HeaderError::Object),
        ET_CORE => Err(HeaderError::Core),
        other => Err(HeaderError::Type(other)),
    }
}

/// Reads the program header table once it is known to lie inside the file.
fn program_headers(file: &[u8], header: &Header, class: ElfClass) -> Result<Vec<ProgramHeader>, HeaderError> {
    let entry_size = ProgramHeader::size(class.context());
    match header.e_phnum {
        0 => return Err(HeaderError::NoProgramHeaders),
        PN_XNUM => return Err(HeaderError::TooManyProgramHeaders),
        _ if usize::from(header.e_phentsize) != entry_size => {
            return Err(HeaderError::EntrySize { have: header.e_phentsize, need: length(entry_size) });
        }
        _ => {}
    }
    let count = usize::from(header.e_phnum);
    // At most 65534 entries of 56 bytes: no overflow.
    let size = length(count * entry_size);
    let outside = || HeaderError::TableOutside { offset: header.e_phoff, size, file: length(file.len()) };
    let table = slice(file, header.e_phoff, size).ok_or_else(outside)?;
    ProgramHeader::parse(table, 0, count, class.context()).map_err(|_| outside())
}

fn truncated(file: &[u8], need: usize) -> HeaderError {
    HeaderError::Truncated { have: length(file.len()), need: length(need) }
}
