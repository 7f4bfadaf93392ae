//! The zero page, `struct boot_params`: all that a Linux kernel is told (Documentation/arch/x86/zero-page.rst).
//!
//! It holds the setup header with our answers in it, the memory map, and pointers to the command line, the initrd and the
//! RSDP. The rest is 0: there is no BIOS to ask about disks, video or APM.

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, GuestAddress};

use super::{LinuxError, LinuxSetup};
use crate::boot::alloc::{ONE_MIB, PageAllocator};
use crate::boot::boot_info::{BootHandoff, BootInfo};
use crate::boot::error::BootError;
use crate::boot::info_builder::{self, word};
use crate::boot::multiboot::common_summary;
use crate::bytes::length;
use crate::plan::LoadPlan;
use crate::protocol::Register;

/// `type_of_loader` for one without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;

pub(in crate::boot) fn handoff(
    image: LoadPlan,
    linux: &LinuxSetup,
    boot_info: &BootInfo<'_>,
) -> Result<BootHandoff, BootError> {
    if boot_info.modules.len() > 1 {
        return Err(LinuxError::Modules(boot_info.modules.len()).into());
    }
    let command_length = length(boot_info.command_line.len());
    if command_length > u64::from(linux.command_line) {
        return Err(BootError::CommandLine { length: command_length, most: linux.command_line.into() });
    }
    let mut area = PageAllocator::new(boot_info.memory_map, boot_info.reserved, &image.ranges());
    // As high as it may: the kernel unpacks it into memory from below.
    let initrd = boot_info.modules.first().map(|module| {
        let place = area.highest(module.size, ONE_MIB, u64::from(linux.initrd_last).saturating_add(1));
        let start = place.ok_or_else(|| BootError::NoRoom {
            what: format!("the initrd below {:#x}", u64::from(linux.initrd_last) + 1),
            size: module.size,
        })?;
        Ok::<_, BootError>(start..GuestAddress(start.0.saturating_add(module.size)))
    });
    let initrd = initrd.transpose()?;

    let mut params = boot_params { hdr: linux.header, ..Default::default() };
    params.hdr.type_of_loader = UNDEFINED_LOADER;
    if let Some(initrd) = &initrd {
        params.hdr.ramdisk_image = word(initrd.start);
        params.hdr.ramdisk_size = word(GuestAddress(initrd.end.0 - initrd.start.0));
    }
    if let Some(rsdp) = boot_info.rsdp {
        params.acpi_rsdp_addr = rsdp.address.0;
    }
    let mut table = params.e820_table;
    let entries =
        u8::try_from(boot_info.memory_map.len()).ok().filter(|count| usize::from(*count) <= table.len());
    params.e820_entries = entries.ok_or(LinuxError::Map(boot_info.memory_map.len()))?;
    for (place, entry) in table.iter_mut().zip(boot_info.memory_map) {
        *place = boot_e820_entry { addr: entry.start.0, size: entry.size, r#type: entry.kind.e820() };
    }
    params.e820_table = table;

    let info = info_builder::build(&mut area, "zero page", |block| {
        let start = block.here();
        let mut params = params;
        params.hdr.cmd_line_ptr = start.wrapping_add(u32::try_from(size_of::<boot_params>()).unwrap_or(0));
        block.bytes(params.as_slice());
        block.text(boot_info.command_line);
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
