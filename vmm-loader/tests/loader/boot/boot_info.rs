//! Boot information as bytes: a dump for each protocol (`golden/boot_info.txt`), and the fields that a kernel reads, at the
//! offsets that the specifications give.

use std::fmt::Write;

use vm_memory::GuestAddress;
use vmm_loader::boot::{
    Blob, BootHandoff, BootInfo, BootModule, BootOptions, Protocol, Register, Rsdp, plan,
};

use super::samples::{BzImage, add_notes, elf, end, multiboot, multiboot2, note, pc, tag, vmlinux};
use crate::golden::Goldens;
use crate::image::Bits::B32;
use crate::image::Sym;

const RSDP: [u8; 36] = *b"RSD PTR \x01OEMID1\x02\x10\x20\x30\x40\x24\0\0\0abcdefgh\x05\0\0\0";

fn handoff(file: &[u8], protocol: Protocol) -> BootHandoff {
    let modules = [BootModule::new(0x1800, "first one"), BootModule::new(0, ""), BootModule::new(1, "third")];
    let map = pc();
    let boot_info = BootInfo::new(&map)
        .with_file_name("kernel.elf")
        .with_command_line("console=ttyS0 x")
        .with_modules(if protocol == Protocol::Linux { &modules[..1] } else { &modules })
        .with_rsdp(Rsdp { address: GuestAddress(0xe_0000), bytes: &RSDP });
    plan(file, protocol, &BootOptions::default()).unwrap().handoff(file, &boot_info).unwrap()
}

/// Appends the lines of a structure that are not all zeros.
fn dump(text: &mut String, blob: &Blob) {
    writeln!(text, "  {} at {:#x}, {} bytes", blob.name, blob.address.0, blob.bytes.len()).unwrap();
    for (line, bytes) in
        blob.bytes.chunks(16).enumerate().filter(|(_, bytes)| bytes.iter().any(|byte| *byte != 0))
    {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown: String = bytes
            .iter()
            .map(|&byte| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '.' })
            .collect();
        writeln!(text, "    {:04x}  {:<47}  {shown}", line * 16, hex.join(" ")).unwrap();
    }
}

#[test]
fn every_byte_is_as_expected() {
    let mut multiboot2_kernel = elf(B32, &multiboot2(0, &[tag(1, 0, &[1, 5, 6]), end()]));
    multiboot2_kernel.symbols = vec![Sym { name: "main", value: 0x10_0020, size: 4, info: 0x12, section: 1 }];
    let mut pvh = elf(B32, &[]);
    add_notes(&mut pvh, &[note("Xen", 18, &0x10_0004_u32.to_le_bytes())]);
    let mut text = String::new();
    for (name, file, protocol) in [
        ("Multiboot 1", elf(B32, &multiboot(3, &[])).build(), Protocol::Multiboot),
        ("Multiboot 2", multiboot2_kernel.build(), Protocol::Multiboot2),
        ("PVH", pvh.build(), Protocol::Pvh),
        ("bzImage", BzImage::default().build(), Protocol::Linux),
        ("vmlinux", vmlinux(false).build(), Protocol::Linux),
    ] {
        let BootHandoff { blobs, modules, registers, summary, .. } = handoff(&file, protocol);
        writeln!(text, "{name}").unwrap();
        for (register, value) in registers {
            writeln!(text, "  {register:?} {value:#x}").unwrap();
        }
        let modules: Vec<String> = modules.iter().map(|address| format!("{:#x}", address.0)).collect();
        writeln!(text, "  modules at {}", modules.join(", ")).unwrap();
        summary.iter().for_each(|line| writeln!(text, "  summary: {line}").unwrap());
        blobs.iter().for_each(|blob| dump(&mut text, blob));
    }
    Goldens::new("loader/golden").with("boot_info.txt", &text).check(&[]);
}

/// Returns the 32-bit number at an address in one of the structures.
fn word(blobs: &[Blob], address: u64) -> u32 {
    let bytes = blobs.iter().find_map(|blob| {
        let offset = usize::try_from(address.checked_sub(blob.address.0)?).ok()?;
        blob.bytes.get(offset..offset + 4)
    });
    u32::from_le_bytes(bytes.expect("an address inside of a blob").try_into().unwrap())
}

/// Returns the text at an address in one of the structures.
fn text(blobs: &[Blob], address: u32) -> String {
    let byte = |at: u64| word(blobs, at).to_le_bytes()[0];
    let start = u64::from(address);
    let end = (start..).find(|at| {
        blobs.iter().any(|b| {
            at.checked_sub(b.address.0).and_then(|o| b.bytes.get(usize::try_from(o).unwrap())) == Some(&0)
        })
    });
    (start..end.unwrap())
        .map(|at| char::from(if at + 4 > end.unwrap() { tail(blobs, at) } else { byte(at) }))
        .collect()
}

/// Returns the byte at an address in one of the structures, also at its end, where no word fits.
fn tail(blobs: &[Blob], address: u64) -> u8 {
    let find =
        |blob: &Blob| blob.bytes.get(usize::try_from(address.checked_sub(blob.address.0)?).ok()?).copied();
    blobs.iter().find_map(find).unwrap()
}

#[test]
fn multiboot_fields_are_where_the_specification_has_them() {
    let BootHandoff { blobs, modules, registers, .. } =
        handoff(&elf(B32, &multiboot(3, &[])).build(), Protocol::Multiboot);
    assert_eq!(registers[0], (Register::Rax, 0x2bad_b002));
    let info = registers[1].1;
    let field = |offset| word(&blobs, info + offset);
    assert_eq!(field(0), 0b10_0100_1101);
    assert_eq!((field(4), field(8)), (639, 63 << 10));
    assert_eq!(text(&blobs, field(16)), "kernel.elf console=ttyS0 x");
    assert_eq!((field(20), field(44)), (3, 4 * 24));
    assert_eq!(text(&blobs, field(64)), "vmm");
    let list = u64::from(field(24));
    for (number, (module, name)) in modules.iter().zip(["first one", "", "third"]).enumerate() {
        let at = list + 16 * number as u64;
        assert_eq!(u64::from(word(&blobs, at)), module.0);
        assert_eq!(module.0 % 4096, 0);
        assert_eq!(text(&blobs, word(&blobs, at + 8)), name);
    }
    // The second entry of the map: size, address, length, kind.
    let map = u64::from(field(48)) + 24;
    assert_eq!([0, 4, 12, 20].map(|offset| word(&blobs, map + offset)), [20, 0x9_fc00, 0x400, 2]);
}

#[test]
fn the_zero_page_has_its_fields_where_linux_reads_them() {
    let BootHandoff { blobs, modules, registers, image, .. } =
        handoff(&BzImage::default().build(), Protocol::Linux);
    let [(Register::Rsi, page)] = registers[..] else { panic!("{registers:?}") };
    let field = |offset| word(&blobs, page + offset);
    assert_eq!(field(0x070), 0xe_0000, "acpi_rsdp_addr");
    assert_eq!(field(0x1e8) & 0xff, 4, "e820_entries");
    assert_eq!(field(0x202), u32::from_le_bytes(*b"HdrS"), "header");
    assert_eq!(field(0x210) & 0xff, 0xff, "type_of_loader");
    assert_eq!(field(0x214), 0x100_0000, "code32_start");
    assert_eq!(u64::from(field(0x218)), modules[0].0, "ramdisk_image");
    assert_eq!(field(0x21c), 0x1800, "ramdisk_size");
    assert_eq!(text(&blobs, field(0x228)), "console=ttyS0 x", "cmd_line_ptr");
    assert_eq!(
        [0, 8, 16].map(|offset| field(0x2d0 + 60 + offset)),
        [0x10_0000, 63 << 20, 1],
        "e820_table[3]"
    );
    assert_eq!(modules[0].0 + 0x1800, (64 << 20) - 0x800, "the initrd lies at the top");
    assert_eq!(image.segments()[0].mem_size, 0x10_0000, "init_size is kept free");
}

#[test]
fn pvh_fields_are_where_xen_has_them() {
    let BootHandoff { blobs, modules, registers, .. } = handoff(&vmlinux(true).build(), Protocol::Pvh);
    let [(Register::Rbx, info)] = registers[..] else { panic!("{registers:?}") };
    let field = |offset| word(&blobs, info + offset);
    assert_eq!([0, 4, 8, 12].map(field), [0x336e_c578, 1, 0, 3]);
    assert_eq!(text(&blobs, field(24)), "console=ttyS0 x");
    assert_eq!((field(32), field(48)), (0xe_0000, 4));
    let third = u64::from(field(16)) + 64;
    assert_eq!(u64::from(word(&blobs, third)), modules[2].0);
    assert_eq!(text(&blobs, word(&blobs, third + 16)), "third");
    let last = u64::from(field(40)) + 72;
    assert_eq!([0, 8, 16].map(|offset| word(&blobs, last + offset)), [0x10_0000, 63 << 20, 1]);
}
