//! Checks of the user's mappings: each alone, against each other, and against the entries of the layout.

use super::{LayoutEntry, LayoutPart, MappingProblem};
use crate::paging::Scheme;
use crate::paging::plan::PlanPiece;
use crate::spec::gpa_range::GpaRange;
use crate::spec::{BootSpec, Mapping, Register};
use crate::{Gpa, Gva, PAGE_SIZE};

/// Checks the user's mappings, one by one and against each other.
///
/// `bus` holds the ranges of memory and MMIO devices, sorted. A mapping of none of them is a problem.
pub(super) fn check(scheme: Scheme, boot: &BootSpec, bus: &[GpaRange]) -> Vec<MappingProblem> {
    let mut problems = Vec::new();
    let bus: Vec<GpaRange> = bus.iter().map(|span| span.to_pages()).collect();
    let mut good: Vec<(usize, PlanPiece)> = Vec::new();
    for (number, map) in (1..).zip(&boot.paging.maps) {
        match check_map(scheme, number, map, &bus) {
            Ok(()) => good.push((number, PlanPiece::from_mapping(map))),
            Err(found) => problems.extend(found),
        }
    }
    good.sort_by_key(|(_, piece)| piece.page);
    let mut furthest: Option<(usize, PlanPiece)> = None;
    for (number, piece) in good {
        match furthest {
            Some((first, low)) if low.end() > piece.page => {
                problems.push(MappingProblem::Overlap { first, second: number, gva: piece.gva() });
                if low.end() < piece.end() {
                    furthest = Some((number, piece));
                }
            }
            Some(_) | None => furthest = Some((number, piece)),
        }
    }
    problems
}

fn check_map(
    scheme: Scheme,
    map: usize,
    mapping: &Mapping,
    bus: &[GpaRange],
) -> Result<(), Vec<MappingProblem>> {
    let fields = [("gva", mapping.gva.0), ("gpa", mapping.gpa.0), ("size", mapping.size)];
    let mut problems: Vec<MappingProblem> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_multiple_of(PAGE_SIZE))
        .map(|(field, value)| MappingProblem::Misaligned { map, field, value })
        .collect();
    if mapping.size == 0 {
        problems.push(MappingProblem::Empty { map });
        return Err(problems);
    }
    let last = mapping.gva.checked_add(mapping.size - 1);
    // A mapping must not extend over the gap between the two halves of canonical addresses.
    let half = |gva: Gva| gva.0 >> 63;
    match last {
        Some(last)
            if scheme.can_address(mapping.gva)
                && scheme.can_address(last)
                && half(last) == half(mapping.gva) => {}
        Some(_) | None => {
            problems.push(MappingProblem::Unaddressable {
                map,
                scheme,
                gva: mapping.gva,
                size: mapping.size,
            });
        }
    }
    match GpaRange::new(mapping.gpa, mapping.size) {
        Some(span) if span.end().0 <= scheme.physical_end() => {
            // Part of a mapping may have nothing behind it: kernels map all of physical space, holes included.
            if !bus.iter().any(|there| there.overlaps(span)) {
                problems.push(MappingProblem::NothingThere { map, span });
            }
        }
        Some(_) | None => {
            problems.push(MappingProblem::TooHigh { map, scheme, gpa: mapping.gpa, size: mapping.size });
        }
    }
    if scheme == Scheme::TwoLevel && !mapping.access.executable {
        problems.push(MappingProblem::NoExecuteDisable { map });
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Checks that no mapping replaces the identity mapping of a table or of the stack.
pub(super) fn hidden(boot: &BootSpec, own: &[LayoutEntry]) -> Vec<MappingProblem> {
    let rsp_is_preset = boot.registers.iter().any(|(register, _)| *register == Register::Rsp);
    let mut problems = Vec::new();
    for (map, mapping) in (1..).zip(&boot.paging.maps).filter(|(_, map)| map.gva.0 != map.gpa.0) {
        for placed in own {
            // With a preset stack pointer, nothing depends on the address of the allocated stack.
            let needed = placed.part().is_some_and(|part| part != LayoutPart::Stack || !rsp_is_preset);
            let seen = GpaRange::new(Gpa(mapping.gva.0), mapping.size);
            if needed && seen.is_some_and(|seen| seen.overlaps(placed.range)) {
                problems.push(MappingProblem::Hides { map, hidden: placed.clone() });
            }
        }
    }
    problems
}
