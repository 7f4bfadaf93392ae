//! Step 4 of an ELF file: relative relocations, so that a static PIE runs at its base.
//!
//! A relative relocation says "the word here holds an address of mine: add the distance that I moved". That is
//! R_X86_64_RELATIVE and R_386_RELATIVE (System V ABI, "Relocation"), in tables of one of three kinds: RELA (the word's
//! value is in the table), REL (it is in the file, at the word) and RELR (REL, packed to one bit a word). All other
//! types need a symbol or run code, and are refused. The results are plain words to write; `place.rs` writes them.

use goblin::elf::reloc::{R_386_RELATIVE, R_X86_64_RELATIVE, Reloc, RelocSection, r_to_str};
use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{ByteSize, VirtAddr};
use crate::bytes::length;
use crate::elf::base::LoadBias;
use crate::elf::class::ElfClass;
use crate::elf::dynamic::{DynamicSection, TableLocation};
use crate::segment::Segment;

/// `R_386_NONE` and `R_X86_64_NONE`.
const R_NONE: u32 = 0;

/// A word of the image that is written after the segments, because it depends on the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocation {
    /// Where it goes.
    pub target: GuestAddress,
    /// Its value.
    pub value: RelocationValue,
}

/// A little-endian word of the file's class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelocationValue {
    /// Four bytes, in ELF32.
    Bits32(u32),
    /// Eight bytes, in ELF64.
    Bits64(u64),
}

/// Why the relocations cannot be applied. Addresses are those that the file was linked to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RelocationError {
    /// The table is not inside the file's part of one segment.
    #[error("the {kind} table ({} at {address}) is outside the file's segments", ByteSize(*.size))]
    TableOutside {
        /// `RELA`, `REL`, `RELR` or `PLT`.
        kind: &'static str,
        /// Its virtual address.
        address: VirtAddr,
        /// Its size in bytes.
        size: u64,
    },
    /// DT_RELAENT, DT_RELENT or DT_RELRENT is not what the class has.
    #[error("entries of {} in the {kind} table, not {need}", ByteSize(*.have))]
    EntrySize {
        /// `RELA`, `REL`, `RELR` or `PLT`.
        kind: &'static str,
        /// What the file says that an entry has.
        have: u64,
        /// What an entry has.
        need: u64,
    },
    /// The table ends inside an entry.
    #[error("the {kind} table has {}, and each entry {need}", ByteSize(*.size))]
    PartialEntry {
        /// `RELA`, `REL`, `RELR` or `PLT`.
        kind: &'static str,
        /// Size of the table in bytes.
        size: u64,
        /// What an entry has.
        need: u64,
    },
    /// A type other than RELATIVE.
    #[error("unsupported relocation {} (type {kind}) of the word at {address}", type_name(*.kind, *.machine))]
    Unsupported {
        /// The type (`ELF64_R_TYPE`).
        kind: u32,
        /// The machine that defines the type.
        machine: u16,
        /// The word it is for.
        address: VirtAddr,
    },
    /// The word is not inside the file's part of one segment.
    #[error("a relocation changes the word at {0}, which is outside the file's segments")]
    TargetOutside(VirtAddr),
    /// A bitmap of a RELR table comes before any address, or runs off the address space.
    #[error("the RELR table is malformed at entry {0}")]
    Packed(usize),
    /// More relocations than the file has words.
    #[error("more relocations than the file of {} has words", ByteSize(*.0))]
    TooMany(u64),
}

impl RelocationError {
    /// What the user can do about it.
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
            | Self::Packed(_)
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

/// All relocations of the file, for an image moved by `slide`. The `segments` are those at link-time addresses.
pub(crate) fn read(
    file: &[u8],
    class: ElfClass,
    segments: &[Segment],
    dynamic: &DynamicSection,
    bias: LoadBias,
) -> Result<Vec<Relocation>, RelocationError> {
    let mut reader = RelocationReader { file, class, segments, bias, last_hit: 0, relocations: Vec::new() };
    reader.entries("RELA", dynamic.rela, true)?;
    reader.entries("REL", dynamic.rel, false)?;
    reader.entries("PLT", dynamic.plt, dynamic.plt_is_rela)?;
    reader.packed(dynamic.relr)?;
    Ok(reader.relocations)
}

struct RelocationReader<'a> {
    file: &'a [u8],
    class: ElfClass,
    segments: &'a [Segment],
    bias: LoadBias,
    /// The segment of the last word: the next one is nearly always in the same.
    last_hit: usize,
    relocations: Vec<Relocation>,
}

impl<'a> RelocationReader<'a> {
    /// A REL or RELA table.
    fn entries(
        &mut self,
        kind: &'static str,
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
                    // Two's complement: adding the addend's bits is adding the addend.
                    self.relative(address, entry.r_addend.map(i64::cast_unsigned))?;
                }
                (kind, class) => {
                    return Err(RelocationError::Unsupported { kind, machine: class.machine(), address });
                }
            }
        }
        Ok(())
    }

    /// A RELR table (gABI, "Relative Relocation Table"): an even entry is the address of a word; an odd one is a
    /// bitmap for the words that follow the last one spoken of, lowest bit (after the marker bit) first.
    fn packed(&mut self, table: TableLocation) -> Result<(), RelocationError> {
        let word_size = self.class.word_size();
        let bytes = self.table("RELR", table, word_size)?;
        let words_in_bitmap = word_size * 8 - 1;
        let mut next = None;
        let words = match self.class {
            ElfClass::Elf32 => bytes.chunks_exact(4),
            ElfClass::Elf64 => bytes.chunks_exact(8),
        };
        for (index, entry) in words.map(word).enumerate() {
            let malformed = RelocationError::Packed(index);
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

    /// The bytes of a table, with its entry size checked.
    fn table(
        &self,
        kind: &'static str,
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

    /// One relative relocation of the word at `address`; its addend is the word itself where the table has none.
    ///
    /// The word has to be in the file's part of a segment: no linker relocates .bss. Together with the limit on their
    /// number that keeps what a hostile file can make us store proportional to its size.
    fn relative(&mut self, address: VirtAddr, addend: Option<u64>) -> Result<(), RelocationError> {
        let size = self.class.word_size();
        if length(self.relocations.len()) >= length(self.file.len()) / size {
            return Err(RelocationError::TooMany(length(self.file.len())));
        }
        let outside = RelocationError::TargetOutside(address);
        let (segment, in_file) = self.find(address, size).ok_or_else(|| outside.clone())?;
        let linked = segment.offset_of(address).and_then(|offset| segment.phys.0.checked_add(offset));
        let target = linked.and_then(|linked| self.bias.apply(linked)).ok_or(outside)?;
        let sum = addend.unwrap_or_else(|| word(in_file)).wrapping_add(self.bias.bias());
        let value = match self.class {
            // The ABI's word32: the sum modulo 2^32.
            ElfClass::Elf32 => RelocationValue::Bits32(u32::try_from(sum & 0xffff_ffff).unwrap_or(0)),
            ElfClass::Elf64 => RelocationValue::Bits64(sum),
        };
        self.relocations.push(Relocation { target: GuestAddress(target), value });
        Ok(())
    }

    /// The segment whose file part holds the word at `address`, and the word's bytes there.
    fn find(&mut self, address: VirtAddr, size: u64) -> Option<(&'a Segment, &'a [u8])> {
        let (file, segments) = (self.file, self.segments);
        let look = |segment: &'a Segment| Some((segment, segment.file_bytes(file, address, size)?));
        if let Some(found) = segments.get(self.last_hit).and_then(look) {
            return Some(found);
        }
        self.last_hit = segments.iter().position(|segment| look(segment).is_some())?;
        segments.get(self.last_hit).and_then(look)
    }
}

/// A little-endian word of at most eight bytes.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}
