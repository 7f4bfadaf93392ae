//! Error type of boot protocols. Errors of one protocol's header are defined beside the code that reads it.

use std::fmt;

use thiserror::Error;

use super::boot_sector::BootSectorError;
use super::file_type::FileType;
use super::linux::LinuxError;
use super::multiboot::MultibootError;
use super::multiboot2::Multiboot2Error;
use super::pvh::PvhError;
use crate::display::ByteSize;
use crate::elf::error::ElfError;
use crate::error::LoadError;
use crate::protocol::Protocol;

/// File that cannot be started by a boot protocol.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BootError {
    /// File that is not a kernel.
    #[error("{}", .0.description)]
    NotAKernel(FileType),
    /// Kernel image that cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// File with headers of boot protocols, each of which has a problem. Holds one error for each.
    #[error("nothing in it can be started: {}", join(.0))]
    NoUsableCandidate(Vec<Self>),
    /// User program for Linux, which makes system calls.
    #[error("a program for Linux, and no kernel: there is no system below it here")]
    UserProgram,
    /// Multiboot 1 header that is missing, damaged or cannot be satisfied.
    #[error("multiboot: {0}")]
    Multiboot(MultibootError),
    /// Multiboot 2 header that is missing, damaged or cannot be satisfied.
    #[error("multiboot2: {0}")]
    Multiboot2(Multiboot2Error),
    /// PVH note that is missing or invalid.
    #[error("pvh: {0}")]
    Pvh(PvhError),
    /// Linux kernel that cannot be started by the Linux boot protocol.
    #[error("linux: {0}")]
    Linux(LinuxError),
    /// File that is not a boot sector, or cannot run without a BIOS.
    #[error("boot-sector: {0}")]
    BootSector(BootSectorError),
    /// Entry of an ELF file that is in none of its segments, neither as a virtual nor as a physical address.
    #[error("the entry {0:#x} is in none of the segments, neither by virtual nor by physical address")]
    EntryOutside(u64),
    /// Entry above 4 GiB, which 32-bit code cannot reach.
    #[error("the entry {0:#x} is out of reach of 32-bit code")]
    EntryTooHigh(u64),
    /// Flat binary for which no load address is given.
    #[error("a flat binary does not say where it goes")]
    NoAddress,
    /// Boot information that the protocol cannot pass on.
    #[error("{protocol} has no field for {item}")]
    Unsupported {
        /// Boot protocol that has no field for the item.
        protocol: Protocol,
        /// Item that the protocol has no field for.
        item: BootInfoItem,
    },
    /// Command line that is longer than the kernel accepts.
    #[error("the command line has {length} bytes; this kernel takes at most {max}")]
    CommandLineTooLong {
        /// Length of the command line in bytes, without the final NUL.
        length: u64,
        /// Maximum length in bytes, without the final NUL.
        max: u64,
    },
    /// Command line that contains a NUL.
    #[error("the command line contains a NUL, which would end it")]
    NulInCommandLine,
    /// Command line of a module that contains a NUL.
    #[error("a module's command line contains a NUL, which would end it")]
    NulInModuleCommandLine,
    /// Boot structure or module for which there is no free memory.
    #[error("no free memory for {what} ({})", ByteSize(*.size))]
    NoFreeMemory {
        /// Name of the structure or module.
        what: String,
        /// Size of the structure or module in bytes.
        size: u64,
    },
}

/// Item of boot information that only some protocols can pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BootInfoItem {
    /// Command line of the kernel.
    CommandLine,
    /// Boot modules, such as an initrd.
    Modules,
}

/// Writes the item as it appears in a message: `a command line`.
impl fmt::Display for BootInfoItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "a command line",
            Self::Modules => "modules or an initrd",
        })
    }
}

/// Conversions without `#[from]`: the message contains the text of the inner error, so that it is not a `source()` too.
macro_rules! from_protocol_errors {
    ($($variant:ident($error:ty),)*) => {
        $(
            impl From<$error> for BootError {
                fn from(error: $error) -> Self {
                    Self::$variant(error)
                }
            }
        )*
    };
}

from_protocol_errors! {
    Multiboot(MultibootError),
    Multiboot2(Multiboot2Error),
    Pvh(PvhError),
    Linux(LinuxError),
    BootSector(BootSectorError),
}

impl From<ElfError> for BootError {
    fn from(error: ElfError) -> Self {
        Self::Load(error.into())
    }
}

fn join(errors: &[BootError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl BootError {
    /// Returns advice on the error for the user, if there is any: one sentence without a full stop.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NotAKernel(file_type) => file_type.help.clone(),
            Self::Load(error) => error.help(),
            Self::Multiboot(error) => error.help(),
            Self::Multiboot2(error) => error.help(),
            Self::Pvh(error) => error.help(),
            Self::Linux(error) => error.help(),
            Self::BootSector(error) => error.help(),
            Self::UserProgram => Some(
                "build it for bare x86 with `-ffreestanding -nostdlib`; or choose the protocol elf to run it as it is"
                    .to_owned(),
            ),
            Self::NoAddress => Some("add its address".to_owned()),
            Self::NoFreeMemory { .. } => Some("give the machine more memory".to_owned()),
            Self::EntryOutside(_) => {
                Some("link it with `-e SYMBOL`, the address of a symbol in one of its segments".to_owned())
            }
            Self::Unsupported { .. } => {
                Some("leave it out, or start the kernel by multiboot, multiboot2, pvh or linux".to_owned())
            }
            Self::NoUsableCandidate(_)
            | Self::EntryTooHigh(_)
            | Self::CommandLineTooLong { .. }
            | Self::NulInCommandLine
            | Self::NulInModuleCommandLine => None,
        }
    }
}
