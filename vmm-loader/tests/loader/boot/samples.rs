//! Builders of small kernels for each protocol, written from the specifications without code of the loader.

use vm_memory::GuestAddress;
use vmm_loader::boot::MemoryMapEntry;

use crate::image::{Bits, Image, Phdr, RX};

const PT_NOTE: u32 = 4;
/// File offset and load address of the code in the ELF files of this module.
pub(crate) const CODE: (u64, u64) = (0x1000, 0x10_0000);

/// Returns the memory map of a PC with 64 MiB.
pub(crate) fn pc() -> Vec<MemoryMapEntry> {
    vec![
        MemoryMapEntry::usable(GuestAddress(0), 0x9_fc00),
        MemoryMapEntry::reserved(GuestAddress(0x9_fc00), 0x400),
        MemoryMapEntry::reserved(GuestAddress(0xe_0000), 0x2_0000),
        MemoryMapEntry::usable(GuestAddress(0x10_0000), 63 << 20),
    ]
}

/// Builds an ELF file whose code begins with `header`.
pub(crate) fn elf(bits: Bits, header: &[u8]) -> Image {
    let mut image = Image::empty(bits);
    let code = [header, &[0xf4; 16]].concat();
    let size = code.len() as u64;
    image.entry = CODE.1 + header.len() as u64;
    image.load(RX, CODE.0, CODE.1, size, size + 0x1000);
    image.data = vec![(CODE.0, code)];
    image
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap()
}

/// Converts words to little-endian bytes.
pub(crate) fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Builds a Multiboot 1 header with a valid checksum, followed by `rest`.
pub(crate) fn multiboot(flags: u32, rest: &[u32]) -> Vec<u8> {
    let magic = 0x1bad_b002_u32;
    words(&[&[magic, flags, 0_u32.wrapping_sub(magic).wrapping_sub(flags)], rest].concat())
}

/// Builds a tag of a Multiboot 2 header, with padding.
pub(crate) fn tag(kind: u16, flags: u16, content: &[u32]) -> Vec<u8> {
    let size = 8 + 4 * count(content.len());
    let mut tag = [kind.to_le_bytes(), flags.to_le_bytes()].concat();
    tag.extend(words(&[&[size], content].concat()));
    tag.resize(tag.len().next_multiple_of(8), 0);
    tag
}

/// Builds a Multiboot 2 header with a valid checksum.
pub(crate) fn multiboot2(architecture: u32, tags: &[Vec<u8>]) -> Vec<u8> {
    let magic = 0xe852_50d6_u32;
    let length = 16 + count(tags.concat().len());
    let sum = magic.wrapping_add(architecture).wrapping_add(length);
    [words(&[magic, architecture, length, 0_u32.wrapping_sub(sum)]), tags.concat()].concat()
}

/// Builds the end tag of a Multiboot 2 header.
pub(crate) fn end() -> Vec<u8> {
    tag(0, 0, &[])
}

/// Builds an ELF note.
pub(crate) fn note(owner: &str, number: u32, content: &[u8]) -> Vec<u8> {
    let owner = [owner.as_bytes(), &[0]].concat();
    let mut note = words(&[count(owner.len()), count(content.len()), number]);
    for part in [&owner[..], content] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// Adds a PT_NOTE segment to an ELF file.
pub(crate) fn add_notes(image: &mut Image, notes: &[Vec<u8>]) {
    let (offset, bytes) = (0x800, notes.concat());
    let filesz = bytes.len() as u64;
    image.phdrs.push(Phdr { kind: PT_NOTE, flags: 4, offset, filesz, align: 4, ..Phdr::default() });
    image.data.push((offset, bytes));
}

/// Builds a vmlinux, with a PVH note if `pvh`: linked to the higher half, loaded at 16 MiB, with a physical address as ELF
/// entry.
pub(crate) fn vmlinux(pvh: bool) -> Image {
    let mut image = elf(Bits::B64, &[]);
    image.entry = 0x100_0000;
    image.phdrs[0].vaddr = 0xffff_ffff_8100_0000;
    image.phdrs[0].paddr = 0x100_0000;
    let mut notes = vec![note("Linux", 257, &[0, 0, 0, 0])];
    if pvh {
        notes.push(note("Xen", 18, &0x100_0008_u64.to_le_bytes()));
    }
    add_notes(&mut image, &notes);
    image
}

/// Fields of a bzImage that the loader reads.
#[derive(Debug, Clone)]
pub(crate) struct BzImage {
    pub(crate) setup_sects: u8,
    pub(crate) syssize: u32,
    pub(crate) version: u16,
    pub(crate) loadflags: u8,
    pub(crate) xloadflags: u16,
    pub(crate) cmdline_size: u32,
    pub(crate) initrd_addr_max: u32,
    pub(crate) pref_address: u64,
    pub(crate) init_size: u32,
    /// Number of bytes after the setup sectors.
    pub(crate) payload: usize,
}

impl Default for BzImage {
    fn default() -> Self {
        Self {
            setup_sects: 1,
            syssize: 0x41,
            version: 0x20f,
            loadflags: 1,
            xloadflags: 1,
            cmdline_size: 2047,
            initrd_addr_max: 0x7fff_ffff,
            pref_address: 0x100_0000,
            init_size: 0x10_0000,
            payload: 0x410,
        }
    }
}

impl BzImage {
    pub(crate) fn build(&self) -> Vec<u8> {
        let mut file = vec![0; 1024];
        file[0x1f1] = self.setup_sects;
        file[0x1f4..0x1f8].copy_from_slice(&self.syssize.to_le_bytes());
        file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        // Short jump over the header. Its distance gives the end of the header.
        file[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
        file[0x202..0x206].copy_from_slice(b"HdrS");
        file[0x206..0x208].copy_from_slice(&self.version.to_le_bytes());
        file[0x20e..0x210].copy_from_slice(&0x80_u16.to_le_bytes());
        file[0x211] = self.loadflags;
        file[0x22c..0x230].copy_from_slice(&self.initrd_addr_max.to_le_bytes());
        file[0x236..0x238].copy_from_slice(&self.xloadflags.to_le_bytes());
        file[0x238..0x23c].copy_from_slice(&self.cmdline_size.to_le_bytes());
        file[0x258..0x260].copy_from_slice(&self.pref_address.to_le_bytes());
        file[0x260..0x264].copy_from_slice(&self.init_size.to_le_bytes());
        file[0x280..0x28d].copy_from_slice(b"6.1.0-sample\0");
        file.resize(1024 + self.payload, 0x90);
        file
    }
}

/// Builds a file that begins with a boot sector.
pub(crate) fn boot_sector(size: usize) -> Vec<u8> {
    let mut sector = vec![0xf4; size];
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
    sector
}
