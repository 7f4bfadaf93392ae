//! Boot plan: load plan, entry and operand width of a file for one boot protocol.

use vm_memory::GuestAddress;

use super::alloc::FOUR_GIB;
use super::boot_info::{BootHandoff, BootInfo};
use super::error::{BootError, BootInfoItem};
use super::linux::LinuxSetup;
use super::multiboot2::InformationRequests;
use super::{boot_sector, linux, multiboot, multiboot2, pvh};
use crate::address::VirtAddr;
use crate::bytes::length;
use crate::elf::{self, ElfOptions};
use crate::elf_class::ElfClass;
use crate::entry::EntryError;
use crate::error::LoadError;
use crate::flat;
use crate::plan::{ImageKind, LoadPlan};
use crate::protocol::{OperandWidth, Protocol};
use crate::segment::{Segment, SegmentFlags};
use crate::symbols::Symbols;

/// Options for starting a file by a boot protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BootOptions {
    /// Options for loading an ELF file.
    pub elf: ElfOptions,
    /// Load address of a flat binary. [`Protocol::Flat`] requires it.
    pub address: Option<GuestAddress>,
}

impl BootOptions {
    /// Sets the options for ELF files.
    #[must_use]
    pub const fn with_elf(mut self, elf: ElfOptions) -> Self {
        self.elf = elf;
        self
    }

    /// Sets the load address of a flat binary.
    #[must_use]
    pub const fn with_address(mut self, address: GuestAddress) -> Self {
        self.address = Some(address);
        self
    }
}

/// Plan for loading and entering a file by a boot protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BootPlan {
    /// Boot protocol that the file is started by.
    pub protocol: Protocol,
    /// Plan for loading the kernel's image.
    pub image: LoadPlan,
    /// Physical address of the first instruction. `None` for plain protocols ([`Protocol::is_plain`]), whose entry
    /// [`LoadPlan::resolve_entry`] returns.
    pub entry: Option<GuestAddress>,
    /// Operand width of the first instruction. `None` for a flat binary.
    pub width: Option<OperandWidth>,
    /// True if the file is a Linux kernel, whichever protocol starts it.
    pub is_linux: bool,
    /// Requests of the kernel's header for its boot information.
    pub(super) requests: HeaderRequests,
}

/// Requests of a kernel's header that matter for its boot information, by protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderRequests {
    /// No boot information: an ELF file or a flat binary.
    Plain,
    BootSector,
    Multiboot,
    Multiboot2(InformationRequests),
    Pvh,
    Linux(LinuxSetup),
}

/// Plans how to start a file by a protocol.
///
/// # Errors
///
/// [`BootError`] for a problem with the protocol's header, the image or the entry.
pub fn plan(file: &[u8], protocol: Protocol, options: &BootOptions) -> Result<BootPlan, BootError> {
    let plain = |image: LoadPlan, width| BootPlan {
        protocol,
        image,
        entry: None,
        width,
        is_linux: false,
        requests: HeaderRequests::Plain,
    };
    match protocol {
        Protocol::Elf => {
            let image = elf::plan(file, &options.elf)?;
            let width = image.class().map(|class| match class {
                ElfClass::Elf32 => OperandWidth::Bits32,
                ElfClass::Elf64 => OperandWidth::Bits64,
            });
            Ok(plain(image, width))
        }
        Protocol::Flat => {
            let address = options.address.ok_or(BootError::NoAddress)?;
            Ok(plain(flat::plan(file, address).map_err(LoadError::from)?, None))
        }
        Protocol::Multiboot => multiboot::plan(file, &options.elf),
        Protocol::Multiboot2 => multiboot2::plan(file, &options.elf),
        Protocol::Pvh => pvh::plan(file, &options.elf),
        Protocol::Linux => linux::plan(file, &options.elf),
        Protocol::BootSector => boot_sector::plan(file),
    }
}

impl BootPlan {
    /// Turns boot information into bytes for guest memory and register values. `file` is the file that the plan was made
    /// from.
    ///
    /// # Errors
    ///
    /// [`BootError`] if the protocol or the kernel does not accept an item, or if there is no free memory for one.
    pub fn handoff(self, file: &[u8], boot_info: &BootInfo<'_>) -> Result<BootHandoff, BootError> {
        if boot_info.command_line.contains('\0') {
            return Err(BootError::NulInCommandLine);
        }
        if boot_info.modules.iter().any(|module| module.command_line.contains('\0')) {
            return Err(BootError::NulInModuleCommandLine);
        }
        let protocol = self.protocol;
        if !protocol.takes_boot_info() {
            let given = [
                (!boot_info.command_line.is_empty()).then_some(BootInfoItem::CommandLine),
                (!boot_info.modules.is_empty()).then_some(BootInfoItem::Modules),
            ];
            if let Some(item) = given.into_iter().flatten().next() {
                return Err(BootError::Unsupported { protocol, item });
            }
        }
        match &self.requests {
            HeaderRequests::Plain => Ok(BootHandoff::without_boot_info(self.image, Vec::new())),
            HeaderRequests::BootSector => Ok(boot_sector::handoff(self.image)),
            HeaderRequests::Multiboot => multiboot::handoff(self.image, boot_info),
            HeaderRequests::Multiboot2(requests) => {
                multiboot2::handoff(self.image, requests, file, boot_info)
            }
            HeaderRequests::Pvh => pvh::handoff(self.image, boot_info),
            HeaderRequests::Linux(setup) => linux::handoff(self.image, setup, boot_info),
        }
    }
}

/// Plans one segment: `file_size` bytes from `file_offset` on are loaded at `address` and occupy `mem_size` bytes.
pub(super) fn single_segment(
    name: &'static str,
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
        kind: ImageKind::Raw(name),
        file_size: length(file.len()),
        segments: vec![segment],
        relocations: Vec::new(),
        entry: None,
        symbols: Symbols::default(),
        notes: Vec::new(),
    }
}

/// Returns the physical address of an ELF kernel's entry, which is entered without paging.
///
/// `e_entry` of a higher-half kernel is either a virtual address, as GRUB expects, or a physical one, as in xv6 and Linux.
/// The virtual one is tried first.
pub(super) fn physical_entry(image: &LoadPlan) -> Result<GuestAddress, BootError> {
    let Some(entry) = image.entry() else {
        return Err(LoadError::from(EntryError::NoEntry).into());
    };
    let is_physical =
        || image.segments().iter().any(|segment| segment.phys_range().contains(&GuestAddress(entry.0)));
    match image.virt_to_phys(entry) {
        Some(address) => Ok(address),
        None if is_physical() => Ok(GuestAddress(entry.0)),
        None => Err(BootError::EntryOutside(entry.0)),
    }
}

/// Returns the physical address of an ELF kernel's entry, and checks that 32-bit code can reach it.
pub(super) fn physical_entry32(image: &LoadPlan) -> Result<GuestAddress, BootError> {
    let entry = physical_entry(image)?;
    if entry.0 < FOUR_GIB { Ok(entry) } else { Err(BootError::EntryTooHigh(entry.0)) }
}
