//! Detection of boot protocols: the chosen protocol, its entry, and the types of other files.

use vmm_loader::boot::{BootOptions, BootPlan, FileType, OperandWidth, Protocol, detect, plan};

use super::samples::{
    BzImage, CODE, add_notes, boot_sector, elf, end, multiboot, multiboot2, note, tag, vmlinux,
};
use crate::image::Bits::{B32, B64};

/// Returns the chosen protocol with entry and operand width.
fn chosen(file: &[u8]) -> (Protocol, Option<u64>, Option<OperandWidth>) {
    let protocol = detect(file).choose().unwrap();
    let BootPlan { entry, width, .. } = plan(file, protocol, &BootOptions::default()).unwrap();
    (protocol, entry.map(|address| address.0), width)
}

#[test]
fn a_file_with_one_candidate() {
    let (wide, narrow) = (Some(OperandWidth::Bits64), Some(OperandWidth::Bits32));
    assert_eq!(chosen(&elf(B64, &[]).build()), (Protocol::Elf, None, wide));
    assert_eq!(chosen(&elf(B32, &[]).build()), (Protocol::Elf, None, narrow));
    // 64-bit ELF files are entered in 32-bit code too.
    for bits in [B32, B64] {
        let file = elf(bits, &multiboot(3, &[])).build();
        assert_eq!(chosen(&file), (Protocol::Multiboot, Some(0x10_000c), narrow));
        let file = elf(bits, &multiboot2(0, &[end()])).build();
        assert_eq!(chosen(&file), (Protocol::Multiboot2, Some(0x10_0018), narrow));
    }
    assert_eq!(chosen(&vmlinux(true).build()), (Protocol::Pvh, Some(0x100_0008), narrow));
    assert_eq!(chosen(&vmlinux(false).build()), (Protocol::Linux, Some(0x100_0000), wide));
    assert_eq!(chosen(&BzImage::default().build()), (Protocol::Linux, Some(0x100_0200), wide));
    let old = BzImage { version: 0x206, ..BzImage::default() };
    assert_eq!(chosen(&old.build()), (Protocol::Linux, Some(0x10_0000), narrow));
    assert_eq!(chosen(&boot_sector(512)), (Protocol::BootSector, Some(0x7c00), Some(OperandWidth::Bits16)));
}

/// Returns a file of which the protocol is chosen; `None` for files without a format.
fn file_of(protocol: Protocol) -> Option<Vec<u8>> {
    Some(match protocol {
        Protocol::Elf => elf(B64, &[]).build(),
        Protocol::Multiboot => elf(B32, &multiboot(3, &[])).build(),
        Protocol::Multiboot2 => elf(B32, &multiboot2(0, &[end()])).build(),
        Protocol::Pvh => vmlinux(true).build(),
        Protocol::Linux => BzImage::default().build(),
        Protocol::BootSector => boot_sector(512),
        Protocol::Flat => return None,
        other => panic!("add a file of which {other} is chosen"),
    })
}

#[test]
fn every_protocol_is_detected() {
    for protocol in Protocol::ALL {
        if let Some(file) = file_of(*protocol) {
            assert_eq!(detect(&file).choose().unwrap(), *protocol);
        }
    }
}

#[test]
fn the_order_of_several_candidates() {
    let headers = [multiboot(0, &[]), vec![0; 4], multiboot2(0, &[end()])].concat();
    let mut image = elf(B32, &headers);
    add_notes(&mut image, &[note("Xen", 18, &CODE.1.to_le_bytes())]);
    let file = image.build();
    assert_eq!(
        detect(&file).describe(),
        [
            "multiboot2 (header at 0x1010)",
            "multiboot (header at 0x1000)",
            "pvh (note, entry 0x100000)",
            "elf (ELF32)"
        ]
    );
    assert_eq!(detect(&file).choose().unwrap(), Protocol::Multiboot2);

    // A header that cannot be satisfied is skipped, but not in favor of a start without boot information.
    let demanding = multiboot2(0, &[tag(5, 0, &[1024, 768, 32]), end()]);
    let file = elf(B32, &[multiboot(0, &[]), vec![0; 4], demanding.clone()].concat()).build();
    assert_eq!(detect(&file).choose().unwrap(), Protocol::Multiboot);
    let error = detect(&elf(B32, &demanding).build()).choose().unwrap_err();
    assert_eq!(
        error.to_string(),
        "multiboot2: the kernel demands a framebuffer, and this machine has no display"
    );
    let both = [multiboot(1 << 2, &[]), vec![0; 4], demanding].concat();
    let error = detect(&elf(B32, &both).build()).choose().unwrap_err().to_string();
    assert!(
        error.starts_with("nothing in it can be started: multiboot2: ") && error.contains("; multiboot: "),
        "{error}"
    );
}

#[test]
fn a_header_where_boot_loaders_do_not_look_is_named() {
    let at =
        |padding: usize, header: &[u8]| elf(B32, &[vec![0x90; padding], header.to_vec()].concat()).build();
    let (first, second) = (multiboot(3, &[]), multiboot2(0, &[end()]));
    let mut wrong = first.clone();
    wrong[8] ^= 1;
    let cases = [
        (at(0, &wrong), "multiboot: the header at 0x1000 has a wrong checksum"),
        (
            at(0x2000, &first),
            "multiboot: the header at 0x3000 is beyond the first 8 KiB, where boot loaders look",
        ),
        (at(2, &first), "multiboot: the header at 0x1002 is not at a multiple of 4 bytes of the file"),
        (
            at(0x8000, &second),
            "multiboot2: the header at 0x9000 is beyond the first 32 KiB, where boot loaders look",
        ),
        (at(4, &second), "multiboot2: the header at 0x1004 is not at a multiple of 8 bytes of the file"),
    ];
    for (file, text) in cases {
        assert_eq!(detect(&file).choose().unwrap_err().to_string(), text);
        assert!(plan(&file, Protocol::Elf, &BootOptions::default()).is_ok(), "{text}");
    }
    // A valid header elsewhere, and a number that is no header.
    let both = [first.clone(), vec![0x90; 0x2000], first].concat();
    assert_eq!(detect(&elf(B32, &both).build()).choose().unwrap(), Protocol::Multiboot);
    let number = [0x1bad_b002_u32.to_le_bytes(), [0x90; 4], [0x90; 4]].concat();
    assert_eq!(detect(&elf(B32, &number).build()).choose().unwrap(), Protocol::Elf);
}

/// Linkers put notes with a boundary of 4 into segments with an alignment of 8.
#[test]
fn a_note_is_found_at_either_boundary() {
    let entry = note("Xen", 18, &CODE.1.to_le_bytes());
    for first in [note("GNU", 3, &[1; 20]), note("GNU", 5, &[1; 16])] {
        let mut image = elf(B32, &[]);
        add_notes(&mut image, &[first, entry.clone()]);
        image.phdrs.last_mut().unwrap().align = 8;
        assert_eq!(chosen(&image.build()), (Protocol::Pvh, Some(CODE.1), Some(OperandWidth::Bits32)));
    }
}

#[test]
fn every_entry_that_kernels_name_is_found() {
    // Higher-half kernels: virtual address, as GRUB expects it, or physical address, as in xv6.
    for entry in [0x8010_000c_u64, 0x10_000c] {
        let mut image = elf(B32, &multiboot(0, &[]));
        image.phdrs[0].vaddr = 0x8010_0000;
        image.entry = entry;
        assert_eq!(chosen(&image.build()).1, Some(0x10_000c));
    }
}

#[test]
fn addresses_in_a_header_need_no_format() {
    let at = 0x20_0000;
    let file = [multiboot(1 << 16, &[at, at, 0, at + 0x2000, at + 0x20]), vec![0xf4; 0x100]].concat();
    let planned = plan(&file, Protocol::Multiboot, &BootOptions::default()).unwrap();
    let segment = &planned.image.segments()[0];
    assert_eq!((segment.phys.0, segment.file_size, segment.mem_size), (at.into(), 0x120, 0x2000));
    assert_eq!(planned.entry.unwrap().0, u64::from(at) + 0x20);

    // Part of a file, beginning before the header.
    let header = multiboot2(0, &[tag(2, 0, &[at + 8, at, at + 0x60, 0]), tag(3, 0, &[at + 4]), end()]);
    let file = [vec![0; 16], header, vec![0xf4; 0x100]].concat();
    let planned = plan(&file, Protocol::Multiboot2, &BootOptions::default()).unwrap();
    let segment = &planned.image.segments()[0];
    assert_eq!((segment.phys.0, segment.file_offset, segment.file_size), (at.into(), 8, 0x60));
}

#[test]
fn a_program_for_linux_is_no_kernel_unless_the_user_says_so() {
    let mut image = elf(B64, &[]);
    add_notes(&mut image, &[note("GNU", 1, &[0; 16])]);
    let file = image.build();
    let error = detect(&file).choose().unwrap_err();
    assert_eq!(error.to_string(), "a program for Linux, and no kernel: there is no system below it here");
    assert!(plan(&file, Protocol::Elf, &BootOptions::default()).is_ok());
}

#[test]
fn other_files_are_named() {
    let pe = |subsystem: u8, machine: u16| {
        let mut file = vec![0; 0x200];
        file[..2].copy_from_slice(b"MZ");
        file[0x3c] = 0x80;
        file[0x80..0x84].copy_from_slice(b"PE\0\0");
        file[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
        file[0x98..0x9a].copy_from_slice(&[0x0b, 2]);
        file[0xdc] = subsystem;
        file
    };
    let placed = |offset: usize, magic: &[u8]| [vec![1; offset], magic.to_vec(), vec![1; 64]].concat();
    let cases = [
        (Vec::new(), "an empty file"),
        (b"\x1f\x8b\x08\0".to_vec(), "a gzip-compressed file, which has to be unpacked first"),
        (b"\x28\xb5\x2f\xfd".to_vec(), "a zstd-compressed file, which has to be unpacked first"),
        (b"\xfd7zXZ\0".to_vec(), "an xz-compressed file, which has to be unpacked first"),
        (b"!<arch>\n".to_vec(), "a library of object files (ar archive), and no program"),
        (b"070701".to_vec(), "a cpio archive, such as an initramfs, and no kernel"),
        (b"#!/bin/sh\n".to_vec(), "a script for /bin/sh, and no kernel"),
        (b"#!\x1b[2J".to_vec(), "a script for \\u{1b}[2J, and no kernel"),
        (b"Dear all,\n".to_vec(), "text, and no kernel"),
        ([vec![b'a'; 4095], "\u{e9}".as_bytes().to_vec()].concat(), "text, and no kernel"),
        (b"\0asm\x01\0\0\0".to_vec(), "a WebAssembly module, and no code for x86"),
        (b"\xcf\xfa\xed\xfe".to_vec(), "a program for macOS (Mach-O), and no kernel for this machine"),
        (pe(10, 0x8664), "a UEFI program (PE32+, x86-64), and there is no UEFI firmware here"),
        (pe(10, 0xaa64), "a UEFI program (PE32+, ARM64), and there is no UEFI firmware here"),
        (pe(3, 0x8664), "a Windows program (PE32+, x86-64), and no kernel"),
        (b"MZ".to_vec(), "a DOS program (MZ), and no kernel: there is no DOS here"),
        (placed(0x38, b"ARM\x64"), "a Linux kernel for ARM64 (Image), no kernel for x86"),
        (
            placed(0x8001, b"CD001"),
            "a CD image (ISO 9660), and no kernel: there is no BIOS here that could start it",
        ),
        (
            boot_sector(1024),
            "a disk image of 1 KiB that begins with a boot sector, and no kernel: there is no BIOS here that could start it",
        ),
        (vec![0; 4096], "nothing but zeros"),
        (
            vec![0x0f, 0x0b, 0xff],
            "no format that is known here, and no header of a boot protocol: it begins with 0f 0b ff",
        ),
    ];
    for (file, what) in cases {
        assert_eq!(FileType::from_bytes(&file).description, what);
        assert_eq!(detect(&file).choose().unwrap_err().to_string(), what);
    }
}
