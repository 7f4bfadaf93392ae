//! Any bytes as a kernel, started by each boot protocol.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use vm_memory::GuestAddress;

use crate::NamedRange;
use crate::boot::{
    BootHandoff, BootInfo, BootModule, BootOptions, FileType, MemoryMapEntry, Protocol, Register, Rsdp,
    detect, plan,
};

/// Memory of a PC with 64 MiB.
const MEMORY: [MemoryMapEntry; 2] = [
    MemoryMapEntry::usable(GuestAddress(0), 0x9_fc00),
    MemoryMapEntry::usable(GuestAddress(1 << 20), 63 << 20),
];

/// Checks a kernel through detection, plan and boot information. The last byte of the file also chooses the size of a module.
pub fn boot(file: &[u8]) {
    let detection = detect(file);
    let _ = detection.describe();
    assert!(!FileType::from_bytes(file).description.is_empty());
    let _ = detection.choose().map_err(|error| (error.to_string(), error.help()));
    let size = file.last().map_or(0, |last| u64::from(*last) << 12);
    for protocol in Protocol::ALL {
        let options = BootOptions::default().with_address(GuestAddress(1 << 20));
        let Ok(plan) = plan(file, *protocol, &options) else { continue };
        let modules = [BootModule::new(size, "module")];
        let modules = if protocol.takes_boot_info() { modules.as_slice() } else { &[] };
        let reserved = [NamedRange::new("reserved", GuestAddress(0x1_0000)..GuestAddress(0x1_0800))];
        let boot_info = BootInfo::new(&MEMORY)
            .with_reserved(&reserved)
            .with_command_line("a b")
            .with_modules(modules)
            .with_rsdp(Rsdp { address: GuestAddress(0xe_0000), bytes: &[0; 36] });
        let Ok(handoff) = plan.handoff(file, &boot_info) else { continue };
        check(&handoff, modules.len(), size, &reserved);
        assert!(!handoff.image.to_string().is_empty());
    }
}

/// Checks that structures and modules lie in usable memory without overlaps, and that registers point to them.
fn check(handoff: &BootHandoff, modules: usize, size: u64, reserved: &[NamedRange]) {
    assert_eq!(handoff.modules.len(), modules);
    let blobs = handoff.blobs.iter().map(|blob| {
        (blob.address.0, blob.address.0.checked_add(u64::try_from(blob.bytes.len()).unwrap()).unwrap())
    });
    let files = handoff.modules.iter().map(|at| (at.0, at.0.checked_add(size).unwrap()));
    let placed: Vec<(u64, u64)> = blobs.chain(files).filter(|(start, end)| start < end).collect();
    let ranges = handoff.image.ranges();
    let others: Vec<(u64, u64)> =
        ranges.iter().chain(reserved).map(|named| (named.range.start.0, named.range.end.0)).collect();
    let overlap = |one: &(u64, u64), other: &(u64, u64)| one.0 < other.1 && other.0 < one.1;
    for (number, range) in placed.iter().enumerate() {
        let inside = |entry: &MemoryMapEntry| entry.start.0 <= range.0 && range.1 <= entry.end().0;
        assert!(MEMORY.iter().any(inside), "{range:x?} is not in usable memory");
        assert!(!placed.iter().take(number).chain(&others).any(|other| overlap(range, other)), "{range:x?}");
    }
    for (register, value) in &handoff.registers {
        let points = placed.iter().any(|(start, end)| (*start..*end).contains(value));
        assert!(points || matches!(register, Register::Rax | Register::Rdx), "{register:?} {value:#x}");
    }
}
