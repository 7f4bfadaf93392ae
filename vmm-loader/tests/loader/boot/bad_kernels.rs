//! Error messages and advice for each mistake in a kernel's header and in boot information: `golden/bad_boot.txt` and
//! `golden/bad_boot_info.txt`.

use std::fmt::Write;

use vm_memory::GuestAddress;
use vmm_loader::boot::{
    BootError, BootHandoff, BootInfo, BootModule, BootOptions, MemoryMapEntry, Protocol, detect, plan,
};

use super::samples::{
    BzImage, CODE, add_notes, boot_sector, elf, end, multiboot, multiboot2, note, pc, tag, vmlinux, words,
};
use crate::golden::Goldens;
use crate::image::Bits::{B32, B64};

/// Takes all steps of a start. Without a protocol, it is detected.
fn start(
    file: &[u8],
    protocol: Option<Protocol>,
    boot_info: &BootInfo<'_>,
) -> Result<BootHandoff, BootError> {
    let protocol = match protocol {
        Some(protocol) => protocol,
        None => detect(file).choose()?,
    };
    plan(file, protocol, &BootOptions::default())?.handoff(file, boot_info)
}

#[derive(Default)]
struct Report(String);

impl Report {
    fn add(&mut self, name: &str, file: &[u8], protocol: Option<Protocol>, boot_info: &BootInfo<'_>) {
        let map = pc();
        let mut boot_info = boot_info.clone();
        if boot_info.memory_map.is_empty() {
            boot_info.memory_map = &map;
        }
        let error = start(file, protocol, &boot_info).expect_err(name);
        assert!(std::error::Error::source(&error).is_none(), "{name}: {error} hides a cause");
        writeln!(self.0, "{name}\n  {error}").unwrap();
        if let Some(help) = error.help() {
            writeln!(self.0, "  help: {help}").unwrap();
        }
    }

    fn header(&mut self, name: &str, file: &[u8]) {
        self.add(name, file, None, &BootInfo::default());
    }

    fn forced(&mut self, name: &str, file: &[u8], protocol: Protocol) {
        self.add(name, file, Some(protocol), &BootInfo::default());
    }
}

/// Builds an ELF file with a Multiboot 2 header of these tags.
fn tags(tags: &[Vec<u8>]) -> Vec<u8> {
    elf(B32, &multiboot2(0, tags)).build()
}

#[test]
fn each_mistake_has_its_message() {
    let mut report = Report::default();
    let at = 0x20_0000;

    report.forced("multiboot: none", &elf(B32, &[]).build(), Protocol::Multiboot);
    let broken = words(&[0x1bad_b002, 3, 0]);
    report.forced("multiboot: checksum", &elf(B32, &broken).build(), Protocol::Multiboot);
    report.header("multiboot: checksum, and no ELF file", &[broken, vec![0; 64]].concat());
    report.header("multiboot: video", &elf(B32, &multiboot(4, &[])).build());
    report.header("multiboot: unknown flags", &elf(B32, &multiboot(0x8008, &[])).build());
    report.header("multiboot: no addresses", &[multiboot(0, &[]), vec![0x0f; 64]].concat());
    let kludge = |fields: &[u32]| [multiboot(1 << 16, fields), vec![0xf4; 0x40]].concat();
    report.header("multiboot: addresses cut off", &multiboot(1 << 16, &[at, at]));
    report.header("multiboot: loading begins after the header", &kludge(&[at, at + 4, 0, 0, at]));
    report.header("multiboot: loading begins before the file", &kludge(&[at, at - 4, 0, 0, at]));
    report.header("multiboot: loading ends before it begins", &kludge(&[at, at, at - 1, 0, at]));
    report.header("multiboot: nothing loaded", &kludge(&[at, at, at, 0, at]));
    report.header("multiboot: loading ends after the file", &kludge(&[at, at, at + 0x61, 0, at]));
    report.header("multiboot: above 4 GiB", &kludge(&[0xffff_ff00, 0xffff_ff00, 0, 0x10, 0xffff_ff00]));
    report.header("multiboot: end of address space", &kludge(&[u32::MAX, u32::MAX, 0, 0, u32::MAX]));
    report.header("multiboot: zeros end too early", &kludge(&[at, at, 0, at + 4, at]));
    report.header("multiboot: entry outside", &kludge(&[at, at, 0, 0, at + 0x60]));
    let mut image = elf(B32, &multiboot(0, &[]));
    image.entry = 0x7000_0000;
    report.header("multiboot: ELF entry outside", &image.build());
    image.entry = 0;
    report.header("multiboot: no ELF entry", &image.build());
    let mut image = elf(B64, &multiboot(0, &[]));
    (image.phdrs[0].paddr, image.phdrs[0].vaddr, image.entry) = (1 << 32, 1 << 32, 1 << 32);
    report.header("multiboot: ELF entry above 4 GiB", &image.build());
    let mut image = elf(B32, &multiboot(0, &[]));
    image.phdrs[0].filesz = 0x10_0000;
    report.header("multiboot: segment outside the file", &image.build());

    report.forced("multiboot2: none", &elf(B32, &[]).build(), Protocol::Multiboot2);
    let mips = elf(B32, &multiboot2(4, &[end()])).build();
    report.header("multiboot2: MIPS", &mips);
    report.header("multiboot2: tag cut off", &tags(&[words(&[5])]));
    report.header("multiboot2: tag of size 0", &tags(&[words(&[0x0001_0006, 0]), end()]));
    report.header("multiboot2: tag beyond the header", &tags(&[words(&[6, 0x1000])]));
    report.header("multiboot2: tag of the largest size", &tags(&[words(&[6, u32::MAX])]));
    report.header("multiboot2: address tag too short", &tags(&[tag(2, 0, &[at, at]), end()]));
    report.header("multiboot2: framebuffer", &tags(&[tag(5, 0, &[0, 0, 0]), end()]));
    report.header("multiboot2: console", &tags(&[tag(4, 0, &[1]), end()]));
    report.header("multiboot2: unknown tag", &tags(&[tag(99, 0, &[]), end()]));
    report.header("multiboot2: unknown request", &tags(&[tag(1, 0, &[4, 77]), end()]));
    let long = [multiboot2(0, &[]), vec![]].concat();
    let mut longer = long.clone();
    longer[8..12].copy_from_slice(&0x7fff_0000_u32.to_le_bytes());
    let sum = 0xe852_50d6_u32.wrapping_add(0x7fff_0000);
    longer[12..16].copy_from_slice(&0_u32.wrapping_sub(sum).to_le_bytes());
    report.header("multiboot2: header longer than the file", &elf(B32, &longer).build());
    let addresses = tag(2, 0, &[at, at, 0, 0]);
    let bare = |tags: &[Vec<u8>]| [multiboot2(0, tags), vec![0x0f; 0x40]].concat();
    report.header("multiboot2: no addresses", &bare(&[end()]));
    report.header("multiboot2: addresses, no entry", &bare(&[addresses.clone(), end()]));
    report.header("multiboot2: entry outside", &bare(&[addresses, tag(3, 0, &[4]), end()]));
    report.header("multiboot2: ELF, entry outside", &tags(&[tag(3, 0, &[4]), end()]));

    report.forced("pvh: none", &elf(B32, &[]).build(), Protocol::Pvh);
    let pvh = |content: &[u8]| {
        let mut image = elf(B32, &[]);
        add_notes(&mut image, &[note("Xen", 18, content)]);
        image.build()
    };
    report.header("pvh: size", &pvh(&[0, 0, 16]));
    report.header("pvh: entry outside", &pvh(&0_u32.to_le_bytes()));
    report.header("pvh: entry above 4 GiB", &pvh(&(1_u64 << 40).to_le_bytes()));
    report.forced("pvh: no ELF file", b"text", Protocol::Pvh);

    let bzimage = |change: fn(&mut BzImage)| {
        let mut fields = BzImage::default();
        change(&mut fields);
        fields.build()
    };
    report.forced("linux: neither", b"text", Protocol::Linux);
    report.header("linux: zImage", &bzimage(|fields| fields.loadflags = 0));
    report.header("linux: older than 2.00", &bzimage(|fields| fields.version = 0x105));
    report.header("linux: cut off", &bzimage(|fields| fields.payload = 0x3ff));
    report.header(
        "linux: nothing after the setup sectors",
        &bzimage(|fields| (fields.payload, fields.syssize) = (0, 0)),
    );
    report.header("linux: more setup sectors than file", &bzimage(|fields| fields.setup_sects = 255));
    report.header("linux: above 4 GiB", &bzimage(|fields| fields.pref_address = u64::MAX));
    report.header("linux: larger than the address space", &bzimage(|fields| fields.init_size = u32::MAX));
    report.header("linux: cut off in the header", &BzImage::default().build()[..0x230]);
    report.forced("linux: ELF of 32 bits", &elf(B32, &[]).build(), Protocol::Linux);
    let mut image = vmlinux(false);
    image.entry = 0x200_0000;
    report.header("linux: entry of a vmlinux outside", &image.build());

    report.forced("boot-sector: signature", &[0; 512], Protocol::BootSector);
    report.forced("boot-sector: size", &boot_sector(1024), Protocol::BootSector);
    report.forced("flat: no address", &[0xf4], Protocol::Flat);
    Goldens::new("loader/golden").with("bad_boot.txt", &report.0).check(&[]);
}

#[test]
fn boot_information_that_does_not_fit_is_refused() {
    let mut report = Report::default();
    let kernel = elf(B32, &multiboot(0, &[])).build();
    let linux = BzImage::default().build();
    let module = |size| BootModule::new(size, "m");
    let command_line = |text| BootInfo::default().with_command_line(text);

    report.add("NUL in the command line", &kernel, None, &command_line("a\0b"));
    let nul = [BootModule::new(1, "\0")];
    report.add("NUL in a module's", &kernel, None, &BootInfo::default().with_modules(&nul));
    report.add("command line for a plain ELF file", &elf(B32, &[]).build(), None, &command_line("x"));
    let one = [module(1)];
    report.add("module for a boot sector", &boot_sector(512), None, &BootInfo::default().with_modules(&one));
    report.add("long command line for Linux", &linux, None, &command_line(&"x".repeat(2048)));
    let two = [module(1), module(1)];
    report.add("two modules for Linux", &linux, None, &BootInfo::default().with_modules(&two));
    let large = [module(62 << 20)];
    report.add("large initrd for Linux", &linux, None, &BootInfo::default().with_modules(&large));
    let large = [module(64 << 20)];
    report.add("large module", &kernel, None, &BootInfo::default().with_modules(&large));
    let largest = [module(u64::MAX)];
    report.add("largest module", &kernel, None, &BootInfo::default().with_modules(&largest));
    let map: Vec<_> = (0..200)
        .map(|page| MemoryMapEntry::usable(GuestAddress(0x20_0000 + page * 0x4000), 0x1000))
        .collect();
    report.add("memory map too long for Linux", &linux, None, &BootInfo::new(&map));
    let small = [MemoryMapEntry::usable(GuestAddress(CODE.1), 0x1000)];
    report.add("no room for the information", &kernel, None, &BootInfo::new(&small));
    Goldens::new("loader/golden").with("bad_boot_info.txt", &report.0).check(&[]);
}
