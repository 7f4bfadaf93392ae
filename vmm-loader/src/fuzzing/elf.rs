//! Any bytes as an ELF file.

use vm_memory::GuestAddress;

use super::elf_properties::check;
use crate::config_note;

/// Checks an ELF file. A last byte from 0x80 on chooses the base, so that a file of a compiler can be a seed.
pub fn elf(file: &[u8]) {
    let _ = config_note(file);
    let base =
        file.last().filter(|last| **last >= 0x80).map(|last| GuestAddress(u64::from(last & 0x7f) << 9));
    check(file, base);
}
