//! The notes of an ELF file (gABI, "Note Section"): small records with a name, a number and some bytes.
//!
//! Three owners matter here. `Xen` names the 32-bit entry of PVH; `Linux` marks a Linux kernel; `vmm` is ours: the text of
//! a configuration, which a guest may carry in itself ([`configuration`]).

use goblin::elf::program_header::PT_NOTE;
use goblin::elf::section_header::SHT_NOTE;

use crate::bytes::{slice, u32_at};
use crate::elf::header::ElfHeaders;
use crate::elf::symtab;

/// The owner of our note. Its number is 1; the section is `.note.vmm` by custom, and its name is not looked at.
const OWNER: &[u8] = b"vmm";
const CONFIGURATION: u32 = 1;

/// So many notes are looked at: kernels have a handful.
const MAX_NOTES: usize = 256;

/// One note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ElfNote<'f> {
    /// Who defined it, without the NUL.
    pub(crate) owner: &'f [u8],
    /// What it is, by its owner's list.
    pub(crate) number: u32,
    /// Its bytes.
    pub(crate) bytes: &'f [u8],
}

impl ElfNote<'_> {
    /// Its bytes as a little-endian number, if it has four or eight.
    pub(crate) fn value(&self) -> Option<u64> {
        match *self.bytes {
            [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
            _ => Some(u64::from_le_bytes(self.bytes.try_into().ok()?)),
        }
    }

    /// Its bytes as text up to a NUL.
    pub(crate) fn text(&self) -> Option<&str> {
        let end = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(self.bytes.len());
        str::from_utf8(self.bytes.get(..end)?).ok()
    }
}

/// Whether the C library's start-up code has marked the file as a program for Linux (`NT_GNU_ABI_TAG`, whose first word is
/// the system: 0 for Linux). Kernels have no such code.
pub(crate) fn is_for_linux(notes: &[ElfNote<'_>]) -> bool {
    notes.iter().any(|note| note.owner == b"GNU" && note.number == 1 && u32_at(note.bytes, 0) == Some(0))
}

/// All notes of all PT_NOTE segments, as far as they can be read.
pub(crate) fn read<'f>(file: &'f [u8], headers: &ElfHeaders) -> Vec<ElfNote<'f>> {
    let segments = headers.program_headers.iter().filter(|header| header.p_type == PT_NOTE);
    let places = segments.map(|header| (header.p_offset, header.p_filesz, header.p_align));
    let mut notes = Vec::new();
    places.for_each(|place| add(&mut notes, file, place));
    notes
}

/// The bytes of the configuration that the guest carries in itself, without the NULs behind them; `None` for a file that has
/// none, or that this loader could not run.
///
/// A section is enough: what is not loaded into the guest's memory need not be in a segment. A section that is, and has no
/// PT_NOTE segment since the linker script makes none, counts as well.
#[must_use]
pub fn config_note(file: &[u8]) -> Option<&[u8]> {
    let headers = ElfHeaders::read(file).ok()?;
    let mut notes = read(file, &headers);
    let sections = symtab::sections(file, &headers).unwrap_or_default();
    for section in sections.iter().filter(|section| section.sh_type == SHT_NOTE) {
        add(&mut notes, file, (section.sh_offset, section.sh_size, section.sh_addralign));
    }
    let ours = notes.iter().find(|note| note.owner == OWNER && note.number == CONFIGURATION)?;
    let end = ours.bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
    ours.bytes.get(..end)
}

/// Adds the notes at an offset, of so many bytes, each beginning at a multiple of an alignment.
fn add<'f>(notes: &mut Vec<ElfNote<'f>>, file: &'f [u8], (offset, size, alignment): (u64, u64, u64)) {
    let mut rest = slice(file, offset, size).unwrap_or_default();
    let boundary = if alignment == 8 { 8 } else { 4 };
    while notes.len() < MAX_NOTES
        && let Some((note, after)) = first(rest, boundary)
    {
        notes.push(note);
        rest = after;
    }
}

/// The first note in `bytes`, and what follows it.
fn first(bytes: &[u8], boundary: u64) -> Option<(ElfNote<'_>, &[u8])> {
    let (name_size, size, number) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    let (name_size, size) = (u64::from(name_size), u64::from(size));
    let start = 12_u64.checked_add(name_size)?.checked_next_multiple_of(boundary)?;
    let name = slice(bytes, 12, name_size)?;
    let owner = name.strip_suffix(&[0]).unwrap_or(name);
    let note = ElfNote { owner, number, bytes: slice(bytes, start, size)? };
    let next = start.checked_add(size)?.checked_next_multiple_of(boundary)?;
    let after = bytes.get(usize::try_from(next).ok()?..).unwrap_or_default();
    Some((note, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_follow_each_other_on_their_boundary() {
        let mut bytes = Vec::new();
        for (owner, number, content) in [("Xen\0", 18_u32, &[1, 2, 3, 4][..]), ("Linux\0", 257, b"ab\0")] {
            bytes.extend(u32::try_from(owner.len()).unwrap().to_le_bytes());
            bytes.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
            bytes.extend(number.to_le_bytes());
            bytes.extend(owner.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let (xen, rest) = first(&bytes, 4).unwrap();
        assert_eq!((xen.owner, xen.number, xen.value()), (&b"Xen"[..], 18, Some(0x0403_0201)));
        let (linux, rest) = first(rest, 4).unwrap();
        assert_eq!((linux.owner, linux.number, linux.text()), (&b"Linux"[..], 257, Some("ab")));
        assert_eq!((linux.value(), rest), (None, &[][..]));
        assert_eq!(first(rest, 4), None);
    }

    /// A 64-bit file of a program header and a section header, of these types, for the note behind them.
    fn elf(segment: u32, section: u32, note: &[u8]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64 + 56 + 64, 0);
        let size = u64::try_from(note.len()).unwrap();
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        // e_type to e_version, e_phoff, e_shoff; e_ehsize to e_shnum.
        put(16, &[2, 0, 62, 0, 1]);
        put(32, &64_u64.to_le_bytes());
        put(40, &120_u64.to_le_bytes());
        put(52, &[64, 0, 56, 0, 1, 0, 64, 0, 1]);
        // p_type, p_offset, p_filesz; sh_type, sh_offset, sh_size, sh_addralign.
        put(64, &segment.to_le_bytes());
        put(120 + 4, &section.to_le_bytes());
        for (at, value) in [(72, 184), (96, size), (120 + 24, 184), (120 + 32, size), (120 + 48, 4)] {
            put(at, &u64::to_le_bytes(value));
        }
        file.extend(note);
        file
    }

    #[test]
    fn a_configuration_is_found_in_a_segment_or_in_a_section() {
        let note = b"\x04\0\0\0\x0a\0\0\0\x01\0\0\0vmm\0mode = 1\0\0\0\0";
        let (load, note_segment) = (1, PT_NOTE);
        for file in [elf(note_segment, 0, note), elf(load, SHT_NOTE, note)] {
            assert_eq!(config_note(&file), Some(&b"mode = 1"[..]));
            for end in 0..file.len() {
                let _ = config_note(&file[..end]);
            }
        }
        assert_eq!(config_note(&elf(load, 1, note)), None);
        let foreign = [&note[..8], &[2], &note[9..]].concat();
        assert_eq!(config_note(&elf(note_segment, 0, &foreign)), None);
        assert_eq!(config_note(b"mode = \"long\""), None);
    }

    #[test]
    fn sizes_beyond_the_segment_end_the_search() {
        for field in 0..2 {
            let mut bytes = vec![0; 64];
            bytes[field * 4..field * 4 + 4].fill(0xff);
            assert_eq!(first(&bytes, 8), None);
        }
    }
}
