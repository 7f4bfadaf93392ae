//! Why a file cannot be started by a protocol. What is wrong with a header is said beside the code that reads it.

use thiserror::Error;

use super::boot_sector::BootSectorError;
use super::file_type::FileType;
use super::linux::LinuxError;
use super::multiboot::MultibootError;
use super::multiboot2::Multiboot2Error;
use super::pvh::PvhError;
use crate::address::ByteSize;
use crate::error::LoadError;
use crate::protocol::Protocol;

/// Why a file cannot be started, or not so.
#[derive(Debug, Error)]
pub enum BootError {
    /// The file is no kernel.
    #[error("{}", .0.description)]
    NotAKernel(FileType),
    /// Its image cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No protocol fits, for several reasons.
    #[error("nothing in it can be started: {}", .0.join("; "))]
    NothingFits(Vec<String>),
    /// A program that makes system calls.
    #[error("a program for Linux, and no kernel: there is no system below it here")]
    UserProgram,
    /// Multiboot 1.
    #[error("multiboot: {0}")]
    Multiboot(#[from] MultibootError),
    /// Multiboot 2.
    #[error("multiboot2: {0}")]
    Multiboot2(#[from] Multiboot2Error),
    /// PVH.
    #[error("pvh: {0}")]
    Pvh(#[from] PvhError),
    /// Linux.
    #[error("linux: {0}")]
    Linux(#[from] LinuxError),
    /// A boot sector.
    #[error("boot-sector: {0}")]
    BootSector(#[from] BootSectorError),
    /// The entry of an ELF file is in none of its segments, neither by virtual nor by physical address.
    #[error("the entry {0:#x} is in none of the segments, neither by virtual nor by physical address")]
    Entry(u64),
    /// 32-bit code cannot begin there.
    #[error("the entry {0:#x} is out of reach of 32-bit code")]
    EntryTooHigh(u64),
    /// A flat binary without an address.
    #[error("a flat binary does not say where it goes")]
    NoAddress,
    /// The protocol has no command line or modules.
    #[error("{protocol} has no field for {what}")]
    CannotTell {
        /// The protocol.
        protocol: Protocol,
        /// What there is no field for.
        what: &'static str,
    },
    /// The command line is longer than the kernel takes.
    #[error("the command line has {length} bytes; this kernel takes at most {most}")]
    CommandLine {
        /// Its length.
        length: u64,
        /// The largest that the kernel takes.
        most: u64,
    },
    /// A text with a NUL in it, which ends it too early.
    #[error("{0} contains a NUL, which would end it")]
    Nul(&'static str),
    /// There is no free memory for something.
    #[error("no free memory for {what} ({})", ByteSize(*.size))]
    NoRoom {
        /// What it is.
        what: String,
        /// Its size in bytes.
        size: u64,
    },
}

impl BootError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NotAKernel(foreign) => foreign.help.clone(),
            Self::Load(error) => error.help(),
            Self::Multiboot(error) => error.help(),
            Self::Multiboot2(error) => error.help(),
            Self::Pvh(error) => error.help(),
            Self::Linux(error) => error.help(),
            Self::BootSector(error) => error.help(),
            Self::UserProgram => Some(
                "build it for bare x86 with `-ffreestanding -nostdlib`; or name a `mode` to run it as it is"
                    .to_owned(),
            ),
            Self::NoAddress => Some("add its address".to_owned()),
            Self::NoRoom { .. } => Some("give the machine more memory".to_owned()),
            Self::Entry(_) => {
                Some("link it with `-e SYMBOL`, the address of a symbol in one of its segments".to_owned())
            }
            Self::CannotTell { .. } => {
                Some("leave it out, or start the kernel by multiboot, multiboot2, pvh or linux".to_owned())
            }
            Self::NothingFits(_) | Self::EntryTooHigh(_) | Self::CommandLine { .. } | Self::Nul(_) => None,
        }
    }
}
