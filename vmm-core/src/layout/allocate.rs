//! Allocation of the parts whose address the user left open.
//!
//! Tables get the lowest free pages, the stack the highest below the top of the lowest memory. Page tables come last: their
//! number depends on what they map, and also on their own address, since their pages are closed to ring 3. Their size is
//! therefore found by iteration; it only grows.

use super::bus::AddressSpace;
use super::check::{Checked, memory_problem, overlaps};
use super::pinned::{MIN_STACK, STACK_SIZES};
use super::{LayoutEntry, LayoutError, LayoutPart, LayoutProblem, RangeOwner, address_limit};
use crate::Gpa;
use crate::PAGE_SIZE;
use crate::paging::plan::{self, PagingPlan, ReservedRange};
use crate::paging::{Scheme, build};
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;

/// Lowest address that is allocated: below are the real-mode vector table, or the page that catches null pointers.
const FLOOR: Gpa = Gpa(0x1000);
/// Highest stack pointer with SS = 0 in real mode that is a multiple of 16.
const REAL_STACK_TOP: Gpa = Gpa(0xfff0);
/// Maximum number of iterations for the size of the page tables. Two suffice unless their address splits large pages.
const MAX_ROUNDS: u32 = 16;

/// Maximum number of page tables: 1 GiB, which maps 512 GiB with 4 KiB pages. They are built in the VMM's memory first.
const MAX_TABLES: u64 = 1 << 18;

/// Allocates all missing parts. Returns all entries, sorted by address, and the plan of the page tables.
pub(super) fn place(
    spec: &MachineSpec,
    checked: &Checked,
) -> Result<(Vec<LayoutEntry>, Option<PagingPlan>), LayoutError> {
    let mut space = Space { bus: &checked.bus, placed: checked.fixed.clone(), spec };
    let mut problems = Vec::new();
    for part in
        [LayoutPart::Gdt, LayoutPart::Idt, LayoutPart::Tss, LayoutPart::TrapPage, LayoutPart::KernelStack]
    {
        let size = part.fixed_size(spec.boot.mode, spec.boot.ring).map_or(0, u64::from);
        if size > 0 && !space.has(part) {
            match space.lowest(size) {
                Some(range) => space.add(part, range),
                None => problems.push(space.no_room(part, size)),
            }
        }
    }
    if !space.has(LayoutPart::Stack) {
        match space.stack() {
            Ok(range) => space.add(LayoutPart::Stack, range),
            Err(problem) => problems.push(problem),
        }
    }
    LayoutError::unless_empty(problems)?;
    let scheme = Scheme::from_mode(spec.boot.mode, spec.boot.paging.five_level);
    let paging = scheme.map(|scheme| space.page_tables(scheme)).transpose()?;
    space.placed.sort_by_key(|placed| placed.range);
    Ok((space.placed, paging))
}

/// Memory and the ranges in use.
struct Space<'a> {
    bus: &'a AddressSpace,
    placed: Vec<LayoutEntry>,
    spec: &'a MachineSpec,
}

impl Space<'_> {
    fn has(&self, part: LayoutPart) -> bool {
        self.placed.iter().any(|placed| placed.part() == Some(part))
    }

    fn add(&mut self, part: LayoutPart, range: GpaRange) {
        self.placed.push(LayoutEntry { range, owner: RangeOwner::Part(part) });
    }

    fn no_room(&self, part: LayoutPart, size: u64) -> LayoutProblem {
        LayoutProblem::NoRoom { part, size, limit: address_limit(self.spec) }
    }

    /// Returns the free ranges of writable memory in a window, lowest first; whole pages except in real mode.
    fn free(&self, window: GpaRange) -> Vec<GpaRange> {
        let whole_pages = self.spec.boot.mode.is_protected();
        let taken = self.placed.iter().map(|placed| placed.range);
        let mut taken: Vec<GpaRange> =
            taken.map(|range| if whole_pages { range.to_pages() } else { range }).collect();
        taken.sort();
        let writable = self.bus.memory.iter().filter(|region| !region.read_only);
        writable
            .filter_map(|region| region.range.intersection(window))
            .flat_map(|range| range.without(&taken))
            .collect()
    }

    /// Returns the lowest free page-aligned range of `size` bytes.
    fn lowest(&self, size: u64) -> Option<GpaRange> {
        let window = GpaRange::between(FLOOR, Gpa(address_limit(self.spec)))?;
        let fits = |free: GpaRange| {
            let start = Gpa(free.start().0.checked_next_multiple_of(PAGE_SIZE)?);
            GpaRange::new(start, size).filter(|range| free.contains(*range))
        };
        self.free(window).into_iter().find_map(fits)
    }

    /// Returns the highest free range of `size` bytes in a window.
    fn highest(&self, size: u64, window: GpaRange) -> Option<GpaRange> {
        let alignment = if !self.spec.boot.mode.is_protected() { 16 } else { PAGE_SIZE };
        let fits = |free: GpaRange| {
            let end = Gpa(free.end().0 & !(alignment - 1));
            let start = Gpa(end.0.checked_sub(size)?);
            GpaRange::between(start, end).filter(|range| free.contains(*range))
        };
        self.free(window).into_iter().rev().find_map(fits)
    }

    /// Returns a range for the stack: in the first window that has room for one of the sizes.
    fn stack(&self) -> Result<GpaRange, LayoutProblem> {
        let limit = Gpa(address_limit(self.spec));
        let lowest_memory =
            self.bus.memory.iter().find(|region| !region.read_only).map(|region| region.range);
        let top = lowest_memory.map_or(limit, |range| range.end().min(limit));
        let windows = if !self.spec.boot.mode.is_protected() {
            // With SS = 0, the stack and the first 64 KiB of data have the same segment base.
            [REAL_STACK_TOP, limit, limit]
        } else {
            [top, Gpa(limit.0.min(1 << 32)), limit]
        };
        // Not more than a quarter of a small machine's memory.
        let quarter = lowest_memory.map_or(0, |range| range.size() / 4);
        let usual = STACK_SIZES.into_iter().filter(|size| *size <= quarter.max(MIN_STACK));
        let sizes: Vec<u64> = self.spec.pinned.stack_size.map_or_else(|| usual.collect(), |size| vec![size]);
        if let Some(size) = self.spec.pinned.stack_size.filter(|size| *size == 0 || *size > limit.0) {
            return Err(LayoutProblem::StackSize { size, top: limit });
        }
        let windows = windows.into_iter().filter_map(|end| GpaRange::between(FLOOR, end));
        windows
            .flat_map(|window| sizes.iter().map(move |size| (window, *size)))
            .find_map(|(window, size)| self.highest(size, window))
            .ok_or_else(|| self.no_room(LayoutPart::Stack, sizes.last().copied().unwrap_or(MIN_STACK)))
    }

    /// Allocates the page tables and returns their plan.
    fn page_tables(&mut self, scheme: Scheme) -> Result<PagingPlan, LayoutError> {
        let refuse = |problem| LayoutError { problems: vec![problem] };
        self.placed.retain(|placed| placed.part() != Some(LayoutPart::PageTables));
        let others = self.placed.clone();
        let reserved = |entry: &LayoutEntry| {
            let supervisor_only = entry.part()? != LayoutPart::Stack;
            Some(ReservedRange { range: entry.range, supervisor_only })
        };
        let mappable = self.bus.mappable();
        let mut tables = 1u64;
        for _ in 0..MAX_ROUNDS {
            let size = tables.saturating_mul(PAGE_SIZE);
            let range = self.page_tables_at(size).map_err(refuse)?;
            let mut parts: Vec<ReservedRange> = others.iter().filter_map(reserved).collect();
            parts.push(ReservedRange { range, supervisor_only: true });
            let plan = plan::plan(scheme, &self.spec.boot, &mappable, &parts);
            let needed = build::count(&plan);
            if needed <= tables {
                self.add(LayoutPart::PageTables, range);
                self.check_pinned_tables(range)?;
                return Ok(plan);
            }
            tables = needed;
            if tables > MAX_TABLES {
                return Err(refuse(LayoutProblem::TooManyTables { size: tables.saturating_mul(PAGE_SIZE) }));
            }
        }
        Err(refuse(self.no_room(LayoutPart::PageTables, tables.saturating_mul(PAGE_SIZE))))
    }

    /// Returns the range for page tables of this size.
    fn page_tables_at(&self, size: u64) -> Result<GpaRange, LayoutProblem> {
        let range = match self.spec.pinned.page_tables {
            Some(address) => GpaRange::new(address, size),
            None => self.lowest(size),
        };
        range
            .filter(|range| range.end().0 <= address_limit(self.spec))
            .ok_or_else(|| self.no_room(LayoutPart::PageTables, size))
    }

    /// Checks pinned page tables again, now that their size is known.
    fn check_pinned_tables(&self, range: GpaRange) -> Result<(), LayoutError> {
        if self.spec.pinned.page_tables.is_none() {
            return Ok(());
        }
        let mut problems = overlaps(self.placed.clone());
        let tables = LayoutEntry { range, owner: RangeOwner::Part(LayoutPart::PageTables) };
        problems.extend(memory_problem(&tables, self.bus));
        LayoutError::unless_empty(problems)
    }
}
