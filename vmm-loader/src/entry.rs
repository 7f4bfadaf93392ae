//! Entry point: the choice of the user, and the address that it resolves to.

use crate::address::VirtAddr;

/// Choice of the entry point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryChoice {
    /// Entry of the file: `e_entry` of an ELF file, the first byte of a flat binary.
    #[default]
    File,
    /// Address of a symbol.
    Symbol(String),
    /// Virtual address. It need not be in the file, since other files may be loaded there.
    Address(VirtAddr),
    /// Real-mode address `segment:offset`, for CS and IP.
    Segmented {
        /// Value of CS.
        segment: u16,
        /// Value of IP.
        offset: u16,
    },
}

/// Address of the first instruction.
///
/// Exhaustive: an x86 CPU starts at a linear address or, in real mode, at a segment and an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryPoint {
    /// Virtual address.
    Address(VirtAddr),
    /// Real-mode address `segment:offset`, for CS and IP.
    Segmented {
        /// Value of CS.
        segment: u16,
        /// Value of IP.
        offset: u16,
    },
}

impl EntryPoint {
    /// Returns the linear address: for a real-mode address, the segment times 16 plus the offset.
    #[must_use]
    pub const fn linear(self) -> VirtAddr {
        match self {
            Self::Address(address) => address,
            Self::Segmented { segment, offset } => VirtAddr((segment as u64) * 16 + offset as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_count_in_units_of_16() {
        assert_eq!(EntryPoint::Segmented { segment: 0xffff, offset: 0xffff }.linear(), VirtAddr(0x10_ffef));
        assert_eq!(EntryPoint::Address(VirtAddr(u64::MAX)).linear(), VirtAddr(u64::MAX));
    }
}
