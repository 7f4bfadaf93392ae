//! Replacements for the guests: generated ELF files of fixed sizes.
//!
//! A golden file must not depend on the size of compiled code. So each configuration is explained with a replacement for its
//! guest that has the same class, addresses and kind (position-independent, flat), and fixed sizes.

use std::fs;
use std::path::{Path, PathBuf};

use vmm_cli::config::{
    Config, EntryChoice, FileKind, MachineTemplate, MemoryLocation, Overrides, Start, StartChoice,
};
use vmm_core::spec::VirtioSpec;
use vmm_core::spec::mode::Mode;
use vmm_loader::boot::Protocol;

const TEXT_SIZE: u64 = 0x340;
const DATA_SIZE: u64 = 0x48;

/// Directory with copies of all configurations and replacements for their guests.
pub(crate) struct TestDirectory(tempfile::TempDir);

impl TestDirectory {
    pub(crate) fn new() -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        for config in shipped() {
            let copy = directory.path().join("configs").join(&config);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(repository().join("configs").join(&config), &copy).unwrap();
            let config = Config::load(&copy, &Overrides::new()).unwrap();
            for (number, file) in std::iter::once(&config.guest).chain(&config.loads).enumerate() {
                fs::create_dir_all(file.path.as_path().parent().unwrap()).unwrap();
                let bytes = match file.kind {
                    FileKind::Elf { .. } if config.start.protocol == Some(Protocol::BootSector) => {
                        boot_sector()
                    }
                    FileKind::Elf { .. } => elf(&config, file.kind, number as u64),
                    FileKind::Flat { .. } => boot_sector(),
                };
                fs::write(file.path.as_path(), bytes).unwrap();
            }
            for device in &machine(&config).devices.virtio {
                if let VirtioSpec::Block(block) = device {
                    fs::write(block.image.as_path(), [0; 1024]).unwrap();
                }
            }
            for module in &config.modules {
                fs::create_dir_all(module.path.as_path().parent().unwrap()).unwrap();
                fs::write(module.path.as_path(), "This line is in the module.\n").unwrap();
            }
        }
        directory
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the paths of all configurations, relative to `configs/`.
pub(crate) fn shipped() -> Vec<PathBuf> {
    fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "toml") {
                found.push(path);
            }
        }
    }
    let root = repository().join("configs");
    let mut found = Vec::new();
    collect(&root, &mut found);
    let mut found: Vec<PathBuf> =
        found.into_iter().map(|path| path.strip_prefix(&root).unwrap().to_owned()).collect();
    found.sort();
    found
}

/// Returns a boot sector of HLT instructions.
fn boot_sector() -> Vec<u8> {
    let mut sector = vec![0xf4; 510];
    sector.extend([0x55, 0xaa]);
    sector
}

/// Returns the start of the code: the header of the boot protocol, or the note of PVH. A configuration without protocol and mode
/// gets a Multiboot header.
fn boot_header(config: &Config, entry: u64) -> Vec<u8> {
    let words: Vec<u32> = match (config.start.protocol, config.start.mode) {
        (Some(Protocol::Multiboot), _) | (None, None) => {
            vec![0x1bad_b002, 0, 0_u32.wrapping_sub(0x1bad_b002)]
        }
        (Some(Protocol::Multiboot2), _) => {
            let sum = 0xe852_50d6_u32.wrapping_add(24);
            vec![0xe852_50d6, 0, 24, 0_u32.wrapping_sub(sum), 0, 8]
        }
        (Some(Protocol::Pvh), _) => vec![4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry as u32],
        _ => Vec::new(),
    };
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Returns the machine of a configuration; if the guest's file decides protocol and mode, that of a plain ELF file in long mode.
fn machine(config: &Config) -> MachineTemplate {
    let StartChoice { protocol, mode } = config.start;
    let start = Start { protocol: protocol.unwrap_or(Protocol::Elf), mode: mode.unwrap_or(Mode::Long) };
    config.machine(start).unwrap()
}

/// Builds an ELF file of two segments, code and data, with the symbols that the configuration names.
fn elf(config: &Config, kind: FileKind, number: u64) -> Vec<u8> {
    let machine = machine(config);
    let wide = machine.boot.mode.is_long();
    let pie = matches!(kind, FileKind::Elf { base: Some(_) });
    let load = match machine.boot.mode.is_protected() {
        _ if pie => 0x1000,
        true => 0x10_0000,
        false => 0x8000,
    } + number * 0x2_0000;
    // A configuration maps the upper half if its guest is linked there.
    let high = machine.boot.paging.maps.first().filter(|map| map.gva.0 >> 63 != 0);
    let link = load + high.map_or(0, |map| map.gva.0 - map.gpa.0);
    let symbols = symbols(config, &machine);

    let mut strings = vec![0];
    let mut table = Symbol::default().bytes(wide);
    for (name, at) in symbols.iter().zip(0..) {
        let symbol = Symbol { name: strings.len() as u32, value: link + at * 16, section: 1 };
        table.extend(symbol.bytes(wide));
        strings.extend([name.as_bytes(), &[0]].concat());
    }
    let (header, program, section) = if wide { (64, 56, 64) } else { (52, 32, 40) };
    let pvh = config.start.protocol == Some(Protocol::Pvh);
    let programs = if pie || pvh { 3 } else { 2 };
    let tables = header + programs * program + 3 * section;
    let strings_at = tables + table.len() as u64;
    let text_at = 0x1000;

    let mut file = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1];
    file.resize(16, 0);
    half(&mut file, if pie { 3 } else { 2 });
    half(&mut file, if wide { 62 } else { 3 });
    word(&mut file, 1);
    for number in [link, header, header + programs * program] {
        native(&mut file, wide, number);
    }
    word(&mut file, 0);
    for number in [header, program, programs, section, 3, 0] {
        half(&mut file, number as u16);
    }
    // PT_LOAD twice; what makes it position-independent is a flag in a third, PT_DYNAMIC. PVH is a note in a PT_NOTE.
    let third = if pvh { (4, 4, 0, 20) } else { (2, 6, 0x1000, 4 * if wide { 8 } else { 4 }) };
    let segments = [(1, 5, 0, TEXT_SIZE), (1, 6, 0x1000, DATA_SIZE), third];
    for (kind, flags, offset, size) in segments.into_iter().take(programs as usize) {
        word(&mut file, kind);
        if wide {
            word(&mut file, flags);
        }
        for number in [text_at + offset, link + offset, load + offset, size, size] {
            native(&mut file, wide, number);
        }
        if !wide {
            word(&mut file, flags);
        }
        native(&mut file, wide, 0x1000);
    }
    // No section, the symbols, their names: type, offset, size, link, entry size.
    let symbol_size = if wide { 24 } else { 16 };
    for (kind, offset, size, link, entry) in [
        (0, 0, 0, 0, 0),
        (2, tables, table.len() as u64, 2, symbol_size),
        (3, strings_at, strings.len() as u64, 0, 0),
    ] {
        word(&mut file, 0);
        word(&mut file, kind);
        for number in [0, 0, offset, size] {
            native(&mut file, wide, number);
        }
        word(&mut file, link);
        word(&mut file, 1);
        native(&mut file, wide, 1);
        native(&mut file, wide, entry);
    }
    file.extend(table);
    file.extend(strings);
    file.resize(text_at as usize, 0x90);
    file.extend(boot_header(config, link));
    file.resize((text_at + 0x1000) as usize, 0x90);
    // DT_FLAGS_1 with DF_1_PIE, then DT_NULL.
    for number in [0x6fff_fffb, 0x0800_0000, 0, 0] {
        native(&mut file, wide, number);
    }
    file.resize((text_at + 0x1000 + DATA_SIZE) as usize, 0);
    file
}

fn symbols(config: &Config, machine: &MachineTemplate) -> Vec<String> {
    let mut symbols = vec!["_start".to_owned()];
    if let Some(EntryChoice::Symbol(name)) = &machine.boot.entry {
        symbols.push(name.clone());
    }
    for expected in config.expect.iter().flat_map(|expect| &expect.memory) {
        if let MemoryLocation::Symbol(name) = &expected.location {
            symbols.push(name.clone());
        }
    }
    symbols
}

#[derive(Default)]
struct Symbol {
    name: u32,
    value: u64,
    section: u16,
}

impl Symbol {
    fn bytes(&self, wide: bool) -> Vec<u8> {
        // A global function.
        let info = if self.name == 0 { 0 } else { 0x12 };
        let mut bytes = self.name.to_le_bytes().to_vec();
        if wide {
            bytes.extend([info, 0]);
            half(&mut bytes, self.section);
            native(&mut bytes, wide, self.value);
            native(&mut bytes, wide, 0);
        } else {
            native(&mut bytes, wide, self.value);
            native(&mut bytes, wide, 0);
            bytes.extend([info, 0]);
            half(&mut bytes, self.section);
        }
        bytes
    }
}

fn half(bytes: &mut Vec<u8>, number: u16) {
    bytes.extend(number.to_le_bytes());
}

fn word(bytes: &mut Vec<u8>, number: u32) {
    bytes.extend(number.to_le_bytes());
}

/// Adds a number of the size of the ELF class.
fn native(bytes: &mut Vec<u8>, wide: bool, number: u64) {
    if wide { bytes.extend(number.to_le_bytes()) } else { word(bytes, number as u32) }
}
