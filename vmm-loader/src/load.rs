//! Carrying out a plan: the file's bytes go into guest memory, .bss is zeroed, relocated words are written.
//!
//! All checks come before the first byte is written, so a guest is placed whole or not at all. Pages that show the file
//! already, because somebody mapped them ([`Segment::load_method`]), are left alone.

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use crate::address::{ByteSize, NamedRange};
use crate::bytes::{length, slice};
use crate::elf::relocate::RelocationValue;
use crate::error::LoadError;
use crate::load_strategy::MappedPart;
use crate::plan::LoadPlan;
use crate::segment::Segment;

/// What to do about the part of a segment that is not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bss {
    /// Leave it alone: the memory is fresh from `mmap` and reads as zero. Pages that are not touched cost nothing.
    AlreadyZero,
    /// Write zeros: the memory has been used before.
    Zero,
}

/// Why a plan could not be carried out.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The file is not the one that the plan was made from.
    #[error("the file has changed since it was read: it had {} and has {}", ByteSize(*.planned), ByteSize(*.now))]
    FileChanged {
        /// Its size when the plan was made.
        planned: u64,
        /// Its size now.
        now: u64,
    },
    /// Guest memory refused the write.
    #[error("cannot write {what} to guest memory")]
    Memory {
        /// What was to be written, and where.
        what: NamedRange,
        /// The reason.
        source: GuestMemoryError,
    },
}

impl LoadPlan {
    /// Loads the file that the plan was made from. Writes inside [`LoadPlan::ranges`] and nowhere else.
    ///
    /// # Errors
    ///
    /// When a segment does not fit into `memory` or the file is another one; then nothing has been written.
    pub fn load<M>(&self, file: &[u8], memory: &M, bss: Bss) -> Result<(), LoadError>
    where
        M: GuestMemoryBackend + GuestMemory + ?Sized,
    {
        self.load_unmapped(&[], file, memory, bss)
    }

    /// The same where these parts are in memory already.
    ///
    /// # Errors
    ///
    /// As [`LoadPlan::place`].
    pub fn load_unmapped<M>(
        &self,
        mapped: &[MappedPart],
        file: &[u8],
        memory: &M,
        bss: Bss,
    ) -> Result<(), LoadError>
    where
        M: GuestMemoryBackend + GuestMemory + ?Sized,
    {
        if length(file.len()) != self.file_size() {
            return Err(WriteError::FileChanged { planned: self.file_size(), now: length(file.len()) }.into());
        }
        let regions: Vec<_> = memory
            .iter()
            .map(|region| {
                let start = region.start_addr();
                start..GuestAddress(start.0.saturating_add(region.len()))
            })
            .collect();
        self.check_fits(&regions)?;

        for segment in self.segments() {
            let part = mapped.iter().find(|part| segment.has(part));
            load_segment(segment, part, file, memory, bss)
                .map_err(|source| WriteError::Memory { what: self.named_range(segment), source })?;
        }
        for relocation in self.relocations() {
            let (bytes, size) = match relocation.value {
                RelocationValue::Bits32(value) => (u64::from(value).to_le_bytes(), 4),
                RelocationValue::Bits64(value) => (value.to_le_bytes(), 8),
            };
            let start = relocation.target;
            memory.write_slice(bytes.get(..size).unwrap_or(&bytes), start).map_err(|source| {
                let range = start..GuestAddress(start.0.saturating_add(length(size)));
                WriteError::Memory { what: NamedRange { name: "a relocated word".to_owned(), range }, source }
            })?;
        }
        Ok(())
    }
}

/// Copies the file's part of a segment, the pages of `mapped` left out, and sees to its .bss.
fn load_segment<M>(
    segment: &Segment,
    mapped: Option<&MappedPart>,
    file: &[u8],
    memory: &M,
    bss: Bss,
) -> Result<(), GuestMemoryError>
where
    M: GuestMemory + ?Sized,
{
    let copy = |from: u64, to: u64| {
        // A plan's file ranges are inside a file of the plan's size, which was checked before.
        let bytes = slice(file, segment.file_offset.saturating_add(from), to.saturating_sub(from));
        memory.write_slice(bytes.unwrap_or_default(), GuestAddress(segment.phys.0.saturating_add(from)))
    };
    match mapped {
        Some(part) => {
            let head = part.phys.0.saturating_sub(segment.phys.0);
            copy(0, head)?;
            copy(head.saturating_add(part.size), segment.file_size)?;
        }
        None => copy(0, segment.file_size)?,
    }
    match bss {
        Bss::AlreadyZero => Ok(()),
        Bss::Zero => {
            let start = GuestAddress(segment.phys.0.saturating_add(segment.file_size));
            zero(memory, start, segment.phys_range().end)
        }
    }
}

fn zero<M>(memory: &M, mut from: GuestAddress, to: GuestAddress) -> Result<(), GuestMemoryError>
where
    M: GuestMemory + ?Sized,
{
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while from < to {
        let left = usize::try_from(to.0 - from.0).unwrap_or(usize::MAX);
        let chunk = ZEROS.get(..left).unwrap_or(&ZEROS);
        memory.write_slice(chunk, from)?;
        from = GuestAddress(from.0.saturating_add(length(chunk.len())));
    }
    Ok(())
}
