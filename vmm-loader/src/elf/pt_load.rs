//! Step 2 of an ELF file: PT_LOAD headers to checked segments (gABI, "Program Header" and "Program Loading").
//!
//! A segment is loaded at `p_paddr` and linked to run at `p_vaddr`. The bytes between `p_filesz` and `p_memsz` are .bss.

use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_LOAD, ProgramHeader};
use thiserror::Error;
use vm_memory::GuestAddress;

use crate::address::{MAX_PHYSICAL_ADDRESS, NamedRange, VirtAddr};
use crate::bounds::first_overlap;
use crate::bytes::length;
use crate::display::ByteSize;
use crate::elf::base::LoadBias;
use crate::elf_class::ElfClass;
use crate::segment::{Segment, SegmentFlags};

/// Maximum number of PT_LOAD segments that a file may have. No linker makes as many; the limit bounds the time for a malicious
/// file.
pub const MAX_SEGMENTS: usize = 1024;

/// Segments of a file that cannot be loaded. Segments are numbered as `readelf -l` numbers program headers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// Segment with values that are not possible.
    #[error("segment {index}: {problem}")]
    Invalid {
        /// Number of the program header.
        index: usize,
        /// Mistake in the segment's program header.
        problem: SegmentProblem,
    },
    /// Two segments that use the same physical memory.
    #[error("{first} overlaps {second}")]
    Overlap {
        /// Segment with the lower address.
        first: NamedRange,
        /// Segment with the higher address.
        second: NamedRange,
    },
    /// File without a PT_LOAD segment that has a size. Holds the number of program headers.
    #[error("no loadable segment (PT_LOAD) among the {0} program headers")]
    NoSegments(usize),
    /// File with more than [`MAX_SEGMENTS`] PT_LOAD segments.
    #[error("more than {MAX_SEGMENTS} loadable segments")]
    TooMany,
}

impl SegmentError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            // Usually a kernel linked to high virtual addresses without load addresses (LMA).
            Self::Invalid { problem: SegmentProblem::PhysicalEnd { .. }, .. } => Some(
                "segments go to their physical (load) address, which a linker script sets with `AT(...)`"
                    .to_owned(),
            ),
            Self::Overlap { .. } => Some("give the sections load addresses that do not overlap".to_owned()),
            Self::Invalid { .. } | Self::NoSegments(_) | Self::TooMany => None,
        }
    }
}

/// Mistake in the program header of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SegmentProblem {
    /// End of the segment in the file, `p_offset + p_filesz`, that overflows 64 bits.
    #[error("its file offset {offset:#x} plus its size {size:#x} overflows")]
    FileOverflow {
        /// Offset of the segment in the file (`p_offset`).
        offset: u64,
        /// Size of the segment in the file, in bytes (`p_filesz`).
        size: u64,
    },
    /// Segment whose bytes are not completely inside the file.
    #[error("its bytes (file offset {offset:#x}, {}) are outside the file of {}", ByteSize(*.size), ByteSize(*.file))]
    OutsideFile {
        /// Offset of the segment in the file (`p_offset`).
        offset: u64,
        /// Size of the segment in the file, in bytes (`p_filesz`).
        size: u64,
        /// Size of the file in bytes.
        file: u64,
    },
    /// Segment that is larger in the file than in memory: `p_filesz > p_memsz`.
    #[error("it has {} in the file but only {} in memory", ByteSize(*.file), ByteSize(*.memory))]
    LargerInFile {
        /// Size of the segment in the file, in bytes (`p_filesz`).
        file: u64,
        /// Size of the segment in memory, in bytes (`p_memsz`).
        memory: u64,
    },
    /// Alignment `p_align` that is neither 0 nor a power of two.
    #[error("its alignment {0:#x} is not a power of two")]
    Alignment(u64),
    /// End of the segment, `p_paddr + p_memsz`, that exceeds the addresses of the ELF class or of any x86 CPU.
    #[error("{} at physical address {start:#x} would end after {last:#x}, the last one there is", ByteSize(*.size))]
    PhysicalEnd {
        /// First physical address (`p_paddr`).
        start: u64,
        /// Size of the segment in memory, in bytes (`p_memsz`).
        size: u64,
        /// Highest address that is allowed.
        last: u64,
    },
    /// End of the segment, `p_vaddr + p_memsz`, that exceeds the addresses of the ELF class.
    #[error("{} at virtual address {start:#x} would end after {last:#x}, the last one there is", ByteSize(*.size))]
    VirtualEnd {
        /// First virtual address (`p_vaddr`).
        start: u64,
        /// Size of the segment in memory, in bytes (`p_memsz`).
        size: u64,
        /// Highest address that is allowed.
        last: u64,
    },
    /// Segment that leaves the address space when the image moves to its base.
    #[error("its address {address:#x} leaves the address space when the file is moved to its base")]
    Moved {
        /// First address of the segment as the file was linked.
        address: u64,
    },
}

/// Reads and checks all PT_LOAD headers. Skips headers with `p_memsz` 0, which some linkers emit.
pub(crate) fn read(
    file: &[u8],
    headers: &[ProgramHeader],
    class: ElfClass,
) -> Result<Vec<Segment>, SegmentError> {
    let mut segments = Vec::new();
    for (index, header) in headers.iter().enumerate().filter(|(_, header)| header.p_type == PT_LOAD) {
        let segment = Segment::from_header(index, header);
        segment.check_file(file).map_err(|problem| SegmentError::Invalid { index, problem })?;
        if segment.mem_size > 0 {
            segment.check_addresses(class).map_err(|problem| SegmentError::Invalid { index, problem })?;
            segments.push(segment);
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(SegmentError::TooMany);
        }
    }
    if segments.is_empty() {
        return Err(SegmentError::NoSegments(headers.len()));
    }
    check_overlap(&segments)?;
    Ok(segments)
}

/// Checks that no two segments use the same physical memory. Virtual ranges may overlap, as those of overlays do.
fn check_overlap(segments: &[Segment]) -> Result<(), SegmentError> {
    match first_overlap(segments.iter().map(Segment::named_range).collect()) {
        Some((first, second)) => Err(SegmentError::Overlap { first, second }),
        None => Ok(()),
    }
}

impl Segment {
    /// Returns the segment at its loaded address.
    pub(crate) fn biased(&self, bias: LoadBias, class: ElfClass) -> Result<Self, SegmentError> {
        let fault = |problem| SegmentError::Invalid { index: self.index, problem };
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

    /// Checks the file range, the alignment, and that `p_filesz` does not exceed `p_memsz`.
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

    /// Checks that neither address range leaves its address space.
    fn check_addresses(&self, class: ElfClass) -> Result<(), SegmentProblem> {
        let last_byte = self.mem_size.saturating_sub(1);
        let last_physical = class.last_address().min(MAX_PHYSICAL_ADDRESS);
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
