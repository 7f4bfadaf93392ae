//! Host memory behind the slots of a VM: kinds of memory, files in it, and the table that keeps it mapped.
//!
//! Nothing here calls KVM: [`Vm`](crate::Vm) holds the table, and `memory.rs` makes its memory slots.
//!
//! | file | contents |
//! |---|---|
//! | `memory_file.rs` | memory file (memfd) |
//! | `backing.rs`, `slot.rs` | a slot as plain data |
//! | `sigbus.rs`, `private_copy.rs` | missing pages of mapped files: zeros, or a copy made at the first access |
//! | `mapped_file.rs`, `file_overlay.rs` | file for reading; range of a file that a slot shows |
//! | `host_size.rs` | size of RAM and swap, which slots may not exceed |
//! | `slot_table.rs` | slots of a VM with their mappings |

mod backing;
mod file_overlay;
mod host_size;
mod mapped_file;
mod memory_file;
mod private_copy;
mod sigbus;
mod slot;
mod slot_table;

pub use backing::SlotBacking;
pub use file_overlay::FileRange;
pub use mapped_file::MappedFile;
pub use memory_file::MemoryFile;
pub use slot::{MemoryAdvice, Slot, SlotFlags};
pub use slot_table::GuestMemory;

pub(crate) use file_overlay::FileOverlay;
pub(crate) use host_size::check_overcommit;
pub(crate) use memory_file::pread_volatile;
pub(crate) use sigbus::SigbusGuard;
pub(crate) use slot_table::{MappedSlot, SlotTable, advise};
