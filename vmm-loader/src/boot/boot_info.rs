//! What a kernel is told, and the form in which it finds it.

use vm_memory::GuestAddress;

use crate::address::NamedRange;
use crate::plan::LoadPlan;
use crate::protocol::Register;

/// All that a kernel can be told about its machine. A protocol passes on what it has a field for.
#[derive(Debug, Clone, Default)]
pub struct BootInfo<'a> {
    /// The memory map, sorted by address, without overlaps.
    pub memory_map: &'a [MemoryMapEntry],
    /// What in usable memory is taken already, by files that the kernel does not know of.
    pub reserved: &'a [NamedRange],
    /// The name of the kernel's file, without directories.
    pub file_name: &'a str,
    /// The command line. Without a NUL.
    pub command_line: &'a str,
    /// Files for the kernel. Linux has one at most: its initrd.
    pub modules: &'a [BootModule<'a>],
    /// The ACPI root pointer, where the machine has one.
    pub rsdp: Option<Rsdp<'a>>,
}

/// The ACPI root pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rsdp<'a> {
    /// Where it lies.
    pub address: GuestAddress,
    /// A copy of it: 20 bytes of ACPI 1.0, 36 of later ones. Multiboot 2 tells it by value.
    pub bytes: &'a [u8],
}

/// A range of guest-physical addresses, and what a kernel may do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryMapEntry {
    /// Its first address.
    pub start: GuestAddress,
    /// Its size in bytes; not 0.
    pub size: u64,
    /// What it is.
    pub kind: MemoryMapKind,
}

/// What a range is to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemoryMapKind {
    /// Memory to use.
    Usable,
    /// Not to be used.
    Reserved,
}

impl MemoryMapKind {
    /// The number that E820 has for it. Multiboot and PVH took theirs from there.
    pub(super) const fn e820(self) -> u32 {
        match self {
            Self::Usable => 1,
            Self::Reserved => 2,
        }
    }
}

/// A file for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootModule<'a> {
    /// Its size in bytes; can be 0.
    pub size: u64,
    /// Its own command line, or name. Without a NUL.
    pub command_line: &'a str,
}

/// What is to be done so that a kernel finds what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootHandoff {
    /// The kernel's own image.
    pub image: LoadPlan,
    /// More bytes for memory.
    pub blobs: Vec<Blob>,
    /// Where each of [`BootInfo::modules`] goes, in that order. An empty one has an address too.
    pub modules: Vec<GuestAddress>,
    /// Registers that are not 0 at the entry.
    pub registers: Vec<(Register, u64)>,
    /// What the kernel is told, line by line, for people.
    pub summary: Vec<String>,
}

/// Bytes for guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// What they are, such as `zero page`.
    pub name: &'static str,
    /// Where they go.
    pub address: GuestAddress,
    /// The bytes, at least one.
    pub bytes: Vec<u8>,
}
