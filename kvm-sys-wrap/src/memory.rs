//! Step 4: guest memory. `mmap`, `madvise`, then `KVM_SET_USER_MEMORY_REGION` makes it a slot.
//!
//! Host memory is reserved with `mmap` (untouched pages cost nothing), the host is advised about it (`MADV_DONTDUMP` keeps
//! the guest's data out of core dumps, `MADV_MERGEABLE` lets the host share equal pages between guests, `MADV_HUGEPAGE` asks
//! for 2 MiB pages), and a slot makes it appear at a guest-physical address (api.rst 4.35). Slots may leave holes: an access to a hole exits as MMIO.
//!
//! Slots are created, moved and deleted here. Reads and writes of the memory go through [`GuestMemory`]; a handle that
//! outlives its slot still points to mapped memory, which is no longer the guest's.

mod cow_reset;
mod file_mapping;
mod overlay_promotion;

use std::io;
use std::ops::Range;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{FileOffset, GuestRegionMmap, MmapRegion};

use crate::address::{Gpa, PAGE_SIZE};
use crate::address_map::RangeOwner;
use crate::call::Call;
use crate::capability::Capability;
use crate::create_vm::Vm;
use crate::error::{Error, Result, SlotNumberProblem, SlotShapeProblem, call_failed};
use crate::host_memory::{
    GuestMemory, MappedSlot, MemoryFile, Slot, SlotBacking, SlotFlags, advise, check_overcommit,
};

pub use cow_reset::open_pagemap;
pub use overlay_promotion::minor_faults;

impl Vm {
    /// Reserves host memory (`mmap`, `madvise`) and makes it a slot (`KVM_SET_USER_MEMORY_REGION`, api.rst 4.35).
    ///
    /// # Errors
    /// [`Error::SlotShape`], [`Error::SlotNumber`] (taken), [`Error::Overlap`], [`Error::MissingCapability`] (read-only
    /// slots need `KVM_CAP_READONLY_MEM`), [`Error::Overcommit`], [`Error::HugePages`] or [`Error::Call`] (`mmap`,
    /// `KVM_SET_USER_MEMORY_REGION`).
    pub fn add_slot(&self, slot: Slot) -> Result<()> {
        let range = slot.range()?;
        if slot.flags.read_only {
            self.kvm().require(Capability::ReadonlyMem)?;
        }
        let mut table = self.lock_slots();
        if table.slots.contains_key(&slot.number) {
            return Err(Error::SlotNumber { slot: slot.number, problem: SlotNumberProblem::Exists });
        }
        if !slot.overcommit {
            let used = table.slots.values().map(|mapped| mapped.slot.size);
            check_overcommit(used.fold(slot.size, u64::saturating_add))?;
        }
        table.map.insert(range, RangeOwner::Slot(slot.number))?;
        let added = self.reserve(&slot).and_then(|(mapping, file)| {
            self.advise_slot(&slot, &mapping);
            let outside =
                Error::SlotNumber { slot: slot.number, problem: SlotNumberProblem::OutsideAddressSpace };
            let region = GuestRegionMmap::new(mapping, slot.address.into()).ok_or(outside)?;
            self.set_region(&slot, slot.size, &region)?;
            Ok((Arc::new(region), file))
        });
        match added {
            Ok((region, file)) => {
                table.slots.insert(slot.number, MappedSlot { slot, overlays: Vec::new(), region, file });
                table.refresh_view()
            }
            Err(error) => {
                table.map.remove(&RangeOwner::Slot(slot.number));
                Err(error)
            }
        }
    }

    /// Moves a slot, with its contents, to another guest-physical address (`KVM_SET_USER_MEMORY_REGION`, api.rst 4.35).
    ///
    /// # Errors
    /// Those of [`Vm::add_slot`]; then the slot stays where it was.
    pub fn move_slot(&self, number: u32, address: Gpa) -> Result<()> {
        let mut table = self.lock_slots();
        let mapped = table.get(number)?.clone();
        let slot = Slot { address, ..mapped.slot.clone() };
        let range = slot.range()?;
        let before = table.map.remove(&RangeOwner::Slot(number));
        let moved = table.map.insert(range, RangeOwner::Slot(number)).map_err(Error::from).and_then(|()| {
            let outside = Error::SlotNumber { slot: number, problem: SlotNumberProblem::OutsideAddressSpace };
            let region =
                GuestRegionMmap::with_arc(mapped.region.get_mmap(), address.into()).ok_or(outside)?;
            self.set_region(&slot, slot.size, &region)?;
            Ok(Arc::new(region))
        });
        match moved {
            Ok(region) => {
                table.slots.insert(number, MappedSlot { slot, region, ..mapped });
                table.refresh_view()
            }
            Err(error) => {
                table.map.remove(&RangeOwner::Slot(number));
                for (range, owner) in before {
                    table.map.insert(range, owner)?;
                }
                Err(error)
            }
        }
    }

    /// Changes a slot's flags (`KVM_SET_USER_MEMORY_REGION`, api.rst 4.35). Only dirty logging can change: the kernel refuses a
    /// change of `read_only` with EINVAL.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`].
    pub fn set_slot_flags(&self, number: u32, flags: SlotFlags) -> Result<()> {
        let mut table = self.lock_slots();
        let mapped = table.get(number)?;
        let slot = Slot { flags, ..mapped.slot.clone() };
        self.set_region(&slot, slot.size, &mapped.region)?;
        if let Some(mapped) = table.slots.get_mut(&number) {
            mapped.slot = slot;
        }
        Ok(())
    }

    /// Deletes a slot (`KVM_SET_USER_MEMORY_REGION` with size 0, api.rst 4.35). Its memory is unmapped when the last
    /// [`GuestMemory`] that contains it is dropped.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`].
    pub fn delete_slot(&self, number: u32) -> Result<()> {
        let mut table = self.lock_slots();
        let mapped = table.get(number)?;
        // The kernel must drop the slot before the memory can be unmapped.
        self.set_region(&mapped.slot, 0, &mapped.region)?;
        table.slots.remove(&number);
        table.map.remove(&RangeOwner::Slot(number));
        table.refresh_view()
    }

    /// Deletes a slot and creates it again with the same memory (`KVM_SET_USER_MEMORY_REGION` twice): KVM drops all page
    /// tables that it has built for the slot, those that shadow the guest's own included.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`].
    pub fn recreate_slot(&self, number: u32) -> Result<()> {
        let table = self.lock_slots();
        let MappedSlot { slot, region, .. } = table.get(number)?;
        self.set_region(slot, 0, region)?;
        self.set_region(slot, slot.size, region)
    }

    /// Returns the pages of a slot that were written since the last call, one bit each, lowest address first
    /// (`KVM_GET_DIRTY_LOG`, api.rst 4.8).
    ///
    /// # Errors
    /// [`Error::SlotNumber`] or [`Error::Call`] (ENOENT where the slot does not log).
    pub fn dirty_log(&self, number: u32) -> Result<Vec<u64>> {
        let table = self.lock_slots();
        let MappedSlot { slot, region, .. } = table.get(number)?;
        // Under the lock: the bitmap must have room for the slot as the kernel knows it.
        let size = region.get_mmap().size();
        self.dispatcher()
            .call(Call::GetDirtyLog, format_args!("slot {number}"), || self.fd()?.get_dirty_log(number, size))
            .map_err(call_failed(Call::GetDirtyLog, slot.describe()))
    }

    /// Reserves a range of guest-physical addresses for a device: slots and TSS pages are refused there. Makes no call: for
    /// KVM, MMIO is what no slot contains.
    ///
    /// # Errors
    /// [`Error::Overlap`].
    pub fn reserve_mmio(&self, name: &str, range: Range<Gpa>) -> Result<()> {
        Ok(self.lock_slots().map.insert(range, RangeOwner::Mmio(name.to_owned()))?)
    }

    /// Returns guest memory with the slots of this moment. Slots that are added later are only in later views.
    #[must_use]
    pub fn memory(&self) -> GuestMemory {
        self.lock_slots().view.clone()
    }

    /// Returns the file whose pages a slot with [`SlotBacking::Memfd`] shares; `None` for other backings.
    ///
    /// # Errors
    /// [`Error::SlotNumber`].
    pub fn slot_file(&self, number: u32) -> Result<Option<MemoryFile>> {
        Ok(self.lock_slots().get(number)?.file.clone())
    }

    /// Discards the contents of the pages of a slot that are wholly inside `range`, in bytes from the slot's start
    /// (`madvise` with `MADV_DONTNEED`). They read again as when the slot was new: as zeros, or as the file of
    /// [`SlotBacking::CopyOf`]. Pages that are shared with a file ([`SlotBacking::Memfd`]) keep their contents.
    ///
    /// # Errors
    /// [`Error::SlotNumber`], [`Error::SlotShape`] where the range leaves the slot, or [`Error::Call`].
    pub fn punch_hole(&self, number: u32, range: Range<u64>) -> Result<()> {
        self.discard_pages(self.lock_slots().get(number)?, range)
    }

    /// `MADV_DONTNEED` for part of a slot. The caller holds the lock.
    fn discard_pages(&self, mapped: &MappedSlot, range: Range<u64>) -> Result<()> {
        let MappedSlot { slot, region, .. } = mapped;
        let Range { start, end } = range;
        if start > end || end > slot.size {
            let problem = SlotShapeProblem::SmallerThanDiscard;
            let Slot { number, address, size, .. } = *slot;
            return Err(Error::SlotShape { slot: number, address, size, problem });
        }
        let (first, last) = (start.next_multiple_of(PAGE_SIZE), end / PAGE_SIZE * PAGE_SIZE);
        if first >= last {
            return Ok(());
        }
        self.dispatcher()
            .call(Call::Madvise, format_args!("MADV_DONTNEED, {:#x} bytes", last - first), || {
                advise(region, first..last, libc::MADV_DONTNEED)
            })
            .map_err(call_failed(Call::Madvise, slot.describe()))
    }

    /// `mmap` of the host memory for a slot. Returns it with the file whose pages it shares, if any.
    fn reserve(&self, slot: &Slot) -> Result<(MmapRegion, Option<MemoryFile>)> {
        let size = slot.size;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        let (file, offset, flags) = match &slot.backing {
            SlotBacking::Anonymous => {
                (None, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
            }
            SlotBacking::Hugetlb => {
                // Without MAP_NORESERVE, so that an empty pool makes `mmap` fail, not the guest's first access.
                let huge = libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
                (None, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | huge)
            }
            SlotBacking::Memfd => {
                let made = self.dispatcher().call(Call::MemfdCreate, format_args!("{size:#x} bytes"), || {
                    MemoryFile::try_create(size)
                });
                let file = made.map_err(call_failed(Call::MemfdCreate, format!("{size:#x} bytes")))?;
                (Some(file), 0, libc::MAP_SHARED | libc::MAP_NORESERVE)
            }
            SlotBacking::CopyOf { file, offset } => {
                (Some(file.clone()), *offset, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            }
        };
        let file_offset = file.as_ref().map(|file| FileOffset::from_arc(Arc::clone(file.file()), offset));
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let description = slot.backing.describe();
        let mapping = self
            .dispatcher()
            .call(Call::Mmap, format_args!("{size:#x} bytes, {description}"), || {
                MmapRegion::<()>::build(file_offset, length, protection, flags).map_err(|error| {
                    if let MmapRegionError::Mmap(source) = error { source } else { io::Error::other(error) }
                })
            })
            .map_err(|source| match slot.backing {
                SlotBacking::Hugetlb => Error::HugePages { size, source },
                SlotBacking::Anonymous | SlotBacking::Memfd | SlotBacking::CopyOf { .. } => {
                    call_failed(Call::Mmap, format!("{size:#x} bytes for {}", slot.describe()))(source)
                }
            })?;
        let shared = matches!(slot.backing, SlotBacking::Memfd).then_some(file).flatten();
        Ok((mapping, shared))
    }

    /// `madvise` of new memory.
    fn advise_slot(&self, slot: &Slot, mapping: &MmapRegion) {
        for (flag, name) in slot.advice.flags() {
            // A kernel without it answers EINVAL and runs the guest just as well. The observer sees the error.
            let _ = self
                .dispatcher()
                .call(Call::Madvise, format_args!("{name}"), || advise(mapping, 0..slot.size, flag));
        }
    }

    /// `KVM_SET_USER_MEMORY_REGION`: creates, moves, changes, or (with `size` 0) deletes. The caller holds the lock.
    fn set_region(&self, slot: &Slot, size: u64, region: &GuestRegionMmap) -> Result<()> {
        let host = region.get_mmap().as_ptr();
        let argument = kvm_userspace_memory_region {
            slot: slot.number,
            flags: slot.flags.bits(),
            guest_phys_addr: slot.address.0,
            memory_size: size,
            userspace_addr: host as u64,
        };
        self.dispatcher()
            .call(Call::SetUserMemoryRegion, &argument, || {
                // SAFETY: the kernel will let the guest write `size` bytes at `host`. That is memory of a mapping of at
                // least this size, which nothing but volatile accesses touches (vm-memory's contract). It stays mapped
                // while the kernel may use it: the slot table, locked by the caller, holds it until the slot was deleted
                // here, or until `VmInner` is dropped, which every vCPU holds and which first deletes all slots or closes the
                // VM (`vm_pool.rs`). On failure the kernel keeps nothing new.
                unsafe { self.fd()?.set_user_memory_region(argument) }
            })
            .map_err(call_failed(Call::SetUserMemoryRegion, slot.describe()))
    }
}
