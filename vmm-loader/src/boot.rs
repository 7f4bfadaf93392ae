//! Boot protocols: how a kernel that somebody else wrote wants to be loaded, entered and told about its machine.
//!
//! Three steps, each a pure function:
//!
//! 1. [`detect`] looks at a file and says what it offers, or what it is if it is no kernel. [`Detection::choose`] picks
//!    the protocol, by the order below or by the user's word.
//! 2. [`plan`] makes a [`BootPlan`]: what goes where ([`LoadPlan`]), the entry, and the width of the code there.
//! 3. [`BootPlan::hand_over`] takes what the kernel is to be told ([`BootInfo`]) and gives the bytes that tell it, their
//!    addresses, and the registers that point to them ([`BootHandoff`]).
//!
//! | file | protocol | the code at its entry |
//! |---|---|---|
//! | `linux.rs` | a Linux bzImage, by its setup header; a vmlinux | 64-bit, or 32-bit in old ones |
//! | `multiboot2.rs` | Multiboot 2 | 32-bit |
//! | `multiboot.rs` | Multiboot 1, as ELF or with addresses in its header | 32-bit |
//! | `pvh.rs` | PVH, by the note `XEN_ELFNOTE_PHYS32_ENTRY` | 32-bit |
//! | [`elf`](crate::elf) | none: a plain ELF file | that of the file's class |
//! | `boot_sector.rs` | a PC's boot sector | 16-bit |
//! | [`flat`](crate::flat) | none, and not to be detected: bytes at an address | the caller's |
//!
//! The order of this table is the order of choice. A bzImage comes first because it also looks like a boot sector and
//! often like a UEFI program, and runs as neither. Multiboot 2 tells more than Multiboot 1. PVH comes after both: kernels
//! that have several carry the note for Xen, and the Multiboot header for loaders like this one. A plain ELF file is what
//! is left when nothing in it says how to start it: a file with a header that cannot be satisfied is never started as one.
//!
//! What a CPU mode is, this module does not know: it says how wide the code is, and where.

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

pub use crate::protocol::{CodeWidth, Protocol, Register};
pub use boot_info::{Blob, BootHandoff, BootInfo, BootModule, MemoryMapEntry, MemoryMapKind, Rsdp};
pub use boot_plan::{BootOptions, BootPlan, plan};
pub use detect::{Candidate, Detection, detect};
pub use error::BootError;
pub use file_type::FileType;
