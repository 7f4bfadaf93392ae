//! Error messages and advice for each mistake in an ELF file: `golden/bad_elfs.txt`.

use std::error::Error;
use std::fmt::Write;

use vm_memory::GuestAddress;
use vmm_loader::{ElfOptions, LoadError, VirtAddr, elf, flat};

use crate::golden::Goldens;
use crate::image::{
    Bits::{self, B32, B64},
    DF_1_PIE, DT_FLAGS_1, DT_JMPREL, DT_NEEDED, DT_PLTREL, DT_PLTRELSZ, DT_REL, DT_RELA, DT_RELAENT,
    DT_RELASZ, DT_RELR, DT_RELRSZ, DT_RELSZ, DT_STRSZ, DT_STRTAB, Image, PT_INTERP, PT_TLS, Phdr, R, Sym,
};

/// Takes all steps before guest memory exists, for a machine with 64 KiB.
fn load(file: &[u8], base: Option<u64>, symbol: Option<&str>) -> Result<VirtAddr, LoadError> {
    let plan = elf::plan(file, &ElfOptions::default().with_base(base.map(GuestAddress)))?;
    let entry = match symbol {
        Some(symbol) => plan.symbols().lookup(symbol)?.address,
        None => plan.resolve_entry()?,
    };
    let memory = [GuestAddress(0)..GuestAddress(0x8000), GuestAddress(0x8000)..GuestAddress(0x1_0000)];
    plan.check_fits(&memory)?;
    Ok(entry)
}

/// Invalid file, or a valid one that is asked for something it does not have.
struct BadFile {
    name: String,
    bytes: Vec<u8>,
    /// Requested base address.
    base: Option<u64>,
    /// Symbol of the requested entry; `None` for the entry of the file.
    symbol: Option<&'static str>,
}

#[derive(Default)]
struct Cases(Vec<BadFile>);

impl Cases {
    fn bytes(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.push(BadFile { name: name.to_owned(), bytes, base: None, symbol: None });
    }

    fn program(&mut self, name: &str, bits: Bits, change: impl FnOnce(&mut Image)) {
        let mut image = Image::program(bits);
        change(&mut image);
        self.bytes(name, image.build());
    }

    fn program64(&mut self, name: &str, change: impl FnOnce(&mut Image)) {
        self.program(name, B64, change);
    }

    fn pie(&mut self, name: &str, bits: Bits, base: Option<u64>, change: impl FnOnce(&mut Image)) {
        let mut image = Image::pie(bits, 2);
        change(&mut image);
        self.0.push(BadFile { name: name.to_owned(), bytes: image.build(), base, symbol: None });
    }

    /// Adds a static PIE whose dynamic section has DF_1_PIE and `entries`.
    fn dynamic(&mut self, name: &str, bits: Bits, entries: &[(u64, u64)]) {
        self.pie(name, bits, Some(0), |image| {
            image.dynamic(0x8000, &[&[(DT_FLAGS_1, DF_1_PIE)], entries].concat());
        });
    }

    fn entry(&mut self, name: &str, symbol: &'static str, change: impl FnOnce(&mut Image)) {
        self.program64(name, change);
        self.0.last_mut().unwrap().symbol = Some(symbol);
    }
}

fn identity(cases: &mut Cases) {
    let good = Image::program(B64).build();
    cases.bytes("empty", Vec::new());
    cases.bytes("a script", b"#!/bin/sh\n".to_vec());
    cases.bytes("two bytes", b"MZ".to_vec());
    cases.bytes("magic only", good[..4].to_vec());
    cases.bytes("header cut off in e_ident", good[..15].to_vec());
    cases.bytes("64-bit header cut off", good[..63].to_vec());
    cases.bytes("32-bit header cut off", Image::program(B32).build()[..51].to_vec());
    cases.program64("class 0", |image| image.ident[4] = 0);
    cases.program64("class 3", |image| image.ident[4] = 3);
    cases.program64("data encoding 7", |image| image.ident[5] = 7);
    cases.program64("EI_VERSION 0", |image| image.ident[6] = 0);
    cases.program64("e_version 2", |image| image.version = 2);
    let mut big = good.clone();
    big[5] = 2;
    big[18..20].copy_from_slice(&62_u16.to_be_bytes());
    cases.bytes("big-endian x86-64", big.clone());
    big[18..20].copy_from_slice(&22_u16.to_be_bytes());
    cases.bytes("S390", big);
    cases.program64("AArch64", |image| image.machine = 183);
    cases.program("ARM", B32, |image| image.machine = 40);
    cases.program64("RISC-V", |image| image.machine = 243);
    cases.program64("no known machine", |image| image.machine = 0xfeed);
    cases.program("x32", B32, |image| image.machine = 62);
    cases.program64("i386 in ELF64", |image| image.machine = 3);
    cases.program64("ET_NONE", |image| image.kind = 0);
    cases.program64("ET_REL", |image| image.kind = 1);
    cases.program64("ET_CORE", |image| image.kind = 4);
    cases.program64("ET_LOPROC", |image| image.kind = 0xff00);
}

fn program_headers(cases: &mut Cases) {
    cases.program64("no program headers", |image| image.phdrs.clear());
    cases.program64("PN_XNUM", |image| image.phnum = Some(0xffff));
    cases.program64("e_phentsize of ELF32", |image| image.phentsize = 32);
    cases.program("e_phentsize 0", B32, |image| image.phentsize = 0);
    cases.program64("e_phoff after the file", |image| image.phoff = 0x1_0000);
    cases.program64("e_phoff overflows", |image| image.phoff = u64::MAX - 8);
    cases.program64("more headers than bytes", |image| image.phnum = Some(0xfffe));
    cases.program64("no PT_LOAD", |image| image.phdrs.iter_mut().for_each(|phdr| phdr.kind = 4));
    cases.program64("only empty segments", |image| {
        image.phdrs.iter_mut().for_each(|phdr| (phdr.filesz, phdr.memsz) = (0, 0));
    });
    cases.program64("too many segments", |image| {
        (0..1100).for_each(|index| image.load(R, 0x2_0000, 0x10_0000 + index * 16, 1, 16));
        image.data = vec![(0x2_0000, vec![0])];
        image.phdrs.drain(..2);
    });
}

fn segments(cases: &mut Cases) {
    cases.program64("segment after the file", |image| image.phdrs[0].offset = 0x9_0000);
    cases.program64("segment half in the file", |image| image.phdrs[1].offset = 0x400);
    cases.program64("p_offset + p_filesz overflows", |image| image.phdrs[0].offset = u64::MAX);
    cases.program("p_offset + p_filesz above 4 GiB", B32, |image| image.phdrs[0].offset = 0xffff_fff8);
    cases.program64("p_filesz > p_memsz", |image| image.phdrs[0].memsz = 15);
    cases.program64("p_align 3", |image| image.phdrs[1].align = 3);
    cases.program64("p_paddr + p_memsz overflows", |image| image.phdrs[1].paddr = u64::MAX - 4);
    cases.program64("p_paddr above 52 bits", |image| image.phdrs[1].paddr = 0xffff_8000_0000_0000);
    cases.program("p_paddr + p_memsz above 4 GiB", B32, |image| image.phdrs[1].paddr = 0xffff_fff0);
    cases.program64("p_vaddr + p_memsz overflows", |image| image.phdrs[1].vaddr = u64::MAX - 4);
    cases.program("p_vaddr + p_memsz above 4 GiB", B32, |image| image.phdrs[1].vaddr = 0xffff_fff0);
    cases.program64("p_memsz of 8 EiB", |image| image.phdrs[1].memsz = 1 << 63);
    cases.program64("segments overlap by one byte", |image| image.phdrs[1].paddr = 0x100f);
    cases.program64("second segment below and into the first", |image| image.phdrs[1].paddr = 0x0fe1);
    cases.program64("the same segment twice", |image| image.phdrs[1] = image.phdrs[0].clone());
    cases.program64("segment above memory", |image| image.phdrs[1].paddr = 0x20_0000);
    cases.program64("last byte above memory", |image| image.phdrs[1].memsz = 0xe001);
    cases.program64(".bss of 1 TiB", |image| image.phdrs[1].memsz = 1 << 40);
}

fn dynamic(cases: &mut Cases) {
    let interpreter = |image: &mut Image, path: &[u8]| {
        image.data.push((0x9000, path.to_vec()));
        let filesz = path.len() as u64;
        image.phdrs.push(Phdr { kind: PT_INTERP, offset: 0x9000, filesz, memsz: filesz, ..Phdr::default() });
    };
    cases.program64("interpreter", |image| interpreter(image, b"/lib64/ld-linux-x86-64.so.2\0"));
    cases.pie("interpreter of a PIE", B32, None, |image| interpreter(image, b"/lib/ld-linux.so.2\0"));
    cases.program64("interpreter without an end", |image| interpreter(image, b"/lib"));
    cases.program64("interpreter with a line break", |image| interpreter(image, b"/lib\n\xff\0"));
    let library = |image: &mut Image, offset| {
        image.data[1].1.extend(b"libc.so.6\0");
        image.phdrs[1].filesz += 10;
        let size = image.phdrs[1].filesz;
        let strings = 0x1000 + size - 10;
        image.phdrs[1].memsz = size;
        image.dynamic(0x8000, &[(DT_NEEDED, offset), (DT_STRTAB, strings), (DT_STRSZ, 10)]);
    };
    cases.pie("DT_NEEDED", B64, None, |image| library(image, 0));
    cases.pie("DT_NEEDED outside the names", B64, None, |image| library(image, 99));
    cases.pie("shared library", B64, None, |image| image.dynamic(0x8000, &[]));
    cases.pie("ET_DYN without PT_DYNAMIC", B64, None, |image| {
        image.phdrs.pop();
    });
    cases.pie("PT_DYNAMIC after the file", B64, None, |image| image.phdrs[2].offset = 0xa0_0000);
    cases.pie("PT_DYNAMIC overflows", B64, None, |image| image.phdrs[2].filesz = u64::MAX);
}

fn base(cases: &mut Cases) {
    cases.program64("base for ET_EXEC", |_| {});
    cases.0.last_mut().unwrap().base = Some(0x4000);
    cases.pie("misaligned base", B64, Some(0x4008), |_| {});
    cases.pie("misaligned base below the first multiple", B64, Some(8), |_| {});
    cases.pie("base above 52 bits", B64, Some(1 << 52), |_| {});
    cases.pie("base at the end of the address space", B64, Some(u64::MAX - 15), |_| {});
    cases.pie("base above 4 GiB in ELF32", B32, Some(1 << 32), |_| {});
    cases.pie("default base above memory", B64, None, |_| {});
    cases.pie("alignment of 8 EiB", B64, None, |image| image.phdrs[0].align = 1 << 63);
    cases.pie("base takes a segment below 0", B64, Some(0), |image| {
        (image.phdrs[0].paddr, image.phdrs[0].vaddr) = (0x8000, 0x800);
        (image.phdrs[1].paddr, image.phdrs[1].vaddr) = (0x9000, 0x900);
    });
}

fn relocations(cases: &mut Cases) {
    let word = |image: &mut Image, at: usize, value: u64| {
        image.data[1].1[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    // In Image::pie(B64, 2) the table begins after two words: r_offset at 16, r_info at 24.
    cases.pie("R_X86_64_GLOB_DAT", B64, Some(0), |image| word(image, 24, 1 << 32 | 6));
    cases.pie("R_X86_64_IRELATIVE", B64, Some(0), |image| word(image, 24, 37));
    cases.pie("a type that does not exist", B64, Some(0), |image| word(image, 24, 0xffff));
    cases.pie("R_386_JMP_SLOT", B32, Some(0), |image| image.data[1].1[12] = 7);
    cases.pie("relocation after the segments", B64, Some(0), |image| word(image, 16, 0x7000));
    cases.pie("relocation across a segment's end", B64, Some(0), |image| word(image, 16, 0x1c));
    cases.pie("relocation in .bss", B64, Some(0), |image| word(image, 16, 0x1040));
    cases.pie("relocation at the last address", B64, Some(0), |image| word(image, 16, u64::MAX));
    cases.dynamic("RELA table after the segments", B64, &[(DT_RELA, 0x5000), (DT_RELASZ, 24)]);
    cases.dynamic("RELA table too large", B64, &[(DT_RELA, 0x1000), (DT_RELASZ, 24 << 40)]);
    cases.dynamic("RELA table cut off", B64, &[(DT_RELA, 0x1010), (DT_RELASZ, 23)]);
    cases.dynamic("RELA entry size 0", B64, &[(DT_RELA, 0x1010), (DT_RELASZ, 24), (DT_RELAENT, 0)]);
    cases.dynamic("REL table in .bss", B32, &[(DT_REL, 0x1020), (DT_RELSZ, 8)]);
    let plt = [(DT_JMPREL, 0x1010), (DT_PLTRELSZ, 24), (DT_PLTREL, DT_REL)];
    cases.dynamic("PLT table of the wrong kind", B64, &plt);
    cases.pie("RELR begins with a bitmap", B64, Some(0), |image| {
        word(image, 0, 3);
        image.dynamic(0x8000, &[(DT_FLAGS_1, DF_1_PIE), (DT_RELR, 0x1000), (DT_RELRSZ, 8)]);
    });
    cases.pie("RELR leaves the segment", B64, Some(0), |image| {
        word(image, 0, 0x1000);
        word(image, 8, u64::MAX);
        image.dynamic(0x8000, &[(DT_FLAGS_1, DF_1_PIE), (DT_RELR, 0x1000), (DT_RELRSZ, 16)]);
    });
    cases.pie("more relocations than words", B64, Some(0), |image| {
        // 1024 pairs of "0x1000, and the 63 words after it": 65536 relocations from 16 KiB.
        let pairs = [0x1000_u64, u64::MAX].map(u64::to_le_bytes).concat().repeat(1024);
        let size = pairs.len() as u64;
        (image.phdrs[1].offset, image.phdrs[1].filesz, image.phdrs[1].memsz) = (0x9000, size, size);
        image.data[1] = (0x9000, pairs);
        image.dynamic(0x8000, &[(DT_FLAGS_1, DF_1_PIE), (DT_RELR, 0x1000), (DT_RELRSZ, size)]);
    });
}

fn entries(cases: &mut Cases) {
    cases.program64("e_entry 0", |image| image.entry = 0);
    cases.pie("e_entry 0 in a PIE", B64, Some(0), |image| image.entry = 0);
    cases.program64("e_entry between segments", |image| image.entry = 0x1010);
    cases.program64("e_entry at the last address", |image| image.entry = u64::MAX);
    cases.entry("misspelt symbol", "_strat", |_| {});
    cases.entry("unknown symbol", "boot_cpu_zero", |_| {});
    cases.entry("undefined symbol", "elsewhere", |_| {});
    cases.entry("name of a source file", "guest.c", |_| {});
    cases.entry("symbol in a stripped file", "_start", |image| image.symbols.clear());
    cases.entry("symbol with damaged sections", "_start", |image| image.shentsize = 7);
    cases.entry("ambiguous symbol", "loop", |image| {
        let local = |value| Sym { name: "loop", value, size: 0, info: 0, section: 1 };
        image.symbols.extend([local(0x1002), local(0x1006)]);
    });
}

#[test]
fn each_bad_elf_has_its_message() {
    let mut cases = Cases::default();
    for group in [identity, program_headers, segments, dynamic, base, relocations, entries] {
        group(&mut cases);
    }
    let mut report = String::new();
    for BadFile { name, bytes, base, symbol } in &cases.0 {
        let error = load(bytes, *base, *symbol).expect_err(name);
        let message = error.to_string();
        assert!(!message.contains('\n') && !message.ends_with('.'), "{name}: {message}");
        assert!(!message.starts_with(|first: char| first.is_ascii_uppercase()), "{name}: {message}");
        assert!(error.source().is_none(), "{name}: {message} hides a cause");
        writeln!(report, "{name}\n    error: {message}").unwrap();
        if let Some(help) = error.help() {
            writeln!(report, "    help: {help}").unwrap();
        }
    }
    Goldens::new("loader/golden").with("bad_elfs.txt", &report).check(&[]);
}

/// Each case changes one thing in a valid file. The valid files themselves can be loaded.
#[test]
fn the_unchanged_files_load() {
    for bits in [B32, B64] {
        let entry = load(&Image::program(bits).build(), None, None).unwrap();
        assert_eq!(entry, VirtAddr(0x1000));
        let entry = load(&Image::pie(bits, 2).build(), Some(0x2000), None).unwrap();
        assert_eq!(entry, VirtAddr(0x2010));
    }
}

#[test]
fn notes_do_not_keep_a_file_from_loading() {
    let mut image = Image::program(B64);
    image.phdrs.push(Phdr { kind: PT_TLS, memsz: 24, ..Phdr::default() });
    image.shentsize = 7;
    let plan = elf::plan(&image.build(), &ElfOptions::default()).unwrap();
    let notes: Vec<String> = plan.notes().iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "24 bytes of thread-local storage (PT_TLS): the guest has to set it up itself",
            "no symbols: the section header table is damaged"
        ]
    );
    assert!(plan.symbols().is_empty());
}

#[test]
fn flat_binaries_have_their_errors() {
    let error = |file: &[u8], address| flat::plan(file, GuestAddress(address)).unwrap_err().to_string();
    assert_eq!(error(b"", 0), "the file is empty");
    let last = "the last physical address there is";
    assert_eq!(
        error(b"ab", (1 << 52) - 1),
        format!("2 bytes at 0xfffffffffffff would end after 0xfffffffffffff, {last}")
    );
    assert_eq!(
        error(b"ab", u64::MAX),
        format!("2 bytes at 0xffffffffffffffff would end after 0xfffffffffffff, {last}")
    );
    let fits = flat::plan(b"ab", GuestAddress((1 << 52) - 2)).unwrap();
    assert_eq!(fits.ranges()[0].range.end, GuestAddress(1 << 52));
}

/// Uses the test itself, a dynamically linked program for Linux.
#[test]
fn a_program_for_linux_is_refused() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let error = elf::plan(&file, &ElfOptions::default()).unwrap_err().to_string();
    assert!(error.starts_with("a dynamically linked program: it asks for the interpreter /lib"), "{error}");
}
