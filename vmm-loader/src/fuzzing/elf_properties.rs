//! Properties of a plan for an ELF file, of its symbols, and of loading it. The property tests in `tests/loader` use this file too.

use std::ops::Range;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_loader::{Bss, ElfOptions, LoadPlan, RelocationValue, SymbolKind, VirtAddr, elf};

/// Content of guest memory before loading.
const PATTERN: u8 = 0xa5;
/// Memory regions: two that touch, and one at 1 MiB, the default base of a static PIE. Little of it, for speed.
const REGIONS: [Range<u64>; 3] = [0..0x8000, 0x8000..0xa000, 0x10_0000..0x10_8000];
static PATTERNS: [u8; 0x8000] = [PATTERN; 0x8000];

thread_local! {
    static MEMORY: GuestMemoryMmap = {
        let regions = REGIONS.map(|region| (GuestAddress(region.start), size(&region)));
        GuestMemoryMmap::from_ranges(&regions).unwrap()
    };
}

/// Checks an ELF file, with its base at this address. Returns false if it is refused.
pub(crate) fn check(file: &[u8], base: Option<GuestAddress>) -> bool {
    let Ok(plan) = elf::plan(file, &ElfOptions::default().with_base(base)) else { return false };
    check_plan(&plan, file);
    check_symbols(&plan, file);
    check_loading(&plan, file);
    assert!(!plan.to_string().is_empty());
    true
}

/// Calls a function with guest memory that is full of the pattern.
pub(crate) fn with_patterned_memory<T>(use_memory: impl FnOnce(&GuestMemoryMmap) -> T) -> T {
    MEMORY.with(|memory| {
        for region in REGIONS {
            memory.write_slice(patterns(&region), GuestAddress(region.start)).unwrap();
        }
        use_memory(memory)
    })
}

fn size(region: &Range<u64>) -> usize {
    usize::try_from(region.end - region.start).unwrap()
}

fn patterns(region: &Range<u64>) -> &'static [u8] {
    PATTERNS.get(..size(region)).unwrap()
}

/// Checks the guarantees of a plan about its segments, relocations and entry.
pub(crate) fn check_plan(plan: &LoadPlan, file: &[u8]) {
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
    with_patterned_memory(|memory| {
        let regions = REGIONS.map(|region| GuestAddress(region.start)..GuestAddress(region.end));
        let fits = plan.check_fits(&regions).is_ok();
        assert_eq!(plan.load(file, memory, Bss::Zero).is_ok(), fits);
        for region in REGIONS {
            let mut bytes = vec![0; size(&region)];
            memory.read_slice(&mut bytes, GuestAddress(region.start)).unwrap();
            // The whole region has the pattern again once it is restored where the plan may write.
            for range in plan.ranges().iter().filter(|_| fits).map(|named| &named.range) {
                let offset = |address: GuestAddress| {
                    usize::try_from(address.0.clamp(region.start, region.end) - region.start).unwrap()
                };
                bytes.get_mut(offset(range.start)..offset(range.end)).unwrap().fill(PATTERN);
            }
            assert!(bytes == patterns(&region), "a write outside the plan in {region:#x?}");
        }
    });
}
