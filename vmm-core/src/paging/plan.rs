//! Plan of the virtual address space: mappings of virtual to physical pages, with permissions.
//!
//! Three layers, each with precedence over the one before:
//! 1. the identity mapping of all memory and MMIO devices. Without it, only the VMM's tables and the stack are mapped,
//!    since the CPU and the first push need those;
//! 2. the user's mappings, which must not overlap each other;
//! 3. pages that hold one of the VMM's tables are for ring 0 only, wherever they are mapped.
//!
//! The CPU finds GDT, IDT and TSS by linear address, so no mapping may replace theirs. The result is a sorted list of
//! disjoint pieces that cannot be joined. [`super::build`] chooses the page sizes.

use super::Scheme;
use crate::spec::gpa_range::GpaRange;
use crate::spec::mode::{PageSize, Ring};
use crate::spec::{BootSpec, Mapping, PagePermissions};
use crate::{Gpa, Gva};

/// Bits of the offset into the smallest page.
const PAGE_SHIFT: u32 = 12;

/// Contiguous mapping of a paging plan: virtual pages, physical pages and permissions. Counted in pages, so that the end of
/// the last one can be expressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanPiece {
    /// Number of the first virtual page.
    pub page: u64,
    /// Number of the physical page that the first virtual page maps to.
    pub frame: u64,
    /// Number of pages, at least 1.
    pub count: u64,
    /// Permissions of the mapping's pages.
    pub access: PagePermissions,
}

impl PlanPiece {
    /// Returns the pages of a physical range, mapped at their own addresses.
    fn identity(span: GpaRange, access: PagePermissions) -> Self {
        let (start, size) = (span.to_pages().start().0, span.to_pages().size());
        Self { page: start >> PAGE_SHIFT, frame: start >> PAGE_SHIFT, count: size >> PAGE_SHIFT, access }
    }

    /// Returns the pages of a mapping that has been checked.
    pub(crate) fn from_mapping(map: &Mapping) -> Self {
        let pages = |bytes: u64| bytes >> PAGE_SHIFT;
        Self { page: pages(map.gva.0), frame: pages(map.gpa.0), count: pages(map.size), access: map.access }
    }

    /// Returns the first virtual address of the mapping.
    #[must_use]
    pub const fn gva(&self) -> Gva {
        Gva(self.page << PAGE_SHIFT)
    }

    /// Returns the first guest-physical address of the mapping.
    #[must_use]
    pub const fn gpa(&self) -> Gpa {
        Gpa(self.frame << PAGE_SHIFT)
    }

    /// Returns the virtual page number after the last page.
    pub(crate) const fn end(&self) -> u64 {
        self.page + self.count
    }

    /// Returns the part of the piece from page `start` up to page `end`; `None` if it is empty.
    fn cut(&self, start: u64, end: u64) -> Option<Self> {
        let (start, end) = (start.max(self.page), end.min(self.end()));
        let count = end.checked_sub(start).filter(|count| *count > 0)?;
        Some(Self { page: start, frame: self.frame + (start - self.page), count, access: self.access })
    }
}

/// Plan from which page tables are built: mappings of virtual to physical pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PagingPlan {
    /// Paging scheme of the page tables.
    pub scheme: Scheme,
    /// Largest page size that the page tables use.
    pub largest: PageSize,
    /// Mappings, sorted by virtual page and disjoint.
    pub pieces: Vec<PlanPiece>,
}

/// Guest-physical range of the VMM's tables or stack, which stays mapped at its own address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservedRange {
    /// Guest-physical range that is reserved.
    pub range: GpaRange,
    /// True if the range is for ring 0 only: tables and the trap page, but not the stack.
    pub supervisor_only: bool,
}

/// Returns the largest page size that a scheme uses by default.
#[must_use]
pub const fn default_page_size(scheme: Scheme) -> PageSize {
    match scheme {
        Scheme::TwoLevel => PageSize::Size4M,
        Scheme::Pae | Scheme::FourLevel | Scheme::FiveLevel => PageSize::Size2M,
    }
}

/// Returns the paging plan of a boot description whose mappings have been checked by [`crate::layout`].
///
/// `bus` holds the ranges of memory and MMIO devices, `own` those of the tables and of the stack.
#[must_use]
pub fn plan(scheme: Scheme, boot: &BootSpec, bus: &[GpaRange], own: &[ReservedRange]) -> PagingPlan {
    let access = PagePermissions { writable: true, user: boot.ring == Ring::User, executable: true };
    let base: Vec<GpaRange> =
        if boot.paging.identity { bus.to_vec() } else { own.iter().map(|reserved| reserved.range).collect() };
    let reachable = GpaRange::new(Gpa(0), scheme.identity_end());
    let base = base.into_iter().filter_map(|span| span.intersection(reachable?));

    let mut pieces = Vec::new();
    for upper in base.map(|span| PlanPiece::identity(span, access)).chain(maps(boot)) {
        pieces = overlay(&pieces, upper);
    }
    for reserved in own.iter().filter(|reserved| reserved.supervisor_only) {
        pieces = supervise(&pieces, reserved.range);
    }
    let largest = boot.paging.page_size.unwrap_or(default_page_size(scheme));
    PagingPlan { scheme, largest, pieces: joined(pieces) }
}

fn maps(boot: &BootSpec) -> impl Iterator<Item = PlanPiece> {
    boot.paging.maps.iter().map(PlanPiece::from_mapping)
}

/// Adds a piece that has precedence over the others.
fn overlay(lower: &[PlanPiece], upper: PlanPiece) -> Vec<PlanPiece> {
    let beside = lower.iter().flat_map(|piece| [piece.cut(0, upper.page), piece.cut(upper.end(), u64::MAX)]);
    beside.flatten().chain([upper]).collect()
}

/// Clears the U/S bit of the pages of a physical range, wherever they are mapped.
fn supervise(pieces: &[PlanPiece], span: GpaRange) -> Vec<PlanPiece> {
    let frames = PlanPiece::identity(span, PagePermissions { writable: true, user: false, executable: true });
    let split = |piece: &PlanPiece| {
        // Virtual pages at which the frames of the range begin and end in this piece.
        let at = |frame: u64| piece.page + frame.saturating_sub(piece.frame).min(piece.count);
        let (start, end) = (at(frames.frame), at(frames.frame + frames.count));
        let mut inside = piece.cut(start, end);
        if let Some(inside) = &mut inside {
            inside.access.user = false;
        }
        [piece.cut(0, start), inside, piece.cut(end, u64::MAX)]
    };
    pieces.iter().flat_map(split).flatten().collect()
}

/// Sorts pieces and joins adjacent ones that continue each other.
fn joined(mut pieces: Vec<PlanPiece>) -> Vec<PlanPiece> {
    pieces.sort_by_key(|piece| piece.page);
    let mut joined: Vec<PlanPiece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(last)
                if last.end() == piece.page
                    && last.frame + last.count == piece.frame
                    && last.access == piece.access =>
            {
                last.count += piece.count;
            }
            Some(_) | None => joined.push(piece),
        }
    }
    joined
}
