//! What a Multiboot 2 kernel is told: a list of tags, each at a multiple of 8 (specification, chapter 3.6).
//!
//! Given are the command line, the loader's name, modules, memory sizes and map, the RSDP by value, the ELF file's sections,
//! and where the image was loaded. A kernel finds its own symbols by the sections: those that are not part of a segment,
//! such as the symbol table, are put into memory behind the modules, as GRUB does, unless there is no room.

use goblin::elf::section_header::{SHT_NOBITS, SHT_NULL, SectionHeader};

use super::Multiboot2Requests;
use crate::boot::alloc::{FOUR_GIB, ONE_MIB, PageAllocator};
use crate::boot::boot_info::{Blob, BootHandoff, BootInfo};
use crate::boot::error::BootError;
use crate::boot::info_builder::{self, InfoBuilder, word};
use crate::boot::multiboot::{LOADER, allocate_modules, common_summary};
use crate::bytes::slice;
use crate::elf::class::ElfClass;
use crate::elf::header::ElfHeaders;
use crate::elf::symtab;
use crate::plan::{ImageKind, LoadPlan};
use crate::protocol::Register;

/// What a kernel finds in EAX.
const IN_EAX: u64 = 0x36d7_6289;

/// Tags of the information, 3.6.
mod tag {
    pub(super) const END: u32 = 0;
    pub(super) const COMMAND_LINE: u32 = 1;
    pub(super) const LOADER: u32 = 2;
    pub(super) const MODULE: u32 = 3;
    pub(super) const BASIC_MEMORY: u32 = 4;
    pub(super) const MEMORY_MAP: u32 = 6;
    pub(super) const ELF_SECTIONS: u32 = 9;
    pub(super) const ACPI_OLD: u32 = 14;
    pub(super) const ACPI_NEW: u32 = 15;
    pub(super) const LOAD_BASE: u32 = 21;
}

/// What is told; other types of the specification need firmware or a display.
const GIVEN: [u32; 10] = [
    tag::COMMAND_LINE,
    tag::LOADER,
    tag::MODULE,
    tag::BASIC_MEMORY,
    tag::MEMORY_MAP,
    tag::ELF_SECTIONS,
    tag::ACPI_OLD,
    tag::ACPI_NEW,
    tag::LOAD_BASE,
    tag::END,
];

/// The tag list.
pub(crate) fn handoff(
    image: LoadPlan,
    requests: &Multiboot2Requests,
    file: &[u8],
    boot_info: &BootInfo<'_>,
) -> Result<BootHandoff, BootError> {
    let mut area = PageAllocator::new(boot_info.memory_map, boot_info.reserved, &image.ranges());
    let modules = allocate_modules(&mut area, &image, boot_info)?;
    let (sections, mut blobs) = match image.kind() {
        ImageKind::Executable | ImageKind::StaticPie { .. } => Sections::place(&mut area, file, &image),
        ImageKind::Flat | ImageKind::Raw(_) => (None, Vec::new()),
    };
    let (lower, upper) = (area.kib_from(0).min(640), area.kib_from(ONE_MIB));
    let load_base = image.segments().iter().map(|segment| segment.phys).min();

    let info = info_builder::build(&mut area, "multiboot2 information", |block| {
        block.u32(0);
        block.u32(0);
        put(block, tag::COMMAND_LINE, |block| _ = block.text(boot_info.command_line));
        put(block, tag::LOADER, |block| _ = block.text(LOADER));
        for (module, range) in boot_info.modules.iter().zip(&modules) {
            put(block, tag::MODULE, |block| {
                block.u32(word(range.start));
                block.u32(word(range.end));
                block.text(module.command_line);
            });
        }
        put(block, tag::BASIC_MEMORY, |block| {
            block.u32(lower);
            block.u32(upper);
        });
        put(block, tag::MEMORY_MAP, |block| {
            block.u32(24);
            block.u32(0);
            for entry in boot_info.memory_map {
                block.u64(entry.start.0);
                block.u64(entry.size);
                block.u32(entry.kind.e820());
                block.u32(0);
            }
        });
        if let Some(sections) = &sections {
            put(block, tag::ELF_SECTIONS, |block| sections.write(block));
        }
        if let Some(rsdp) = boot_info.rsdp {
            // An RSDP of ACPI 1.0 ends after 20 bytes; later ones hold it as their start.
            let old = rsdp.bytes.get(..20).unwrap_or(rsdp.bytes);
            put(block, tag::ACPI_OLD, |block| block.bytes(old));
            if rsdp.bytes.len() > 20 {
                put(block, tag::ACPI_NEW, |block| block.bytes(rsdp.bytes));
            }
        }
        if let Some(base) = load_base {
            put(block, tag::LOAD_BASE, |block| block.u32(word(base)));
        }
        put(block, tag::END, |_| {});
        block.patch(0, block.len());
    })?;

    let mut summary = vec![
        format!("EAX = {IN_EAX:#x}, EBX = {:#x}: the list of tags", info.address.0),
        format!("mem_lower {lower} KiB, mem_upper {upper} KiB"),
    ];
    summary.extend(common_summary(boot_info, boot_info.command_line, &modules));
    summary.extend(sections.map(|sections| format!("{} ELF sections", sections.headers.len())));
    summary.extend(boot_info.rsdp.map(|_| "the RSDP, by value".to_owned()));
    let lacking: Vec<String> =
        requests.requests.iter().filter(|kind| !GIVEN.contains(kind)).map(u32::to_string).collect();
    if !lacking.is_empty() {
        summary.push(format!("asked for and not there: information of type {}", lacking.join(", ")));
    }
    let registers = vec![(Register::Rax, IN_EAX), (Register::Rbx, info.address.0)];
    blobs.insert(0, info);
    let modules = modules.iter().map(|range| range.start).collect();
    Ok(BootHandoff { image, blobs, modules, registers, summary })
}

/// One tag: its type, its size without padding, its content, padding.
fn put(block: &mut InfoBuilder, kind: u32, content: impl FnOnce(&mut InfoBuilder)) {
    let start = block.len();
    block.u32(kind);
    block.u32(0);
    content(block);
    block.patch(start.saturating_add(4), block.len().saturating_sub(start));
    block.align(8);
}

/// The section headers, with addresses for all that lies in memory.
struct Sections {
    class: ElfClass,
    /// `e_shstrndx`.
    names: u16,
    headers: Vec<SectionHeader>,
}

impl Sections {
    /// Finds memory for the sections that are in no segment. A file whose sections cannot be read has none to tell of.
    fn place(area: &mut PageAllocator, file: &[u8], image: &LoadPlan) -> (Option<Self>, Vec<Blob>) {
        let none = (None, Vec::new());
        let Ok(headers) = ElfHeaders::read(file) else { return none };
        let Ok(mut sections) = symtab::sections(file, &headers) else { return none };
        if sections.is_empty() {
            return none;
        }
        let floor = image.segments().iter().map(|segment| segment.phys_range().end.0).max().unwrap_or(0);
        let mut blobs = Vec::new();
        // Sections may share bytes, but a sane file's do not: together they are no larger than the file.
        let mut budget = file.len();
        for section in &mut sections {
            let in_file = section.sh_type != SHT_NOBITS && section.sh_type != SHT_NULL && section.sh_size > 0;
            if section.sh_addr != 0 || !in_file {
                continue;
            }
            let Some(bytes) = slice(file, section.sh_offset, section.sh_size) else { continue };
            let Some(rest) = budget.checked_sub(bytes.len()) else { continue };
            if let Some(address) = area.lowest(section.sh_size, floor.max(ONE_MIB), FOUR_GIB) {
                budget = rest;
                section.sh_addr = address.0;
                blobs.push(Blob { name: "section outside of segments", address, bytes: bytes.to_vec() });
            }
        }
        let names = headers.header.e_shstrndx;
        (Some(Self { class: headers.class, names, headers: sections }), blobs)
    }

    /// The headers as the file has them, after their number, size, and the index of the one with their names. The
    /// specification's text gives the three 16 bits; all that is written for it, GRUB first, gives them 32.
    fn write(&self, block: &mut InfoBuilder) {
        block.u32(u32::try_from(self.headers.len()).unwrap_or(u32::MAX));
        block.u32(match self.class {
            ElfClass::Elf32 => 40,
            ElfClass::Elf64 => 64,
        });
        block.u32(self.names.into());
        // Words that are as wide as the class: `Elf32_Word` and `Elf32_Addr`, `Elf64_Xword` and `Elf64_Addr`.
        let wide = |block: &mut InfoBuilder, values: &[u64]| {
            for value in values {
                match self.class {
                    ElfClass::Elf32 => block.u32(u32::try_from(*value).unwrap_or(u32::MAX)),
                    ElfClass::Elf64 => block.u64(*value),
                }
            }
        };
        for section in &self.headers {
            block.u32(u32::try_from(section.sh_name).unwrap_or(u32::MAX));
            block.u32(section.sh_type);
            wide(block, &[section.sh_flags, section.sh_addr, section.sh_offset, section.sh_size]);
            block.u32(section.sh_link);
            block.u32(section.sh_info);
            wide(block, &[section.sh_addralign, section.sh_entsize]);
        }
    }
}
