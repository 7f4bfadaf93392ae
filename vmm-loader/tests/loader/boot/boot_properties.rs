//! Properties of every file and every memory map: no panic, and boot structures lie in free memory.

use proptest::prelude::*;
use vm_memory::GuestAddress;
use vmm_loader::NamedRange;
use vmm_loader::boot::{BootInfo, BootModule, BootOptions, FileType, Protocol, Register, Rsdp, detect, plan};

use super::samples::{
    BzImage, add_notes, boot_sector, elf, end, multiboot, multiboot2, note, pc, tag, vmlinux,
};
use crate::image::Bits::{B32, B64};

/// Builds one kernel for each protocol, and one with several headers.
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

/// Checks that structures and modules lie in usable memory without overlaps, and that registers point to them.
fn check(file: &[u8], protocol: Protocol, sizes: &[u64]) {
    let Ok(plan) = plan(file, protocol, &BootOptions::default()) else { return };
    let map = pc();
    let modules: Vec<BootModule<'_>> = sizes.iter().map(|&size| BootModule::new(size, "m")).collect();
    let reserved = [NamedRange::new("reserved", GuestAddress(0x1_0000)..GuestAddress(0x1_0800))];
    let boot_info = BootInfo::new(&map)
        .with_reserved(&reserved)
        .with_command_line("a b")
        .with_modules(&modules)
        .with_rsdp(Rsdp { address: GuestAddress(0xe_0000), bytes: &[0; 36] });
    let Ok(handoff) = plan.handoff(file, &boot_info) else { return };
    assert_eq!(handoff.modules.len(), modules.len());
    let blobs = handoff.blobs.iter().map(|blob| (blob.address.0, blob.address.0 + blob.bytes.len() as u64));
    let files = handoff.modules.iter().zip(sizes).map(|(at, size)| (at.0, at.0 + size));
    let placed: Vec<(u64, u64)> = blobs.chain(files).filter(|(start, end)| start < end).collect();
    let ranges = handoff.image.ranges();
    let others: Vec<(u64, u64)> =
        ranges.iter().chain(&reserved).map(|named| (named.range.start.0, named.range.end.0)).collect();
    for (number, range) in placed.iter().enumerate() {
        let usable = [(0, 0x9_fc00), (0x10_0000, 64 << 20)];
        assert!(usable.iter().any(|(start, end)| *start <= range.0 && range.1 <= *end), "{range:x?}");
        assert!(!placed[..number].iter().chain(&others).any(|other| overlap(range, other)), "{range:x?}");
    }
    for (register, value) in handoff.registers {
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
            // Headers are at the start of these small files or at their code, so both get many changes.
            let at = at.index(file.len().min(0x1100));
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len() + 1));
        }
        let detection = detect(&file);
        let _ = detection.describe();
        let _ = detection.choose().map_err(|error| (error.to_string(), error.help()));
        for &protocol in Protocol::ALL {
            check(&file, protocol, &sizes);
        }
    }

    #[test]
    fn any_bytes_have_a_description(file in prop::collection::vec(any::<u8>(), 0..1200)) {
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
