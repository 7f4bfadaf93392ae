//! Laws that hold for every file and every machine: no panic, and nothing is handed over that is not in free memory.

use proptest::prelude::*;
use vm_memory::GuestAddress;
use vmm_loader::NamedRange;
use vmm_loader::boot::{BootInfo, BootModule, BootOptions, FileType, Protocol, Register, Rsdp, detect, plan};

use super::samples::{
    BzImage, add_notes, boot_sector, elf, end, multiboot, multiboot2, note, pc, tag, vmlinux,
};
use crate::image::Bits::{B32, B64};

/// One kernel of each kind, and several kinds in one.
fn kernels() -> Vec<Vec<u8>> {
    let at = 0x20_0000;
    let kludge = [multiboot(1 << 16, &[at, at, 0, at + 0x2000, at]), vec![0xf4; 0x100]].concat();
    let tags =
        [tag(1, 0, &[1, 6]), tag(2, 0, &[at, at, 0, 0]), tag(3, 0, &[at]), tag(5, 1, &[0, 0, 0]), end()];
    let mut all =
        elf(B64, &[multiboot(3, &[]), vec![0; 4], multiboot2(0, &[tag(6, 0, &[]), end()])].concat());
    add_notes(&mut all, &[note("Xen", 18, &0x10_0000_u32.to_le_bytes())]);
    vec![
        kludge,
        [multiboot2(0, &tags), vec![0xf4; 0x100]].concat(),
        elf(B32, &multiboot(0, &[])).build(),
        all.build(),
        vmlinux(true).build(),
        vmlinux(false).build(),
        BzImage::default().build(),
        boot_sector(512),
    ]
}

fn overlap(one: &(u64, u64), other: &(u64, u64)) -> bool {
    one.0 < other.1 && other.0 < one.1
}

/// What is handed over lies in usable memory, apart from each other, and registers point into it.
fn check(file: &[u8], protocol: Protocol, sizes: &[u64]) {
    let Ok(plan) = plan(file, protocol, &BootOptions::default()) else { return };
    let map = pc();
    let modules: Vec<BootModule<'_>> =
        sizes.iter().map(|&size| BootModule { size, command_line: "m" }).collect();
    let taken =
        [NamedRange { name: "taken".to_owned(), range: GuestAddress(0x1_0000)..GuestAddress(0x1_0800) }];
    let boot_info = BootInfo {
        memory_map: &map,
        reserved: &taken,
        command_line: "a b",
        modules: &modules,
        rsdp: Some(Rsdp { address: GuestAddress(0xe_0000), bytes: &[0; 36] }),
        ..BootInfo::default()
    };
    let Ok(handed) = plan.handoff(file, &boot_info) else { return };
    assert_eq!(handed.modules.len(), modules.len());
    let blobs = handed.blobs.iter().map(|blob| (blob.address.0, blob.address.0 + blob.bytes.len() as u64));
    let files = handed.modules.iter().zip(sizes).map(|(at, size)| (at.0, at.0 + size));
    let placed: Vec<(u64, u64)> = blobs.chain(files).filter(|(start, end)| start < end).collect();
    let ranges = handed.image.ranges();
    let others: Vec<(u64, u64)> =
        ranges.iter().chain(&taken).map(|named| (named.range.start.0, named.range.end.0)).collect();
    for (number, range) in placed.iter().enumerate() {
        let usable = [(0, 0x9_fc00), (0x10_0000, 64 << 20)];
        assert!(usable.iter().any(|(start, end)| *start <= range.0 && range.1 <= *end), "{range:x?}");
        assert!(!placed[..number].iter().chain(&others).any(|other| overlap(range, other)), "{range:x?}");
    }
    for (register, value) in handed.registers {
        let points = placed.iter().any(|(start, end)| (*start..*end).contains(&value));
        assert!(points || matches!(register, Register::Rax | Register::Rdx), "{register:?} {value:#x}");
    }
}

proptest! {
    #[test]
    fn a_damaged_kernel_is_refused_or_started(
        which in 0..8_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        sizes in prop::collection::vec(prop_oneof![Just(0), 1..0x10_0000_u64, Just(u64::MAX)], 0..3),
    ) {
        let mut file = kernels().swap_remove(which);
        for (at, byte) in changes {
            // Headers lie at the front of these small files, or at the code: both are hit often.
            let at = at.index(file.len().min(0x1100));
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len() + 1));
        }
        let findings = detect(&file);
        let _ = findings.describe();
        let _ = findings.choose().map_err(|error| (error.to_string(), error.help()));
        for protocol in Protocol::ALL {
            check(&file, protocol, &sizes);
        }
    }

    #[test]
    fn any_bytes_are_something(file in prop::collection::vec(any::<u8>(), 0..1200)) {
        prop_assert!(!FileType::from_bytes(&file).description.is_empty());
        if let Ok(protocol) = detect(&file).choose() {
            check(&file, protocol, &[]);
        }
    }
}

#[test]
fn the_kernels_themselves_are_started() {
    for (number, file) in kernels().into_iter().enumerate() {
        let protocol = detect(&file).choose().unwrap();
        assert!(plan(&file, protocol, &BootOptions::default()).is_ok(), "kernel {number}");
        check(&file, protocol, &[]);
    }
}
