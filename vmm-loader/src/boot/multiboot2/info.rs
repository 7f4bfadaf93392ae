//! Boot information of Multiboot 2: a list of tags, each at a multiple of 8 (specification, 3.6).
//!
//! The tags are the command line, the boot loader's name, modules, memory sizes, the memory map, the RSDP by value, the ELF
//! sections, and the load base address. As in GRUB, sections that are in no segment, such as the symbol table, are loaded
//! above the modules if there is room, so that a kernel finds its own symbols.

use goblin::elf::section_header::{SHT_NOBITS, SHT_NULL, SectionHeader};

use super::InformationRequests;
use crate::boot::alloc::{FOUR_GIB, ONE_MIB, PageAllocator};
use crate::boot::boot_info::{Blob, BootHandoff, BootInfo};
use crate::boot::error::BootError;
use crate::boot::info_builder::{self, InfoBuilder, address32};
use crate::boot::multiboot::{BOOT_LOADER_NAME, allocate_modules, common_summary};
use crate::bytes::slice;
use crate::elf::header::ElfHeaders;
use crate::elf::symtab;
use crate::elf_class::ElfClass;
use crate::plan::{ImageKind, LoadPlan};
use crate::register::Register;

/// `MULTIBOOT2_BOOTLOADER_MAGIC`: value of EAX at the entry.
const BOOTLOADER_MAGIC: u64 = 0x36d7_6289;

/// Information tags (specification, 3.6).
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

/// Information types that the list can contain. The others need firmware or a display.
const PROVIDED: [u32; 10] = [
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

/// Builds the list of tags.
pub(crate) fn handoff(
    image: LoadPlan,
    requests: &InformationRequests,
    file: &[u8],
    boot_info: &BootInfo<'_>,
) -> Result<BootHandoff, BootError> {
    let mut allocator = PageAllocator::new(boot_info.memory_map, boot_info.reserved, &image.ranges());
    let modules = allocate_modules(&mut allocator, &image, boot_info)?;
    let (sections, mut blobs) = match image.kind() {
        ImageKind::Executable | ImageKind::StaticPie { .. } => {
            ElfSections::allocate(&mut allocator, file, &image)
        }
        ImageKind::Flat | ImageKind::Raw(_) => (None, Vec::new()),
    };
    let (lower, upper) = (allocator.usable_kib_from(0).min(640), allocator.usable_kib_from(ONE_MIB));
    let load_base = image.segments().iter().map(|segment| segment.phys).min();

    let info = info_builder::build(&mut allocator, "multiboot2 information", |builder| {
        builder.u32(0);
        builder.u32(0);
        put_tag(builder, tag::COMMAND_LINE, |builder| _ = builder.c_string(boot_info.command_line));
        put_tag(builder, tag::LOADER, |builder| _ = builder.c_string(BOOT_LOADER_NAME));
        for (module, range) in boot_info.modules.iter().zip(&modules) {
            put_tag(builder, tag::MODULE, |builder| {
                builder.u32(address32(range.start));
                builder.u32(address32(range.end));
                builder.c_string(module.command_line);
            });
        }
        put_tag(builder, tag::BASIC_MEMORY, |builder| {
            builder.u32(lower);
            builder.u32(upper);
        });
        put_tag(builder, tag::MEMORY_MAP, |builder| {
            builder.u32(24);
            builder.u32(0);
            for entry in boot_info.memory_map {
                builder.u64(entry.start.0);
                builder.u64(entry.size);
                builder.u32(entry.kind.e820_type());
                builder.u32(0);
            }
        });
        if let Some(sections) = &sections {
            put_tag(builder, tag::ELF_SECTIONS, |builder| sections.write(builder));
        }
        if let Some(rsdp) = boot_info.rsdp {
            // The RSDP of ACPI 1.0 has 20 bytes. Later ones begin with the same 20 bytes.
            let old = rsdp.bytes.get(..20).unwrap_or(rsdp.bytes);
            put_tag(builder, tag::ACPI_OLD, |builder| builder.bytes(old));
            if rsdp.bytes.len() > 20 {
                put_tag(builder, tag::ACPI_NEW, |builder| builder.bytes(rsdp.bytes));
            }
        }
        if let Some(base) = load_base {
            put_tag(builder, tag::LOAD_BASE, |builder| builder.u32(address32(base)));
        }
        put_tag(builder, tag::END, |_| {});
        builder.patch(0, builder.len());
    })?;

    let mut summary = vec![
        format!("EAX = {BOOTLOADER_MAGIC:#x}, EBX = {:#x}: the list of tags", info.address.0),
        format!("mem_lower {lower} KiB, mem_upper {upper} KiB"),
    ];
    summary.extend(common_summary(boot_info, boot_info.command_line, &modules));
    summary.extend(sections.map(|sections| format!("{} ELF sections", sections.headers.len())));
    summary.extend(boot_info.rsdp.map(|_| "the RSDP, by value".to_owned()));
    let missing: Vec<String> =
        requests.types.iter().filter(|kind| !PROVIDED.contains(kind)).map(u32::to_string).collect();
    if !missing.is_empty() {
        summary.push(format!("asked for and not there: information of type {}", missing.join(", ")));
    }
    let registers = vec![(Register::Rax, BOOTLOADER_MAGIC), (Register::Rbx, info.address.0)];
    blobs.insert(0, info);
    let modules = modules.iter().map(|range| range.start).collect();
    Ok(BootHandoff { image, blobs, modules, registers, summary })
}

/// Appends a tag: its type, its size without padding, its content, and padding.
fn put_tag(builder: &mut InfoBuilder, kind: u32, content: impl FnOnce(&mut InfoBuilder)) {
    let start = builder.len();
    builder.u32(kind);
    builder.u32(0);
    content(builder);
    builder.patch(start.saturating_add(4), builder.len().saturating_sub(start));
    builder.align(8);
}

/// Section headers of the kernel, with the addresses of all sections that are in memory.
struct ElfSections {
    class: ElfClass,
    /// `e_shstrndx`.
    names: u16,
    headers: Vec<SectionHeader>,
}

impl ElfSections {
    /// Allocates memory for the sections that are in no segment. Returns `None` if the file's sections cannot be read.
    fn allocate(allocator: &mut PageAllocator, file: &[u8], image: &LoadPlan) -> (Option<Self>, Vec<Blob>) {
        let none = (None, Vec::new());
        let Ok(headers) = ElfHeaders::read(file) else { return none };
        let Ok(mut sections) = symtab::sections(file, &headers) else { return none };
        if sections.is_empty() {
            return none;
        }
        let floor = image.segments().iter().map(|segment| segment.phys_range().end.0).max().unwrap_or(0);
        let mut blobs = Vec::new();
        // Sections of a valid file do not share bytes, so together they are not larger than the file.
        let mut budget = file.len();
        for section in &mut sections {
            let in_file = section.sh_type != SHT_NOBITS && section.sh_type != SHT_NULL && section.sh_size > 0;
            if section.sh_addr != 0 || !in_file {
                continue;
            }
            let Some(bytes) = slice(file, section.sh_offset, section.sh_size) else { continue };
            let Some(rest) = budget.checked_sub(bytes.len()) else { continue };
            if let Some(address) = allocator.allocate_lowest(section.sh_size, floor.max(ONE_MIB), FOUR_GIB) {
                budget = rest;
                section.sh_addr = address.0;
                blobs.push(Blob { name: "section outside of segments", address, bytes: bytes.to_vec() });
            }
        }
        let names = headers.header.e_shstrndx;
        (Some(Self { class: headers.class, names, headers: sections }), blobs)
    }

    /// Writes number, entry size, index of the names and the headers in the form of the file.
    ///
    /// The text of the specification gives the first three fields 16 bits. GRUB and all kernels use 32 bits.
    fn write(&self, builder: &mut InfoBuilder) {
        builder.u32(u32::try_from(self.headers.len()).unwrap_or(u32::MAX));
        builder.u32(match self.class {
            ElfClass::Elf32 => 40,
            ElfClass::Elf64 => 64,
        });
        builder.u32(self.names.into());
        // Words of the class's width: `Elf32_Word` and `Elf32_Addr`, `Elf64_Xword` and `Elf64_Addr`.
        let wide = |builder: &mut InfoBuilder, values: &[u64]| {
            for value in values {
                match self.class {
                    ElfClass::Elf32 => builder.u32(u32::try_from(*value).unwrap_or(u32::MAX)),
                    ElfClass::Elf64 => builder.u64(*value),
                }
            }
        };
        for section in &self.headers {
            builder.u32(u32::try_from(section.sh_name).unwrap_or(u32::MAX));
            builder.u32(section.sh_type);
            wide(builder, &[section.sh_flags, section.sh_addr, section.sh_offset, section.sh_size]);
            builder.u32(section.sh_link);
            builder.u32(section.sh_info);
            wide(builder, &[section.sh_addralign, section.sh_entsize]);
        }
    }
}
