//! Boot information: the facts that a kernel gets, and their form in memory and registers.

use vm_memory::GuestAddress;

use crate::address::NamedRange;
use crate::memory_map::MemoryMapEntry;
use crate::plan::LoadPlan;
use crate::register::Register;

/// Facts about the machine and the boot that a kernel gets. A protocol passes on those that it has a field for.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct BootInfo<'a> {
    /// Memory map, sorted by address and without overlaps.
    pub memory_map: &'a [MemoryMapEntry],
    /// Ranges of usable memory that are in use by other files. No boot structure or module is placed there.
    pub reserved: &'a [NamedRange],
    /// Name of the kernel's file, without directories. Multiboot 1 puts it before the command line.
    pub file_name: &'a str,
    /// Command line of the kernel, without a NUL.
    pub command_line: &'a str,
    /// Boot modules, loaded for the kernel besides its own file. Linux takes at most one, its initrd.
    pub modules: &'a [BootModule<'a>],
    /// ACPI root pointer, if the machine has one.
    pub rsdp: Option<Rsdp<'a>>,
}

impl<'a> BootInfo<'a> {
    /// Creates boot information with a memory map and nothing else.
    #[must_use]
    pub fn new(memory_map: &'a [MemoryMapEntry]) -> Self {
        Self { memory_map, ..Self::default() }
    }

    /// Sets the ranges of usable memory that are in use by other files.
    #[must_use]
    pub const fn with_reserved(mut self, reserved: &'a [NamedRange]) -> Self {
        self.reserved = reserved;
        self
    }

    /// Sets the name of the kernel's file.
    #[must_use]
    pub const fn with_file_name(mut self, file_name: &'a str) -> Self {
        self.file_name = file_name;
        self
    }

    /// Sets the command line of the kernel.
    #[must_use]
    pub const fn with_command_line(mut self, command_line: &'a str) -> Self {
        self.command_line = command_line;
        self
    }

    /// Sets the boot modules of the kernel.
    #[must_use]
    pub const fn with_modules(mut self, modules: &'a [BootModule<'a>]) -> Self {
        self.modules = modules;
        self
    }

    /// Sets the ACPI root pointer; `None` for a machine without ACPI tables.
    #[must_use]
    pub fn with_rsdp(mut self, rsdp: impl Into<Option<Rsdp<'a>>>) -> Self {
        self.rsdp = rsdp.into();
        self
    }
}

/// ACPI root pointer (ACPI specification, "Root System Description Pointer").
///
/// Exhaustive: boot protocols pass it by address or by value, and need nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rsdp<'a> {
    /// Guest-physical address of the root pointer's structure.
    pub address: GuestAddress,
    /// Copy of the structure: 20 bytes in ACPI 1.0, 36 bytes since ACPI 2.0. Multiboot 2 passes it by value.
    pub bytes: &'a [u8],
}

/// Boot module: a file that is loaded for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BootModule<'a> {
    /// Size of the module in bytes; may be 0.
    pub size: u64,
    /// Command line or name of the module, without a NUL.
    pub command_line: &'a str,
}

impl<'a> BootModule<'a> {
    /// Creates a module of `size` bytes with a command line.
    #[must_use]
    pub const fn new(size: u64, command_line: &'a str) -> Self {
        Self { size, command_line }
    }
}

/// Boot information in the form that the kernel expects: an image, bytes for guest memory, and registers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BootHandoff {
    /// Plan for loading the kernel's image.
    pub image: LoadPlan,
    /// Boot structures to write to guest memory.
    pub blobs: Vec<Blob>,
    /// Guest-physical addresses at which the boot modules are to be loaded, in the order of [`BootInfo::modules`]. An empty
    /// module has an address too.
    pub modules: Vec<GuestAddress>,
    /// Registers that have a value other than 0 at the entry.
    pub registers: Vec<(Register, u64)>,
    /// Summary of the boot information for people, one fact per line.
    pub summary: Vec<String>,
}

impl BootHandoff {
    /// Creates the handoff of a protocol that passes register values and nothing else.
    pub(super) const fn without_boot_info(image: LoadPlan, registers: Vec<(Register, u64)>) -> Self {
        Self { image, blobs: Vec::new(), modules: Vec::new(), registers, summary: Vec::new() }
    }
}

/// Boot structure: bytes for guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blob {
    /// Name of the structure, such as `zero page`.
    pub name: &'static str,
    /// Guest-physical address to write the structure to.
    pub address: GuestAddress,
    /// Content of the structure. There is at least one byte.
    pub bytes: Vec<u8>,
}
