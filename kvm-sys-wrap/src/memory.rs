//! Step 4: guest memory. `mmap`, `madvise`, then `KVM_SET_USER_MEMORY_REGION` makes it a slot.
//!
//! Host memory is reserved with `mmap` (untouched pages cost nothing), the host is advised about it (`MADV_MERGEABLE`
//! lets it share equal pages between guests, `MADV_HUGEPAGE` asks for 2 MiB pages), and a slot makes it appear at a
//! guest-physical address (api.rst 4.35). A VM has as many slots as it likes, with holes between: an access to a hole
//! exits as MMIO.
//!
//! Slots are created, moved, and deleted here. Reading and writing the memory itself goes through [`GuestMemory`],
//! whose every access is checked; a handle that outlives its slot still points to mapped memory, just not to the
//! guest's any more.

mod backing;
mod cow_reset;
mod file_mapping;
mod mapped_file;
mod memory_file;
mod overlay_promotion;
mod sigbus;
mod slot;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use vm_memory::{GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileMemory};

use self::file_mapping::FileMapping;
use crate::address::Gpa;
use crate::address_map::{AddressMap, RangeOwner};
use crate::call::Call;
use crate::capability::Capability;
use crate::create_vm::Vm;
use crate::error::{Error, Result, call_failed};

pub use backing::SlotBacking;
pub use file_mapping::FileRange;
pub use mapped_file::MappedFile;
pub use memory_file::MemoryFile;
pub use overlay_promotion::minor_faults;
pub use slot::{MemoryAdvice, Slot, SlotFlags};

/// The guest's memory, to read and write by guest-physical address.
pub type GuestMemory = GuestMemoryMmap;

const PAGE: u64 = 4096;

/// The slots of a VM and all that lies in its physical address space.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) map: AddressMap,
    slots: BTreeMap<u32, Existing>,
    view: GuestMemory,
}

/// A slot that the kernel knows.
#[derive(Debug, Clone)]
struct Existing {
    slot: Slot,
    /// Before the region: guards go before what they guard.
    overlays: Vec<Arc<FileMapping>>,
    region: Arc<GuestRegionMmap>,
    /// The file whose pages it shares.
    file: Option<MemoryFile>,
}

impl Vm {
    /// Reserves host memory and makes it a slot.
    ///
    /// # Errors
    /// [`Error::SlotShape`], [`Error::SlotNumber`] (taken), [`Error::Overlap`], [`Error::MissingCapability`] (read-only
    /// slots), [`Error::HugePages`] or [`Error::Call`] (`mmap`, `KVM_SET_USER_MEMORY_REGION`).
    pub fn add_slot(&self, slot: Slot) -> Result<()> {
        let range = slot.range()?;
        if slot.flags.read_only {
            self.kvm().require(Capability::ReadonlyMem)?;
        }
        let mut memory = self.lock_memory();
        if memory.slots.contains_key(&slot.number) {
            return Err(Error::SlotNumber { slot: slot.number, problem: "exists already" });
        }
        memory.map.insert(range, RangeOwner::Slot(slot.number))?;
        let added = self.reserve(&slot).and_then(|(mapping, file)| {
            self.advise(&slot, &mapping);
            let region = GuestRegionMmap::new(mapping, slot.address.into())
                .ok_or(Error::SlotNumber { slot: slot.number, problem: "leaves the address space" })?;
            self.set_region(&slot, slot.size, &region)?;
            Ok((Arc::new(region), file))
        });
        match added {
            Ok((region, file)) => {
                memory.slots.insert(slot.number, Existing { slot, overlays: Vec::new(), region, file });
                memory.refresh_view()
            }
            Err(error) => {
                memory.map.remove(&RangeOwner::Slot(slot.number));
                Err(error)
            }
        }
    }

    /// Moves a slot, with what is in it, to another guest-physical address.
    ///
    /// # Errors
    /// As [`Vm::add_slot`]; then the slot is where it was.
    pub fn move_slot(&self, number: u32, address: Gpa) -> Result<()> {
        let mut memory = self.lock_memory();
        let existing = memory.existing(number)?;
        let slot = Slot { address, ..existing.slot.clone() };
        let range = slot.range()?;
        let before = memory.map.remove(&RangeOwner::Slot(number));
        let moved = memory.map.insert(range, RangeOwner::Slot(number)).map_err(Error::from).and_then(|()| {
            let region = GuestRegionMmap::with_arc(existing.region.get_mmap(), address.into())
                .ok_or(Error::SlotNumber { slot: number, problem: "leaves the address space" })?;
            self.set_region(&slot, slot.size, &region)?;
            Ok(Arc::new(region))
        });
        match moved {
            Ok(region) => {
                memory.slots.insert(number, Existing { slot, region, ..existing });
                memory.refresh_view()
            }
            Err(error) => {
                memory.map.remove(&RangeOwner::Slot(number));
                for (range, occupant) in before {
                    memory.map.insert(range, occupant)?;
                }
                Err(error)
            }
        }
    }

    /// Changes a slot's flags. Only dirty logging can change; the kernel refuses a change of `read_only`.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`].
    pub fn set_slot_flags(&self, number: u32, flags: SlotFlags) -> Result<()> {
        let mut memory = self.lock_memory();
        let mut existing = memory.existing(number)?;
        existing.slot.flags = flags;
        self.set_region(&existing.slot, existing.slot.size, &existing.region)?;
        memory.slots.insert(number, existing);
        Ok(())
    }

    /// Deletes a slot. Its memory is unmapped once nobody holds a [`GuestMemory`] with it.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`].
    pub fn delete_slot(&self, number: u32) -> Result<()> {
        let mut memory = self.lock_memory();
        let Existing { slot, region, .. } = memory.existing(number)?;
        // Size 0 deletes (api.rst 4.35). The kernel forgets the address before we let go of the memory.
        self.set_region(&slot, 0, &region)?;
        memory.slots.remove(&number);
        memory.map.remove(&RangeOwner::Slot(number));
        memory.refresh_view()
    }

    /// Takes a slot out and puts it in again, so that KVM forgets all that it knows of how its memory is mapped, tables that
    /// shadow the guest's own included.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`].
    pub fn recreate_slot(&self, number: u32) -> Result<()> {
        let Existing { slot, region, .. } = self.lock_memory().existing(number)?;
        self.set_region(&slot, 0, &region)?;
        self.set_region(&slot, slot.size, &region)
    }

    /// The pages written since the last call, one bit each, lowest address first (api.rst 4.8).
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`] (ENOENT where the slot does not log).
    pub fn dirty_log(&self, number: u32) -> Result<Vec<u64>> {
        let Existing { slot, region, .. } = self.lock_memory().existing(number)?;
        let size = region.get_mmap().size();
        self.observed()
            .call(Call::GetDirtyLog, format_args!("slot {number}"), || self.fd().get_dirty_log(number, size))
            .map_err(call_failed(Call::GetDirtyLog, slot.describe()))
    }

    /// Declares a range that a device answers, so that no slot and no TSS pages can be put there.
    ///
    /// # Errors
    /// [`Error::Overlap`].
    pub fn reserve_mmio(&self, name: &str, range: Range<Gpa>) -> Result<()> {
        Ok(self.lock_memory().map.insert(range, RangeOwner::Mmio(name.to_owned()))?)
    }

    /// The guest's memory as the slots are now. Slots that come later are in later views only.
    #[must_use]
    pub fn memory(&self) -> GuestMemory {
        self.lock_memory().view.clone()
    }

    /// The file that a slot with [`SlotBacking::Memfd`] shares its pages with.
    ///
    /// # Errors
    /// [`Error::SlotNumber`].
    pub fn slot_file(&self, number: u32) -> Result<Option<MemoryFile>> {
        Ok(self.lock_memory().existing(number)?.file)
    }

    /// Throws away what is in the pages of a slot that are wholly inside `range`, counted from the slot's start: they read
    /// again as they did when the slot was new, which is as zeros, or as the file that it is a copy of. What others see of a
    /// shared file stays, and with it what this slot reads.
    ///
    /// # Errors
    /// [`Error::SlotNumber`], [`Error::SlotShape`] where the range leaves the slot, or [`Error::Call`].
    pub fn punch_hole(&self, number: u32, range: Range<u64>) -> Result<()> {
        let Existing { slot, region, .. } = self.lock_memory().existing(number)?;
        let Range { start, end } = range;
        let (first, last) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
        if start > end || end > slot.size {
            let problem = "ends before what is to be discarded";
            return Err(Error::SlotShape { slot: number, address: slot.address, size: slot.size, problem });
        }
        if first >= last {
            return Ok(());
        }
        self.observed()
            .call(Call::Madvise, format_args!("MADV_DONTNEED, {:#x} bytes", last - first), || {
                advise(&region, first..last, libc::MADV_DONTNEED)
            })
            .map_err(call_failed(Call::Madvise, slot.describe()))
    }

    /// `madvise` of new memory.
    fn advise(&self, slot: &Slot, mapping: &MmapRegion) {
        for (flag, name) in slot.advice.wanted() {
            // Advice only: a kernel built without it (EINVAL) runs the guest just as well. The observer sees it.
            let _ = self
                .observed()
                .call(Call::Madvise, format_args!("{name}"), || advise(mapping, 0..slot.size, flag));
        }
    }

    /// `KVM_SET_USER_MEMORY_REGION`: creates, moves, changes, or (with `size` 0) deletes.
    fn set_region(&self, slot: &Slot, size: u64, region: &GuestRegionMmap) -> Result<()> {
        let host = region.get_mmap().as_ptr();
        let argument = kvm_userspace_memory_region {
            slot: slot.number,
            flags: slot.flags.bits(),
            guest_phys_addr: slot.address.0,
            memory_size: size,
            userspace_addr: host as u64,
        };
        self.observed()
            .call(Call::SetUserMemoryRegion, &argument, || {
                // SAFETY: the kernel will let the guest write `size` bytes at `host`. That is memory of a mapping of at
                // least this size, which nothing but volatile accesses touches (vm-memory's contract). It stays mapped
                // while the kernel may use it: `Existing` holds it until the slot was deleted here, or until `Shared`
                // goes, which every vCPU holds and which closes the VM first. On failure the kernel keeps nothing new.
                unsafe { self.fd().set_user_memory_region(argument) }
            })
            .map_err(call_failed(Call::SetUserMemoryRegion, slot.describe()))
    }
}

impl Memory {
    fn existing(&self, number: u32) -> Result<Existing> {
        self.slots.get(&number).cloned().ok_or(Error::SlotNumber { slot: number, problem: "does not exist" })
    }

    fn refresh_view(&mut self) -> Result<()> {
        let mut regions: Vec<_> =
            self.slots.values().map(|e| (e.slot.address, Arc::clone(&e.region))).collect();
        regions.sort_by_key(|(address, _)| *address);
        let regions: Vec<_> = regions.into_iter().map(|(_, region)| region).collect();
        self.view = if regions.is_empty() {
            GuestMemory::new()
        } else {
            // Cannot fail: the address map has let in only regions that do not overlap.
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
fn advise(mapping: &MmapRegion, range: Range<u64>, advice: libc::c_int) -> io::Result<()> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let length = range.end.checked_sub(range.start).and_then(|length| usize::try_from(length).ok());
    let (start, length) = (usize::try_from(range.start).ok(), length);
    let (Some(start), Some(length)) = (start, length) else { return Err(outside()) };
    // Refuses what is not inside the mapping.
    let slice = mapping.get_slice(start, length).map_err(|_| outside())?;
    // SAFETY: the range is inside one live mapping. The advice used here changes at most what the memory holds, which is the
    // guest's to change at any time too: nothing but volatile accesses touches it (vm-memory's contract).
    let result = unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), length, advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
