//! Boot protocols: detection, load plan, and boot information of a kernel.
//!
//! Starting a kernel takes three steps. Each is a pure function:
//!
//! 1. [`detect`] finds the protocols that a file supports, or its [`FileType`] if it is not a kernel.
//!    [`Detection::choose`] selects one, in the order of the table below.
//! 2. [`plan`] creates a [`BootPlan`]: the [`LoadPlan`](crate::LoadPlan), the entry and the operand width.
//! 3. [`BootPlan::handoff`] turns [`BootInfo`] (memory map, command line, modules, RSDP) into a [`BootHandoff`]: bytes for
//!    guest memory, their addresses, and the registers that point to them.
//!
//! | file | protocol | code at the entry |
//! |---|---|---|
//! | `linux.rs` | Linux bzImage by its setup header; vmlinux | 64-bit; 32-bit in old kernels |
//! | `multiboot2.rs` | Multiboot 2 | 32-bit |
//! | `multiboot.rs` | Multiboot 1: ELF file, or addresses in the header | 32-bit |
//! | `pvh.rs` | PVH, by the note `XEN_ELFNOTE_PHYS32_ENTRY` | 32-bit |
//! | [`elf`](crate::elf) | none: plain ELF file | as the file's class |
//! | `boot_sector.rs` | PC boot sector | 16-bit |
//! | [`flat`](crate::flat) | none: bytes at an address; never detected | chosen by the caller |
//!
//! A bzImage comes first because it also has the signature of a boot sector and often the header of a UEFI program, and runs
//! as neither. Multiboot 2 passes more information than Multiboot 1. PVH comes after both: kernels with several headers
//! have the note for Xen and the Multiboot header for other loaders. A file with a header that cannot be satisfied is never
//! started as a plain ELF file.
//!
//! The module does not set up a CPU mode. It gives the operand width and the address of the entry.

mod alloc;
mod boot_info;
mod boot_plan;
mod boot_sector;
mod detect;
mod error;
mod file_type;
mod info_builder;
mod linux;
mod multiboot;
mod multiboot2;
mod pvh;

pub use crate::memory_map::{MemoryMapEntry, MemoryMapKind};
pub use crate::protocol::{OperandWidth, Protocol};
pub use crate::register::Register;
pub use boot_info::{Blob, BootHandoff, BootInfo, BootModule, Rsdp};
pub use boot_plan::{BootOptions, BootPlan, plan};
pub use boot_sector::BootSectorError;
pub use detect::{Candidate, Detection, detect};
pub use error::{BootError, BootInfoItem};
pub use file_type::{FileCategory, FileType};
pub use linux::LinuxError;
pub use multiboot::{MultibootAddressError, MultibootError};
pub use multiboot2::{DisplayRequest, Multiboot2Error};
pub use pvh::PvhError;
