//! Builder of small ELF files, valid and invalid ones.
//!
//! Each header field can have any value; [`Image::build`] checks nothing. The builder is written from the gABI and shares no
//! code with the loader or goblin, so that it cannot share their mistakes.

pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_DYNAMIC: u32 = 2;
pub(crate) const PT_INTERP: u32 = 3;
pub(crate) const PT_TLS: u32 = 7;
pub(crate) const R: u32 = 4;
pub(crate) const RW: u32 = 6;
pub(crate) const RX: u32 = 5;

pub(crate) const DT_NEEDED: u64 = 1;
pub(crate) const DT_PLTRELSZ: u64 = 2;
pub(crate) const DT_STRTAB: u64 = 5;
pub(crate) const DT_RELA: u64 = 7;
pub(crate) const DT_RELASZ: u64 = 8;
pub(crate) const DT_RELAENT: u64 = 9;
pub(crate) const DT_STRSZ: u64 = 10;
pub(crate) const DT_REL: u64 = 17;
pub(crate) const DT_RELSZ: u64 = 18;
pub(crate) const DT_RELENT: u64 = 19;
pub(crate) const DT_PLTREL: u64 = 20;
pub(crate) const DT_JMPREL: u64 = 23;
pub(crate) const DT_RELRSZ: u64 = 35;
pub(crate) const DT_RELR: u64 = 36;
pub(crate) const DT_FLAGS_1: u64 = 0x6fff_fffb;
pub(crate) const DF_1_PIE: u64 = 0x0800_0000;

/// R_X86_64_RELATIVE and R_386_RELATIVE alike.
pub(crate) const RELATIVE: u64 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bits {
    B32,
    B64,
}

impl Bits {
    /// Encodes a word of the class in little-endian order.
    pub(crate) fn word(self, value: u64) -> Vec<u8> {
        match self {
            Self::B32 => value.to_le_bytes()[..4].to_vec(),
            Self::B64 => value.to_le_bytes().to_vec(),
        }
    }

    pub(crate) fn size(self) -> u64 {
        match self {
            Self::B32 => 4,
            Self::B64 => 8,
        }
    }

    fn pick(self, bits32: u16, bits64: u16) -> u16 {
        match self {
            Self::B32 => bits32,
            Self::B64 => bits64,
        }
    }

    /// Returns `r_info` of a relocation without a symbol.
    pub(crate) fn info(self, kind: u64) -> u64 {
        kind
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Phdr {
    pub(crate) kind: u32,
    pub(crate) flags: u32,
    pub(crate) offset: u64,
    pub(crate) vaddr: u64,
    pub(crate) paddr: u64,
    pub(crate) filesz: u64,
    pub(crate) memsz: u64,
    pub(crate) align: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Sym {
    pub(crate) name: &'static str,
    pub(crate) value: u64,
    pub(crate) size: u64,
    /// Binding in the upper four bits, type in the lower.
    pub(crate) info: u8,
    pub(crate) section: u16,
}

/// Builder of an ELF file.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) bits: Bits,
    pub(crate) ident: [u8; 16],
    pub(crate) kind: u16,
    pub(crate) machine: u16,
    pub(crate) version: u32,
    pub(crate) entry: u64,
    pub(crate) phoff: u64,
    pub(crate) phentsize: u16,
    /// Value of `e_phnum`; `None` for the number of `phdrs`.
    pub(crate) phnum: Option<u16>,
    pub(crate) shentsize: u16,
    pub(crate) phdrs: Vec<Phdr>,
    /// Bytes at file offsets.
    pub(crate) data: Vec<(u64, Vec<u8>)>,
    pub(crate) symbols: Vec<Sym>,
}

impl Image {
    pub(crate) fn empty(bits: Bits) -> Self {
        let mut ident = [0; 16];
        ident[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', bits.pick(1, 2).to_le_bytes()[0], 1, 1]);
        Self {
            bits,
            ident,
            kind: 2,
            machine: bits.pick(3, 62),
            version: 1,
            entry: 0,
            phoff: bits.pick(52, 64).into(),
            phentsize: bits.pick(32, 56),
            phnum: None,
            shentsize: bits.pick(40, 64),
            phdrs: Vec::new(),
            data: Vec::new(),
            symbols: Vec::new(),
        }
    }

    /// Builds an ET_EXEC program: code at 0x1000; 8 bytes of data and 24 bytes of .bss at 0x2000.
    pub(crate) fn program(bits: Bits) -> Self {
        let mut image = Self::empty(bits);
        image.entry = 0x1000;
        image.load(RX, 0x200, 0x1000, 16, 16);
        image.load(RW, 0x210, 0x2000, 8, 32);
        image.data = vec![(0x200, vec![0xf4; 16]), (0x210, vec![0xdd; 8])];
        image.symbols = vec![
            Sym { name: "_start", value: 0x1000, size: 0, info: 0x10, section: 1 },
            Sym { name: "main", value: 0x1004, size: 8, info: 0x12, section: 1 },
            Sym { name: "counter", value: 0x2000, size: 4, info: 0x11, section: 2 },
            Sym { name: "SIZE", value: 0x77, size: 0, info: 0x10, section: 0xfff1 },
            Sym { name: "guest.c", value: 0, size: 0, info: 0x04, section: 0xfff1 },
            Sym { name: "elsewhere", value: 0, size: 0, info: 0x10, section: 0 },
        ];
        image
    }

    /// Builds a static PIE linked to 0: code at 0x10, and data with `words` words to relocate at 0x1000.
    ///
    /// The relocation table is RELA in ELF64 and REL in ELF32. Each addend is 0x10.
    pub(crate) fn pie(bits: Bits, words: u64) -> Self {
        let mut image = Self::empty(bits);
        image.kind = 3;
        image.entry = 0x10;
        let (size, rela) = (bits.size(), bits == Bits::B64);
        let mut data: Vec<u8> = (0..words).flat_map(|_| bits.word(if rela { 0 } else { 0x10 })).collect();
        let table = 0x1000 + words * size;
        for index in 0..words {
            data.extend(bits.word(0x1000 + index * size));
            data.extend(bits.word(bits.info(RELATIVE)));
            data.extend(if rela { bits.word(0x10) } else { Vec::new() });
        }
        let entry_size = if rela { 24 } else { 8 };
        let dynamic = if rela {
            [
                (DT_FLAGS_1, DF_1_PIE),
                (DT_RELA, table),
                (DT_RELASZ, words * entry_size),
                (DT_RELAENT, entry_size),
            ]
        } else {
            [(DT_FLAGS_1, DF_1_PIE), (DT_REL, table), (DT_RELSZ, words * entry_size), (DT_RELENT, entry_size)]
        };
        image.load(RX, 0x200, 0, 0x20, 0x20);
        image.load(RW, 0x240, 0x1000, data.len() as u64, data.len() as u64 + 0x10);
        image.data = vec![(0x200, vec![0xf4; 0x20]), (0x240, data)];
        image.dynamic(0x8000, &dynamic);
        image.symbols = vec![
            Sym { name: "_start", value: 0x10, size: 16, info: 0x12, section: 1 },
            Sym { name: "table", value: 0x1000, size: 8, info: 0x11, section: 2 },
        ];
        image
    }

    pub(crate) fn load(&mut self, flags: u32, offset: u64, address: u64, filesz: u64, memsz: u64) {
        let (vaddr, paddr) = (address, address);
        self.phdrs.push(Phdr { kind: PT_LOAD, flags, offset, vaddr, paddr, filesz, memsz, align: 16 });
    }

    /// Adds a dynamic section at a file offset. Replaces an existing one.
    pub(crate) fn dynamic(&mut self, offset: u64, entries: &[(u64, u64)]) {
        let bits = self.bits;
        let bytes: Vec<u8> = entries
            .iter()
            .chain(&[(0, 0)])
            .flat_map(|&(tag, value)| [bits.word(tag), bits.word(value)].concat())
            .collect();
        self.phdrs.retain(|phdr| phdr.kind != PT_DYNAMIC);
        self.data.retain(|(at, _)| *at != offset);
        let filesz = bytes.len() as u64;
        self.phdrs.push(Phdr {
            kind: PT_DYNAMIC,
            flags: RW,
            offset,
            filesz,
            memsz: filesz,
            ..Phdr::default()
        });
        self.data.push((offset, bytes));
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let bits = self.bits;
        let mut whole = vec![0; bits.pick(52, 64).into()];
        for phdr in &self.phdrs {
            let (kind, flags) = (phdr.kind.to_le_bytes(), phdr.flags.to_le_bytes());
            let [offset, vaddr, paddr, filesz, memsz, align] =
                [phdr.offset, phdr.vaddr, phdr.paddr, phdr.filesz, phdr.memsz, phdr.align]
                    .map(|value| bits.word(value));
            let location = [offset, vaddr, paddr, filesz, memsz].concat();
            whole.extend(match bits {
                Bits::B32 => [&kind[..], &location, &flags, &align].concat(),
                Bits::B64 => [&kind[..], &flags, &location, &align].concat(),
            });
        }
        for (offset, bytes) in &self.data {
            let start = usize::try_from(*offset).unwrap();
            let end = start + bytes.len();
            whole.resize(whole.len().max(end), 0);
            whole[start..end].copy_from_slice(bytes);
        }
        let (shoff, shnum) = self.sections(&mut whole);
        let header = self.header(shoff, shnum);
        whole[..header.len()].copy_from_slice(&header);
        whole
    }

    fn header(&self, shoff: u64, shnum: u16) -> Vec<u8> {
        let bits = self.bits;
        let mut header = self.ident.to_vec();
        header.extend(self.kind.to_le_bytes());
        header.extend(self.machine.to_le_bytes());
        header.extend(self.version.to_le_bytes());
        header.extend([self.entry, self.phoff, shoff].map(|value| bits.word(value)).concat());
        header.extend([0; 4]);
        let phnum = self.phnum.unwrap_or(u16::try_from(self.phdrs.len()).unwrap());
        for half in [bits.pick(52, 64), self.phentsize, phnum, self.shentsize, shnum, 0] {
            header.extend(half.to_le_bytes());
        }
        header
    }

    /// Appends a null section, the symbol table and its names. Returns `e_shoff` and `e_shnum`.
    fn sections(&self, file: &mut Vec<u8>) -> (u64, u16) {
        if self.symbols.is_empty() {
            return (0, 0);
        }
        let bits = self.bits;
        let (mut names, mut table) = (vec![0], vec![0; usize::from(bits.pick(16, 24))]);
        for symbol in &self.symbols {
            let name = u32::try_from(names.len()).unwrap().to_le_bytes();
            names.extend(symbol.name.bytes().chain([0]));
            let value = [bits.word(symbol.value), bits.word(symbol.size)].concat();
            let kind = [&[symbol.info, 0][..], &symbol.section.to_le_bytes()].concat();
            table.extend(name);
            table.extend(match bits {
                Bits::B32 => [value, kind].concat(),
                Bits::B64 => [kind, value].concat(),
            });
        }
        let symbols_at = file.len() as u64;
        let names_at = symbols_at + table.len() as u64;
        let shoff = names_at + names.len() as u64;
        let section = |kind: u32, offset: u64, size: u64, link: u32, entry: u64| {
            let flags_and_address = [bits.word(0), bits.word(0)].concat();
            let location = [bits.word(offset), bits.word(size)].concat();
            let rest = [link.to_le_bytes().to_vec(), vec![0; 4], bits.word(1), bits.word(entry)].concat();
            [vec![0; 4], kind.to_le_bytes().to_vec(), flags_and_address, location, rest].concat()
        };
        let headers = [
            section(0, 0, 0, 0, 0),
            section(2, symbols_at, table.len() as u64, 2, bits.pick(16, 24).into()),
            section(3, names_at, names.len() as u64, 0, 0),
        ];
        file.extend(table);
        file.extend(names);
        file.extend(headers.concat());
        (shoff, 3)
    }
}
