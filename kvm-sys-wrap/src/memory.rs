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

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use vm_memory::{GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::address::Gpa;
use crate::address_map::{AddressMap, Occupant};
use crate::call::Call;
use crate::capability::Capability;
use crate::create_vm::Vm;
use crate::error::{Error, Result, call_failed};

/// The guest's memory, to read and write by guest-physical address.
pub type GuestMemory = GuestMemoryMmap;

const PAGE: u64 = 4096;

/// A memory slot that is to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The slot's number, any that is free below `KVM_CAP_NR_MEMSLOTS`.
    pub number: u32,
    /// Its first guest-physical address; a multiple of 4 KiB.
    pub address: Gpa,
    /// Its size in bytes; a multiple of 4 KiB, not 0.
    pub size: u64,
    /// What the kernel does with it.
    pub flags: SlotFlags,
    /// What the host is told about the memory behind it.
    pub advice: Advice,
}

/// Flags of a slot (api.rst 4.35).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotFlags {
    /// Writes exit as MMIO (`KVM_MEM_READONLY`).
    pub read_only: bool,
    /// Writes are recorded for [`Vm::dirty_log`] (`KVM_MEM_LOG_DIRTY_PAGES`).
    pub log_dirty: bool,
}

impl SlotFlags {
    const fn bits(self) -> u32 {
        let read_only = if self.read_only { KVM_MEM_READONLY } else { 0 };
        let log_dirty = if self.log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        read_only | log_dirty
    }
}

/// Advice to the host about a slot's memory (madvise(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Advice {
    /// `MADV_MERGEABLE`: kernel same-page merging may share equal pages.
    pub mergeable: bool,
    /// `MADV_HUGEPAGE`: use transparent huge pages.
    pub huge_pages: bool,
}

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
    region: Arc<GuestRegionMmap>,
}

impl Slot {
    fn range(&self) -> Result<Range<Gpa>> {
        let Self { number: slot, address, size, .. } = *self;
        let shape = |problem| Error::SlotShape { slot, address, size, problem };
        if size == 0 {
            return Err(shape("is empty"));
        }
        if !address.is_aligned(PAGE) || !size.is_multiple_of(PAGE) {
            return Err(shape("is not made of whole 4 KiB pages"));
        }
        let end = address.checked_add(size).ok_or_else(|| shape("leaves the address space"))?;
        Ok(address..end)
    }

    fn describe(&self) -> String {
        format!("slot {}, {:#x} bytes at {}", self.number, self.size, self.address)
    }
}

impl Vm {
    /// Reserves host memory and makes it a slot. The memory reads as zeros.
    ///
    /// # Errors
    /// [`Error::SlotShape`], [`Error::SlotNumber`] (taken), [`Error::Overlap`], [`Error::MissingCapability`] (read-only
    /// slots) or [`Error::Call`] (`mmap`, `KVM_SET_USER_MEMORY_REGION`).
    pub fn add_slot(&self, slot: Slot) -> Result<()> {
        let range = slot.range()?;
        if slot.flags.read_only {
            self.kvm().require(Capability::ReadonlyMem)?;
        }
        let mut memory = self.lock_memory();
        if memory.slots.contains_key(&slot.number) {
            return Err(Error::SlotNumber { slot: slot.number, problem: "exists already" });
        }
        memory.map.insert(range, Occupant::Slot(slot.number))?;
        let added = self.reserve(&slot).and_then(|region| {
            self.set_region(&slot, slot.size, &region)?;
            Ok(region)
        });
        match added {
            Ok(region) => {
                memory.slots.insert(slot.number, Existing { slot, region });
                memory.refresh_view()
            }
            Err(error) => {
                memory.map.remove(&Occupant::Slot(slot.number));
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
        let slot = Slot { address, ..existing.slot };
        let range = slot.range()?;
        let before = memory.map.remove(&Occupant::Slot(number));
        let moved = memory.map.insert(range, Occupant::Slot(number)).map_err(Error::from).and_then(|()| {
            let region = GuestRegionMmap::with_arc(existing.region.get_mmap(), address.into())
                .ok_or(Error::SlotNumber { slot: number, problem: "leaves the address space" })?;
            self.set_region(&slot, slot.size, &region)?;
            Ok(Arc::new(region))
        });
        match moved {
            Ok(region) => {
                memory.slots.insert(number, Existing { slot, region });
                memory.refresh_view()
            }
            Err(error) => {
                memory.map.remove(&Occupant::Slot(number));
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
        let Existing { slot, region } = memory.existing(number)?;
        let slot = Slot { flags, ..slot };
        self.set_region(&slot, slot.size, &region)?;
        memory.slots.insert(number, Existing { slot, region });
        Ok(())
    }

    /// Deletes a slot. Its memory is unmapped once nobody holds a [`GuestMemory`] with it.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`].
    pub fn delete_slot(&self, number: u32) -> Result<()> {
        let mut memory = self.lock_memory();
        let Existing { slot, region } = memory.existing(number)?;
        // Size 0 deletes (api.rst 4.35). The kernel forgets the address before we let go of the memory.
        self.set_region(&slot, 0, &region)?;
        memory.slots.remove(&number);
        memory.map.remove(&Occupant::Slot(number));
        memory.refresh_view()
    }

    /// The pages written since the last call, one bit each, lowest address first (api.rst 4.8).
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`] (ENOENT where the slot does not log).
    pub fn dirty_log(&self, number: u32) -> Result<Vec<u64>> {
        let Existing { slot, region } = self.lock_memory().existing(number)?;
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
        Ok(self.lock_memory().map.insert(range, Occupant::Mmio(name.to_owned()))?)
    }

    /// The guest's memory as the slots are now. Slots that come later are in later views only.
    #[must_use]
    pub fn memory(&self) -> GuestMemory {
        self.lock_memory().view.clone()
    }

    /// `mmap` and `madvise`.
    fn reserve(&self, slot: &Slot) -> Result<Arc<GuestRegionMmap>> {
        let Slot { size, address, advice, .. } = *slot;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let mapping = self
            .observed()
            .call(Call::Mmap, format_args!("{size:#x} bytes, private, anonymous, no reserve"), || {
                MmapRegion::<()>::new(length).map_err(mmap_error)
            })
            .map_err(call_failed(Call::Mmap, format!("{size:#x} bytes for {}", slot.describe())))?;
        for (wanted, flag, name) in [
            (advice.mergeable, libc::MADV_MERGEABLE, "MADV_MERGEABLE"),
            (advice.huge_pages, libc::MADV_HUGEPAGE, "MADV_HUGEPAGE"),
        ] {
            if wanted {
                // Advice only: a kernel built without it (EINVAL) runs the guest just as well. The observer sees it.
                let _ =
                    self.observed().call(Call::Madvise, format_args!("{name}"), || advise(&mapping, flag));
            }
        }
        let region = GuestRegionMmap::new(mapping, address.into())
            .ok_or(Error::SlotNumber { slot: slot.number, problem: "leaves the address space" })?;
        Ok(Arc::new(region))
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

fn mmap_error(error: vm_memory::mmap::MmapRegionError) -> io::Error {
    if let vm_memory::mmap::MmapRegionError::Mmap(source) = error { source } else { io::Error::other(error) }
}

fn advise(mapping: &MmapRegion<()>, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the range is exactly one live mapping, and neither kind of advice changes what it holds.
    let result = unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), advice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
