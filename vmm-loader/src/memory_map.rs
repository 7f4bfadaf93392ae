//! Memory map entries in the terms of the BIOS call E820 (ACPI specification, "System Address Map Interfaces").

use vm_memory::GuestAddress;

/// Range of guest-physical addresses and its use, as a boot protocol reports it to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryMapEntry {
    /// First guest-physical address of the range.
    pub start: GuestAddress,
    /// Size of the range in bytes. A memory map has no entry of size 0.
    pub size: u64,
    /// Use of the range: usable or reserved.
    pub kind: MemoryMapKind,
}

impl MemoryMapEntry {
    /// Creates an entry for `size` bytes from `start` on.
    #[must_use]
    pub const fn new(start: GuestAddress, size: u64, kind: MemoryMapKind) -> Self {
        Self { start, size, kind }
    }

    /// Creates an entry for usable memory.
    #[must_use]
    pub const fn usable(start: GuestAddress, size: u64) -> Self {
        Self::new(start, size, MemoryMapKind::Usable)
    }

    /// Creates an entry for reserved memory.
    #[must_use]
    pub const fn reserved(start: GuestAddress, size: u64) -> Self {
        Self::new(start, size, MemoryMapKind::Reserved)
    }

    /// Returns the exclusive end, or the highest address if the range wraps.
    #[must_use]
    pub const fn end(&self) -> GuestAddress {
        GuestAddress(self.start.0.saturating_add(self.size))
    }
}

/// Use of a memory map entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemoryMapKind {
    /// RAM that the kernel may use (E820 type 1).
    Usable,
    /// Range that the kernel must not use: firmware data or read-only memory (E820 type 2).
    Reserved,
}

impl MemoryMapKind {
    /// Returns the E820 address range type. Multiboot, PVH and the Linux zero page use the same numbers.
    #[must_use]
    pub const fn e820_type(self) -> u32 {
        match self {
            Self::Usable => 1,
            Self::Reserved => 2,
        }
    }
}
