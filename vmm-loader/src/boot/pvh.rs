//! PVH (Xen's `docs/misc/pvh.pandoc`): an ELF note names a 32-bit entry, whatever the class of the file.
//!
//! EBX holds the address of `hvm_start_info`, version 1, which points to the command line, the modules (the first is
//! Linux' initrd), the memory map and the RSDP. The structures are linux-loader's.

use linux_loader::loader::elf::start_info::{
    XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use thiserror::Error;
use vm_memory::{ByteValued, GuestAddress};

use super::alloc::{FOUR_GIB, PageAllocator};
use super::boot_info::{BootHandoff, BootInfo};
use super::boot_plan::{BootPlan, HeaderRequests};
use super::error::BootError;
use super::info_builder;
use super::linux;
use super::multiboot::{allocate_modules, common_summary};
use crate::elf::header::ElfHeaders;
use crate::elf::notes::{self, ElfNote};
use crate::elf::{self, ElfOptions};
use crate::error::LoadError;
use crate::plan::LoadPlan;
use crate::protocol::{CodeWidth, Protocol, Register};

/// `XEN_ELFNOTE_PHYS32_ENTRY` (xen/include/public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;
/// Size of `hvm_start_info`.
const INFO_SIZE: u32 = 56;

/// Why the note cannot be obeyed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PvhError {
    /// There is none.
    #[error("the file has no note of Xen's that names a 32-bit entry (XEN_ELFNOTE_PHYS32_ENTRY)")]
    None,
    /// It is neither four nor eight bytes.
    #[error("the note of the entry has {0} bytes, not 4 or 8")]
    ByteSize(usize),
    /// Nothing is loaded there.
    #[error("the entry {0:#x} of the note is outside of all segments")]
    Entry(u64),
}

impl PvhError {
    /// What the user can do about it.
    #[must_use]
    pub const fn help(&self) -> Option<String> {
        match self {
            Self::None | Self::ByteSize(_) | Self::Entry(_) => None,
        }
    }
}

/// The note among those of a file.
pub(super) fn note<'n, 'f>(notes: &'n [ElfNote<'f>]) -> Option<&'n ElfNote<'f>> {
    notes.iter().find(|note| note.owner == b"Xen" && note.number == PHYS32_ENTRY)
}

/// The entry that the note names.
pub(super) fn entry(notes: &[ElfNote<'_>]) -> Result<u64, PvhError> {
    let note = note(notes).ok_or(PvhError::None)?;
    note.value().ok_or(PvhError::ByteSize(note.bytes.len()))
}

pub(super) fn plan(file: &[u8], options: &ElfOptions) -> Result<BootPlan, BootError> {
    let headers = ElfHeaders::read(file).map_err(LoadError::from)?;
    let notes = notes::read(file, &headers);
    let entry = entry(&notes)?;
    let image = elf::plan(file, options)?;
    let inside = image.segments().iter().any(|segment| segment.phys_range().contains(&GuestAddress(entry)));
    if !inside || entry >= FOUR_GIB {
        return Err(PvhError::Entry(entry).into());
    }
    let (protocol, width) = (Protocol::Pvh, Some(CodeWidth::Bits32));
    let is_linux = linux::is_vmlinux(&notes);
    Ok(BootPlan {
        protocol,
        image,
        entry: Some(GuestAddress(entry)),
        width,
        is_linux,
        requests: HeaderRequests::None,
    })
}

/// The start information, with all that it points to behind it.
pub(super) fn handoff(image: LoadPlan, boot_info: &BootInfo<'_>) -> Result<BootHandoff, BootError> {
    let mut area = PageAllocator::new(boot_info.memory_map, boot_info.reserved, &image.ranges());
    let modules = allocate_modules(&mut area, &image, boot_info)?;
    let info = info_builder::build(&mut area, "PVH start information", |block| {
        let start = block.here();
        // The structure's size is fixed, so where the tables begin is known before they are written.
        let memmap = start.wrapping_add(INFO_SIZE);
        let modlist = memmap.wrapping_add(table_size::<hvm_memmap_table_entry>(boot_info.memory_map.len()));
        let texts = modlist.wrapping_add(table_size::<hvm_modlist_entry>(modules.len()));
        let info = hvm_start_info {
            magic: XEN_HVM_START_MAGIC_VALUE,
            version: 1,
            nr_modules: u32::try_from(modules.len()).unwrap_or(u32::MAX),
            modlist_paddr: if modules.is_empty() { 0 } else { modlist.into() },
            cmdline_paddr: texts.into(),
            rsdp_paddr: boot_info.rsdp.map_or(0, |rsdp| rsdp.address.0),
            memmap_paddr: memmap.into(),
            memmap_entries: u32::try_from(boot_info.memory_map.len()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        block.bytes(info.as_slice());
        for entry in boot_info.memory_map {
            let type_ = entry.kind.e820();
            let entry = hvm_memmap_table_entry { addr: entry.start.0, size: entry.size, type_, reserved: 0 };
            block.bytes(entry.as_slice());
        }
        let mut text = texts.wrapping_add(text_size(boot_info.command_line));
        for (module, range) in boot_info.modules.iter().zip(&modules) {
            let (paddr, size) = (range.start.0, module.size);
            let entry = hvm_modlist_entry { paddr, size, cmdline_paddr: text.into(), reserved: 0 };
            block.bytes(entry.as_slice());
            text = text.wrapping_add(text_size(module.command_line));
        }
        block.text(boot_info.command_line);
        for module in boot_info.modules {
            block.text(module.command_line);
        }
    })?;

    let mut summary = vec![format!("EBX = {:#x}: hvm_start_info, version 1", info.address.0)];
    summary.extend(common_summary(boot_info, boot_info.command_line, &modules));
    summary.extend(boot_info.rsdp.map(|rsdp| format!("RSDP at {:#x}", rsdp.address.0)));
    Ok(BootHandoff {
        image,
        modules: modules.iter().map(|range| range.start).collect(),
        registers: vec![(Register::Rbx, info.address.0)],
        blobs: vec![info],
        summary,
    })
}

fn table_size<T>(entries: usize) -> u32 {
    u32::try_from(size_of::<T>().saturating_mul(entries)).unwrap_or(u32::MAX)
}

/// A text with its NUL.
fn text_size(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX).saturating_add(1)
}
