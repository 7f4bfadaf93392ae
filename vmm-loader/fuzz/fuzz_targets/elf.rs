//! Fuzz target: any bytes as an ELF file, through plan, printing, loading and symbol lookup.
//!
//! Checks that there is no panic and no endless loop, and that nothing is written outside the plan. Good seeds for
//! `corpus/elf/` are small guests, for example those of `guests/build/`: most bytes of a large one are only copied.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_loader::{Bss, ElfOptions, VirtAddr, elf};

/// Guest memory: 64 KiB at 0, and 64 KiB at 1 MiB, the default base of a static PIE.
const REGIONS: [(GuestAddress, usize); 2] = [(GuestAddress(0), 64 << 10), (GuestAddress(1 << 20), 64 << 10)];
const PATTERN: u8 = 0xa5;

fuzz_target!(|file: &[u8]| {
    let _ = vmm_loader::config_note(file);
    // The last byte selects the base, so that a seed can be an unchanged ELF file.
    let base =
        file.last().filter(|&&last| last >= 0x80).map(|&last| GuestAddress(u64::from(last & 0x7f) << 9));
    let Ok(plan) = elf::plan(file, &ElfOptions::default().with_base(base)) else { return };
    let _ = plan.to_string();
    let _ = plan.symbols().lookup("_start");
    if let Ok(entry) = plan.resolve_entry() {
        assert!(plan.virt_to_phys(entry).is_some());
    }
    for symbol in plan.symbols().iter() {
        let _ = plan.symbol_at(symbol.address);
        let _ = plan.virt_to_phys(VirtAddr(symbol.address.0.wrapping_add(symbol.size)));
    }

    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&REGIONS).expect("memory for the guest");
    for (start, size) in REGIONS {
        memory.write_slice(&vec![PATTERN; size], start).expect("the memory is there");
    }
    let loaded = plan.load(file, &memory, Bss::Zero).is_ok();
    for (start, size) in REGIONS {
        let mut bytes = vec![0; size];
        memory.read_slice(&mut bytes, start).expect("the memory is there");
        // Restore the pattern where the plan may write. The whole region must have it then.
        for range in plan.ranges().iter().filter(|_| loaded).map(|named| &named.range) {
            let offset = |address: GuestAddress| (address.0.max(start.0) - start.0).min(size as u64) as usize;
            bytes[offset(range.start)..offset(range.end)].fill(PATTERN);
        }
        assert!(bytes.iter().all(|&byte| byte == PATTERN), "a write outside the plan");
    }
});
