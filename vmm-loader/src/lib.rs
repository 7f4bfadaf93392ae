//! Loader for guest files: a file becomes a [`LoadPlan`], and the plan is loaded into guest memory.
//!
//! ```
//! # #[cfg(feature = "loader")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use vmm_loader::vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
//! use vmm_loader::{Bss, VirtAddr, flat};
//!
//! // A flat binary of two instructions, loaded at 0x1000: out %al, $0xe9; hlt
//! let file = [0xe6, 0xe9, 0xf4];
//! let plan = flat::plan(&file, GuestAddress(0x1000))?;
//! println!("{plan}");
//!
//! let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 10)])?;
//! plan.load(&file, &memory, Bss::AlreadyZero)?;
//!
//! assert_eq!(plan.resolve_entry()?, VirtAddr(0x1000));
//! assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1002))?, 0xf4);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "loader"))]
//! # fn main() {}
//! ```
//!
//! [`elf::plan`] plans an ELF file in the same way, and [`boot`] starts kernels by their boot protocol. A plan is a plain
//! value. It can be printed, checked against a memory map ([`LoadPlan::check_fits`]) and compared with other plans
//! ([`check_overlap`]) before there is any guest memory.
//!
//! The crate does not use KVM, does not set up CPU modes or page tables, and opens no files. It reports the class of a file
//! ([`ElfClass`]) or the operand width at its entry ([`OperandWidth`]), and the caller chooses the mode.
//!
//! Reading order: `segment`, `relocation`, `symbols`, `plan`, `entry`, `bounds`, `load_strategy`, [`elf`] and its five steps,
//! [`flat`], `load`, [`boot`].
//!
//! # Features
//!
//! - `loader` (default): load plans, ELF files, flat binaries and boot protocols. Without it, only value types remain
//!   ([`VirtAddr`], [`NamedRange`], [`MemoryMapEntry`], [`Protocol`], [`OperandWidth`], [`Register`]), and the crate depends
//!   on vm-memory alone.
//! - `serde`: serialization of [`Protocol`], [`Register`] and `LoadPolicy` by their lower-case names.
//! - `schemars`: JSON schemas of the same types.
#![forbid(unsafe_code)]

/// The example of the README is a test.
#[cfg(all(doctest, feature = "loader"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Version of vm-memory whose types appear in signatures of this crate.
pub use vm_memory;

mod address;
mod memory_map;
mod protocol;
mod register;

pub use address::{MAX_PHYSICAL_ADDRESS, NamedRange, VirtAddr};
pub use memory_map::{MemoryMapEntry, MemoryMapKind};
pub use protocol::{OperandWidth, Protocol};
pub use register::Register;

#[cfg(feature = "loader")]
pub mod boot;
#[cfg(feature = "loader")]
mod bounds;
#[cfg(feature = "loader")]
mod bytes;
#[cfg(feature = "loader")]
mod display;
#[cfg(feature = "loader")]
pub mod elf;
#[cfg(feature = "loader")]
mod elf_class;
#[cfg(feature = "loader")]
mod entry;
#[cfg(feature = "loader")]
mod error;
#[cfg(feature = "loader")]
pub mod flat;
#[cfg(all(feature = "loader", any(test, feature = "fuzzing")))]
pub mod fuzzing;
// `fuzzing/elf_properties.rs` is also part of `tests/loader`, which knows the crate by this name.
#[cfg(all(feature = "loader", any(test, feature = "fuzzing")))]
extern crate self as vmm_loader;
#[cfg(feature = "loader")]
mod load;
#[cfg(feature = "loader")]
mod load_strategy;
#[cfg(feature = "loader")]
mod plan;
#[cfg(feature = "loader")]
mod relocation;
#[cfg(feature = "loader")]
mod segment;
#[cfg(feature = "loader")]
mod symbols;

#[cfg(feature = "loader")]
pub use bounds::{BoundsError, check_overlap};
#[cfg(feature = "loader")]
pub use elf::base::{BaseError, DEFAULT_PIE_BASE};
#[cfg(feature = "loader")]
pub use elf::{
    ElfOptions,
    dynamic::DynamicError,
    error::ElfError,
    header::{HeaderError, is_elf},
    notes::config_note,
    pt_load::{MAX_SEGMENTS, SegmentError, SegmentProblem},
    relocate::{RelocationError, RelocationTable},
};
#[cfg(feature = "loader")]
pub use elf_class::ElfClass;
#[cfg(feature = "loader")]
pub use entry::EntryError;
#[cfg(feature = "loader")]
pub use error::LoadError;
#[cfg(feature = "loader")]
pub use flat::FlatError;
#[cfg(feature = "loader")]
pub use load::{Bss, WriteError};
#[cfg(feature = "loader")]
pub use load_strategy::{CopyReason, LoadMethod, LoadPolicy, MAP_THRESHOLD, MappedPart};
#[cfg(feature = "loader")]
pub use plan::{ImageKind, LoadPlan, PlanNote};
#[cfg(feature = "loader")]
pub use relocation::{Relocation, RelocationValue};
#[cfg(feature = "loader")]
pub use segment::{Segment, SegmentFlags};
#[cfg(feature = "loader")]
pub use symbols::{Symbol, SymbolError, SymbolKind, SymbolTableError, Symbols};
