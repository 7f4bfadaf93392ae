//! Step 4 of an ELF file: relative relocations of a static PIE.
//!
//! A relative relocation adds the load bias to a word that holds an address: R_X86_64_RELATIVE and R_386_RELATIVE
//! (System V ABI, "Relocation"). The addend is in the table (RELA) or in the relocated word (REL, RELR). All other types
//! need a symbol or run code, and are refused. The result is a list of words, which `load.rs` writes.

use std::fmt;

use goblin::elf::reloc::{R_386_RELATIVE, R_X86_64_RELATIVE, Reloc, RelocSection, r_to_str};
use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::VirtAddr;
use crate::bytes::length;
use crate::display::ByteSize;
use crate::elf::base::LoadBias;
use crate::elf::dynamic::{DynamicSection, TableLocation};
use crate::elf_class::ElfClass;
use crate::relocation::{Relocation, RelocationValue};
use crate::segment::Segment;

/// `R_386_NONE` and `R_X86_64_NONE`.
const R_NONE: u32 = 0;

/// Relocation table of the dynamic section.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RelocationTable {
    /// DT_RELA: relocations with addends.
    Rela,
    /// DT_REL: relocations whose addend is in the relocated word.
    Rel,
    /// DT_JMPREL: relocations of the procedure linkage table.
    Plt,
    /// DT_RELR: packed relative relocations.
    Relr,
}

/// Writes `RELA`, `REL`, `PLT` or `RELR`.
impl fmt::Display for RelocationTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rela => "RELA",
            Self::Rel => "REL",
            Self::Plt => "PLT",
            Self::Relr => "RELR",
        })
    }
}

/// Relocations of a static PIE that cannot be applied. All addresses are linked addresses.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RelocationError {
    /// Relocation table that is not inside the file's part of one segment.
    #[error("the {kind} table ({} at {address}) is outside the file's segments", ByteSize(*.size))]
    TableOutside {
        /// Relocation table: DT_RELA, DT_REL, DT_JMPREL or DT_RELR.
        kind: RelocationTable,
        /// Virtual address of the table.
        address: VirtAddr,
        /// Size of the table in bytes.
        size: u64,
    },
    /// Entry size of a relocation table that does not match the ELF class (DT_RELAENT, DT_RELENT or DT_RELRENT).
    #[error("entries of {} in the {kind} table, not {need}", ByteSize(*.have))]
    EntrySize {
        /// Relocation table: DT_RELA, DT_REL, DT_JMPREL or DT_RELR.
        kind: RelocationTable,
        /// Entry size that the file gives, in bytes.
        have: u64,
        /// Entry size in the file's ELF class, in bytes.
        need: u64,
    },
    /// Relocation table that ends inside an entry.
    #[error("the {kind} table has {}, and each entry {need}", ByteSize(*.size))]
    PartialEntry {
        /// Relocation table: DT_RELA, DT_REL, DT_JMPREL or DT_RELR.
        kind: RelocationTable,
        /// Size of the table in bytes.
        size: u64,
        /// Size of an entry in bytes.
        need: u64,
    },
    /// Relocation of another type than RELATIVE.
    #[error("unsupported relocation {} (type {kind}) of the word at {address}", type_name(*.kind, *.machine))]
    Unsupported {
        /// Relocation type (`ELF64_R_TYPE`).
        kind: u32,
        /// `e_machine` value that defines the type.
        machine: u16,
        /// Address of the relocated word.
        address: VirtAddr,
    },
    /// Relocated word that is not inside the file's part of one segment.
    #[error("a relocation changes the word at {0}, which is outside the file's segments")]
    TargetOutside(VirtAddr),
    /// RELR bitmap before the first address, or past the end of the address space. Holds the number of the entry.
    #[error("the RELR table is malformed at entry {0}")]
    MalformedRelr(usize),
    /// More relocations than the file has words. Holds the size of the file in bytes.
    #[error("more relocations than the file of {} has words", ByteSize(*.0))]
    TooMany(u64),
}

impl RelocationError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Unsupported { .. } => Some(
                "only relative relocations are applied: link with `-static-pie`, or at fixed addresses with `-no-pie`"
                    .to_owned(),
            ),
            Self::TableOutside { .. }
            | Self::EntrySize { .. }
            | Self::PartialEntry { .. }
            | Self::TargetOutside(_)
            | Self::MalformedRelr(_)
            | Self::TooMany(_) => None,
        }
    }
}

fn type_name(kind: u32, machine: u16) -> String {
    match r_to_str(kind, machine) {
        name if name.starts_with("R_UNKNOWN") => "that no ABI defines".to_owned(),
        name => format!("R_{name}"),
    }
}

/// Reads all relocations of an image with the given load bias. `segments` are at their linked addresses.
pub(crate) fn read(
    file: &[u8],
    class: ElfClass,
    segments: &[Segment],
    dynamic: &DynamicSection,
    bias: LoadBias,
) -> Result<Vec<Relocation>, RelocationError> {
    let mut reader = RelocationReader { file, class, segments, bias, last_hit: 0, relocations: Vec::new() };
    reader.entries(RelocationTable::Rela, dynamic.rela, true)?;
    reader.entries(RelocationTable::Rel, dynamic.rel, false)?;
    reader.entries(RelocationTable::Plt, dynamic.plt, dynamic.plt_is_rela)?;
    reader.packed(dynamic.relr)?;
    Ok(reader.relocations)
}

struct RelocationReader<'a> {
    file: &'a [u8],
    class: ElfClass,
    segments: &'a [Segment],
    bias: LoadBias,
    /// Index of the segment that holds the last word. The next word is nearly always in the same segment.
    last_hit: usize,
    relocations: Vec<Relocation>,
}

impl<'a> RelocationReader<'a> {
    /// Reads a table of REL or RELA entries.
    fn entries(
        &mut self,
        kind: RelocationTable,
        table: TableLocation,
        is_rela: bool,
    ) -> Result<(), RelocationError> {
        let context = self.class.context();
        let bytes = self.table(kind, table, length(Reloc::size(is_rela, context)))?;
        let section = RelocSection::parse(bytes, 0, bytes.len(), is_rela, context)
            .map_err(|_| RelocationError::TableOutside { kind, address: table.address, size: table.size })?;
        for entry in section.iter() {
            let address = VirtAddr(entry.r_offset);
            match (entry.r_type, self.class) {
                (R_NONE, _) => {}
                (R_386_RELATIVE, ElfClass::Elf32) | (R_X86_64_RELATIVE, ElfClass::Elf64) => {
                    // In two's complement, adding the bits of the addend adds the addend.
                    self.relative(address, entry.r_addend.map(i64::cast_unsigned))?;
                }
                (kind, class) => {
                    return Err(RelocationError::Unsupported { kind, machine: class.machine(), address });
                }
            }
        }
        Ok(())
    }

    /// Reads a RELR table (gABI, "Relative Relocation Table").
    ///
    /// An even entry is the address of a word. An odd entry is a bitmap of the words after the last one that the previous
    /// entry covers, beginning with bit 1.
    fn packed(&mut self, table: TableLocation) -> Result<(), RelocationError> {
        let word_size = self.class.word_size();
        let bytes = self.table(RelocationTable::Relr, table, word_size)?;
        let words_in_bitmap = word_size * 8 - 1;
        let mut next = None;
        let words = match self.class {
            ElfClass::Elf32 => bytes.chunks_exact(4),
            ElfClass::Elf64 => bytes.chunks_exact(8),
        };
        for (index, entry) in words.map(word).enumerate() {
            let malformed = RelocationError::MalformedRelr(index);
            if entry & 1 == 0 {
                self.relative(VirtAddr(entry), None)?;
                next = Some(entry.checked_add(word_size).ok_or(malformed)?);
                continue;
            }
            let start = next.ok_or_else(|| malformed.clone())?;
            for bit in (0..words_in_bitmap).filter(|bit| entry >> (bit + 1) & 1 == 1) {
                let address = start.checked_add(bit * word_size).ok_or_else(|| malformed.clone())?;
                self.relative(VirtAddr(address), None)?;
            }
            next = Some(start.checked_add(words_in_bitmap * word_size).ok_or(malformed)?);
        }
        Ok(())
    }

    /// Checks the entry size of a table and returns its bytes.
    fn table(
        &self,
        kind: RelocationTable,
        table: TableLocation,
        need: u64,
    ) -> Result<&'a [u8], RelocationError> {
        let TableLocation { address, size, entry_size } = table;
        if size == 0 {
            return Ok(&[]);
        }
        if let Some(have) = entry_size.filter(|&have| have != need) {
            return Err(RelocationError::EntrySize { kind, have, need });
        }
        if !size.is_multiple_of(need) {
            return Err(RelocationError::PartialEntry { kind, size, need });
        }
        let file = self.file;
        self.segments
            .iter()
            .find_map(|segment| segment.file_bytes(file, address, size))
            .ok_or(RelocationError::TableOutside { kind, address, size })
    }

    /// Adds a relative relocation of the word at `address`. Without an addend in the table, the word itself is the addend.
    ///
    /// The word must be in the file's part of a segment, since no linker relocates .bss. This and the limit on the number
    /// of relocations keep memory use proportional to the size of a malicious file.
    fn relative(&mut self, address: VirtAddr, addend: Option<u64>) -> Result<(), RelocationError> {
        let size = self.class.word_size();
        if length(self.relocations.len()) >= length(self.file.len()) / size {
            return Err(RelocationError::TooMany(length(self.file.len())));
        }
        let outside = RelocationError::TargetOutside(address);
        let (segment, in_file) = self.find(address, size).ok_or_else(|| outside.clone())?;
        let linked = segment.offset_of(address).and_then(|offset| segment.phys.0.checked_add(offset));
        let target = linked.and_then(|linked| self.bias.apply(linked)).ok_or(outside)?;
        let sum = addend.unwrap_or_else(|| word(in_file)).wrapping_add(self.bias.addend());
        let value = match self.class {
            // word32 of the i386 ABI: the sum modulo 2^32.
            ElfClass::Elf32 => RelocationValue::Bits32(u32::try_from(sum & 0xffff_ffff).unwrap_or(0)),
            ElfClass::Elf64 => RelocationValue::Bits64(sum),
        };
        self.relocations.push(Relocation { target: GuestAddress(target), value });
        Ok(())
    }

    /// Finds the segment whose file part holds the word at `address`. Returns it with the bytes of the word.
    fn find(&mut self, address: VirtAddr, size: u64) -> Option<(&'a Segment, &'a [u8])> {
        let (file, segments) = (self.file, self.segments);
        let word_in = |segment: &'a Segment| Some((segment, segment.file_bytes(file, address, size)?));
        if let Some(found) = segments.get(self.last_hit).and_then(word_in) {
            return Some(found);
        }
        self.last_hit = segments.iter().position(|segment| word_in(segment).is_some())?;
        segments.get(self.last_hit).and_then(word_in)
    }
}

/// Decodes a little-endian word of at most eight bytes.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}
