//! What the monitor says of the machine: `hvm_start_info` and its memory map (Xen's public/arch-x86/hvm/start_info.h).
//!
//! All of it lies in the first GiB, where virtual addresses are physical ones.

use core::mem::size_of;

use template_kernel::boot;

/// The fields up to the memory map; it has been there since version 1.
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;
/// The kind of entry that is memory for the kernel's use.
const USABLE: u32 = 1;

/// Start and end of each usable part of memory.
pub(crate) fn usable_memory() -> impl Iterator<Item = (u64, u64)> {
    let info: StartInfo = read(boot::start_info());
    assert_eq!(info.magic, MAGIC);
    assert!(info.version >= 1, "version {} has no memory map", info.version);
    (0..u64::from(info.memory_map_entries)).filter_map(move |index| {
        let entry: Entry = read(info.memory_map + index * size_of::<Entry>() as u64);
        (entry.kind == USABLE).then_some((entry.address, entry.address + entry.size))
    })
}

/// Reads a structure that the monitor put into memory.
fn read<T: Copy>(address: u64) -> T {
    assert!(address != 0 && address < 1 << 30, "{address:#x} is not in the first GiB");
    // SAFETY: mapped at its own address, and written by the monitor before the kernel ran. Both structures are plain
    // numbers, so any bytes are valid.
    unsafe { core::ptr::with_exposed_provenance::<T>(address as usize).read_unaligned() }
}
