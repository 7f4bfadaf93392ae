//! What a slot is: a range of guest-physical addresses, what the kernel does with it, and what is behind it.

use std::ops::Range;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};

use super::backing::SlotBacking;
use crate::address::Gpa;
use crate::error::{Error, Result};

const PAGE: u64 = 4096;

/// A memory slot that is to be created.
#[derive(Debug, Clone)]
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
    pub advice: MemoryAdvice,
    /// Where that memory comes from.
    pub backing: SlotBacking,
}

/// Flags of a slot (api.rst 4.35).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotFlags {
    /// Writes exit as MMIO (`KVM_MEM_READONLY`).
    pub read_only: bool,
    /// Writes are recorded for [`Vm::dirty_log`](crate::Vm::dirty_log) (`KVM_MEM_LOG_DIRTY_PAGES`).
    pub log_dirty: bool,
}

impl SlotFlags {
    pub(super) const fn bits(self) -> u32 {
        let read_only = if self.read_only { KVM_MEM_READONLY } else { 0 };
        let log_dirty = if self.log_dirty { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        read_only | log_dirty
    }
}

/// Advice to the host about a slot's memory (madvise(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryAdvice {
    /// `MADV_MERGEABLE`: kernel same-page merging may share equal pages.
    pub mergeable: bool,
    /// `MADV_HUGEPAGE`: use transparent huge pages.
    pub huge_pages: bool,
}

impl MemoryAdvice {
    /// What `madvise` is to be told, with the names.
    pub(super) fn wanted(self) -> impl Iterator<Item = (libc::c_int, &'static str)> {
        [
            (self.mergeable, libc::MADV_MERGEABLE, "MADV_MERGEABLE"),
            (self.huge_pages, libc::MADV_HUGEPAGE, "MADV_HUGEPAGE"),
        ]
        .into_iter()
        .filter_map(|(wanted, flag, name)| wanted.then_some((flag, name)))
    }
}

impl Slot {
    /// Where it lies.
    pub(super) fn range(&self) -> Result<Range<Gpa>> {
        let Self { number: slot, address, size, .. } = *self;
        let shape = |problem| Error::SlotShape { slot, address, size, problem };
        if size == 0 {
            return Err(shape("is empty"));
        }
        if !address.is_aligned(PAGE) || !size.is_multiple_of(PAGE) {
            return Err(shape("is not made of whole 4 KiB pages"));
        }
        if let Some(problem) = self.backing.problem(size) {
            return Err(shape(problem));
        }
        let end = address.checked_add(size).ok_or_else(|| shape("leaves the address space"))?;
        Ok(address..end)
    }

    pub(super) fn describe(&self) -> String {
        format!("slot {}, {:#x} bytes at {}", self.number, self.size, self.address)
    }
}
