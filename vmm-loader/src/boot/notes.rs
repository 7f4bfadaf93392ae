//! The notes of an ELF file (gABI, "Note Section"): small records with a name, a number and some bytes.
//!
//! Two owners matter here. `Xen` names the 32-bit entry of PVH; `Linux` marks a Linux kernel.

use goblin::elf::program_header::PT_NOTE;

use crate::bytes::{slice, u32_at};
use crate::header::Headers;

/// So many notes are looked at: kernels have a handful.
const MOST_NOTES: usize = 256;

/// One note.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note<'f> {
    /// Who defined it, without the NUL.
    pub(super) owner: &'f [u8],
    /// What it is, by its owner's list.
    pub(super) number: u32,
    /// Its bytes.
    pub(super) bytes: &'f [u8],
}

impl Note<'_> {
    /// Its bytes as a little-endian number, if it has four or eight.
    pub(super) fn value(&self) -> Option<u64> {
        match *self.bytes {
            [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
            _ => Some(u64::from_le_bytes(self.bytes.try_into().ok()?)),
        }
    }

    /// Its bytes as text up to a NUL.
    pub(super) fn text(&self) -> Option<&str> {
        let end = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(self.bytes.len());
        str::from_utf8(self.bytes.get(..end)?).ok()
    }
}

/// Whether the C library's start-up code has marked the file as a program for Linux (`NT_GNU_ABI_TAG`, whose first word is
/// the system: 0 for Linux). Kernels have no such code.
pub(super) fn is_for_linux(notes: &[Note<'_>]) -> bool {
    notes.iter().any(|note| note.owner == b"GNU" && note.number == 1 && u32_at(note.bytes, 0) == Some(0))
}

/// All notes of all PT_NOTE segments, as far as they can be read.
pub(super) fn read<'f>(file: &'f [u8], headers: &Headers) -> Vec<Note<'f>> {
    let mut notes = Vec::new();
    for header in headers.program_headers.iter().filter(|header| header.p_type == PT_NOTE) {
        let mut rest = slice(file, header.p_offset, header.p_filesz).unwrap_or_default();
        let boundary = if header.p_align == 8 { 8 } else { 4 };
        while notes.len() < MOST_NOTES
            && let Some((note, after)) = first(rest, boundary)
        {
            notes.push(note);
            rest = after;
        }
    }
    notes
}

/// The first note in `bytes`, and what follows it.
fn first(bytes: &[u8], boundary: u64) -> Option<(Note<'_>, &[u8])> {
    let (name_size, size, number) = (u32_at(bytes, 0)?, u32_at(bytes, 4)?, u32_at(bytes, 8)?);
    let (name_size, size) = (u64::from(name_size), u64::from(size));
    let start = 12_u64.checked_add(name_size)?.checked_next_multiple_of(boundary)?;
    let name = slice(bytes, 12, name_size)?;
    let owner = name.strip_suffix(&[0]).unwrap_or(name);
    let note = Note { owner, number, bytes: slice(bytes, start, size)? };
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

    #[test]
    fn sizes_beyond_the_segment_end_the_search() {
        for field in 0..2 {
            let mut bytes = vec![0; 64];
            bytes[field * 4..field * 4 + 4].fill(0xff);
            assert_eq!(first(&bytes, 8), None);
        }
    }
}
