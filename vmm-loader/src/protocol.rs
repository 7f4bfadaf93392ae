//! The names of the protocols, and what the others say about a CPU: the width of its code, four of its registers.

use std::fmt;

/// A way to start a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// A plain ELF file: it is loaded and entered, and told nothing.
    Elf,
    /// Multiboot Specification 0.6.96.
    Multiboot,
    /// Multiboot2 Specification 2.0.
    Multiboot2,
    /// Xen's x86/HVM direct boot ABI.
    Pvh,
    /// The Linux/x86 boot protocol.
    Linux,
    /// Bytes at an address: they are loaded and entered, and told nothing.
    Flat,
    /// The first sector of a disk, as a BIOS starts it.
    BootSector,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Elf, Self::Multiboot, Self::Multiboot2, Self::Pvh, Self::Linux, Self::Flat, Self::BootSector];

    /// The word for it in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Elf => "elf",
            Self::Multiboot => "multiboot",
            Self::Multiboot2 => "multiboot2",
            Self::Pvh => "pvh",
            Self::Linux => "linux",
            Self::Flat => "flat",
            Self::BootSector => "boot-sector",
        }
    }

    /// Whether the guest is only loaded and entered, in whatever mode the caller wants.
    #[must_use]
    pub const fn is_plain(self) -> bool {
        match self {
            Self::Elf | Self::Flat => true,
            Self::Multiboot | Self::Multiboot2 | Self::Pvh | Self::Linux | Self::BootSector => false,
        }
    }

    /// Whether the guest can be told a command line, and files be loaded for it.
    #[must_use]
    pub const fn takes_boot_info(self) -> bool {
        match self {
            Self::Multiboot | Self::Multiboot2 | Self::Pvh | Self::Linux => true,
            Self::Elf | Self::Flat | Self::BootSector => false,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The width of the code at the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CodeWidth {
    /// 16-bit code in segments.
    Bits16,
    /// 32-bit code, flat segments, no paging.
    Bits32,
    /// 64-bit code, all memory mapped at its own address.
    Bits64,
}

/// A register that a protocol sets. In 32-bit code the lower half is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Register {
    /// RAX.
    Rax,
    /// RBX.
    Rbx,
    /// RDX.
    Rdx,
    /// RSI.
    Rsi,
}
