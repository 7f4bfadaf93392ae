//! The two classes of ELF files that x86 has, and the numbers that differ between them.

use std::fmt;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{EM_386, EM_X86_64, header32, header64};

/// The width of an ELF file's addresses, and of the code in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElfClass {
    /// ELF32 for the i386: 16-bit and 32-bit code.
    Elf32,
    /// ELF64 for the x86-64: 64-bit code.
    Elf64,
}

impl ElfClass {
    /// How goblin reads records of this class; x86 is little-endian.
    pub(crate) const fn context(self) -> Ctx {
        let container = match self {
            Self::Elf32 => Container::Little,
            Self::Elf64 => Container::Big,
        };
        Ctx { container, le: Endian::Little }
    }

    /// Bytes in an address, and in each word that a relative relocation changes.
    #[must_use]
    pub const fn word_size(self) -> u64 {
        match self {
            Self::Elf32 => 4,
            Self::Elf64 => 8,
        }
    }

    /// The last address that the class can name.
    #[must_use]
    pub const fn last_address(self) -> u64 {
        match self {
            Self::Elf32 => 0xffff_ffff,
            Self::Elf64 => u64::MAX,
        }
    }

    /// The machine number that belongs to the class (`e_machine`).
    pub(crate) const fn machine(self) -> u16 {
        match self {
            Self::Elf32 => EM_386,
            Self::Elf64 => EM_X86_64,
        }
    }

    /// Bytes in the ELF header.
    pub(crate) const fn header_size(self) -> usize {
        match self {
            Self::Elf32 => header32::SIZEOF_EHDR,
            Self::Elf64 => header64::SIZEOF_EHDR,
        }
    }
}

impl fmt::Display for ElfClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf32 => "ELF32",
            Self::Elf64 => "ELF64",
        })
    }
}
