//! Guest files: a file becomes a [`LoadPlan`], the plan becomes guest memory.
//!
//! A flat binary of two instructions, loaded at 0x1000:
//!
//! ```
//! use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
//! use vmm_loader::{Bss, EntryChoice, flat};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = [0xe6, 0xe9, 0xf4]; // out %al, $0xe9; hlt
//! let plan = flat::plan(&file, GuestAddress(0x1000))?;
//! println!("{plan}");
//!
//! let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 64 << 10)])?;
//! plan.load(&file, &memory, Bss::AlreadyZero)?;
//!
//! let entry = plan.resolve_entry(&EntryChoice::File)?;
//! assert_eq!(entry.0, 0x1000);
//! assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1002))?, 0xf4);
//! # Ok(())
//! # }
//! ```
//!
//! An ELF file goes the same way through [`elf::plan`]. A plan is made first and only then carried out: it is a plain
//! value that can be printed, checked against the machine's memory ([`LoadPlan::check_fits`]) and against other
//! files ([`check_overlap`]), all without a machine.
//!
//! This crate knows nothing of KVM, of CPU modes or of page tables: it reports what a file is ([`ElfClass`]) and where
//! it lies, and leaves to its caller what that means.
//!
//! A kernel that somebody else wrote is started through [`boot`]: by the boot protocol that its file asks for.
//!
//! The modules in reading order: the five steps of an ELF file (`header`, `pt_load`, `dynamic` with `base`, `relocate`,
//! `symtab`), [`elf`] which takes them, [`flat`], the plan (`plan`, `symbols`, `entry`, `bounds`), and what carries it out
//! (`load`, `load_strategy`).
#![forbid(unsafe_code)]

pub mod boot;
pub mod elf;
pub mod flat;

mod address;
mod bounds;
mod bytes;
mod entry;
mod error;
mod load;
mod load_strategy;
mod plan;
mod protocol;
mod segment;
mod symbols;

pub use address::{NamedRange, PHYSICAL_END, VirtAddr};
pub use bounds::{BoundsError, check_overlap};
pub use elf::ElfOptions;
pub use elf::base::{BaseError, DEFAULT_BASE};
pub use elf::class::ElfClass;
pub use elf::dynamic::DynamicError;
pub use elf::header::{HeaderError, is_elf};
pub use elf::notes::config_note;
pub use elf::pt_load::{MAX_SEGMENTS, SegmentError, SegmentProblem};
pub use elf::relocate::{Relocation, RelocationError, RelocationValue};
pub use elf::symtab::SymbolTableError;
pub use entry::{EntryChoice, EntryError};
pub use error::LoadError;
pub use flat::FlatError;
pub use load::{Bss, WriteError};
pub use load_strategy::{CopyReason, LoadMethod, LoadPolicy, MAP_THRESHOLD, MappedPart};
pub use plan::{ImageKind, LoadPlan, PlanNote};
pub use segment::{Segment, SegmentFlags};
pub use symbols::{Symbol, SymbolError, SymbolKind, Symbols};
