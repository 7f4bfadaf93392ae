//! Builds page tables from a plan: splits each mapping into runs of the largest pages that fit, and writes their entries.
//!
//! A large page needs its virtual and its physical address at multiples of its size, and the whole of it inside one
//! piece. So a piece gets small pages up to the first such multiple and after the last, and large pages between. A piece
//! whose two addresses differ modulo the large page size gets small pages only.
//!
//! The tables are contiguous, the root first, in the order in which they are needed.

use super::Scheme;
use super::entry::PageTableEntry;
use super::plan::{PagingPlan, PlanPiece};
use crate::spec::PagePermissions;
use crate::spec::mode::PageSize;
use crate::{Gpa, Gva};

/// Size of a table. Only the PAE root is smaller (32 bytes); it gets a page too.
const TABLE: u64 = 4096;

/// Run of adjacent pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    gva: Gva,
    gpa: Gpa,
    size: PageSize,
    /// Number of pages, at least 1.
    count: u64,
    access: PagePermissions,
}

impl Run {
    /// Returns the address of the last byte. The address after it may not exist.
    const fn last(&self) -> u64 {
        self.gva.0 + (self.count * self.size.bytes() - 1)
    }
}

/// Returns the number of page tables that a plan needs. They are not built: a plan can need more than fit into memory.
#[must_use]
pub fn count(plan: &PagingPlan) -> u64 {
    let levels = plan.scheme.levels();
    // Below each level, the number of the last table so far. Pieces are sorted, so numbers only grow.
    let mut newest: Vec<Option<u64>> = vec![None; levels.len()];
    let mut count = 1u64;
    for run in runs(plan) {
        // A table is known by the address bits that lead to it: those that its parent decodes, and up.
        for (parent, newest) in levels.iter().zip(&mut newest) {
            if 1 << parent.shift <= run.size.bytes() {
                break;
            }
            let (first, last) = (run.gva.0 >> parent.shift, run.last() >> parent.shift);
            let known = newest.is_some_and(|newest| newest >= first);
            count = count.saturating_add(last - first + u64::from(!known));
            *newest = Some(last);
        }
    }
    count
}

/// Returns true if a plan has pages of the given size.
#[must_use]
pub fn uses(plan: &PagingPlan, size: PageSize) -> bool {
    runs(plan).any(|run| run.size == size)
}

/// Returns the bytes of a plan's page tables for the address `root`, a multiple of 4 KiB: [`count`] times 4 KiB.
#[must_use]
pub fn bytes(plan: &PagingPlan, root: Gpa) -> Vec<u8> {
    let mut tables = Tables { scheme: plan.scheme, root, entries: Vec::new() };
    tables.add();
    for run in runs(plan) {
        for number in 0..run.count {
            let offset = number * run.size.bytes();
            tables.map(Gva(run.gva.0 + offset), Gpa(run.gpa.0 + offset), run.size, run.access);
        }
    }
    tables.into_bytes()
}

/// Contiguous tables under construction.
struct Tables {
    scheme: Scheme,
    root: Gpa,
    entries: Vec<u64>,
}

impl Tables {
    /// Number of entries in a page.
    const fn entries_per_table(&self) -> u64 {
        TABLE / self.scheme.entry_bytes()
    }

    /// Adds an empty table and returns its address. The layout has reserved memory for all tables, so it cannot wrap.
    fn add(&mut self) -> Gpa {
        let offset = self.entries.len() as u64 * self.scheme.entry_bytes();
        self.entries.extend((0..self.entries_per_table()).map(|_| 0));
        Gpa(self.root.0.saturating_add(offset))
    }

    /// Returns the index in `entries` of an entry of a table.
    fn entry(&mut self, table: Gpa, index: u64) -> Option<&mut u64> {
        let first = table.0.checked_sub(self.root.0)? / self.scheme.entry_bytes();
        self.entries.get_mut(usize::try_from(first + index).ok()?)
    }

    /// Adds the entry of one page, and missing tables above it. Never `None`: the indexes are in range.
    fn map(&mut self, gva: Gva, gpa: Gpa, size: PageSize, access: PagePermissions) -> Option<()> {
        let scheme = self.scheme;
        let mut table = self.root;
        for level in scheme.levels() {
            let index = level.index(gva);
            if level.leaf == Some(size) {
                *self.entry(table, index)? = PageTableEntry::page(gpa, size, access).0;
                break;
            }
            let entry = PageTableEntry(*self.entry(table, index)?);
            let next = if entry.is_present() { entry.table_address() } else { self.add() };
            *self.entry(table, index)? = PageTableEntry::table(scheme, level, next).0;
            table = next;
        }
        Some(())
    }

    fn into_bytes(self) -> Vec<u8> {
        let entries = self.entries.into_iter();
        match self.scheme {
            Scheme::TwoLevel => {
                entries.flat_map(|entry| ((entry & 0xffff_ffff) as u32).to_le_bytes()).collect()
            }
            Scheme::Pae | Scheme::FourLevel | Scheme::FiveLevel => {
                entries.flat_map(u64::to_le_bytes).collect()
            }
        }
    }
}

/// Returns all runs of a plan, sorted by virtual address.
fn runs(plan: &PagingPlan) -> impl Iterator<Item = Run> {
    // Largest first.
    let sizes: Vec<PageSize> = plan
        .scheme
        .levels()
        .iter()
        .filter_map(|level| level.leaf)
        .filter(|size| size.bytes() <= plan.largest.bytes())
        .collect();
    plan.pieces.iter().flat_map(move |piece| {
        let mut runs = Vec::new();
        cut(piece, &sizes, &mut runs);
        runs
    })
}

/// Splits a piece into runs: small pages up to the first multiple of the large size, large pages, small pages.
fn cut(piece: &PlanPiece, sizes: &[PageSize], runs: &mut Vec<Run>) {
    let Some((size, smaller)) = sizes.split_first() else { return };
    let unit = size.bytes() >> 12;
    let head = (unit - piece.page % unit) % unit;
    let fits = piece.page % unit == piece.frame % unit && head + unit <= piece.count;
    if !fits {
        return cut(piece, smaller, runs);
    }
    let large = (piece.count - head) / unit;
    let middle =
        PlanPiece { page: piece.page + head, frame: piece.frame + head, count: large * unit, ..*piece };
    let tail = PlanPiece {
        page: middle.page + middle.count,
        frame: middle.frame + middle.count,
        count: piece.count - head - middle.count,
        ..*piece
    };
    if head > 0 {
        cut(&PlanPiece { count: head, ..*piece }, smaller, runs);
    }
    runs.push(Run { gva: middle.gva(), gpa: middle.gpa(), size: *size, count: large, access: piece.access });
    if tail.count > 0 {
        cut(&tail, smaller, runs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCESS: PagePermissions = PagePermissions { writable: true, user: false, executable: true };

    fn plan(scheme: Scheme, largest: PageSize, pieces: &[(u64, u64, u64)]) -> PagingPlan {
        let pieces = pieces.iter().map(|(page, frame, count)| PlanPiece {
            page: *page,
            frame: *frame,
            count: *count,
            access: ACCESS,
        });
        PagingPlan { scheme, largest, pieces: pieces.collect() }
    }

    fn sizes(plan: &PagingPlan) -> Vec<(&'static str, u64)> {
        runs(plan).map(|run| (run.size.name(), run.count)).collect()
    }

    #[test]
    fn ragged_ends_get_small_pages() {
        let plan = plan(Scheme::FourLevel, PageSize::Size1G, &[(0x1ff, 0x1ff, 0x80201 - 0x1ff)]);
        let expected = [("4KiB", 1), ("2MiB", 511), ("1GiB", 1), ("2MiB", 1), ("4KiB", 1)];
        assert_eq!(sizes(&plan), expected);
    }

    #[test]
    fn addresses_that_differ_by_a_small_page_get_small_pages() {
        assert_eq!(sizes(&plan(Scheme::FourLevel, PageSize::Size2M, &[(0, 1, 0x400)])), [("4KiB", 0x400)]);
        assert_eq!(sizes(&plan(Scheme::FourLevel, PageSize::Size2M, &[(0, 0x200, 0x400)])), [("2MiB", 2)]);
    }

    #[test]
    fn the_page_size_is_a_limit() {
        assert_eq!(sizes(&plan(Scheme::TwoLevel, PageSize::Size4K, &[(0, 0, 0x400)])), [("4KiB", 0x400)]);
        assert_eq!(sizes(&plan(Scheme::TwoLevel, PageSize::Size4M, &[(0, 0, 0x400)])), [("4MiB", 1)]);
    }

    #[test]
    fn one_large_page_needs_one_table_for_each_level_above_it() {
        let tables = |scheme, largest, pieces: &[_]| count(&plan(scheme, largest, pieces));
        assert_eq!(tables(Scheme::FourLevel, PageSize::Size1G, &[(0, 0, 0x40000)]), 2);
        assert_eq!(tables(Scheme::FourLevel, PageSize::Size2M, &[(0, 0, 0x200)]), 3);
        assert_eq!(tables(Scheme::FiveLevel, PageSize::Size4K, &[(0, 0, 0x200)]), 5);
        assert_eq!(tables(Scheme::Pae, PageSize::Size2M, &[(0, 0, 0x200)]), 2);
        assert_eq!(tables(Scheme::TwoLevel, PageSize::Size4M, &[(0, 0, 0x400)]), 1);
        assert_eq!(tables(Scheme::FourLevel, PageSize::Size2M, &[]), 1);
    }

    #[test]
    fn a_terabyte_of_small_pages_is_counted_without_being_built() {
        let plan = plan(Scheme::FourLevel, PageSize::Size4K, &[(0, 0, 1 << 28)]);
        assert_eq!(count(&plan), 1 + 2 + (1 << 10) + (1 << 19));
    }

    #[test]
    fn the_last_page_of_the_address_space_can_be_mapped() {
        let plan = plan(Scheme::FourLevel, PageSize::Size2M, &[((1 << 52) - 1, 5, 1)]);
        assert_eq!(count(&plan), 4);
        let bytes = bytes(&plan, Gpa(0x1000));
        assert_eq!(bytes[4 * 4096 - 8..], 0x5003u64.to_le_bytes());
    }
}
