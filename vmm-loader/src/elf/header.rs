//! Step 1 of an ELF file: the ELF header and the program header table (gABI, "ELF Header" and "Program Header").
//!
//! Checks that the file is an executable for x86 and that both lie inside the file. Step 2, `elf/pt_load.rs`, checks the
//! program headers themselves.

use goblin::elf::Elf;
use goblin::elf::header::{
    EI_CLASS, EI_DATA, EI_VERSION, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, ELFMAG, EM_386,
    EM_AARCH64, EM_PPC, EM_PPC64, EM_RISCV, EM_X86_64, ET_CORE, ET_DYN, ET_EXEC, ET_REL, EV_CURRENT, Header,
    SIZEOF_IDENT, machine_to_str,
};
use goblin::elf::program_header::ProgramHeader;
use thiserror::Error;

use crate::bytes::{length, slice};
use crate::display::ByteSize;
use crate::elf_class::ElfClass;

/// `e_phnum` of a file with more program headers than fit: the real number is in section header 0 (gABI, PN_XNUM).
const PN_XNUM: u16 = 0xffff;

/// File whose headers show that it cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Empty file.
    #[error("the file is empty")]
    Empty,
    /// File without the ELF magic number.
    #[error("not an ELF file: it starts with {}, not 7f 45 4c 46", hex(.start))]
    NotElf {
        /// First bytes of the file, at most four.
        start: Vec<u8>,
    },
    /// File that ends inside the ELF header.
    #[error("the ELF header is cut off: {} of {}", .have, ByteSize(*.need))]
    Truncated {
        /// Size of the file in bytes.
        have: u64,
        /// Size of the ELF header in bytes.
        need: u64,
    },
    /// File whose ELF class is unknown: `EI_CLASS` is neither 1 (32-bit) nor 2 (64-bit).
    #[error("unknown ELF class {0}: neither 32-bit (1) nor 64-bit (2)")]
    Class(u8),
    /// File whose byte order is unknown: `EI_DATA` is neither 1 (little-endian) nor 2 (big-endian).
    #[error("unknown data encoding {0}: neither little-endian (1) nor big-endian (2)")]
    Encoding(u8),
    /// Big-endian file (`EI_DATA` is 2), which no x86 CPU runs.
    #[error("the file is big-endian; x86 is little-endian")]
    BigEndian,
    /// File of an unknown ELF version: `EI_VERSION` or `e_version` is not 1.
    #[error("unknown ELF version {0}, not 1")]
    Version(u32),
    /// File for another CPU than x86. Holds `e_machine`.
    #[error("the file is for {} (e_machine {number}), not for x86", machine_name(*.0), number = .0)]
    Machine(u16),
    /// ELF32 file with x86-64 code: the x32 ABI.
    #[error("an ELF32 file with x86-64 code (the x32 ABI)")]
    X32,
    /// ELF64 file with i386 code, which no ABI defines.
    #[error("an ELF64 file for the i386, which no toolchain makes")]
    I386InElf64,
    /// Object file (ET_REL), which has to be linked first.
    #[error("an object file (ET_REL) that has not been linked")]
    Object,
    /// Core dump (ET_CORE).
    #[error("a core dump (ET_CORE), not a program")]
    Core,
    /// File of an unknown type (`e_type`).
    #[error("unknown ELF type {0:#x}, neither ET_EXEC nor ET_DYN")]
    Type(u16),
    /// File without program headers: `e_phnum` is 0.
    #[error("no program headers, so nothing to load")]
    NoProgramHeaders,
    /// File with 65535 or more program headers: `e_phnum` is PN_XNUM.
    #[error("more than 65534 program headers")]
    TooManyProgramHeaders,
    /// File whose program headers do not have the size of its ELF class.
    #[error("program headers of {}, not {}", ByteSize(u64::from(*.have)), .need)]
    EntrySize {
        /// Size of a program header according to the file, in bytes (`e_phentsize`).
        have: u16,
        /// Size of a program header in the file's ELF class, in bytes.
        need: u64,
    },
    /// Program header table that is outside the file.
    #[error("the program headers (offset {offset:#x}, {}) are outside the file of {}", ByteSize(*.size), ByteSize(*.file))]
    TableOutside {
        /// Offset of the table in the file (`e_phoff`).
        offset: u64,
        /// Size of the table in bytes: `e_phnum` times `e_phentsize`.
        size: u64,
        /// Size of the file in bytes.
        file: u64,
    },
}

impl HeaderError {
    /// Returns advice on the error for the user, if there is any.
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

/// Returns the common name of a machine if it is well known, and otherwise the name of its `EM_` constant.
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

/// Returns true if the file begins with the ELF magic number.
#[must_use]
pub fn is_elf(file: &[u8]) -> bool {
    file.starts_with(ELFMAG)
}

/// Checked ELF header and program headers.
pub(crate) struct ElfHeaders {
    pub class: ElfClass,
    pub header: Header,
    pub program_headers: Vec<ProgramHeader>,
}

impl ElfHeaders {
    pub(crate) fn read(file: &[u8]) -> Result<Self, HeaderError> {
        let class = identify(file)?;
        // goblin decodes the header only, nothing that the header points to.
        let header = Elf::parse_header(file).map_err(|_| truncated(file, class.header_size()))?;
        check(&header, class)?;
        let program_headers = program_headers(file, &header, class)?;
        Ok(Self { class, header, program_headers })
    }

    /// Returns true for ET_DYN, a file that can be loaded at any address, and false for ET_EXEC.
    pub(crate) fn is_position_independent(&self) -> bool {
        self.header.e_type == ET_DYN
    }
}

/// Checks `e_ident` and returns the class.
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

/// Checks machine, byte order, version and type.
///
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

/// Reads the program header table, after checking that it lies inside the file.
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
