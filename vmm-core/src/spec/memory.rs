//! Guest memory regions and their backing on the host.

use kvm_sys_wrap::Gpa;
use serde::Deserialize;

/// Size in bytes from which memory gets transparent huge pages by default. The first access to a huge page clears 2 MiB,
/// which costs a small guest more than it saves; a large guest saves the faults of the other 511 pages.
pub const HUGE_PAGES_THRESHOLD: u64 = 64 << 20;

/// Region of guest memory, which becomes a KVM memory slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First guest-physical address; a multiple of 4 KiB.
    pub address: Gpa,
    /// Size of the region in bytes; a multiple of 4 KiB, not 0.
    pub size: u64,
    /// True if the guest's writes exit as MMIO instead of changing memory (`KVM_MEM_READONLY`).
    pub read_only: bool,
    /// True to ask the host for transparent huge pages (`MADV_HUGEPAGE`).
    pub huge_pages: bool,
    /// True to let the host merge equal pages (`MADV_MERGEABLE`).
    pub mergeable: bool,
    /// Host memory that the region consists of.
    pub backing: MemoryBacking,
    /// True to allow more memory than the host has. The process may be killed when the guest uses it.
    pub overcommit: bool,
}

/// Kind of host memory that a region of guest memory consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MemoryBacking {
    /// Anonymous memory of the process.
    #[default]
    Anonymous,
    /// File in memory (memfd_create(2)), which other machines or processes can map too.
    Memfd,
    /// Huge pages of 2 MiB from the pool that the host's administrator has reserved. The size is a multiple of 2 MiB.
    Hugetlb,
}

impl MemoryBacking {
    /// Returns the name of the kind in configuration files and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Memfd => "memfd",
            Self::Hugetlb => "hugetlb",
        }
    }
}

impl MemoryRegion {
    /// Returns a region of writable, mergeable, anonymous memory of `size` bytes at `address`, with huge pages from
    /// [`HUGE_PAGES_THRESHOLD`] on.
    #[must_use]
    pub const fn new(address: Gpa, size: u64) -> Self {
        Self::with_backing(MemoryBacking::Anonymous, address, size)
    }

    /// Returns a region of writable memory with the given backing. Only anonymous pages are merged, or made huge.
    #[must_use]
    pub const fn with_backing(backing: MemoryBacking, address: Gpa, size: u64) -> Self {
        let anonymous = matches!(backing, MemoryBacking::Anonymous);
        let huge_pages = anonymous && size >= HUGE_PAGES_THRESHOLD;
        Self { address, size, read_only: false, huge_pages, mergeable: anonymous, backing, overcommit: false }
    }
}
