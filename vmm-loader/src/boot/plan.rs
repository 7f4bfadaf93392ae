//! From a file and a protocol to a plan: what is loaded where, the entry, and the width of the code there.

use vm_memory::GuestAddress;

use super::area::FOUR_GIB;
use super::error::BootError;
use super::linux::{self, Linux};
use super::multiboot;
use super::multiboot2;
use super::protocol::{Protocol, Register, Width};
use super::told::{HandOver, Told};
use super::{boot_sector, pvh};
use crate::address::VirtAddr;
use crate::bytes::length;
use crate::class::ElfClass;
use crate::elf::{self, ElfOptions};
use crate::flat;
use crate::plan::{Kind, LoadPlan};
use crate::segment::{Access, Segment};
use crate::symbols::Symbols;

/// What the user decides about the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// For ELF files.
    pub elf: ElfOptions,
    /// Where a flat binary goes.
    pub address: Option<GuestAddress>,
}

/// How a file is loaded and entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootPlan {
    /// The protocol.
    pub protocol: Protocol,
    /// What goes where.
    pub image: LoadPlan,
    /// The physical address of the first instruction. `None` for the plain ones, whose entry is the image's own
    /// ([`LoadPlan::resolve_entry`]).
    pub entry: Option<GuestAddress>,
    /// The width of the code there. `None` for a flat binary, which does not say.
    pub width: Option<Width>,
    /// Whether it is a Linux kernel, by whatever protocol.
    pub is_linux: bool,
    /// What the protocol's header said that matters for what the kernel is told.
    pub(super) wishes: Wishes,
}

/// What of a header is needed after loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wishes {
    None,
    Multiboot2(multiboot2::Wishes),
    Linux(Linux),
}

/// Plans how to start a file by a protocol.
///
/// # Errors
/// What is wrong with the protocol's header, with the image, or with the entry.
pub fn plan(file: &[u8], protocol: Protocol, options: &Options) -> Result<BootPlan, BootError> {
    let plain = |image: LoadPlan, width| BootPlan {
        protocol,
        image,
        entry: None,
        width,
        is_linux: false,
        wishes: Wishes::None,
    };
    match protocol {
        Protocol::Elf => {
            let image = elf::plan(file, &options.elf)?;
            let width = image.class().map(|class| match class {
                ElfClass::Elf32 => Width::Bits32,
                ElfClass::Elf64 => Width::Bits64,
            });
            Ok(plain(image, width))
        }
        Protocol::Flat => {
            let address = options.address.ok_or(BootError::NoAddress)?;
            Ok(plain(flat::plan(file, address)?, None))
        }
        Protocol::Multiboot => multiboot::plan(file, &options.elf),
        Protocol::Multiboot2 => multiboot2::plan(file, &options.elf),
        Protocol::Pvh => pvh::plan(file, &options.elf),
        Protocol::Linux => linux::plan(file, &options.elf),
        Protocol::BootSector => boot_sector::plan(file),
    }
}

impl BootPlan {
    /// Works out what is to be in memory and in registers so that the kernel finds what it is told. `file` is the one that
    /// the plan was made from.
    ///
    /// # Errors
    /// When the protocol, or this kernel, cannot be told so much, or when memory has no room for it.
    pub fn hand_over(self, file: &[u8], told: &Told<'_>) -> Result<HandOver, BootError> {
        if told.command_line.contains('\0') {
            return Err(BootError::Nul("the command line"));
        }
        if told.modules.iter().any(|module| module.command_line.contains('\0')) {
            return Err(BootError::Nul("a module's command line"));
        }
        let protocol = self.protocol;
        if !protocol.tells() {
            let asked = [
                (!told.command_line.is_empty()).then_some("a command line"),
                (!told.modules.is_empty()).then_some("modules or an initrd"),
            ];
            if let Some(what) = asked.into_iter().flatten().next() {
                return Err(BootError::CannotTell { protocol, what });
            }
        }
        match (protocol, self.wishes) {
            (Protocol::Multiboot, _) => multiboot::hand_over(self.image, told),
            (Protocol::Pvh, _) => pvh::hand_over(self.image, told),
            (_, Wishes::Multiboot2(wishes)) => multiboot2::hand_over(self.image, &wishes, file, told),
            (_, Wishes::Linux(linux)) => linux::hand_over(self.image, &linux, told),
            (protocol, Wishes::None) => {
                // A BIOS leaves the number of the drive it started from in DL; 0x80 is the first hard disk.
                let registers =
                    if protocol == Protocol::BootSector { vec![(Register::Rdx, 0x80)] } else { vec![] };
                Ok(HandOver { image: self.image, blobs: vec![], modules: vec![], registers, summary: vec![] })
            }
        }
    }
}

/// A plan of one piece: `file_size` bytes from `file_offset` go to `address`, `mem_size` bytes are taken there.
pub(super) fn raw(
    what: &'static str,
    file: &[u8],
    (file_offset, file_size): (u64, u64),
    address: u64,
    mem_size: u64,
) -> LoadPlan {
    let segment = Segment {
        index: 0,
        phys: GuestAddress(address),
        virt: VirtAddr(address),
        file_offset,
        file_size,
        mem_size,
        align: 1,
        access: Access::ALL,
    };
    LoadPlan {
        class: None,
        kind: Kind::Raw(what),
        file_size: length(file.len()),
        segments: vec![segment],
        relocations: Vec::new(),
        entry: None,
        symbols: Symbols::default(),
        notes: Vec::new(),
    }
}

/// Where in physical memory an ELF kernel is entered, for loaders that have no paging yet.
///
/// Kernels for the upper half name either: the virtual address, as GRUB expects it, or the physical one, as xv6 and Linux
/// do. The virtual one is tried first.
pub(super) fn physical_entry(image: &LoadPlan) -> Result<GuestAddress, BootError> {
    let Some(entry) = image.entry() else {
        return Err(crate::error::LoadError::from(crate::entry::EntryError::None).into());
    };
    let is_physical =
        || image.segments().iter().any(|segment| segment.physical().contains(&GuestAddress(entry.0)));
    match image.virt_to_phys(entry) {
        Some(address) => Ok(address),
        None if is_physical() => Ok(GuestAddress(entry.0)),
        None => Err(BootError::Entry(entry.0)),
    }
}

/// The same for 32-bit code.
pub(super) fn entry32(image: &LoadPlan) -> Result<GuestAddress, BootError> {
    let entry = physical_entry(image)?;
    if entry.0 < FOUR_GIB { Ok(entry) } else { Err(BootError::EntryTooHigh(entry.0)) }
}
