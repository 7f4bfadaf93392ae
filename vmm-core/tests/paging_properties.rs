//! Properties of paging: the requested mappings, the built tables and the result of the walker agree.
//!
//! The expected translation follows the definition: mappings of the user come first, then the identity mapping, and ring 3 never
//! gets access to pages with tables.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use vmm_core::PAGE_SIZE;
use vmm_core::cpu::reset_state;
use vmm_core::initial_state::{HostQuirks, InitialState, initial_state};
use vmm_core::layout::{self, Layout, LayoutPart};
use vmm_core::paging::merge::mappings;
use vmm_core::paging::walk::Walker;
use vmm_core::paging::{Scheme, build};
use vmm_core::spec::mode::{Mode, PageSize, Ring};
use vmm_core::spec::{EntryPoint, MachineSpec, Mapping, PagePermissions};
use vmm_core::{Gpa, Gva};

const MEMORY: u64 = 32 << 20;
/// Address of the entry, which no mapping hides.
const ENTRY: u64 = 0x10_0000;

/// Addresses of mappings, away from the tables (low) and the stack (high), so that no mapping is refused.
const SLOT: u64 = 8 << 20;
const LOW_SLOTS: &[u64] = &[8 << 20, 16 << 20, 0x4000_0000, 0x407f_f000, 0xc000_0000, 0xff80_0000];
const HIGH_SLOTS: &[u64] =
    &[0x7f80_0000_0000, 0xffff_8000_0000_0000, 0xffff_ffff_8000_0000, 0xffff_ffff_ff80_0000];

#[derive(Debug, Clone)]
struct RawMap {
    /// In pages.
    offset: u64,
    frame: u64,
    count: u64,
    access: PagePermissions,
    /// True if virtual and physical address are equal modulo 2 MiB.
    congruent: bool,
}

fn raw_map() -> impl Strategy<Value = Option<RawMap>> {
    let access = (any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(writable, user, executable)| PagePermissions { writable, user, executable });
    let map = (0..2048u64, 0..8192u64, 1..2048u64, access, any::<bool>());
    let map = map.prop_map(|(offset, frame, count, access, congruent)| RawMap {
        offset,
        frame,
        count,
        access,
        congruent,
    });
    prop::option::of(map)
}

fn machine() -> impl Strategy<Value = MachineSpec> {
    let scheme = prop_oneof![
        Just((Mode::Paged, PageSize::Size4K, false)),
        Just((Mode::Paged, PageSize::Size4M, false)),
        Just((Mode::Pae, PageSize::Size4K, false)),
        Just((Mode::Pae, PageSize::Size2M, false)),
        Just((Mode::Long, PageSize::Size4K, false)),
        Just((Mode::Long, PageSize::Size2M, false)),
        Just((Mode::Long, PageSize::Size1G, true)),
        Just((Mode::Long, PageSize::Size2M, true)),
    ];
    let ring = prop_oneof![Just(Ring::Kernel), Just(Ring::User)];
    let maps = prop::collection::vec(raw_map(), LOW_SLOTS.len() + HIGH_SLOTS.len());
    (scheme, ring, any::<bool>(), maps).prop_map(|((mode, size, five_level), ring, identity, maps)| {
        let mut spec = MachineSpec::new(mode, MEMORY, EntryPoint::Address(Gva(ENTRY)));
        spec.boot.ring = ring;
        spec.boot.paging.page_size = Some(size);
        spec.boot.paging.five_level = five_level;
        spec.boot.paging.identity = identity;
        let slots = LOW_SLOTS.iter().chain(HIGH_SLOTS).filter(|slot| mode == Mode::Long || **slot < 1 << 32);
        spec.boot.paging.maps =
            slots.zip(maps).filter_map(|(slot, map)| mapping(mode, *slot, map?)).collect();
        if !identity {
            let access = PagePermissions { writable: true, user: ring == Ring::User, executable: true };
            let entry = Mapping { gva: Gva(ENTRY), gpa: Gpa(ENTRY), size: PAGE_SIZE, access };
            spec.boot.paging.maps.push(entry);
        }
        spec
    })
}

fn mapping(mode: Mode, slot: u64, raw: RawMap) -> Option<Mapping> {
    let gva = slot + raw.offset * PAGE_SIZE;
    let room = SLOT - PAGE_SIZE - raw.offset * PAGE_SIZE;
    let mut gpa = raw.frame * PAGE_SIZE;
    if raw.congruent {
        gpa = gpa & !0x1f_ffff | gva & 0x1f_ffff;
    }
    let size = (raw.count * PAGE_SIZE).min(room).min(MEMORY.checked_sub(gpa)?);
    let access = PagePermissions { executable: raw.access.executable || mode == Mode::Paged, ..raw.access };
    (size > 0).then_some(Mapping { gva: Gva(gva), gpa: Gpa(gpa), size, access })
}

/// Returns the expected translation of an address.
fn expected(spec: &MachineSpec, layout: &Layout, gva: u64) -> Option<(u64, PagePermissions)> {
    let paging = &spec.boot.paging;
    let user = spec.boot.ring == Ring::User;
    let parts = [
        LayoutPart::Gdt,
        LayoutPart::Idt,
        LayoutPart::Tss,
        LayoutPart::TrapPage,
        LayoutPart::KernelStack,
        LayoutPart::PageTables,
        LayoutPart::Stack,
    ];
    let holder = |gpa: u64| {
        let in_part = |part: &LayoutPart| {
            layout
                .part(*part)
                .is_some_and(|span| span.start().0 & !0xfff <= gpa && gpa < (span.end().0 + 0xfff) & !0xfff)
        };
        parts.into_iter().find(in_part)
    };
    let all = PagePermissions { writable: true, user, executable: true };
    let map =
        paging.maps.iter().find(|map| gva.checked_sub(map.gva.0).is_some_and(|offset| offset < map.size));
    let (gpa, mut access) = match map {
        Some(map) => (map.gpa.0 + (gva - map.gva.0), map.access),
        None if paging.identity && gva < MEMORY => (gva, all),
        None if holder(gva).is_some() => (gva, all),
        None => return None,
    };
    if holder(gpa).is_some_and(|part| part != LayoutPart::Stack) {
        access.user = false;
    }
    Some((gpa, access))
}

/// Returns addresses to compare: both sides of every boundary, and random ones.
fn addresses(spec: &MachineSpec, layout: &Layout, random: &[u64]) -> Vec<u64> {
    let maps = spec.boot.paging.maps.iter().flat_map(|map| [map.gva.0, map.gva.0.wrapping_add(map.size)]);
    let parts = layout.ranges().iter().flat_map(|placed| [placed.range.start().0, placed.range.end().0]);
    let boundaries = maps.chain(parts).chain([0, MEMORY]);
    let around = boundaries.flat_map(|boundary| {
        [boundary.wrapping_sub(PAGE_SIZE), boundary.wrapping_sub(1), boundary, boundary | 0xabc]
    });
    let inside = random.iter().flat_map(|value| {
        let slots = LOW_SLOTS.iter().chain(HIGH_SLOTS).map(move |slot| slot + value % SLOT);
        slots.chain([*value, value % (2 * MEMORY), value & 0xffff_ffff])
    });
    around.chain(inside).collect()
}

fn build_state(spec: &MachineSpec) -> (Layout, InitialState) {
    let layout = layout::compute(spec, &[]).unwrap();
    let state = initial_state(&reset_state::sregs(), spec, &layout, HostQuirks::default()).unwrap();
    (layout, state)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn the_walker_finds_the_requested_mappings(spec in machine(), random in prop::collection::vec(any::<u64>(), 32)) {
        let (layout, state) = build_state(&spec);
        let walker = Walker::from_sregs(&state.sregs);
        let scheme = walker.scheme.unwrap();
        for gva in addresses(&spec, &layout, &random) {
            let walk = walker.walk(state.images.as_slice(), Gva(gva));
            let found = walk.translation().map(|to| (to.gpa.0, to.access));
            let wanted = expected(&spec, &layout, gva).filter(|_| scheme.can_address(Gva(gva)));
            prop_assert_eq!(found, wanted, "{}", walk);
        }
    }

    #[test]
    fn the_number_of_tables_is_as_planned(spec in machine()) {
        let (layout, _) = build_state(&spec);
        let plan = layout.paging().unwrap();
        let place = layout.part(LayoutPart::PageTables).unwrap();
        let bytes = build::bytes(plan, place.start());
        prop_assert_eq!(build::count(plan) * PAGE_SIZE, bytes.len() as u64);
        prop_assert!(bytes.len() as u64 <= place.size());
    }

    /// The merged list covers every page once, and no page is larger than the maximum size.
    #[test]
    fn the_merged_list_is_the_plan(spec in machine()) {
        let (layout, state) = build_state(&spec);
        let plan = layout.paging().unwrap();
        let merged = mappings(&Walker::from_sregs(&state.sregs), state.images.as_slice());
        prop_assert!(!merged.truncated);
        let mut pieces = plan.pieces.iter();
        let mut rest = pieces.next().copied();
        for range in &merged.ranges {
            let piece = rest.as_mut().unwrap();
            prop_assert!(range.size <= plan.largest);
            prop_assert_eq!((range.gva, range.gpa, range.access), (piece.gva(), piece.gpa(), piece.access));
            let pages = range.bytes() / PAGE_SIZE;
            prop_assert!(pages <= piece.count);
            piece.page += pages;
            piece.frame += pages;
            piece.count -= pages;
            if piece.count == 0 {
                rest = pieces.next().copied();
            }
        }
        prop_assert_eq!(rest, None);
    }

    /// On random tables the walker ends, and its results are physical addresses.
    #[test]
    fn the_walker_survives_random_tables(words in prop::collection::vec(any::<u64>(), 1024), gva: u64, cr3 in 0..4096u64) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| (word & !0xf_ffff_e000).to_le_bytes()).collect();
        let image = vmm_core::initial_state::TableImage { gpa: Gpa(0), name: "random", bytes };
        for scheme in [Scheme::TwoLevel, Scheme::Pae, Scheme::FourLevel, Scheme::FiveLevel] {
            let walker = Walker {
                scheme: Some(scheme),
                root: Gpa(cr3 & !0x1f),
                large_pages: true,
                execute_disable: true,
                physical_bits: 52,
                amd: false,
            };
            let walk = walker.walk([image.clone()].as_slice(), Gva(gva));
            prop_assert!(walk.steps.len() <= scheme.levels().len());
            prop_assert!(walk.translation().is_none_or(|to| to.gpa.0 < 1 << 52));
        }
    }
}
