//! Valid files: printed plans, guest memory after loading, and lookups of symbols and addresses.

use std::fmt::Write;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_loader::{
    Bss, DEFAULT_PIE_BASE, ElfClass, ElfOptions, ImageKind, LoadPlan, VirtAddr, check_overlap, elf, flat,
    is_elf,
};

use crate::golden::Goldens;
use crate::image::{
    Bits::{B32, B64},
    DF_1_PIE, DT_FLAGS_1, DT_RELR, DT_RELRSZ, Image, PT_TLS, Phdr, RX,
};

fn plan(image: &Image, base: Option<u64>) -> LoadPlan {
    elf::plan(&image.build(), &ElfOptions::default().with_base(base.map(GuestAddress))).unwrap()
}

fn memory(size: usize) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)]).unwrap()
}

/// Builds a 64-bit kernel at -2 GiB (virtual) and 1 MiB (physical).
fn higher_half() -> Image {
    let mut image = Image::program(B64);
    for (phdr, offset) in image.phdrs.iter_mut().zip([0, 0x1000]) {
        (phdr.vaddr, phdr.paddr) = (0xffff_ffff_8000_0000 + offset, 0x10_0000 + offset);
    }
    image.entry = 0xffff_ffff_8000_0004;
    for symbol in &mut image.symbols[..3] {
        symbol.value += 0xffff_ffff_8000_0000 - 0x1000;
    }
    image.phdrs.push(Phdr { kind: PT_TLS, memsz: 64, ..Phdr::default() });
    image
}

#[test]
fn plans_print_as_tables() {
    let mut text = String::new();
    let mut print = |name: &str, plan: &LoadPlan| writeln!(text, "{name}\n{plan}\n").unwrap();
    print("a 64-bit program", &plan(&Image::program(B64), None));
    print("a 32-bit program", &plan(&Image::program(B32), None));
    print("a 64-bit static PIE, no base", &plan(&Image::pie(B64, 3), None));
    print("a 32-bit static PIE at 0x40000", &plan(&Image::pie(B32, 3), Some(0x4_0000)));
    print("a kernel in the higher half", &plan(&higher_half(), None));
    let mut no_entry = Image::program(B64);
    (no_entry.entry, no_entry.symbols) = (0, Vec::new());
    print("no entry, no symbols", &plan(&no_entry, None));
    print("a boot sector", &flat::plan(&[0; 512], GuestAddress(0x7c00)).unwrap());
    Goldens::new("loader/golden").with("plans.txt", &text).check(&[]);
}

#[test]
fn a_program_goes_to_its_physical_addresses() {
    let image = higher_half();
    let plan = plan(&image, None);
    assert_eq!((plan.class(), plan.kind()), (Some(ElfClass::Elf64), ImageKind::Executable));

    let memory = memory(2 << 20);
    memory.write_slice(&[0x55; 64], GuestAddress(0x10_1000)).unwrap();
    plan.load(&image.build(), &memory, Bss::Zero).unwrap();
    let mut bytes = [0; 64];
    memory.read_slice(&mut bytes, GuestAddress(0x10_1000)).unwrap();
    assert_eq!(bytes[..8], [0xdd; 8], "data");
    assert_eq!(bytes[8..32], [0; 24], ".bss");
    assert_eq!(bytes[32..], [0x55; 32], "after .bss");
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0x10_000f)).unwrap(), 0xf4, "code");

    memory.write_slice(&[0x55; 24], GuestAddress(0x10_1008)).unwrap();
    plan.load(&image.build(), &memory, Bss::AlreadyZero).unwrap();
    assert_eq!(memory.read_obj::<u64>(GuestAddress(0x10_1008)).unwrap(), 0x5555_5555_5555_5555);
}

#[test]
fn symbols_and_addresses_are_looked_up_both_ways() {
    let plan = plan(&higher_half(), None);
    let high = |offset: u64| VirtAddr(0xffff_ffff_8000_0000 + offset);
    assert_eq!(plan.resolve_entry().unwrap(), high(4));
    assert_eq!(plan.symbols().lookup("_start").unwrap().address, high(0));
    assert_eq!(plan.symbols().lookup("SIZE").unwrap().address, VirtAddr(0x77));

    assert_eq!(plan.virt_to_phys(high(0x101f)), Some(GuestAddress(0x10_101f)));
    assert_eq!(plan.virt_to_phys(high(0x1020)), None);
    assert_eq!(plan.virt_to_phys(VirtAddr(0x10_0000)), None);

    let name = |address| plan.symbol_at(address).map(|(symbol, offset)| (symbol.name.as_str(), offset));
    assert_eq!(name(high(6)), Some(("main", 2)));
    assert_eq!(name(high(3)), Some(("_start", 3)));
    assert_eq!(name(high(0x1003)), Some(("counter", 3)));
    assert_eq!(name(high(0x1004)), None, "after `counter`");
    assert_eq!(name(high(0x500)), None, "between the segments");
}

#[test]
fn symbol_names_with_control_characters_are_skipped() {
    let mut image = Image::program(B32);
    image.symbols[1].name = "\x1b[2J";
    let plan = plan(&image, None);
    let names: Vec<&str> = plan.symbols().iter().map(|symbol| symbol.name.as_str()).collect();
    assert_eq!(names, ["_start", "counter", "SIZE"]);
}

#[test]
fn overlays_may_share_virtual_addresses() {
    let mut image = Image::program(B64);
    image.phdrs[1].vaddr = image.phdrs[0].vaddr;
    assert_eq!(plan(&image, None).virt_to_phys(VirtAddr(0x1008)), Some(GuestAddress(0x1008)));
}

#[test]
fn a_segment_may_end_at_the_last_address() {
    let mut image = Image::program(B64);
    image.phdrs[1].vaddr = 0xffff_ffff_ffff_ffe0;
    assert_eq!(plan(&image, None).virt_to_phys(VirtAddr(u64::MAX)), Some(GuestAddress(0x201f)));
    let mut image = Image::program(B32);
    (image.phdrs[1].vaddr, image.phdrs[1].paddr) = (0xffff_ffe0, 0xffff_ffe0);
    assert_eq!(plan(&image, None).ranges()[1].range.end, GuestAddress(1 << 32));
}

#[test]
fn the_default_base_is_the_first_aligned_address() {
    let base = |image: &Image| plan(image, None).ranges()[0].range.start.0;
    let mut image = Image::pie(B64, 1);
    assert_eq!(base(&image), 0x10_0000);
    assert_eq!(plan(&image, None).kind(), ImageKind::StaticPie { base: DEFAULT_PIE_BASE });
    image.phdrs[1].align = 2 << 20;
    assert_eq!(base(&image), 0x20_0000);

    // An image linked to an address above 1 MiB stays there.
    let mut image = Image::pie(B64, 0);
    for phdr in &mut image.phdrs[..2] {
        (phdr.vaddr, phdr.paddr) = (phdr.vaddr + 0x30_0000, phdr.paddr + 0x30_0000);
    }
    assert_eq!(base(&image), 0x30_0000);
    assert_eq!(plan(&image, Some(0x1000)).ranges()[1].range.start, GuestAddress(0x2000));
}

#[test]
fn packed_relocations_add_the_base_to_the_words_in_the_file() {
    let mut image = Image::pie(B64, 0);
    // Words 0 to 9 hold their own number. Word 0 is relocated, and by the bitmap words 2 and 9. Words 10 and 11 are the table.
    let words: Vec<u64> = (0..10).chain([0x1000, (1 << 1 | 1 << 8) << 1 | 1]).collect();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let size = bytes.len() as u64;
    (image.phdrs[1].filesz, image.phdrs[1].memsz) = (size, size);
    image.data[1].1 = bytes;
    image.dynamic(0x8000, &[(DT_FLAGS_1, DF_1_PIE), (DT_RELR, 0x1050), (DT_RELRSZ, 16)]);

    let memory = memory(1 << 20);
    plan(&image, Some(0x4000)).load(&image.build(), &memory, Bss::AlreadyZero).unwrap();
    let found: Vec<u64> =
        (0..10).map(|index| memory.read_obj(GuestAddress(0x5000 + index * 8)).unwrap()).collect();
    assert_eq!(found, [0x4000, 1, 0x4002, 3, 4, 5, 6, 7, 8, 0x4009]);
}

#[test]
fn files_that_overlap_are_named() {
    let kernel = plan(&Image::program(B64), None);
    let sector = |address| flat::plan(&[0; 512], GuestAddress(address)).unwrap();
    assert!(check_overlap(&[("kernel", &kernel), ("a", &sector(0x1010)), ("b", &sector(0x1210))]).is_ok());
    let error = check_overlap(&[("b.bin", &sector(0x1e01)), ("kernel.elf", &kernel)]).unwrap_err();
    let expected =
        "b.bin: flat binary at 0x1e01..0x2001 overlaps kernel.elf: segment 1 (rw-) at 0x2000..0x2020";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_file_is_loaded_completely_or_not_at_all() {
    let mut image = Image::program(B64);
    image.load(RX, 0x200, 0x1_0000, 16, 16);
    let (file, small) = (image.build(), memory(0x1_0000));
    let plan = plan(&image, None);
    let error = plan.load(&file, &small, Bss::Zero).unwrap_err();
    assert_eq!(error.to_string(), "segment 2 (r-x) at 0x10000..0x10010 is outside memory (0x0..0x10000)");
    assert_eq!(small.read_obj::<u8>(GuestAddress(0x1000)).unwrap(), 0, "nothing was written");

    let error = plan.load(&file[..100], &memory(0x2_0000), Bss::Zero).unwrap_err();
    let expected =
        format!("the file has changed since it was read: it had {} bytes and has 100 bytes", file.len());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn elf_files_are_recognized_by_their_magic_number() {
    assert!(is_elf(&Image::empty(B32).build()));
    assert!(!is_elf(b"\x7fEL"));
}
