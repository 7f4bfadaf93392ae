//! Loading: writes the file's bytes and the relocated words of a plan to guest memory, and zeroes .bss.
//!
//! All checks come before the first write, so a file is loaded completely or not at all. Pages that the caller has mapped
//! from the file ([`Segment::load_method`]) are not written.

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

use crate::address::NamedRange;
use crate::bounds::BoundsError;
use crate::bytes::{length, slice};
use crate::display::ByteSize;
use crate::load_strategy::MappedPart;
use crate::plan::LoadPlan;
use crate::relocation::RelocationValue;
use crate::segment::Segment;

/// Treatment of .bss, the part of a segment that is not in the file.
///
/// Exhaustive: memory is either known to be zero or has to be cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bss {
    /// Nothing is written: the memory is newly mapped and reads as zero. Untouched pages cost no memory.
    AlreadyZero,
    /// Zeros are written: the memory has been used before.
    Zero,
}

/// Plan that could not be written to guest memory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WriteError {
    /// File of another size than the one that the plan was made from.
    #[error("the file has changed since it was read: it had {} and has {}", ByteSize(*.planned), ByteSize(*.now))]
    FileChanged {
        /// Size of the file when the plan was made, in bytes.
        planned: u64,
        /// Size of the file now, in bytes.
        now: u64,
    },
    /// Plan that does not fit into guest memory.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
    /// Write that the memory of the guest refused.
    #[error("cannot write {what} to guest memory")]
    Memory {
        /// Name and guest-physical range of the bytes.
        what: NamedRange,
        /// Error of the memory backend.
        source: GuestMemoryError,
    },
}

impl WriteError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Bounds(error) => error.help(),
            Self::FileChanged { .. } | Self::Memory { .. } => None,
        }
    }
}

impl LoadPlan {
    /// Loads the file that the plan was made from. Writes only inside [`LoadPlan::ranges`].
    ///
    /// # Errors
    ///
    /// [`WriteError::Bounds`] if a segment does not fit into `memory`, [`WriteError::FileChanged`] if the file has another size
    /// than the planned one. Nothing has been written then. [`WriteError::Memory`] if `memory` refuses a write.
    pub fn load<M>(&self, file: &[u8], memory: &M, bss: Bss) -> Result<(), WriteError>
    where
        M: GuestMemoryBackend + GuestMemory + ?Sized,
    {
        self.load_unmapped(file, &[], memory, bss)
    }

    /// Loads the file that the plan was made from, except for the `mapped` parts, which the caller has mapped into `memory`.
    ///
    /// # Errors
    ///
    /// [`WriteError::Bounds`] if a segment does not fit into `memory`, [`WriteError::FileChanged`] if the file has another size
    /// than the planned one. Nothing has been written then. [`WriteError::Memory`] if `memory` refuses a write.
    pub fn load_unmapped<M>(
        &self,
        file: &[u8],
        mapped: &[MappedPart],
        memory: &M,
        bss: Bss,
    ) -> Result<(), WriteError>
    where
        M: GuestMemoryBackend + GuestMemory + ?Sized,
    {
        if length(file.len()) != self.file_size() {
            return Err(WriteError::FileChanged { planned: self.file_size(), now: length(file.len()) });
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
            let part = mapped.iter().find(|part| segment.has_mapped_part(part));
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
                WriteError::Memory { what: NamedRange::new("a relocated word", range), source }
            })?;
        }
        Ok(())
    }
}

/// Copies the file's part of a segment except for the pages of `mapped`, and clears its .bss if asked for.
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
        // The file ranges of a plan are inside a file of the planned size, which the caller has checked.
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

/// Writes zeros to a physical range.
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
