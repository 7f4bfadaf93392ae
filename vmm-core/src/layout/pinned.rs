//! Parts whose address the user chose: the address is used as it is, or refused.

use super::bus::{AddressSpace, bounded};
use super::{LayoutEntry, LayoutPart, LayoutProblem, RangeOwner, address_limit};
use crate::Gpa;
use crate::PAGE_SIZE;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;

/// Minimum default size of the stack in bytes.
pub(super) const MIN_STACK: u64 = 4 << 10;
/// Default sizes of the stack in bytes: the first that fits is used.
pub(super) const STACK_SIZES: [u64; 5] = [64 << 10, 32 << 10, 16 << 10, 8 << 10, MIN_STACK];

/// Returns the tables whose address the user chose.
pub(super) fn tables(spec: &MachineSpec, problems: &mut Vec<LayoutProblem>) -> Vec<LayoutEntry> {
    let (mode, place) = (spec.boot.mode, &spec.pinned);
    let pins = [
        (LayoutPart::Gdt, place.gdt),
        (LayoutPart::Idt, place.idt),
        (LayoutPart::Tss, place.tss),
        (LayoutPart::PageTables, place.page_tables),
    ];
    let mut pinned = Vec::new();
    for (part, address) in pins {
        let Some(address) = address else { continue };
        // The number of page tables is not known yet: only the first page is checked here.
        let size = match part.fixed_size(mode, spec.boot.ring) {
            Some(size) => u64::from(size),
            None if mode.has_paging() => PAGE_SIZE,
            None => 0,
        };
        if size == 0 {
            problems.push(LayoutProblem::NoSuchPart { part, mode });
            continue;
        }
        let alignment = part.alignment(mode);
        if !address.is_aligned(alignment) {
            problems.push(LayoutProblem::Misaligned { part, address, alignment });
        }
        pinned.extend(bounded(RangeOwner::Part(part), address, size, address_limit(spec), problems));
    }
    pinned
}

/// Returns the stack if the user chose its end. Without a size it gets the largest default size that is free.
pub(super) fn stack(
    spec: &MachineSpec,
    bus: &AddressSpace,
    taken: &[LayoutEntry],
    problems: &mut Vec<LayoutProblem>,
) -> Option<LayoutEntry> {
    let (top, part) = (spec.pinned.stack_top?, LayoutPart::Stack);
    let alignment = part.alignment(spec.boot.mode);
    if !top.is_aligned(alignment) {
        problems.push(LayoutProblem::Misaligned { part, address: top, alignment });
    }
    let below = |size: u64| GpaRange::between(Gpa(top.0.checked_sub(size)?), top);
    let free = |range: &GpaRange| {
        !taken.iter().any(|other| other.range.overlaps(*range))
            && bus.memory.iter().any(|region| region.range.contains(*range))
    };
    let usual = || STACK_SIZES.into_iter().filter_map(below).find(free);
    let range = match spec.pinned.stack_size {
        Some(size) => below(size),
        None => usual().or_else(|| below(MIN_STACK)),
    };
    let Some(range) = range else {
        let size = spec.pinned.stack_size.unwrap_or(MIN_STACK);
        problems.push(LayoutProblem::StackSize { size, top });
        return None;
    };
    bounded(RangeOwner::Part(part), range.start(), range.size(), address_limit(spec), problems)
}
