//! Paging: how each of the four schemes splits a virtual address into table indexes.
//!
//! | file | step |
//! |---|---|
//! | `paging.rs` | the schemes: levels, index widths, page sizes |
//! | `entry.rs` | one table entry, bit by bit |
//! | `plan.rs` | mappings of virtual to physical pages, with permissions |
//! | `build.rs` | page tables for a plan |
//! | `walk.rs` | translation of one address through any tables |
//! | `merge.rs` | all mappings of any tables, merged to few ranges |
//!
//! `build` and `walk` share nothing but the schemes and the entry, so that a property test can hold one against the
//! other. None of this calls KVM.
//!
//! Source: SDM vol. 3, chapter 4.

pub mod build;
pub mod entry;
pub mod merge;
pub mod plan;
pub mod walk;

use kvm_sys_wrap::bindings::kvm_sregs;

use crate::Gva;
use crate::cpu::control_regs::{Cr0, Cr4, Efer};
use crate::spec::mode::{Mode, PageSize};

/// Paging scheme: the format of the tables and the bits of an address that they translate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// 32-bit paging: 4-byte entries, 10 + 10 + 12 bits (SDM vol. 3, 4.3).
    TwoLevel,
    /// PAE paging: 8-byte entries, 2 + 9 + 9 + 12 bits (4.4).
    Pae,
    /// Four-level paging: 8-byte entries, 9 + 9 + 9 + 9 + 12 bits (4.5).
    FourLevel,
    /// Five-level paging: 9 more bits than four-level paging (4.5).
    FiveLevel,
}

/// Level of the page tables, such as the PML4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Name of a table of the level in the SDM, such as `PML4`.
    pub name: &'static str,
    /// Number of the lowest address bit of the index into a table. One entry covers `1 << shift` bytes.
    pub shift: u32,
    /// Width of the index into a table, in bits.
    pub index_bits: u32,
    /// Page size that an entry of this level can map; `None` if it can only refer to a table.
    pub leaf: Option<PageSize>,
}

impl Level {
    const fn new(name: &'static str, shift: u32, index_bits: u32, leaf: Option<PageSize>) -> Self {
        Self { name, shift, index_bits, leaf }
    }

    /// Returns the index of an address into a table of this level.
    #[must_use]
    pub const fn index(&self, gva: Gva) -> u64 {
        gva.0 >> self.shift & ((1 << self.index_bits) - 1)
    }

    /// Returns the number of entries of a table.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        1 << self.index_bits
    }
}

const TWO_LEVEL: &[Level] =
    &[Level::new("PD", 22, 10, Some(PageSize::Size4M)), Level::new("PT", 12, 10, Some(PageSize::Size4K))];

const PAE: &[Level] = &[
    Level::new("PDPT", 30, 2, None),
    Level::new("PD", 21, 9, Some(PageSize::Size2M)),
    Level::new("PT", 12, 9, Some(PageSize::Size4K)),
];

const FIVE_LEVEL: &[Level] = &[
    Level::new("PML5", 48, 9, None),
    Level::new("PML4", 39, 9, None),
    Level::new("PDPT", 30, 9, Some(PageSize::Size1G)),
    Level::new("PD", 21, 9, Some(PageSize::Size2M)),
    Level::new("PT", 12, 9, Some(PageSize::Size4K)),
];

const FOUR_LEVEL: &[Level] = FIVE_LEVEL.split_at(1).1;

impl Scheme {
    /// Returns the scheme of a mode; `None` without paging.
    #[must_use]
    pub const fn from_mode(mode: Mode, five_level: bool) -> Option<Self> {
        match mode {
            Mode::Real | Mode::Protected => None,
            Mode::Paged => Some(Self::TwoLevel),
            Mode::Pae => Some(Self::Pae),
            Mode::Long if five_level => Some(Self::FiveLevel),
            Mode::Long => Some(Self::FourLevel),
        }
    }

    /// Returns the paging scheme that control registers select; `None` without paging (SDM vol. 3, 4.1.1).
    #[must_use]
    pub const fn from_sregs(sregs: &kvm_sregs) -> Option<Self> {
        let cr4 = Cr4::from_bits_retain(sregs.cr4);
        if !Cr0::from_bits_retain(sregs.cr0).contains(Cr0::PG) {
            None
        } else if !cr4.contains(Cr4::PAE) {
            Some(Self::TwoLevel)
        } else if !Efer::from_bits_retain(sregs.efer).contains(Efer::LME) {
            Some(Self::Pae)
        } else if cr4.contains(Cr4::LA57) {
            Some(Self::FiveLevel)
        } else {
            Some(Self::FourLevel)
        }
    }

    /// Returns the levels of the page tables, the root first.
    #[must_use]
    pub const fn levels(self) -> &'static [Level] {
        match self {
            Self::TwoLevel => TWO_LEVEL,
            Self::Pae => PAE,
            Self::FourLevel => FOUR_LEVEL,
            Self::FiveLevel => FIVE_LEVEL,
        }
    }

    /// Returns the size of a page table entry in bytes: 4 or 8.
    #[must_use]
    pub const fn entry_bytes(self) -> u64 {
        match self {
            Self::TwoLevel => 4,
            Self::Pae | Self::FourLevel | Self::FiveLevel => 8,
        }
    }

    /// Returns the number of address bits that are translated: 32, 48 or 57.
    #[must_use]
    pub const fn address_bits(self) -> u32 {
        match self {
            Self::TwoLevel | Self::Pae => 32,
            Self::FourLevel => 48,
            Self::FiveLevel => 57,
        }
    }

    /// Returns true if the address can be used: in 32-bit modes it has at most 32 bits, in long mode it is canonical, that is,
    /// all bits that are not translated equal the highest translated one (SDM vol. 1, 3.3.7.1).
    #[must_use]
    pub const fn can_address(self, gva: Gva) -> bool {
        match self {
            Self::TwoLevel | Self::Pae => gva.0 >> 32 == 0,
            Self::FourLevel | Self::FiveLevel => {
                let unused = 64 - self.address_bits();
                (gva.0 << unused).cast_signed() >> unused == gva.0.cast_signed()
            }
        }
    }

    /// Returns the end of the identity mapping: the lowest physical address that cannot be its own virtual address.
    #[must_use]
    pub const fn identity_end(self) -> u64 {
        match self {
            Self::TwoLevel | Self::Pae => 1 << 32,
            Self::FourLevel => 1 << 47,
            // A physical address has at most 52 bits, so all can be mapped.
            Self::FiveLevel => 1 << 52,
        }
    }

    /// Returns the end of the physical addresses that an entry can hold. PSE-36 is not used, so that is 4 GiB with
    /// two-level paging.
    #[must_use]
    pub const fn physical_end(self) -> u64 {
        match self {
            Self::TwoLevel => 1 << 32,
            Self::Pae | Self::FourLevel | Self::FiveLevel => 1 << 52,
        }
    }

    /// Returns the name of the paging scheme in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwoLevel => "two-level paging",
            Self::Pae => "PAE paging",
            Self::FourLevel => "four-level paging",
            Self::FiveLevel => "five-level paging",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_indexes_and_the_offset_cut_the_whole_address() {
        for scheme in [Scheme::TwoLevel, Scheme::Pae, Scheme::FourLevel, Scheme::FiveLevel] {
            let mut shift = scheme.address_bits();
            for level in scheme.levels() {
                shift -= level.index_bits;
                assert_eq!(level.shift, shift, "{} {}", scheme.name(), level.name);
                assert!(level.leaf.is_none_or(|size| size.bytes() == 1 << shift));
                assert!(level.entries() * scheme.entry_bytes() <= 4096);
            }
            assert_eq!(shift, 12);
        }
    }

    #[test]
    fn canonical_addresses() {
        for (gva, four, five) in [
            (0, true, true),
            (0x7fff_ffff_ffff, true, true),
            (0x8000_0000_0000, false, true),
            (0xffff_7fff_ffff_ffff, false, true),
            (0xffff_8000_0000_0000, true, true),
            (0x0100_0000_0000_0000, false, false),
            (0xff00_0000_0000_0000, false, true),
            (u64::MAX, true, true),
        ] {
            assert_eq!(Scheme::FourLevel.can_address(Gva(gva)), four, "{gva:#x}");
            assert_eq!(Scheme::FiveLevel.can_address(Gva(gva)), five, "{gva:#x}");
        }
        assert!(Scheme::Pae.can_address(Gva(0xffff_ffff)));
        assert!(!Scheme::Pae.can_address(Gva(0x1_0000_0000)));
    }
}
