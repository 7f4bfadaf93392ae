//! ELF header and program headers of a core file.
//!
//! Source: gABI, chapter 4, "ELF Header", and chapter 5, "Program Header".

use vmm_core::PAGE_SIZE;
use vmm_core::spec::PagePermissions;
use vmm_core::spec::gpa_range::GpaRange;

/// Minimum number of program headers that needs a section header to count them (PN_XNUM).
pub(super) const MAX_PROGRAM_HEADERS: usize = 0xffff;
/// Segment type for a region of physical memory, mapped or not: `PT_LOOS` plus four letters.
const PT_PHYSICAL: u32 = 0x6000_0000 | 0x564d;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const ET_CORE: u16 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;

/// Class of the file: the width of all addresses in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// ELFCLASS32, for i386.
    Bits32,
    /// ELFCLASS64, for x86-64.
    Bits64,
}

/// Range of memory with a virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoadSegment {
    pub(super) gva: u64,
    pub(super) gpa: u64,
    pub(super) size: u64,
    /// Offset of its bytes in the file.
    pub(super) offset: u64,
    pub(super) access: PagePermissions,
}

impl LoadSegment {
    /// Returns true if `next` starts where this segment ends.
    pub(super) fn continued_by(&self, next: &Self) -> bool {
        let after = |start: u64| start.checked_add(self.size);
        (after(self.gva), after(self.gpa), after(self.offset))
            == (Some(next.gva), Some(next.gpa), Some(next.offset))
            && self.access == next.access
    }
}

impl Class {
    const fn file_header_size(self) -> u16 {
        match self {
            Self::Bits32 => 52,
            Self::Bits64 => 64,
        }
    }

    const fn program_header_size(self) -> u16 {
        match self {
            Self::Bits32 => 32,
            Self::Bits64 => 56,
        }
    }

    /// Size in bytes of the file header and `count` program headers.
    pub(super) fn headers_size(self, count: usize) -> u64 {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        u64::from(self.program_header_size())
            .saturating_mul(count)
            .saturating_add(self.file_header_size().into())
    }

    /// Writes an address, an offset or a size. The caller has checked that it fits.
    fn word(self, value: u64) -> Vec<u8> {
        let bytes = value.to_le_bytes();
        let width = match self {
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        };
        bytes.into_iter().take(width).collect()
    }
}

/// One program header.
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    gva: u64,
    gpa: u64,
    size: u64,
    align: u64,
}

impl ProgramHeader {
    fn bytes(&self, class: Class) -> Vec<u8> {
        let Self { kind, flags, offset, gva, gpa, size, align } = *self;
        let [offset, gva, gpa, size, align] = [offset, gva, gpa, size, align].map(|value| class.word(value));
        let (kind, flags) = (kind.to_le_bytes().to_vec(), flags.to_le_bytes().to_vec());
        // The position of the flags differs between the classes, to avoid a gap.
        match class {
            Class::Bits32 => [kind, offset, gva, gpa, size.clone(), size, flags, align].concat(),
            Class::Bits64 => [kind, flags, offset, gva, gpa, size.clone(), size, align].concat(),
        }
    }
}

/// Returns the file header, the program headers and the notes.
pub(super) fn bytes(
    class: Class,
    notes: &[u8],
    loads: &[LoadSegment],
    regions: &[(GpaRange, u64)],
) -> Vec<u8> {
    let count = 1 + loads.len() + regions.len();
    let note = ProgramHeader {
        kind: PT_NOTE,
        flags: 0,
        offset: class.headers_size(count),
        gva: 0,
        gpa: 0,
        size: u64::try_from(notes.len()).unwrap_or(u64::MAX),
        align: 4,
    };
    let mut bytes = file_header(class, u16::try_from(count).unwrap_or(u16::MAX));
    bytes.extend(note.bytes(class));
    for load in loads {
        let LoadSegment { gva, gpa, size, offset, access } = *load;
        let program =
            ProgramHeader { kind: PT_LOAD, flags: flags(access), offset, gva, gpa, size, align: PAGE_SIZE };
        bytes.extend(program.bytes(class));
    }
    for (range, offset) in regions {
        let (gpa, size, offset) = (range.start().0, range.size(), *offset);
        let program =
            ProgramHeader { kind: PT_PHYSICAL, flags: 0, offset, gva: 0, gpa, size, align: PAGE_SIZE };
        bytes.extend(program.bytes(class));
    }
    bytes.extend(notes);
    bytes
}

fn file_header(class: Class, program_headers: u16) -> Vec<u8> {
    let (number, machine) = match class {
        Class::Bits32 => (1, EM_386),
        Class::Bits64 => (2, EM_X86_64),
    };
    // Magic, class, little-endian, version 1, no OS ABI.
    let mut bytes = vec![0x7f, b'E', b'L', b'F', number, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend([ET_CORE, machine].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend(1_u32.to_le_bytes());
    // No entry point, program headers after the file header, no sections.
    bytes.extend([0, class.file_header_size().into(), 0].into_iter().flat_map(|value| class.word(value)));
    bytes.extend(0_u32.to_le_bytes());
    let counts = [class.file_header_size(), class.program_header_size(), program_headers, 0, 0, 0];
    bytes.extend(counts.into_iter().flat_map(u16::to_le_bytes));
    bytes
}

const fn flags(access: PagePermissions) -> u32 {
    4 | (access.writable as u32) << 1 | access.executable as u32
}

#[cfg(test)]
mod tests {
    use object::read::elf::{FileHeader, ProgramHeader};
    use object::{LittleEndian, elf};
    use vmm_core::Gpa;

    use super::*;

    /// Parses our headers with another implementation.
    fn read_back<F: FileHeader<Endian = LittleEndian>>(class: Class) -> Vec<(u32, u64, u64, u64, u64, u32)> {
        let access = PagePermissions { writable: true, user: false, executable: false };
        let load = LoadSegment { gva: 0x8000_0000, gpa: 0x1000, size: 0x3000, offset: 0x2000, access };
        let region = (GpaRange::new(Gpa(0), 0x4000).unwrap(), 0x1000);
        let notes = [7; 20];
        let bytes = bytes(class, &notes, &[load], &[region]);
        let header = F::parse(bytes.as_slice()).unwrap();
        assert_eq!(header.e_type(LittleEndian), elf::ET_CORE);
        let programs = header.program_headers(LittleEndian, bytes.as_slice()).unwrap();
        let end = LittleEndian;
        let note = &programs[0];
        assert_eq!(note.data(end, bytes.as_slice()).unwrap(), notes);
        programs
            .iter()
            .map(|p| {
                let (kind, flags) = (p.p_type(end), p.p_flags(end));
                let of = |value: F::Word| -> u64 { value.into() };
                (
                    kind.0,
                    of(p.p_vaddr(end)),
                    of(p.p_paddr(end)),
                    of(p.p_filesz(end)),
                    of(p.p_offset(end)),
                    flags.0,
                )
            })
            .collect()
    }

    #[test]
    fn both_classes_are_read_back_as_meant() {
        let rest = [(1, 0x8000_0000, 0x1000, 0x3000, 0x2000, 6), (PT_PHYSICAL, 0, 0, 0x4000, 0x1000, 0)];
        let narrow = read_back::<elf::FileHeader32<LittleEndian>>(Class::Bits32);
        assert_eq!(narrow[0], (4, 0, 0, 20, 52 + 3 * 32, 0));
        assert_eq!(narrow[1..], rest);
        let wide = read_back::<elf::FileHeader64<LittleEndian>>(Class::Bits64);
        assert_eq!(wide[0], (4, 0, 0, 20, 64 + 3 * 56, 0));
        assert_eq!(wide[1..], rest);
    }
}
