//! ELF notes (gABI, "Note Section"): records of a name, a type and a descriptor.
//!
//! Notes of three names are used: `Xen` for the 32-bit entry of PVH, `Linux` to recognize a Linux kernel, and `vmm` for
//! a configuration embedded in a guest ([`config_note`]).

use goblin::elf::program_header::PT_NOTE;
use goblin::elf::section_header::SHT_NOTE;

use crate::bytes::{slice, u32_at};
use crate::elf::header::ElfHeaders;
use crate::elf::symtab;

/// Name of the configuration note. Its section is usually called `.note.vmm`, but the section's name is not checked.
const CONFIG_NOTE_NAME: &[u8] = b"vmm";
/// Type of the configuration note.
const CONFIG_NOTE_TYPE: u32 = 1;

/// Maximum number of notes that are read. Kernels have fewer than ten.
const MAX_NOTES: usize = 256;

/// ELF note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ElfNote<'f> {
    /// Name of the note's owner (`namesz` bytes), without the NUL.
    pub(crate) name: &'f [u8],
    /// Type of the note (`type`), as its owner defines it.
    pub(crate) note_type: u32,
    /// Descriptor (`descsz` bytes).
    pub(crate) desc: &'f [u8],
}

impl ElfNote<'_> {
    /// Returns the descriptor as a little-endian number if it has four or eight bytes.
    pub(crate) fn value(&self) -> Option<u64> {
        match *self.desc {
            [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
            _ => Some(u64::from_le_bytes(self.desc.try_into().ok()?)),
        }
    }

    /// Returns the descriptor up to the first NUL as text.
    pub(crate) fn text(&self) -> Option<&str> {
        let end = self.desc.iter().position(|&byte| byte == 0).unwrap_or(self.desc.len());
        str::from_utf8(self.desc.get(..end)?).ok()
    }
}

/// Returns true for a Linux user program.
///
/// The start-up code of the C library has the note `NT_GNU_ABI_TAG`, whose first word is the operating system: 0 is Linux.
/// Kernels do not contain that code.
pub(crate) fn is_linux_program(notes: &[ElfNote<'_>]) -> bool {
    notes.iter().any(|note| note.name == b"GNU" && note.note_type == 1 && u32_at(note.desc, 0) == Some(0))
}

/// Reads the notes of all PT_NOTE segments and SHT_NOTE sections, up to the first malformed one of each.
///
/// A section's notes need not be part of the loaded image. Notes that are in a segment and in a section occur twice.
pub(crate) fn read<'f>(file: &'f [u8], headers: &ElfHeaders) -> Vec<ElfNote<'f>> {
    let segments = headers.program_headers.iter().filter(|header| header.p_type == PT_NOTE);
    let sections = symtab::sections(file, headers).unwrap_or_default();
    let sections = sections.iter().filter(|section| section.sh_type == SHT_NOTE);
    let mut notes = Vec::new();
    for header in segments {
        read_notes(&mut notes, file, (header.p_offset, header.p_filesz, header.p_align));
    }
    for section in sections {
        read_notes(&mut notes, file, (section.sh_offset, section.sh_size, section.sh_addralign));
    }
    notes
}

/// Returns the configuration embedded in an ELF file: the descriptor of its note with name `vmm` and type 1.
///
/// Trailing NULs are removed. `None` if the file has no such note, or is not an ELF executable for x86.
#[must_use]
pub fn config_note(file: &[u8]) -> Option<&[u8]> {
    let headers = ElfHeaders::read(file).ok()?;
    let notes = read(file, &headers);
    let is_config = |note: &&ElfNote<'_>| note.name == CONFIG_NOTE_NAME && note.note_type == CONFIG_NOTE_TYPE;
    let desc = notes.iter().find(is_config)?.desc;
    let end = desc.iter().rposition(|&byte| byte != 0).map_or(0, |last| last.saturating_add(1));
    desc.get(..end)
}

/// Appends the notes of one segment or section, given by file offset, size and alignment.
///
/// Notes of an area with an alignment of 8 are read at both boundaries: linkers also put notes with a boundary of 4 there.
fn read_notes<'f>(notes: &mut Vec<ElfNote<'f>>, file: &'f [u8], (offset, size, alignment): (u64, u64, u64)) {
    let area = slice(file, offset, size).unwrap_or_default();
    let boundaries: &[u64] = if alignment == 8 { &[8, 4] } else { &[4] };
    for boundary in boundaries {
        let mut rest = area;
        while notes.len() < MAX_NOTES
            && let Some((note, after)) = split_first(rest, *boundary)
        {
            notes.push(note);
            rest = after;
        }
    }
}

/// Decodes the first note in `bytes`. Returns it with the bytes that follow it.
fn split_first(bytes: &[u8], boundary: u64) -> Option<(ElfNote<'_>, &[u8])> {
    let (name_size, size, note_type) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    let (name_size, size) = (u64::from(name_size), u64::from(size));
    let start = 12_u64.checked_add(name_size)?.checked_next_multiple_of(boundary)?;
    let name = slice(bytes, 12, name_size)?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    let note = ElfNote { name, note_type, desc: slice(bytes, start, size)? };
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
        let (xen, rest) = split_first(&bytes, 4).unwrap();
        assert_eq!((xen.name, xen.note_type, xen.value()), (&b"Xen"[..], 18, Some(0x0403_0201)));
        let (linux, rest) = split_first(rest, 4).unwrap();
        assert_eq!((linux.name, linux.note_type, linux.text()), (&b"Linux"[..], 257, Some("ab")));
        assert_eq!((linux.value(), rest), (None, &[][..]));
        assert_eq!(split_first(rest, 4), None);
    }

    /// Builds an ELF64 file of one program header and one section header, of the given types, both for the note that
    /// follows them.
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
            assert_eq!(split_first(&bytes, 8), None);
        }
    }
}
