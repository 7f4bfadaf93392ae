//! Checks of the user's decisions: the bus, the guest's ranges, pinned parts, mappings.
//!
//! All checks run before the first problem is reported, so that all problems are reported at once. Nothing is corrected.

use super::bus::AddressSpace;
use super::{LayoutEntry, LayoutError, LayoutPart, LayoutProblem, RangeOwner, check_maps, pinned};
use crate::firmware;
use crate::paging::Scheme;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;
use crate::spec::mode::Ring;

/// Fixed ranges of a description without conflicts.
pub(super) struct Checked {
    /// Memory, KVM's pages and devices.
    pub(super) bus: AddressSpace,
    /// Fixed entries except memory, sorted by address.
    pub(super) fixed: Vec<LayoutEntry>,
}

/// Checks all that the description fixes.
pub(super) fn check(spec: &MachineSpec, occupied: &[LayoutEntry]) -> Result<Checked, LayoutError> {
    let mut problems = boot_problems(spec);
    let bus = AddressSpace::new(spec, &mut problems);
    let mut inside = occupied.to_vec();
    let firmware = firmware::ranges(spec).into_iter();
    inside.extend(firmware.map(|(name, range)| LayoutEntry { range, owner: RangeOwner::Firmware(name) }));
    inside.extend(pinned::tables(spec, &mut problems));
    inside.extend(pinned::stack(spec, &bus, &inside, &mut problems));

    // Memory may not touch KVM's pages and devices. What lies in memory may not touch anything else.
    let reserved = || bus.reserved.iter().cloned();
    problems.extend(overlaps(bus.regions().chain(reserved()).collect()));
    for problem in overlaps(reserved().chain(inside.iter().cloned()).collect()) {
        // Two devices on one address were found by the first search already.
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    for placed in &inside {
        if !bus.reserved.iter().any(|other| other.range.overlaps(placed.range)) {
            problems.extend(memory_problem(placed, &bus));
        }
    }
    if let Some(scheme) = Scheme::from_mode(spec.boot.mode, spec.boot.paging.five_level) {
        let maps = check_maps::check(scheme, &spec.boot, &bus.mappable()).into_iter();
        problems.extend(maps.chain(check_maps::hidden(&spec.boot, &inside)).map(LayoutProblem::Map));
        problems.extend(shared_pages(spec, &inside));
    }
    LayoutError::unless_empty(problems)?;

    let mut fixed = bus.reserved.clone();
    fixed.extend(inside);
    fixed.sort_by_key(|placed| placed.range);
    Ok(Checked { bus, fixed })
}

/// Returns problems with features that the mode does not have.
fn boot_problems(spec: &MachineSpec) -> Vec<LayoutProblem> {
    let (mode, paging) = (spec.boot.mode, &spec.boot.paging);
    let mut problems = Vec::new();
    if !mode.is_protected() && spec.boot.ring == Ring::User {
        problems.push(LayoutProblem::RealModeRing);
    }
    if paging.five_level && !mode.is_long() {
        problems.push(LayoutProblem::FiveLevel(mode));
    }
    if let Some(size) = paging.page_size
        && mode.has_paging()
        && !mode.page_sizes().contains(&size)
    {
        problems.push(LayoutProblem::PageSize { mode, size });
    }
    problems
}

/// Returns all overlaps: each range with the lower range that ends last.
pub(super) fn overlaps(mut ranges: Vec<LayoutEntry>) -> Vec<LayoutProblem> {
    ranges.sort_by_key(|placed| placed.range);
    let mut problems = Vec::new();
    let mut furthest: Option<&LayoutEntry> = None;
    for placed in &ranges {
        if let Some(low) = furthest
            && low.range.overlaps(placed.range)
        {
            problems.push(LayoutProblem::Overlap { first: low.clone(), second: placed.clone() });
        }
        if furthest.is_none_or(|low| low.range.end() < placed.range.end()) {
            furthest = Some(placed);
        }
    }
    problems
}

/// Returns a problem if the entry is not in memory, or if it is a part in read-only memory. The guest's files may be in
/// read-only memory: the loader writes them.
pub(super) fn memory_problem(placed: &LayoutEntry, bus: &AddressSpace) -> Option<LayoutProblem> {
    let regions: Vec<GpaRange> = bus.memory.iter().map(|region| region.range).collect();
    if let Some(missing) = placed.range.without(&regions).first() {
        return Some(LayoutProblem::OutsideMemory { entry: placed.clone(), missing: *missing });
    }
    placed.part()?;
    let read_only = bus.memory.iter().find(|region| region.read_only && region.range.overlaps(placed.range));
    read_only.map(|region| LayoutProblem::ReadOnly { entry: placed.clone(), region: region.number })
}

/// Returns problems with pages that hold both a pinned table, for ring 0, and a range that ring 3 must access.
fn shared_pages(spec: &MachineSpec, inside: &[LayoutEntry]) -> Vec<LayoutProblem> {
    if spec.boot.ring == Ring::Kernel {
        return Vec::new();
    }
    let is_ours = |placed: &LayoutEntry| placed.part().is_some_and(|part| part != LayoutPart::Stack);
    let share = |ours: &LayoutEntry, theirs: &LayoutEntry| {
        !ours.range.overlaps(theirs.range) && ours.range.to_pages().overlaps(theirs.range.to_pages())
    };
    let (ours, theirs): (Vec<&LayoutEntry>, Vec<&LayoutEntry>) =
        inside.iter().partition(|placed| is_ours(placed));
    let pairs = ours.iter().flat_map(|ours| theirs.iter().map(move |theirs| (ours, theirs)));
    pairs
        .filter(|(ours, theirs)| share(ours, theirs))
        .map(|(ours, theirs)| LayoutProblem::SharedPage { ours: (*ours).clone(), theirs: (*theirs).clone() })
        .collect()
}
