//! All mappings of page tables, with adjacent pages merged to ranges.
//!
//! Reads tables as [`super::walk`] does. A guest can make tables that refer to themselves, so the number of visited tables
//! is limited.

use std::fmt;

use super::Scheme;
use super::walk::{ReadMemory, WalkEnd, Walker, describe_permissions};
use crate::spec::PagePermissions;
use crate::spec::gpa_range::{ByteSize, GpaRange};
use crate::spec::mode::PageSize;
use crate::{Gpa, Gva};

/// Maximum number of tables that are visited: enough for 512 GiB of 4 KiB pages.
const MAX_TABLES: u32 = 1 << 18;
/// Maximum number of ranges that are collected.
const MAX_RANGES: usize = 1 << 16;

/// Range of virtual pages of one size and one permission that maps a contiguous physical range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedRange {
    /// First virtual address of the range.
    pub gva: Gva,
    /// First guest-physical address of the range.
    pub gpa: Gpa,
    /// Size of the pages in the range.
    pub size: PageSize,
    /// Number of pages in the range.
    pub count: u64,
    /// Permissions of the range, those of all levels together.
    pub access: PagePermissions,
}

impl MappedRange {
    /// Returns the size of the range in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.size.bytes())
    }

    /// Returns the physical range; `None` if it exceeds the address space.
    #[must_use]
    pub fn physical(&self) -> Option<GpaRange> {
        GpaRange::new(self.gpa, self.bytes())
    }

    /// Returns the virtual address of a physical address in the range.
    #[must_use]
    pub const fn gva_of(&self, gpa: Gpa) -> Gva {
        Gva(self.gva.0.wrapping_add(gpa.0.wrapping_sub(self.gpa.0)))
    }

    /// Returns the first and the last virtual address as text: `0x1000-0x1fff`. The address after the last one does not
    /// always fit in 64 bits.
    #[must_use]
    pub fn addresses(&self) -> String {
        format!("{}-{:#x}", self.gva, self.gva.0.saturating_add(self.bytes() - 1))
    }

    /// Returns true if `next` continues this range.
    fn continues(&self, next: &Self) -> bool {
        let (gva, gpa) = (self.gva.0.checked_add(self.bytes()), self.gpa.0.checked_add(self.bytes()));
        (gva, gpa) == (Some(next.gva.0), Some(next.gpa.0))
            && (self.size, self.access) == (next.size, next.access)
    }
}

/// Page table entry that the CPU cannot use: one with reserved bits, or one that refers to a table outside memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenEntry {
    /// First virtual address that the entry translates.
    pub gva: Gva,
    /// Name of the table that holds the entry, or that is not in memory.
    pub table: &'static str,
    /// Physical address of the entry or of the table.
    pub at: Gpa,
    /// Reason why the CPU cannot use the entry: [`WalkEnd::Reserved`] for reserved bits, [`WalkEnd::NoMemory`] for a table
    /// outside memory.
    pub why: WalkEnd,
}

/// All mappings of a vCPU's page tables, with adjacent pages merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mappings {
    /// Mapped ranges, sorted by virtual address; none without paging.
    pub ranges: Vec<MappedRange>,
    /// Present entries and tables that the CPU cannot use, sorted by virtual address.
    pub broken: Vec<BrokenEntry>,
    /// Guest-physical addresses of the page tables, the root first. A table that is used twice appears twice.
    pub tables: Vec<Gpa>,
    /// True if a limit ended the search, so that the list is incomplete.
    pub truncated: bool,
}

/// Returns all mappings of a vCPU whose tables are in `memory`. Entries with reserved bits are listed as broken.
#[must_use]
pub fn mappings(walker: &Walker, memory: &(impl ReadMemory + ?Sized)) -> Mappings {
    let mut mappings = Mappings::default();
    if let Some(scheme) = walker.scheme {
        let top = Table {
            at: walker.root,
            depth: 0,
            gva: 0,
            access: PagePermissions { writable: true, user: true, executable: true },
        };
        let mut budget = MAX_TABLES;
        mappings.collect(walker, scheme, memory, top, &mut budget);
    }
    mappings
}

/// Table to visit.
#[derive(Clone, Copy)]
struct Table {
    at: Gpa,
    depth: usize,
    /// Virtual address that the first entry is for.
    gva: u64,
    /// Permissions of the levels above.
    access: PagePermissions,
}

impl Mappings {
    fn collect(
        &mut self,
        walker: &Walker,
        scheme: Scheme,
        memory: &(impl ReadMemory + ?Sized),
        table: Table,
        budget: &mut u32,
    ) {
        let Some(level) = scheme.levels().get(table.depth) else { return };
        let collected = self.ranges.len().max(self.broken.len());
        let rest = budget.checked_sub(1).filter(|_| collected < MAX_RANGES);
        self.truncated |= rest.is_none();
        let Some(rest) = rest else { return };
        *budget = rest;
        self.tables.push(table.at);
        for index in 0..level.entries() {
            let at = Gpa(table.at.0 + index * scheme.entry_bytes());
            let gva = sign_extended(scheme, table.gva | index << level.shift);
            let broken = |why| BrokenEntry { gva: Gva(gva), table: level.name, at, why };
            let Some(entry) = memory.read_entry(at, scheme) else {
                // Memory consists of whole pages, so a table is in memory if its first entry is.
                self.broken.push(broken(WalkEnd::NoMemory(at)));
                return;
            };
            let step = walker.step(scheme, level, index, at, entry);
            match walker.check(&step) {
                Ok(()) => {}
                Err(WalkEnd::NotPresent) => continue,
                Err(why) => {
                    self.broken.push(broken(why));
                    continue;
                }
            }
            let access = step.narrow(table.access, walker.execute_disable);
            match step.leaf {
                Some(size) => {
                    let gpa = entry.page_address(size);
                    self.add(MappedRange { gva: Gva(gva), gpa, size, count: 1, access });
                }
                None => {
                    let next = Table { at: entry.table_address(), depth: table.depth + 1, gva, access };
                    self.collect(walker, scheme, memory, next, budget);
                }
            }
        }
    }

    fn add(&mut self, page: MappedRange) {
        match self.ranges.last_mut() {
            Some(last) if last.continues(&page) => last.count += 1,
            Some(_) | None => self.ranges.push(page),
        }
    }
}

/// Returns the canonical address with the same translated bits.
const fn sign_extended(scheme: Scheme, gva: u64) -> u64 {
    match scheme {
        Scheme::TwoLevel | Scheme::Pae => gva,
        Scheme::FourLevel | Scheme::FiveLevel => {
            let unused = 64 - scheme.address_bits();
            ((gva << unused).cast_signed() >> unused).cast_unsigned()
        }
    }
}

impl fmt::Display for MappedRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} -> {}, {}, {} x {}, {}",
            self.addresses(),
            self.gpa,
            ByteSize(self.bytes()),
            self.count,
            self.size,
            describe_permissions(self.access)
        )
    }
}

impl fmt::Display for Mappings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for range in &self.ranges {
            writeln!(f, "{range}")?;
        }
        if self.truncated { writeln!(f, "and more: the tables seem to point at themselves") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::table_image::TableImage;

    fn walker(scheme: Scheme) -> Walker {
        Walker {
            scheme: Some(scheme),
            root: Gpa(0),
            large_pages: true,
            execute_disable: true,
            physical_bits: 52,
            amd: false,
        }
    }

    fn table(entries: &[(usize, u64)]) -> [TableImage; 1] {
        let mut words = [0u64; 512];
        for (index, entry) in entries {
            words[*index] = *entry;
        }
        [TableImage {
            gpa: Gpa(0),
            name: "tables",
            bytes: words.iter().flat_map(|word| word.to_le_bytes()).collect(),
        }]
    }

    #[test]
    fn what_the_cpu_cannot_use_is_kept() {
        // A table beyond the one page of memory, and an entry with a reserved bit.
        let found = mappings(&walker(Scheme::FourLevel), table(&[(1, 0x9003), (2, 0x83)]).as_slice());
        assert_eq!(found.ranges, []);
        assert_eq!(found.tables, [Gpa(0), Gpa(0x9000)]);
        let broken: Vec<_> =
            found.broken.iter().map(|broken| (broken.gva.0, broken.table, broken.why)).collect();
        let missing = (1 << 39, "PDPT", WalkEnd::NoMemory(Gpa(0x9000)));
        assert_eq!(broken, [missing, (2 << 39, "PML4", WalkEnd::Reserved(0x80))]);
    }

    /// A PDPT in the place of the root, seen as five levels: every table is this one.
    #[test]
    fn tables_that_point_at_themselves_end() {
        let entries: Vec<(usize, u64)> = (0..512).map(|index| (index, 3)).collect();
        let found = mappings(&walker(Scheme::FiveLevel), table(&entries).as_slice());
        assert!(found.truncated);
        assert!(found.to_string().ends_with("and more: the tables seem to point at themselves\n"));
    }

    #[test]
    fn neighbours_are_joined_and_others_are_not() {
        // In a PAE root only four entries count; the first leads to this same table as a
        // page directory, and the first there to it as a page table.
        let entries = [(0, 0x1), (4, 0x40_0087), (5, 0x60_0087), (6, 0x80_0085), (7, 0xc0_0085)];
        let found = mappings(&walker(Scheme::Pae), table(&entries).as_slice());
        let large = found.ranges.iter().filter(|range| range.size == PageSize::Size2M);
        let lines: Vec<String> = large.map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "0x800000-0xbfffff -> 0x400000, 4 MiB, 2 x 2MiB, rwx user",
                "0xc00000-0xdfffff -> 0x800000, 2 MiB, 1 x 2MiB, r-x user",
                "0xe00000-0xffffff -> 0xc00000, 2 MiB, 1 x 2MiB, r-x user",
            ]
        );
    }
}
