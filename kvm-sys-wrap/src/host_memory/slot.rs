//! Description of a memory slot: its guest-physical range, its flags, and the host memory behind it.

use std::ops::Range;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};

use super::backing::SlotBacking;
use crate::address::{Gpa, PAGE_SIZE};
use crate::error::{Error, Result, SlotShapeProblem};

/// Memory slot to create ([`Vm::add_slot`](crate::Vm::add_slot)): the arguments of `KVM_SET_USER_MEMORY_REGION` (api.rst 4.35) and
/// of the `mmap` and `madvise` before it. Begin with [`Slot::new`] and set what differs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Slot {
    /// Number of the slot, below `KVM_CAP_NR_MEMSLOTS` and not in use.
    pub number: u32,
    /// First guest-physical address; a multiple of 4 KiB.
    pub address: Gpa,
    /// Size of the slot in bytes; a multiple of 4 KiB, not 0.
    pub size: u64,
    /// Flags for the kernel: read-only, or with a log of written pages.
    pub flags: SlotFlags,
    /// Advice to the host about the memory behind the slot.
    pub advice: MemoryAdvice,
    /// Host memory that the slot consists of.
    pub backing: SlotBacking,
    /// True to allow more memory than the host has, RAM and swap together. The process may be killed when the guest uses it.
    pub overcommit: bool,
}

/// Flags of a slot (`kvm_userspace_memory_region.flags`, api.rst 4.35).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotFlags {
    /// `KVM_MEM_READONLY`: a write of the guest becomes an MMIO exit. Needs `KVM_CAP_READONLY_MEM`.
    pub read_only: bool,
    /// `KVM_MEM_LOG_DIRTY_PAGES`: writes are recorded for [`Vm::dirty_log`](crate::Vm::dirty_log).
    pub log_dirty: bool,
}

impl SlotFlags {
    pub(crate) const fn bits(self) -> u32 {
        let read_only = if self.read_only { KVM_MEM_READONLY } else { 0 };
        let log_dirty = if self.log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        read_only | log_dirty
    }
}

/// Advice to the host about a slot's memory (madvise(2)). All guest memory also gets `MADV_DONTDUMP`: a core dump of this process
/// does not contain the guest's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryAdvice {
    /// `MADV_MERGEABLE`: kernel same-page merging may share equal pages.
    pub mergeable: bool,
    /// `MADV_HUGEPAGE`: the kernel uses transparent huge pages for the slot.
    pub huge_pages: bool,
}

impl MemoryAdvice {
    /// Arguments for `madvise`, with their names.
    pub(crate) fn flags(self) -> impl Iterator<Item = (libc::c_int, &'static str)> {
        [
            (true, libc::MADV_DONTDUMP, "MADV_DONTDUMP"),
            (self.mergeable, libc::MADV_MERGEABLE, "MADV_MERGEABLE"),
            (self.huge_pages, libc::MADV_HUGEPAGE, "MADV_HUGEPAGE"),
        ]
        .into_iter()
        .filter_map(|(enabled, flag, name)| enabled.then_some((flag, name)))
    }
}

impl Slot {
    /// Describes read-write anonymous memory, neither mergeable nor in huge pages: `size` bytes at `address`.
    #[must_use]
    pub fn new(number: u32, address: Gpa, size: u64) -> Self {
        let (flags, advice, backing) = Default::default();
        Self { number, address, size, flags, advice, backing, overcommit: false }
    }

    /// Guest-physical range, checked.
    pub(crate) fn range(&self) -> Result<Range<Gpa>> {
        let Self { number: slot, address, size, .. } = *self;
        let shape = |problem| Error::SlotShape { slot, address, size, problem };
        if size == 0 {
            return Err(shape(SlotShapeProblem::Empty));
        }
        if !address.is_aligned(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(shape(SlotShapeProblem::Unaligned));
        }
        if let Some(problem) = self.backing.problem(size) {
            return Err(shape(problem));
        }
        let end = address.checked_add(size).ok_or_else(|| shape(SlotShapeProblem::OutsideAddressSpace))?;
        Ok(address..end)
    }

    pub(crate) fn describe(&self) -> String {
        format!("slot {}, {:#x} bytes at {}", self.number, self.size, self.address)
    }
}
