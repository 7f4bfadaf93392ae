//! `[memory]`: memory regions, each of which becomes a KVM memory slot.

use vmm_core::Gpa;
use vmm_core::PAGE_SIZE;
use vmm_core::spec::{MemoryBacking, MemoryRegion};

use super::ranges::{Range, overlap};
use super::{Context, Key, or};
use crate::config::problem::ConfigProblem;
use crate::config::schema::{self, Spanned};
use crate::config::source::Span;
use crate::config::values::{Address, Size, show_size};

const HUGE_PAGE: u64 = 2 << 20;

/// Guest-physical addresses that one `[memory]` without an address leaves to devices.
pub const MEMORY_HOLE: std::ops::Range<u64> = 3 << 30..4 << 30;

/// End of the physical addresses, which have at most 52 bits (SDM vol. 3, 4.1.4).
pub(super) const PHYSICAL_END: u64 = 1 << 52;

/// Memory regions that could be read.
#[derive(Debug, Default)]
pub(super) struct Regions {
    pub(super) list: Vec<Range>,
    /// True if the list is complete. Otherwise nothing is known about addresses outside it.
    complete: bool,
}

impl Regions {
    /// Returns the region that contains `address`.
    pub(super) fn region_at(&self, address: u64) -> Option<&Range> {
        self.list
            .iter()
            .find(|region| region.last().is_some_and(|last| (region.start..=last).contains(&address)))
    }

    /// Returns true if there is certainly no memory at `address`.
    pub(super) fn is_unmapped(&self, address: u64) -> bool {
        self.complete && self.region_at(address).is_none()
    }

    /// Describes the memory, for a `help:` line.
    pub(super) fn describe(&self) -> String {
        let shown =
            self.list.iter().filter_map(|region| Some(format!("{:#x}-{:#x}", region.start, region.last()?)));
        format!("there is memory at {}", shown.collect::<Vec<_>>().join(", "))
    }
}

/// Lowers the regions and stores their ranges in the context.
pub(super) fn lower(cx: &mut Context<'_>) -> Vec<MemoryRegion> {
    let problems_before = cx.problems.count();
    let mut regions = Vec::new();
    if let Some(memory) = &cx.document.memory {
        let tables = memory.tables("memory");
        if tables.is_empty() && !cx.problems.has_unread_inside("memory") {
            cx.problem(
                ConfigProblem::new(&memory.span, "the machine has no memory")
                    .help("add a table with a `size`"),
            );
        }
        for (table, span, path) in tables {
            let key = Key { path: format!("{path}.size"), name: "size", example: "size = \"2MiB\"" };
            let Some(size) = cx.required(&table.size, &span, &key) else { continue };
            let address = or(&table.address, Address(0)).0;
            let address_span = table.address.as_ref().map_or(&span, |at| &at.span);
            let region = Range {
                name: if memory.is_single() { "memory".to_owned() } else { path.replace('.', " region ") },
                start: address,
                length: size.value.0,
                span: Some(address_span.clone()),
            };
            let Some(backing) = backing(cx, table, size) else { continue };
            if !check(cx, &region, &size.span, address_span) {
                continue;
            }
            if let Some(at) = table.overcommit.as_ref().filter(|at| at.value) {
                let assignment = format!("{path}.overcommit = true");
                cx.refuse_in_note(&at.span, &assignment, "it could use up the memory of the host");
            }
            let parts = if memory.is_single() && table.address.is_none() {
                split_at_hole(region)
            } else {
                vec![region]
            };
            for part in parts {
                let plain = MemoryRegion::with_backing(backing, Gpa(part.start), part.length);
                regions.push(MemoryRegion {
                    read_only: or(&table.read_only, plain.read_only),
                    huge_pages: or(&table.huge_pages, plain.huge_pages),
                    mergeable: or(&table.mergeable, plain.mergeable),
                    overcommit: or(&table.overcommit, plain.overcommit),
                    ..plain
                });
                cx.regions.list.push(part);
            }
        }
    } else if !cx.problems.is_unread("memory") {
        let missing = ConfigProblem::in_file("`[memory]` is missing");
        cx.problem(missing.help("add a table `[memory]` with a size, such as `size = \"2MiB\"`"));
    }
    check_overlaps(cx);
    cx.regions.complete = cx.problems.count() == problems_before && !cx.problems.has_unread_inside("memory");
    regions
}

/// Returns the backing of a region. Hugetlb memory must consist of whole huge pages.
fn backing(cx: &mut Context<'_>, table: &schema::MemoryTable, size: &Spanned<Size>) -> Option<MemoryBacking> {
    let backing = or(&table.backing, MemoryBacking::default());
    let bytes = size.value.0;
    if backing == MemoryBacking::Hugetlb && !bytes.is_multiple_of(HUGE_PAGE) {
        let message = format!("{} is not a multiple of 2 MiB, as hugetlb memory is", show_size(bytes));
        let problem = ConfigProblem::new(&size.span, message);
        let next = bytes.checked_next_multiple_of(HUGE_PAGE);
        cx.problem(match next {
            Some(next) => problem.help(format!("the next such size is {}", show_size(next))),
            None => problem,
        });
        return None;
    }
    Some(backing)
}

/// Splits a region around [`MEMORY_HOLE`]. A single `[memory]` without an address continues at 4 GiB if it does not fit below
/// 3 GiB, as on a PC, so that devices have addresses between.
fn split_at_hole(region: Range) -> Vec<Range> {
    if region.length <= MEMORY_HOLE.start {
        return vec![region];
    }
    let rest = region.length - MEMORY_HOLE.start;
    let above = Range { start: MEMORY_HOLE.end, length: rest, ..region.clone() };
    vec![Range { length: MEMORY_HOLE.start, ..region }, above]
}

fn check(cx: &mut Context<'_>, region: &Range, size_span: &Span, address_span: &Span) -> bool {
    let before = cx.problems.count();
    let Range { start, length, .. } = *region;
    if length == 0 {
        cx.problem(
            ConfigProblem::new(size_span, "memory of size 0")
                .help("give a multiple of 4 KiB, such as `2MiB`"),
        );
    } else if !length.is_multiple_of(PAGE_SIZE) {
        let problem =
            ConfigProblem::new(size_span, format!("{} is not a multiple of 4 KiB", show_size(length)));
        cx.problem(match length.checked_next_multiple_of(PAGE_SIZE) {
            Some(next) => problem.help(format!("the next such size is {}", show_size(next))),
            None => problem,
        });
    }
    if !start.is_multiple_of(PAGE_SIZE) {
        let below = start - start % PAGE_SIZE;
        cx.problem(
            ConfigProblem::new(
                address_span,
                format!("the memory address {start:#x} is not a multiple of 4 KiB"),
            )
            .help(format!("the nearest such address below it is {below:#x}")),
        );
    }
    if start.checked_add(length).is_none_or(|end| end > PHYSICAL_END) {
        let which = if length > PHYSICAL_END { size_span } else { address_span };
        cx.problem(
            ConfigProblem::new(which, "memory beyond the end of the physical address space")
                .help(format!("physical addresses end at {PHYSICAL_END:#x} (52 bits)")),
        );
    }
    cx.problems.count() == before
}

fn check_overlaps(cx: &mut Context<'_>) {
    let mut sorted = cx.regions.list.clone();
    sorted.sort_by_key(|region| region.start);
    for (lower, upper) in sorted.iter().zip(sorted.iter().skip(1)) {
        if lower.overlaps(upper) {
            cx.problem(overlap(upper, lower).help("move one of them by its `address`"));
        }
    }
}
