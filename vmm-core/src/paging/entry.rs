//! Page table entries: their bits in each paging scheme.
//!
//! All schemes agree on the low 12 bits. They differ in the address field and in the bits that must be 0.
//!
//! Accessed and dirty bits are never preset, so that a guest can observe the CPU setting them. The tables must therefore
//! be in writable memory.
//!
//! Source: SDM vol. 3, tables 4-4 to 4-6 (32-bit), 4-8 to 4-11 (PAE), 4-14 to 4-20 (four and five levels).

use std::fmt;

use super::{Level, Scheme};
use crate::Gpa;
use crate::spec::PagePermissions;
use crate::spec::mode::PageSize;

bitflags::bitflags! {
    /// Bits of a page table entry that are not part of the address.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct EntryFlags: u64 {
        /// P bit: the entry is present. If clear, the CPU ignores all other bits.
        const P = 1 << 0;
        /// R/W bit: writes are allowed.
        const RW = 1 << 1;
        /// U/S bit: accesses from ring 3 are allowed.
        const US = 1 << 2;
        /// PWT bit: the cache writes through.
        const PWT = 1 << 3;
        /// PCD bit: the cache is disabled.
        const PCD = 1 << 4;
        /// A bit: the CPU has accessed the page or table.
        const A = 1 << 5;
        /// D bit: the CPU has written to the page. Ignored in an entry that refers to a table.
        const D = 1 << 6;
        /// PS bit: the entry maps a page above the last level.
        const PS = 1 << 7;
        /// G bit: the translation is global, and stays in the TLB when CR3 is loaded. Ignored in an entry that refers to a
        /// table.
        const G = 1 << 8;
        /// XD bit: code cannot be executed. Reserved unless EFER.NXE is set.
        const XD = 1 << 63;
    }
}

impl fmt::Display for EntryFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, _) in self.iter_names() {
            write!(f, "{separator}{name}")?;
            separator = " ";
        }
        if self.is_empty() { f.write_str("-") } else { Ok(()) }
    }
}

/// Properties of a CPU that decide which bits of a page table entry are reserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryRules {
    /// True if EFER.NXE is set, so that the XD bit is not reserved.
    pub execute_disable: bool,
    /// Width of a physical address in bits (CPUID 0x8000_0008 EAX), at most 52.
    pub physical_bits: u32,
    /// True for an AMD CPU, which reserves bit 8 in PML5 and PML4 entries (APM vol. 2, 5.3.3). Intel CPUs ignore it there.
    pub amd: bool,
}

/// Returns a mask of the bits from `low` up to but not including `high`; both at most 63.
const fn bits(low: u32, high: u32) -> u64 {
    (1 << high) - (1 << low)
}

/// Page table entry as it is stored in a table. With two-level paging, the upper 32 bits are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageTableEntry(pub u64);

impl PageTableEntry {
    /// Returns an entry that refers to the table at `gpa` and permits everything, so that the last level alone decides.
    ///
    /// The four entries of a PAE directory-pointer table have no R/W and U/S: there these bits must be 0.
    #[must_use]
    pub const fn table(scheme: Scheme, level: &Level, next: Gpa) -> Self {
        let flags = if is_pae_root(scheme, level) {
            EntryFlags::P
        } else {
            EntryFlags::P.union(EntryFlags::RW).union(EntryFlags::US)
        };
        Self(next.0 | flags.bits())
    }

    /// Returns an entry that maps the page at `gpa`, a multiple of the page size.
    #[must_use]
    pub fn page(gpa: Gpa, size: PageSize, access: PagePermissions) -> Self {
        let mut flags = EntryFlags::P;
        flags.set(EntryFlags::RW, access.writable);
        flags.set(EntryFlags::US, access.user);
        flags.set(EntryFlags::XD, !access.executable);
        flags.set(EntryFlags::PS, size != PageSize::Size4K);
        Self(gpa.0 | flags.bits())
    }

    /// Returns the bits of the entry that are not part of the address.
    #[must_use]
    pub const fn flags(self) -> EntryFlags {
        EntryFlags::from_bits_truncate(self.0)
    }

    /// Returns true if the P bit of the entry is set.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.flags().contains(EntryFlags::P)
    }

    /// Returns the size of the page that the entry maps at this level; `None` if it refers to a table.
    ///
    /// `pse` is CR4.PSE: without it, two-level paging ignores the PS bit.
    #[must_use]
    pub const fn leaf(self, scheme: Scheme, level: &Level, pse: bool) -> Option<PageSize> {
        let large = self.flags().contains(EntryFlags::PS) && (pse || !matches!(scheme, Scheme::TwoLevel));
        match level.leaf {
            Some(PageSize::Size4K) => Some(PageSize::Size4K),
            Some(size) if large => Some(size),
            Some(_) | None => None,
        }
    }

    /// Returns the address of the table that the entry refers to.
    #[must_use]
    pub const fn table_address(self) -> Gpa {
        Gpa(self.0 & bits(12, 52))
    }

    /// Returns the address of the page of this size that the entry maps.
    ///
    /// The entry of a 4 MiB page has address bits 39 to 32 in bits 20 to 13 (PSE-36). The builder never sets them, but a
    /// guest can.
    #[must_use]
    pub const fn page_address(self, size: PageSize) -> Gpa {
        let address = self.0 & bits(12, 52) & !(size.bytes() - 1);
        match size {
            PageSize::Size4M => Gpa(address | (self.0 & bits(13, 21)) << 19),
            PageSize::Size4K | PageSize::Size2M | PageSize::Size1G => Gpa(address),
        }
    }

    /// Returns the reserved bits that are set in the entry. Using an entry with any raises #PF with the RSVD bit.
    ///
    /// The entry of a 4 MiB page has address bits 39 to 32 in bits 20 to 13. Those beyond the address width are reserved.
    #[must_use]
    pub const fn reserved_bits(
        self,
        scheme: Scheme,
        level: &Level,
        leaf: Option<PageSize>,
        rules: EntryRules,
    ) -> u64 {
        let EntryRules { execute_disable, physical_bits, amd } = rules;
        let low = match leaf {
            Some(PageSize::Size4M) => match physical_bits {
                0..=32 => bits(13, 22),
                33..=40 => bits(physical_bits - 19, 22),
                41.. => 1 << 21,
            },
            Some(PageSize::Size2M) => bits(13, 21),
            Some(PageSize::Size1G) => bits(13, 30),
            Some(PageSize::Size4K) => 0,
            // The CPU checks these when CR3 is loaded, and then uses its own copy. Bit 5 is reserved too, but some
            // hosts set it in memory afterwards, as if it were an accessed bit.
            None if is_pae_root(scheme, level) => bits(1, 3) | bits(6, 9) | 1 << 63,
            // PML4 and PML5 entries map no pages.
            None if level.leaf.is_none() && amd => EntryFlags::PS.union(EntryFlags::G).bits(),
            None if level.leaf.is_none() => EntryFlags::PS.bits(),
            None => 0,
        };
        let high = match scheme {
            Scheme::TwoLevel => return self.0 & low,
            Scheme::Pae => bits(physical_bits, 63),
            // Bits 62 to 52 are free for software, or hold a protection key.
            Scheme::FourLevel | Scheme::FiveLevel => bits(physical_bits, 52),
        };
        self.0 & (low | high | if execute_disable { 0 } else { EntryFlags::XD.bits() })
    }
}

/// Returns true if the level is the PAE directory-pointer table, whose entries have no permissions.
#[must_use]
pub(super) const fn is_pae_root(scheme: Scheme, level: &Level) -> bool {
    matches!(scheme, Scheme::Pae) && level.leaf.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: PagePermissions = PagePermissions { writable: true, user: true, executable: true };

    fn level(scheme: Scheme, name: &str) -> &'static Level {
        scheme.levels().iter().find(|level| level.name == name).unwrap()
    }

    #[test]
    fn entries_have_the_well_known_values() {
        let pd = level(Scheme::FourLevel, "PD");
        assert_eq!(PageTableEntry::table(Scheme::FourLevel, pd, Gpa(0x5000)), PageTableEntry(0x5007));
        assert_eq!(
            PageTableEntry::table(Scheme::Pae, level(Scheme::Pae, "PDPT"), Gpa(0x5000)),
            PageTableEntry(0x5001)
        );
        let kernel = PagePermissions { user: false, ..ALL };
        assert_eq!(PageTableEntry::page(Gpa(0), PageSize::Size2M, kernel), PageTableEntry(0x83));
        assert_eq!(PageTableEntry::page(Gpa(0x1000), PageSize::Size4K, ALL), PageTableEntry(0x1007));
        let data = PagePermissions { executable: false, ..ALL };
        assert_eq!(
            PageTableEntry::page(Gpa(0x1000), PageSize::Size4K, data),
            PageTableEntry(0x8000_0000_0000_1007)
        );
    }

    #[test]
    fn without_cr4_pse_a_large_entry_leads_to_a_table() {
        let (scheme, large) = (Scheme::TwoLevel, PageTableEntry(0x83));
        let pd = level(scheme, "PD");
        assert_eq!(large.leaf(scheme, pd, true), Some(PageSize::Size4M));
        assert_eq!(large.leaf(scheme, pd, false), None);
    }

    #[test]
    fn a_large_two_level_page_can_lie_above_4_gib() {
        let entry = PageTableEntry(0x0040_0083 | 1 << 13);
        assert_eq!(entry.page_address(PageSize::Size4M), Gpa(0x1_0040_0000));
    }

    #[test]
    fn reserved_bits_by_scheme_and_level() {
        let check_on = |amd, scheme, name: &str, entry: u64, nxe| {
            let level = level(scheme, name);
            let leaf = PageTableEntry(entry).leaf(scheme, level, true);
            let rules = EntryRules { execute_disable: nxe, physical_bits: 40, amd };
            PageTableEntry(entry).reserved_bits(scheme, level, leaf, rules)
        };
        let check = |scheme, name, entry, nxe| check_on(false, scheme, name, entry, nxe);
        let xd = 1 << 63;
        assert_eq!(check(Scheme::FourLevel, "PT", xd | 1, false), xd);
        assert_eq!(check(Scheme::FourLevel, "PT", xd | 1, true), 0);
        assert_eq!(check(Scheme::FourLevel, "PML4", 0x81, true), 0x80);
        assert_eq!(check(Scheme::FourLevel, "PML4", 0x101, true), 0);
        assert_eq!(check_on(true, Scheme::FourLevel, "PML4", 0x101, true), 0x100);
        assert_eq!(check_on(true, Scheme::FourLevel, "PDPT", 0x101, true), 0);
        assert_eq!(check(Scheme::FourLevel, "PD", 0x2081, true), 0x2000);
        assert_eq!(check(Scheme::FourLevel, "PT", 1 << 40 | 1, true), 1 << 40);
        assert_eq!(check(Scheme::FourLevel, "PT", 1 << 52 | 1, true), 0);
        assert_eq!(check(Scheme::Pae, "PT", 1 << 52 | 1, true), 1 << 52);
        assert_eq!(check(Scheme::Pae, "PDPT", 0x7, true), 0x6);
        assert_eq!(check(Scheme::Pae, "PDPT", 0x21, true), 0);
        assert_eq!(check(Scheme::Pae, "PDPT", xd | 1, true), xd);
        assert_eq!(check(Scheme::TwoLevel, "PD", 1 << 21 | 0x81, true), 1 << 21);
        assert_eq!(check(Scheme::TwoLevel, "PD", 1 << 21 | 0x1, true), 0);
    }
}
