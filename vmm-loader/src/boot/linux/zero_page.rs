//! Zero page, `struct boot_params`: the boot information of Linux (`Documentation/arch/x86/zero-page.rst`).
//!
//! Contains the setup header with the fields of a boot loader filled in, the memory map, and pointers to the command line,
//! the initrd and the RSDP. All other fields are 0, since there is no BIOS data about disks, video or APM.

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, GuestAddress};

use super::{LinuxError, LinuxSetup};
use crate::boot::alloc::{ONE_MIB, PageAllocator};
use crate::boot::boot_info::{BootHandoff, BootInfo};
use crate::boot::error::BootError;
use crate::boot::info_builder::{self, address32};
use crate::boot::multiboot::common_summary;
use crate::bytes::length;
use crate::plan::LoadPlan;
use crate::register::Register;

/// `type_of_loader` of a boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;

/// Builds the zero page, followed by the command line, and allocates memory for the initrd.
pub(in crate::boot) fn handoff(
    image: LoadPlan,
    setup: &LinuxSetup,
    boot_info: &BootInfo<'_>,
) -> Result<BootHandoff, BootError> {
    if boot_info.modules.len() > 1 {
        return Err(LinuxError::TooManyModules(boot_info.modules.len()).into());
    }
    let command_length = length(boot_info.command_line.len());
    let max = u64::from(setup.max_command_line);
    if command_length > max {
        return Err(BootError::CommandLineTooLong { length: command_length, max });
    }
    let mut allocator = PageAllocator::new(boot_info.memory_map, boot_info.reserved, &image.ranges());
    // As high as possible: the kernel unpacks it into memory from below.
    let initrd = boot_info.modules.first().map(|module| {
        let limit = u64::from(setup.max_initrd_address).saturating_add(1);
        let start = allocator.allocate_highest(module.size, ONE_MIB, limit).ok_or_else(|| {
            BootError::NoFreeMemory { what: format!("the initrd below {limit:#x}"), size: module.size }
        })?;
        Ok::<_, BootError>(start..GuestAddress(start.0.saturating_add(module.size)))
    });
    let initrd = initrd.transpose()?;

    let mut params = boot_params { hdr: setup.header, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    if let Some(initrd) = &initrd {
        params.hdr.ramdisk_image = address32(initrd.start);
        params.hdr.ramdisk_size = address32(GuestAddress(initrd.end.0 - initrd.start.0));
    }
    if let Some(rsdp) = boot_info.rsdp {
        params.acpi_rsdp_addr = rsdp.address.0;
    }
    let mut table = params.e820_table;
    let entries =
        u8::try_from(boot_info.memory_map.len()).ok().filter(|count| usize::from(*count) <= table.len());
    params.e820_entries = entries.ok_or(LinuxError::MemoryMapTooLong(boot_info.memory_map.len()))?;
    for (slot, entry) in table.iter_mut().zip(boot_info.memory_map) {
        *slot = boot_e820_entry { addr: entry.start.0, size: entry.size, r#type: entry.kind.e820_type() };
    }
    params.e820_table = table;

    let info = info_builder::build(&mut allocator, "zero page", |builder| {
        let start = builder.address();
        let mut params = params;
        params.hdr.cmd_line_ptr = start.wrapping_add(u32::try_from(size_of::<boot_params>()).unwrap_or(0));
        builder.bytes(params.as_slice());
        builder.c_string(boot_info.command_line);
    })?;

    let modules: Vec<_> = initrd.into_iter().collect();
    let mut summary = vec![format!("RSI = {:#x}: the zero page", info.address.0)];
    summary.extend(common_summary(boot_info, boot_info.command_line, &modules));
    summary.extend(boot_info.rsdp.map(|rsdp| format!("RSDP at {:#x}", rsdp.address.0)));
    Ok(BootHandoff {
        image,
        modules: modules.iter().map(|range| range.start).collect(),
        registers: vec![(Register::Rsi, info.address.0)],
        blobs: vec![info],
        summary,
    })
}
