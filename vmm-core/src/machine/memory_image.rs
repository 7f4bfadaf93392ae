//! Memory of a snapshot: all regions one after the other in a memfd, in which pages of zeros are holes.

use std::fs::File;
use std::io;

use kvm_sys_wrap::{Gpa, GuestMemory, MemoryFile, SlotBacking};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use vm_memory::Bytes;

use crate::machine::error::Error;
use crate::machine::sparse::nonzero_runs;
use crate::spec::{MachineSpec, MemoryRegion};

/// Bytes that are copied at once.
const CHUNK: usize = 256 << 10;

/// Contents of a guest's memory, in a memfd. Clones are handles to the same file.
#[derive(Debug, Clone)]
pub struct MemoryImage {
    file: MemoryFile,
    /// Address, size and file offset of each region, in the order of the slots.
    regions: Vec<ImageRegion>,
}

/// Region of memory in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ImageRegion {
    address: Gpa,
    size: u64,
    offset: u64,
}

impl MemoryImage {
    /// Creates an image of zeros for the memory of a machine.
    ///
    /// # Errors
    /// [`Error::Kvm`] where there is no memory for it.
    pub fn empty(spec: &MachineSpec) -> Result<Self, Error> {
        let (regions, end) = regions(spec)?;
        Ok(Self { file: MemoryFile::create(end)?, regions })
    }

    /// Takes the memory of a machine from a file that another process filled ([`Machine::snapshot_to`](crate::machine::Machine::snapshot_to)).
    ///
    /// # Errors
    /// [`Error::Snapshot`] where the file does not have the size of the machine's memory; [`Error::Kvm`] where it can change.
    pub fn from_file(file: File, spec: &MachineSpec) -> Result<Self, Error> {
        let (file, (regions, end)) = (MemoryFile::from_sealed(file)?, regions(spec)?);
        if file.size() == end { Ok(Self { file, regions }) } else { Err(problem("it has other memory")) }
    }

    /// Copies guest memory to a file of its own, or to one of [`MemoryFile::reserve`], which nobody can write to afterwards.
    pub(crate) fn from_memory(
        memory: &GuestMemory,
        spec: &MachineSpec,
        reserved: Option<File>,
    ) -> Result<Self, Error> {
        let Some(reserved) = reserved else {
            let image = Self::empty(spec)?;
            image.copy(memory)?;
            return Ok(image);
        };
        let (regions, end) = regions(spec)?;
        let image = Self { file: MemoryFile::with_size(reserved, end)?, regions };
        image.copy(memory)?;
        image.file.seal_contents()?;
        Ok(image)
    }

    fn copy(&self, memory: &GuestMemory) -> Result<(), Error> {
        let mut buffer = vec![0; CHUNK];
        for ImageRegion { address, size, offset } in &self.regions {
            let mut done = 0;
            while done < *size {
                let length = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
                let Some(chunk) = buffer.get_mut(..length) else { break };
                memory
                    .read_slice(chunk, Gpa(address.0.saturating_add(done)).into())
                    .map_err(|error| failed(io::Error::other(error)))?;
                for run in nonzero_runs(chunk) {
                    let at = offset + done + u64::try_from(run.start).unwrap_or(u64::MAX);
                    self.file.write_at(chunk.get(run).unwrap_or_default(), at).map_err(failed)?;
                }
                done += u64::try_from(length).unwrap_or(u64::MAX);
            }
        }
        Ok(())
    }

    /// Writes `bytes` to an image that no machine was made from yet.
    ///
    /// # Errors
    /// [`Error::Snapshot`] where the range is not all in one region, or there is no memory left.
    pub fn write(&self, address: Gpa, bytes: &[u8]) -> Result<(), Error> {
        let offset =
            self.offset(address, bytes.len()).ok_or_else(|| problem("it has pages outside memory"))?;
        self.file.write_at(bytes, offset).map_err(failed)
    }

    /// Fills `bytes` with the memory from `address` on.
    ///
    /// # Errors
    /// [`Error::Snapshot`] where the range is not all in one region.
    pub fn read(&self, address: Gpa, bytes: &mut [u8]) -> Result<(), Error> {
        let offset = self.offset(address, bytes.len()).ok_or_else(|| problem("it has no such address"))?;
        self.file.read_at(bytes, offset).map_err(failed)
    }

    /// Returns the ranges of whole pages that are not known to be zeros, in the order of the regions.
    ///
    /// # Errors
    /// [`Error::Snapshot`].
    pub fn ranges(&self) -> Result<Vec<(Gpa, u64)>, Error> {
        let mut ranges = Vec::new();
        for region in &self.regions {
            let end = region.offset + region.size;
            let mut at = region.offset;
            while let Some(data) = self.next(SeekFrom::Data(at))?.filter(|data| *data < end) {
                let hole = self.next(SeekFrom::Hole(data))?.unwrap_or(end).min(end);
                ranges.push((Gpa(region.address.0 + (data - region.offset)), hole - data));
                at = hole;
            }
        }
        Ok(ranges)
    }

    /// Backing of a slot of a machine made from this image.
    pub(crate) fn backing(&self, number: u32) -> Option<SlotBacking> {
        let region = self.regions.get(usize::try_from(number).ok()?)?;
        Some(SlotBacking::CopyOf { file: self.file.clone(), offset: region.offset })
    }

    /// Checks that this is the memory of a machine with this description.
    pub(crate) fn check(&self, spec: &MachineSpec) -> Result<(), Error> {
        let same = self.regions.len() == spec.memory.len()
            && self.regions.iter().zip(&spec.memory).all(|(a, b)| (a.address, a.size) == (b.address, b.size));
        if same { Ok(()) } else { Err(problem("it has other memory")) }
    }

    fn next(&self, whence: SeekFrom) -> Result<Option<u64>, Error> {
        match seek(&self.file, whence) {
            Ok(offset) => Ok(Some(offset)),
            // Behind the last data there is none.
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    fn offset(&self, address: Gpa, length: usize) -> Option<u64> {
        let length = u64::try_from(length).ok()?;
        self.regions.iter().find_map(|region| {
            let inside = address.0.checked_sub(region.address.0)?;
            (inside.checked_add(length)? <= region.size).then_some(region.offset + inside)
        })
    }
}

/// Returns the regions in the file, and their total size.
fn regions(spec: &MachineSpec) -> Result<(Vec<ImageRegion>, u64), Error> {
    let mut regions = Vec::new();
    let mut end = 0_u64;
    for MemoryRegion { address, size, .. } in &spec.memory {
        regions.push(ImageRegion { address: *address, size: *size, offset: end });
        end = end.checked_add(*size).ok_or_else(|| problem("it is larger than a file can be"))?;
    }
    Ok((regions, end))
}

fn problem(problem: &'static str) -> Error {
    Error::Snapshot { problem, source: None }
}

fn failed(source: io::Error) -> Error {
    Error::Snapshot { problem: "its memory cannot be copied", source: Some(source) }
}
