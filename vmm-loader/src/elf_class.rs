//! The two ELF classes of x86, and the numbers that differ between them.

use std::fmt;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::header::{EM_386, EM_X86_64, header32, header64};

/// ELF class: the address width of the file (`EI_CLASS`).
///
/// Exhaustive: the gABI defines no other class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElfClass {
    /// ELF32 for the i386: 16-bit and 32-bit code.
    Elf32,
    /// ELF64 for the x86-64: 64-bit code.
    Elf64,
}

impl ElfClass {
    /// Returns goblin's decoding context for this class. x86 is little-endian.
    pub(crate) const fn context(self) -> Ctx {
        let container = match self {
            Self::Elf32 => Container::Little,
            Self::Elf64 => Container::Big,
        };
        Ctx { container, le: Endian::Little }
    }

    /// Returns the size in bytes of an address, and of a word that a relative relocation changes.
    #[must_use]
    pub const fn word_size(self) -> u64 {
        match self {
            Self::Elf32 => 4,
            Self::Elf64 => 8,
        }
    }

    /// Returns the highest address of the ELF class.
    #[must_use]
    pub const fn last_address(self) -> u64 {
        match self {
            Self::Elf32 => 0xffff_ffff,
            Self::Elf64 => u64::MAX,
        }
    }

    /// Returns the `e_machine` value of x86 for the class.
    pub(crate) const fn machine(self) -> u16 {
        match self {
            Self::Elf32 => EM_386,
            Self::Elf64 => EM_X86_64,
        }
    }

    /// Returns the size in bytes of the ELF header.
    pub(crate) const fn header_size(self) -> usize {
        match self {
            Self::Elf32 => header32::SIZEOF_EHDR,
            Self::Elf64 => header64::SIZEOF_EHDR,
        }
    }
}

/// Writes `ELF32` or `ELF64`.
impl fmt::Display for ElfClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elf32 => "ELF32",
            Self::Elf64 => "ELF64",
        })
    }
}
