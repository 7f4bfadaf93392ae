//! Step 2 of an ELF file: its PT_LOAD headers become segments, each checked before anybody uses it.
//!
//! `p_paddr` says where a segment is loaded, `p_vaddr` where its code believes it is; see gABI, "Program Header" and
//! "Program Loading". The bytes between `p_filesz` and `p_memsz` are .bss.

use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_LOAD, ProgramHeader};
use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{ByteSize, NamedRange, PHYSICAL_END, VirtAddr, first_overlap};
use crate::bytes::length;
use crate::elf::base::LoadBias;
use crate::elf::class::ElfClass;
use crate::segment::{Segment, SegmentFlags};

/// More loadable segments than any linker makes. The limit keeps the time that a hostile file can cost small.
pub const MAX_SEGMENTS: usize = 1024;

/// Why the segments of a file cannot be loaded. Segments are numbered as `readelf -l` numbers program headers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// One segment is bad by itself.
    #[error("segment {index}: {problem}")]
    Bad {
        /// The program header's number.
        index: usize,
        /// What is wrong with it.
        problem: SegmentProblem,
    },
    /// Two segments want the same memory.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// The one with the lower address.
        first: NamedRange,
        /// The other.
        second: NamedRange,
    },
    /// No program header is a PT_LOAD that fills memory.
    #[error("no loadable segment (PT_LOAD) among the {0} program headers")]
    None(usize),
    /// More than [`MAX_SEGMENTS`].
    #[error("more than {MAX_SEGMENTS} loadable segments")]
    TooMany,
}

impl SegmentError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            // The usual cause: a kernel linked to high virtual addresses without load addresses of its own.
            Self::Bad { problem: SegmentProblem::PhysicalEnd { .. }, .. } => Some(
                "segments go to their physical (load) address, which a linker script sets with `AT(...)`"
                    .to_owned(),
            ),
            Self::Overlap { .. } => Some("give the sections load addresses that do not overlap".to_owned()),
            Self::Bad { .. } | Self::None(_) | Self::TooMany => None,
        }
    }
}

/// What can be wrong with one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SegmentProblem {
    /// `p_offset + p_filesz` does not fit into 64 bits.
    #[error("its file offset {offset:#x} plus its size {size:#x} overflows")]
    FileOverflow {
        /// `p_offset`.
        offset: u64,
        /// `p_filesz`.
        size: u64,
    },
    /// The file ends before the segment's bytes do.
    #[error("its bytes (file offset {offset:#x}, {}) are outside the file of {}", ByteSize(*.size), ByteSize(*.file))]
    OutsideFile {
        /// `p_offset`.
        offset: u64,
        /// `p_filesz`.
        size: u64,
        /// Size of the file.
        file: u64,
    },
    /// `p_filesz > p_memsz`.
    #[error("it has {} in the file but only {} in memory", ByteSize(*.file), ByteSize(*.memory))]
    LargerInFile {
        /// `p_filesz`.
        file: u64,
        /// `p_memsz`.
        memory: u64,
    },
    /// `p_align` is neither 0 nor a power of two.
    #[error("its alignment {0:#x} is not a power of two")]
    Alignment(u64),
    /// `p_paddr + p_memsz` is more than the class or any x86 CPU can address.
    #[error("{} at physical address {start:#x} would end after {last:#x}, the last one there is", ByteSize(*.size))]
    PhysicalEnd {
        /// `p_paddr`.
        start: u64,
        /// `p_memsz`.
        size: u64,
        /// The last address that would be right.
        last: u64,
    },
    /// `p_vaddr + p_memsz` is more than the class can address.
    #[error("{} at virtual address {start:#x} would end after {last:#x}, the last one there is", ByteSize(*.size))]
    VirtualEnd {
        /// `p_vaddr`.
        start: u64,
        /// `p_memsz`.
        size: u64,
        /// The last address that would be right.
        last: u64,
    },
    /// Moving the image to its base takes the segment out of the address space.
    #[error("its address {address:#x} leaves the address space when the file is moved to its base")]
    Moved {
        /// The address it was linked to.
        address: u64,
    },
}

/// Reads and checks all PT_LOAD headers; those that fill no memory are left out, as linkers leave some behind.
pub(crate) fn read(
    file: &[u8],
    headers: &[ProgramHeader],
    class: ElfClass,
) -> Result<Vec<Segment>, SegmentError> {
    let mut segments = Vec::new();
    for (index, header) in headers.iter().enumerate().filter(|(_, header)| header.p_type == PT_LOAD) {
        let segment = Segment::from_header(index, header);
        segment.check_file(file).map_err(|problem| SegmentError::Bad { index, problem })?;
        if segment.mem_size > 0 {
            segment.check_addresses(class).map_err(|problem| SegmentError::Bad { index, problem })?;
            segments.push(segment);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(SegmentError::TooMany);
        }
    }
    if segments.is_empty() {
        return Err(SegmentError::None(headers.len()));
    }
    check_overlap(&segments)?;
    Ok(segments)
}

/// That no two segments want the same physical memory. Virtual ranges may overlap: that is what overlays do.
fn check_overlap(segments: &[Segment]) -> Result<(), SegmentError> {
    match first_overlap(segments.iter().map(Segment::named_range).collect()) {
        Some((first, second)) => Err(SegmentError::Overlap { first, second }),
        None => Ok(()),
    }
}

impl Segment {
    /// The segment at its final address.
    pub(crate) fn biased(&self, bias: LoadBias, class: ElfClass) -> Result<Self, SegmentError> {
        let fault = |problem| SegmentError::Bad { index: self.index, problem };
        let moved =
            |address: u64| bias.apply(address).ok_or_else(|| fault(SegmentProblem::Moved { address }));
        let (phys, virt) = (moved(self.phys.0)?, moved(self.virt.0)?);
        let biased = Self { phys: GuestAddress(phys), virt: VirtAddr(virt), ..self.clone() };
        biased.check_addresses(class).map_err(fault)?;
        Ok(biased)
    }

    fn from_header(index: usize, header: &ProgramHeader) -> Self {
        let flag = |flag| header.p_flags & flag != 0;
        Self {
            index,
            phys: GuestAddress(header.p_paddr),
            virt: VirtAddr(header.p_vaddr),
            file_offset: header.p_offset,
            file_size: header.p_filesz,
            mem_size: header.p_memsz,
            align: header.p_align.max(1),
            flags: SegmentFlags { read: flag(PF_R), write: flag(PF_W), execute: flag(PF_X) },
        }
    }

    /// That the file has the segment's bytes, and memory the room for them.
    fn check_file(&self, file: &[u8]) -> Result<(), SegmentProblem> {
        let end = self
            .file_offset
            .checked_add(self.file_size)
            .ok_or(SegmentProblem::FileOverflow { offset: self.file_offset, size: self.file_size })?;
        if self.file_size > self.mem_size {
            return Err(SegmentProblem::LargerInFile { file: self.file_size, memory: self.mem_size });
        }
        if self.file_size > 0 && end > length(file.len()) {
            let (offset, size) = (self.file_offset, self.file_size);
            return Err(SegmentProblem::OutsideFile { offset, size, file: length(file.len()) });
        }
        if !self.align.is_power_of_two() {
            return Err(SegmentProblem::Alignment(self.align));
        }
        Ok(())
    }

    /// That neither address range leaves its address space.
    fn check_addresses(&self, class: ElfClass) -> Result<(), SegmentProblem> {
        let last_byte = self.mem_size.saturating_sub(1);
        let last_physical = class.last_address().min(PHYSICAL_END - 1);
        if self.phys.0.checked_add(last_byte).is_none_or(|last| last > last_physical) {
            return Err(SegmentProblem::PhysicalEnd {
                start: self.phys.0,
                size: self.mem_size,
                last: last_physical,
            });
        }
        if self.virt.0.checked_add(last_byte).is_none_or(|last| last > class.last_address()) {
            let (start, size) = (self.virt.0, self.mem_size);
            return Err(SegmentProblem::VirtualEnd { start, size, last: class.last_address() });
        }
        Ok(())
    }
}
