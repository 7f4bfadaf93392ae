//! From a file and a protocol to a plan: what is loaded where, the entry, and the width of the code there.

use vm_memory::GuestAddress;

use super::alloc::FOUR_GIB;
use super::boot_info::{BootHandoff, BootInfo};
use super::error::BootError;
use super::linux::{self, LinuxSetup};
use super::multiboot;
use super::multiboot2;
use super::{boot_sector, pvh};
use crate::address::VirtAddr;
use crate::bytes::length;
use crate::elf::class::ElfClass;
use crate::elf::{self, ElfOptions};
use crate::flat;
use crate::plan::{ImageKind, LoadPlan};
use crate::protocol::{CodeWidth, Protocol, Register};
use crate::segment::{Segment, SegmentFlags};
use crate::symbols::Symbols;

/// What the user decides about the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootOptions {
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
    pub width: Option<CodeWidth>,
    /// Whether it is a Linux kernel, by whatever protocol.
    pub is_linux: bool,
    /// What the protocol's header said that matters for what the kernel is told.
    pub(super) requests: HeaderRequests,
}

/// What of a header is needed after loading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderRequests {
    None,
    Multiboot2(multiboot2::Multiboot2Requests),
    Linux(LinuxSetup),
}

/// Plans how to start a file by a protocol.
///
/// # Errors
/// What is wrong with the protocol's header, with the image, or with the entry.
pub fn plan(file: &[u8], protocol: Protocol, options: &BootOptions) -> Result<BootPlan, BootError> {
    let plain = |image: LoadPlan, width| BootPlan {
        protocol,
        image,
        entry: None,
        width,
        is_linux: false,
        requests: HeaderRequests::None,
    };
    match protocol {
        Protocol::Elf => {
            let image = elf::plan(file, &options.elf)?;
            let width = image.class().map(|class| match class {
                ElfClass::Elf32 => CodeWidth::Bits32,
                ElfClass::Elf64 => CodeWidth::Bits64,
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
    pub fn handoff(self, file: &[u8], boot_info: &BootInfo<'_>) -> Result<BootHandoff, BootError> {
        if boot_info.command_line.contains('\0') {
            return Err(BootError::Nul("the command line"));
        }
        if boot_info.modules.iter().any(|module| module.command_line.contains('\0')) {
            return Err(BootError::Nul("a module's command line"));
        }
        let protocol = self.protocol;
        if !protocol.takes_boot_info() {
            let asked = [
                (!boot_info.command_line.is_empty()).then_some("a command line"),
                (!boot_info.modules.is_empty()).then_some("modules or an initrd"),
            ];
            if let Some(what) = asked.into_iter().flatten().next() {
                return Err(BootError::CannotTell { protocol, what });
            }
        }
        match (protocol, self.requests) {
            (Protocol::Multiboot, _) => multiboot::handoff(self.image, boot_info),
            (Protocol::Pvh, _) => pvh::handoff(self.image, boot_info),
            (_, HeaderRequests::Multiboot2(requests)) => {
                multiboot2::handoff(self.image, &requests, file, boot_info)
            }
            (_, HeaderRequests::Linux(linux)) => linux::handoff(self.image, &linux, boot_info),
            (protocol, HeaderRequests::None) => {
                // A BIOS leaves the number of the drive it started from in DL; 0x80 is the first hard disk.
                let registers =
                    if protocol == Protocol::BootSector { vec![(Register::Rdx, 0x80)] } else { vec![] };
                Ok(BootHandoff {
                    image: self.image,
                    blobs: vec![],
                    modules: vec![],
                    registers,
                    summary: vec![],
                })
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
        flags: SegmentFlags::ALL,
    };
    LoadPlan {
        class: None,
        kind: ImageKind::Raw(what),
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
        || image.segments().iter().any(|segment| segment.phys_range().contains(&GuestAddress(entry.0)));
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
