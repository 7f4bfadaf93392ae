//! Guest memory: its regions, and what is behind each on the host.

use kvm_sys_wrap::Gpa;
use serde::Deserialize;

/// From this size in bytes on, memory gets transparent huge pages unless told otherwise. The first touch of a huge page
/// clears 2 MiB, which a small guest never gets back; a large one saves a fault for each of its other 511 pages.
pub const HUGE_PAGES_THRESHOLD: u64 = 64 << 20;

/// One region of guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First guest-physical address; a multiple of 4 KiB.
    pub address: Gpa,
    /// Size in bytes; a multiple of 4 KiB, not 0.
    pub size: u64,
    /// The guest's writes exit as MMIO instead of changing memory (`KVM_MEM_READONLY`).
    pub read_only: bool,
    /// Ask the host for transparent huge pages (`MADV_HUGEPAGE`).
    pub huge_pages: bool,
    /// Let the host merge equal pages (`MADV_MERGEABLE`).
    pub mergeable: bool,
    /// What is behind it.
    pub backing: MemoryBacking,
}

/// Host memory behind a region of guest memory.
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
    /// Returns the name used in configuration files and messages.
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
    /// Writable, mergeable, anonymous memory of `size` bytes at `address`, with huge pages if it is large.
    #[must_use]
    pub const fn new(address: Gpa, size: u64) -> Self {
        Self::on(MemoryBacking::Anonymous, address, size)
    }

    /// Writable memory with the advice that suits its size and what is behind it: pages are merged, and made huge, only
    /// where they are anonymous.
    #[must_use]
    pub const fn on(backing: MemoryBacking, address: Gpa, size: u64) -> Self {
        let anonymous = matches!(backing, MemoryBacking::Anonymous);
        let huge_pages = anonymous && size >= HUGE_PAGES_THRESHOLD;
        Self { address, size, read_only: false, huge_pages, mergeable: anonymous, backing }
    }
}
