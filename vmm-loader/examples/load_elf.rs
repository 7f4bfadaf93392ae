//! Loads an ELF file into memory: plan, memory map check, load, entry. Needs no KVM.
//!
//! `cargo run --example load_elf -- FILE`

use std::error::Error;

use vmm_loader::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_loader::{Bss, ElfOptions, elf};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: load_elf FILE")?;
    let file = std::fs::read(path)?;

    // All checks of the file are done here. The plan is a value that can be printed.
    let plan = elf::plan(&file, &ElfOptions::default())?;
    println!("{plan}");

    // Guest memory from address 0 to the end of the highest segment, in whole pages.
    let end = plan.ranges().iter().map(|named| named.range.end.0).max().unwrap_or(0).next_multiple_of(4096);
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(end)?)])?;
    plan.check_fits(&[GuestAddress(0)..GuestAddress(end)])?;
    plan.load(&file, &memory, Bss::AlreadyZero)?;

    // The entry is a virtual address. The loader knows the physical address of each byte that it has loaded.
    let entry = plan.resolve_entry()?;
    let physical = plan.virt_to_phys(entry).ok_or("the entry is outside all segments")?;
    let mut code = [0; 4];
    memory.read_slice(&mut code, physical)?;
    println!("entry {entry} at physical address {:#x}: {code:02x?} ...", physical.0);
    Ok(())
}
