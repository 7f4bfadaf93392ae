//! The slots of a VM with the host memory that is mapped for each, and the map of its guest-physical addresses.
//!
//! [`Vm`](crate::Vm) holds one table behind a lock. Every method that makes an ioctl about slots keeps the lock until the
//! kernel and the table say the same again: the kernel must never know memory that the table no longer holds.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use vm_memory::{GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion, VolatileMemory};

use super::file_overlay::FileOverlay;
use super::memory_file::MemoryFile;
use super::slot::Slot;
use crate::address::Gpa;
use crate::address_map::AddressMap;
use crate::call::Call;
use crate::error::{Error, Result, SlotNumberProblem};

/// Guest memory, accessed by guest-physical address: vm-memory's type, whose every access is checked and volatile.
pub type GuestMemory = GuestMemoryMmap;

/// Slots of a VM, and all ranges in use of its guest-physical addresses.
#[derive(Debug, Default)]
pub(crate) struct SlotTable {
    pub(crate) map: AddressMap,
    pub(crate) slots: BTreeMap<u32, MappedSlot>,
    pub(crate) view: GuestMemory,
}

/// A slot that the kernel knows.
#[derive(Debug, Clone)]
pub(crate) struct MappedSlot {
    pub(crate) slot: Slot,
    /// Dropped before the region: a guard must not outlive the mapping that it guards.
    pub(crate) overlays: Vec<Arc<FileOverlay>>,
    pub(crate) region: Arc<GuestRegionMmap>,
    /// File whose pages the slot shares, if any.
    pub(crate) file: Option<MemoryFile>,
}

impl SlotTable {
    /// Returns the slot with that number.
    pub(crate) fn get(&self, number: u32) -> Result<&MappedSlot> {
        let missing = Error::SlotNumber { slot: number, problem: SlotNumberProblem::Missing };
        self.slots.get(&number).ok_or(missing)
    }

    /// Returns the slot that contains an address.
    pub(crate) fn at(&self, address: Gpa) -> Option<&MappedSlot> {
        self.slots.values().find(|mapped| mapped.region.to_region_addr(address.into()).is_some())
    }

    pub(crate) fn add_overlay(&mut self, number: u32, overlay: FileOverlay) {
        if let Some(mapped) = self.slots.get_mut(&number) {
            mapped.overlays.push(Arc::new(overlay));
        }
    }

    pub(crate) fn overlays(&self) -> impl Iterator<Item = &FileOverlay> {
        self.slots.values().flat_map(|mapped| &mapped.overlays).map(|overlay| &**overlay)
    }

    /// Makes the view of guest memory that [`Vm::memory`](crate::Vm::memory) returns, after the slots changed.
    pub(crate) fn refresh_view(&mut self) -> Result<()> {
        let mut regions: Vec<_> =
            self.slots.values().map(|e| (e.slot.address, Arc::clone(&e.region))).collect();
        regions.sort_by_key(|(address, _)| *address);
        let regions: Vec<_> = regions.into_iter().map(|(_, region)| region).collect();
        self.view = if regions.is_empty() {
            GuestMemory::new()
        } else {
            // Cannot fail: the address map has accepted only regions that do not overlap.
            GuestMemory::from_arc_regions(regions).map_err(|error| Error::Call {
                call: Call::SetUserMemoryRegion,
                detail: "the view of guest memory".to_owned(),
                source: io::Error::other(error),
            })?
        };
        Ok(())
    }
}

/// `madvise` of part of a mapping.
pub(crate) fn advise(mapping: &MmapRegion, range: Range<u64>, advice: libc::c_int) -> io::Result<()> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let length = range.end.checked_sub(range.start).and_then(|length| usize::try_from(length).ok());
    let (start, length) = (usize::try_from(range.start).ok(), length);
    let (Some(start), Some(length)) = (start, length) else { return Err(outside()) };
    // Refuses what is not inside the mapping.
    let slice = mapping.get_slice(start, length).map_err(|_| outside())?;
    // SAFETY: the range is inside one live mapping. The advice used here changes at most what the memory holds, which the
    // guest may change at any time too: nothing but volatile accesses touches it (vm-memory's contract).
    let result = unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), length, advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
