//! Properties of the layout of every machine: no overlaps, and every part is in memory, aligned and below its limit.

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use vmm_core::PAGE_SIZE;
use vmm_core::layout::{self, Layout, LayoutEntry, LayoutPart};
use vmm_core::spec::gpa_range::GpaRange;
use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{EntryPoint, MachineSpec, MemoryRegion};
use vmm_core::{Gpa, Gva};

fn mode() -> impl Strategy<Value = (Mode, Ring)> {
    prop_oneof![
        Just((Mode::Real, Ring::Kernel)),
        Just((Mode::Protected, Ring::Kernel)),
        Just((Mode::Protected, Ring::User)),
        Just((Mode::Paged, Ring::Kernel)),
        Just((Mode::Paged, Ring::User)),
        Just((Mode::Pae, Ring::User)),
        Just((Mode::Long, Ring::Kernel)),
        Just((Mode::Long, Ring::User)),
    ]
}

/// Generates memory regions with gaps, and guest ranges. Most of them are valid.
fn machine() -> impl Strategy<Value = (MachineSpec, Vec<LayoutEntry>)> {
    let region = (0..64u64, 1..512u64, prop::bool::weighted(0.2));
    let regions = prop::collection::vec(region, 1..4);
    let guest = prop::collection::vec((0..0x40_0000u64, 1..0x2_0000u64), 0..5);
    let stack = prop::option::weighted(0.3, 1..64u64);
    let pin = || prop::option::weighted(0.2, 1..512u64);
    (mode(), regions, guest, stack, pin(), pin()).prop_map(
        |((mode, ring), regions, guest, stack, gdt, tables)| {
            let mut spec = MachineSpec::new(mode, PAGE_SIZE, EntryPoint::Address(Gva(0x7c00)));
            spec.boot.ring = ring;
            spec.memory.clear();
            let mut address = 0;
            for (gap, pages, read_only) in regions {
                // The first region starts at 0 in most machines.
                address += if spec.memory.is_empty() && gap < 48 { 0 } else { gap * PAGE_SIZE };
                spec.memory
                    .push(MemoryRegion { read_only, ..MemoryRegion::new(Gpa(address), pages * PAGE_SIZE) });
                address += pages * PAGE_SIZE;
            }
            spec.pinned.stack_size = stack.map(|pages| pages * PAGE_SIZE);
            spec.pinned.gdt = gdt.map(|page| Gpa(page * PAGE_SIZE + 8));
            spec.pinned.page_tables = tables.map(|page| Gpa(page * PAGE_SIZE));
            let guest = guest.into_iter().enumerate().filter_map(|(number, (start, size))| {
                Some(LayoutEntry::guest(format!("segment {number}"), GpaRange::new(Gpa(start), size)?))
            });
            (spec, guest.collect())
        },
    )
}

fn parts(layout: &Layout) -> Vec<(LayoutPart, GpaRange)> {
    layout.ranges().iter().filter_map(|placed| Some((placed.part()?, placed.range))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn parts_do_not_overlap_and_are_in_memory((spec, guest) in machine()) {
        let Ok(layout) = layout::compute(&spec, &guest) else { return Ok(()) };
        for pair in layout.ranges().windows(2) {
            prop_assert!(pair[0].range.end() <= pair[1].range.start(), "{}", layout);
        }
        let limit = match spec.boot.mode {
            Mode::Real => 1 << 20,
            Mode::Protected | Mode::Paged | Mode::Pae => 1 << 32,
            Mode::Long => 1u64 << 47,
        };
        let writable: Vec<GpaRange> =
            layout.memory().iter().filter(|region| !region.read_only).map(|region| region.range).collect();
        for (part, range) in parts(&layout) {
            prop_assert!(range.without(&writable).is_empty(), "{} outside memory:\n{}", part.name(), layout);
            prop_assert!(range.end().0 <= limit);
            let aligned = if part == LayoutPart::Stack { range.end() } else { range.start() };
            prop_assert!(aligned.is_aligned(part.alignment(spec.boot.mode)));
        }
        // In ring 3 with paging, no page belongs to both rings.
        if spec.boot.ring == Ring::User && spec.boot.mode.has_paging() {
            for (part, range) in parts(&layout).into_iter().filter(|(part, _)| *part != LayoutPart::Stack) {
                let other = layout.ranges().iter().find(|placed| {
                    placed.part().is_none_or(|part| part == LayoutPart::Stack)
                        && placed.range.to_pages().overlaps(range.to_pages())
                });
                prop_assert!(other.is_none(), "{} shares a page:\n{}", part.name(), layout);
            }
        }
    }

    #[test]
    fn the_rows_cover_each_address_once((spec, guest) in machine()) {
        let Ok(layout) = layout::compute(&spec, &guest) else { return Ok(()) };
        let mut end = Gpa(0);
        for row in layout.rows() {
            prop_assert_eq!(row.range.start(), end, "{}", layout);
            end = row.range.end();
        }
        for placed in layout.ranges() {
            let shown: u64 = layout
                .rows()
                .iter()
                .filter(|row| row.owner == Some(&placed.owner) && placed.range.contains(row.range))
                .map(|row| row.range.size())
                .sum();
            prop_assert_eq!(shown, placed.range.size(), "{}", placed.owner);
        }
    }

    /// A machine with enough memory and no pinned addresses always has a layout.
    #[test]
    fn a_machine_with_enough_memory_has_a_layout((mode, ring) in mode(), start in 0x1_0000u64..0x7_0000, size in 1..0x8000u64) {
        let mut spec = MachineSpec::new(mode, 1 << 20, EntryPoint::Address(Gva(start)));
        spec.boot.ring = ring;
        let guest = [LayoutEntry::guest("guest", GpaRange::new(Gpa(start), size).unwrap())];
        let layout = layout::compute(&spec, &guest);
        prop_assert!(layout.is_ok(), "{:?}", layout);
        prop_assert_eq!(layout.unwrap().part(LayoutPart::Stack).map(GpaRange::size) >= Some(4096), true);
    }
}

/// The properties above hold for a refused machine too. This test checks that the generator creates valid and invalid machines.
#[test]
fn the_generator_creates_valid_and_invalid_machines() {
    let (mut good, mut bad) = (0, 0);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..500 {
        let (spec, guest) = machine().new_tree(&mut runner).unwrap().current();
        match layout::compute(&spec, &guest) {
            Ok(_) => good += 1,
            Err(error) => {
                assert!(!error.problems.is_empty());
                bad += 1;
            }
        }
    }
    assert!(good > 25 && bad > 25, "{good} with a layout, {bad} without");
}
