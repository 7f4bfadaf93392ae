//! Any bytes as the contents of a note segment.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use crate::boot::detect;
use crate::config_note;

/// Checks the notes of an ELF file. The first byte chooses the class of the file, the alignment of the segment, and whether a
/// configuration is put before the other bytes.
pub fn notes(bytes: &[u8]) {
    let (first, area) = bytes.split_first().map_or((0, bytes), |(first, rest)| (*first, rest));
    let (wide, alignment) = (first & 1 == 0, if first & 2 == 0 { 4 } else { 8 });
    let file = elf(wide, alignment, area);
    let _ = detect(&file).describe();
    if let Some(text) = config_note(&file) {
        assert!(text.last() != Some(&0) && text.len() <= area.len());
    }
    if first & 4 == 0 {
        return;
    }
    // The bytes are a configuration then, before a note that is cut off.
    let mut note = Vec::new();
    for word in [4, u32::try_from(area.len()).unwrap(), 1] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"vmm\0");
    note.extend(area);
    note.resize(note.len().next_multiple_of(usize::try_from(alignment).unwrap()), 0);
    note.extend([4, 0, 0, 0, 0xff]);
    let file = elf(wide, alignment, &note);
    let end = area.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    assert!(config_note(&file) == area.get(..end), "the configuration is not found");
}

/// Returns an ELF file of one segment, PT_NOTE (gABI, "ELF Header", "Program Header").
fn elf(wide: bool, alignment: u64, area: &[u8]) -> Vec<u8> {
    let word = |value: u64| {
        let bytes = value.to_le_bytes();
        bytes.get(..if wide { 8 } else { 4 }).unwrap_or_default().to_vec()
    };
    let (header_size, entry_size) = if wide { (64_u16, 56_u16) } else { (52, 32) };
    let offset = u64::from(header_size) + u64::from(entry_size);
    let size = u64::try_from(area.len()).unwrap();
    let mut file = vec![0x7f, b'E', b'L', b'F', if wide { 2 } else { 1 }, 1, 1];
    file.resize(16, 0);
    // e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags.
    file.extend([2, 0, if wide { 62 } else { 3 }, 0, 1, 0, 0, 0]);
    for value in [0, u64::from(header_size), 0] {
        file.extend(word(value));
    }
    file.extend([0; 4]);
    // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
    let section_size = if wide { 64 } else { 40 };
    for value in [header_size, entry_size, 1, section_size, 0, 0] {
        file.extend(value.to_le_bytes());
    }
    let flags = 4_u32.to_le_bytes();
    file.extend(4_u32.to_le_bytes());
    if wide {
        file.extend(flags);
    }
    for value in [offset, 0, 0, size, size] {
        file.extend(word(value));
    }
    if !wide {
        file.extend(flags);
    }
    file.extend(word(alignment));
    file.extend(area);
    file
}
