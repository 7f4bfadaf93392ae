//! Any bytes as an ELF file.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{Bss, ElfOptions, LoadPlan, RelocationValue, SymbolKind, VirtAddr, config_note, elf};

/// Guest memory: some at 0, and some at 1 MiB, the default base of a static PIE. Little of it, for speed.
const REGIONS: [(GuestAddress, usize); 2] = [(GuestAddress(0), 16 << 10), (GuestAddress(1 << 20), 16 << 10)];
/// Content of guest memory before loading.
const PATTERN: u8 = 0xa5;
static PATTERNS: [u8; 16 << 10] = [PATTERN; 16 << 10];

thread_local! {
    static MEMORY: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&REGIONS).unwrap();
}

/// Checks an ELF file. A last byte from 0x80 on chooses the base, so that a file of a compiler can be a seed.
pub fn elf(file: &[u8]) {
    let _ = config_note(file);
    let base =
        file.last().filter(|last| **last >= 0x80).map(|last| GuestAddress(u64::from(last & 0x7f) << 9));
    let Ok(plan) = elf::plan(file, &ElfOptions::default().with_base(base)) else { return };
    check_plan(&plan, file);
    check_symbols(&plan, file);
    check_loading(&plan, file);
    assert!(!plan.to_string().is_empty());
}

fn check_plan(plan: &LoadPlan, file: &[u8]) {
    assert!(!plan.segments().is_empty());
    for segment in plan.segments() {
        assert!(0 < segment.mem_size && segment.file_size <= segment.mem_size);
        if segment.file_size > 0 {
            let end = segment.file_offset.checked_add(segment.file_size).unwrap();
            assert!(usize::try_from(end).unwrap() <= file.len());
        }
        assert!(segment.phys.0.checked_add(segment.mem_size).unwrap() <= 1 << 52);
        assert!(segment.virt.0.checked_add(segment.mem_size - 1).is_some());
    }
    let ranges = plan.ranges();
    for (index, range) in ranges.iter().enumerate() {
        assert!(!ranges.iter().take(index).any(|other| other.overlaps(range)), "overlapping segments");
    }
    assert!(plan.relocations().len() <= file.len() / 4);
    for relocation in plan.relocations() {
        let size = match relocation.value {
            RelocationValue::Bits32(_) => 4,
            RelocationValue::Bits64(_) => 8,
        };
        let holds = |start: u64, length: u64| {
            start <= relocation.target.0 && relocation.target.0 + size <= start + length
        };
        assert!(plan.segments().iter().any(|segment| holds(segment.phys.0, segment.file_size)));
    }
    if let Ok(entry) = plan.resolve_entry() {
        assert!(plan.virt_to_phys(entry).is_some());
    }
}

fn check_symbols(plan: &LoadPlan, file: &[u8]) {
    let _ = plan.symbols().lookup("_start");
    let names: usize = plan.symbols().iter().map(|symbol| symbol.name.len()).sum();
    assert!(names <= 16 * file.len(), "{names} bytes of names in a file of {}", file.len());
    for symbol in plan.symbols().iter().take(64) {
        let found = plan.symbols().nearest(symbol.address);
        assert!(
            found.is_some() || symbol.kind == SymbolKind::Absolute,
            "no symbol at the address of {}",
            symbol.name
        );
        if let Some((other, offset)) = found {
            assert_eq!(other.address.0.checked_add(offset), Some(symbol.address.0));
        }
        if let Ok(same) = plan.symbols().lookup(&symbol.name) {
            assert_eq!(same.name, symbol.name);
        }
        let _ = plan.symbol_at(symbol.address);
        let _ = plan.virt_to_phys(VirtAddr(symbol.address.0.wrapping_add(symbol.size)));
    }
}

/// Loads the plan and checks that no byte outside its ranges has changed.
fn check_loading(plan: &LoadPlan, file: &[u8]) {
    MEMORY.with(|memory| {
        for (start, size) in REGIONS {
            memory.write_slice(PATTERNS.get(..size).unwrap(), start).unwrap();
        }
        let regions =
            REGIONS.map(|(start, size)| start..GuestAddress(start.0 + u64::try_from(size).unwrap()));
        let fits = plan.check_fits(&regions).is_ok();
        assert_eq!(plan.load(file, memory, Bss::Zero).is_ok(), fits);
        for ((_, size), region) in REGIONS.into_iter().zip(&regions) {
            let mut bytes = vec![0; size];
            memory.read_slice(&mut bytes, region.start).unwrap();
            // The whole region has the pattern again once it is restored where the plan may write.
            for range in plan.ranges().iter().filter(|_| fits).map(|named| &named.range) {
                let offset = |address: GuestAddress| {
                    usize::try_from(address.0.clamp(region.start.0, region.end.0) - region.start.0).unwrap()
                };
                bytes.get_mut(offset(range.start)..offset(range.end)).unwrap().fill(PATTERN);
            }
            assert!(bytes == PATTERNS.get(..size).unwrap(), "a write outside the plan");
        }
    });
}
