//! Relocation: a word of the image that depends on the base address.

use vm_memory::GuestAddress;

/// Relocated word: a word of the image that depends on the base address. It is written after the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relocation {
    /// Guest-physical address of the word to write.
    pub target: GuestAddress,
    /// Value to write to the word.
    pub value: RelocationValue,
}

/// Value of a relocated word, written in little-endian order.
///
/// Exhaustive: there is one variant for each [`ElfClass`](crate::ElfClass).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelocationValue {
    /// Value of four bytes, for ELF32.
    Bits32(u32),
    /// Value of eight bytes, for ELF64.
    Bits64(u64),
}
