//! The parts that the user pinned: an address is taken as it is, or refused.

use super::bus::{BusKind, bounded};
use super::{LayoutEntry, LayoutPart, LayoutProblem, RangeOwner, address_limit};
use crate::Gpa;
use crate::PAGE_SIZE;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;

/// The least that a stack gets unless told otherwise.
pub(super) const MIN_STACK: u64 = 4 << 10;
/// Sizes that a stack gets unless told otherwise: the first that finds room.
pub(super) const STACK_SIZES: [u64; 5] = [64 << 10, 32 << 10, 16 << 10, 8 << 10, MIN_STACK];

/// The tables that the user pinned.
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
        // How many page tables there will be is not known yet; their first page stands for all.
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

/// The stack, if the user pinned its top. Without a size it gets the largest of the usual ones that is free.
pub(super) fn stack(
    spec: &MachineSpec,
    bus: &BusKind,
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
