//! PVH (Xen, `docs/misc/pvh.pandoc`): 32-bit entry from an ELF note, in an ELF file of either class.
//!
//! EBX holds the address of `hvm_start_info`, version 1, which points to the command line, the modules (the first one is the
//! initrd of Linux), the memory map and the RSDP. The structures come from the linux-loader crate.

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
use crate::elf::error::ElfError;
use crate::elf::header::ElfHeaders;
use crate::elf::notes::{self, ElfNote};
use crate::elf::{self, ElfOptions};
use crate::plan::LoadPlan;
use crate::protocol::{OperandWidth, Protocol};
use crate::register::Register;

/// Xen ELF note with the 32-bit entry (xen/include/public/elfnote.h).
const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
/// Size of `hvm_start_info` in bytes.
const INFO_SIZE: u32 = 56;

/// PVH note that is missing or invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PvhError {
    /// ELF file without the note of a PVH entry.
    #[error("the file has no note of Xen's that names a 32-bit entry (XEN_ELFNOTE_PHYS32_ENTRY)")]
    NoNote,
    /// PVH note whose entry is neither four nor eight bytes. Holds its size in bytes.
    #[error("the note of the entry has {0} bytes, not 4 or 8")]
    ByteSize(usize),
    /// PVH entry outside all segments, or above 4 GiB.
    #[error("the entry {0:#x} of the note is outside of all segments")]
    EntryOutside(u64),
}

impl PvhError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub const fn help(&self) -> Option<String> {
        match self {
            Self::NoNote | Self::ByteSize(_) | Self::EntryOutside(_) => None,
        }
    }
}

/// Returns the note with the entry.
pub(super) fn entry_note<'n, 'f>(notes: &'n [ElfNote<'f>]) -> Option<&'n ElfNote<'f>> {
    notes.iter().find(|note| note.name == b"Xen" && note.note_type == XEN_ELFNOTE_PHYS32_ENTRY)
}

/// Returns the entry that the note gives.
pub(super) fn entry(notes: &[ElfNote<'_>]) -> Result<u64, PvhError> {
    let note = entry_note(notes).ok_or(PvhError::NoNote)?;
    note.value().ok_or(PvhError::ByteSize(note.desc.len()))
}

/// Plans how to start a kernel at the entry of its note.
pub(super) fn plan(file: &[u8], options: &ElfOptions) -> Result<BootPlan, BootError> {
    let headers = ElfHeaders::read(file).map_err(ElfError::from)?;
    let notes = notes::read(file, &headers);
    let entry = entry(&notes)?;
    let image = elf::plan(file, options)?;
    let inside = image.segments().iter().any(|segment| segment.phys_range().contains(&GuestAddress(entry)));
    if !inside || entry >= FOUR_GIB {
        return Err(PvhError::EntryOutside(entry).into());
    }
    let (protocol, width) = (Protocol::Pvh, Some(OperandWidth::Bits32));
    let is_linux = linux::is_vmlinux(&notes);
    Ok(BootPlan {
        protocol,
        image,
        entry: Some(GuestAddress(entry)),
        width,
        is_linux,
        requests: HeaderRequests::Pvh,
    })
}

/// Builds the start information, followed by everything that it points to.
pub(super) fn handoff(image: LoadPlan, boot_info: &BootInfo<'_>) -> Result<BootHandoff, BootError> {
    let mut allocator = PageAllocator::new(boot_info.memory_map, boot_info.reserved, &image.ranges());
    let modules = allocate_modules(&mut allocator, &image, boot_info)?;
    let info = info_builder::build(&mut allocator, "PVH start information", |builder| {
        let start = builder.address();
        // The structure has a fixed size, so the addresses of the tables are known before they are written.
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
        builder.bytes(info.as_slice());
        for entry in boot_info.memory_map {
            let type_ = entry.kind.e820_type();
            let entry = hvm_memmap_table_entry { addr: entry.start.0, size: entry.size, type_, reserved: 0 };
            builder.bytes(entry.as_slice());
        }
        let mut text = texts.wrapping_add(text_size(boot_info.command_line));
        for (module, range) in boot_info.modules.iter().zip(&modules) {
            let (paddr, size) = (range.start.0, module.size);
            let entry = hvm_modlist_entry { paddr, size, cmdline_paddr: text.into(), reserved: 0 };
            builder.bytes(entry.as_slice());
            text = text.wrapping_add(text_size(module.command_line));
        }
        builder.c_string(boot_info.command_line);
        for module in boot_info.modules {
            builder.c_string(module.command_line);
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

/// Returns the size of a table in bytes.
fn table_size<T>(entries: usize) -> u32 {
    u32::try_from(size_of::<T>().saturating_mul(entries)).unwrap_or(u32::MAX)
}

/// Returns the size of a text with its NUL in bytes.
fn text_size(text: &str) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX).saturating_add(1)
}
