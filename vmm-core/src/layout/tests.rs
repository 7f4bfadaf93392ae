//! Each mistake in a layout is found, named and placed; several are found at once.

use super::*;
use crate::spec::mode::PageSize;
use crate::spec::{
    BusAddress, DebugConsoleSpec, EntryPoint, HypercallSpec, Mapping, MemoryRegion, PagePermissions, Register,
};
use crate::{Gva, Port};

fn machine(mode: Mode) -> MachineSpec {
    MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(0x10_0000)))
}

fn guest(name: &str, start: u64, size: u64) -> LayoutEntry {
    LayoutEntry::guest(name, GpaRange::new(Gpa(start), size).unwrap())
}

fn map(gva: u64, gpa: u64, size: u64) -> Mapping {
    let access = PagePermissions { writable: true, user: false, executable: true };
    Mapping { gva: Gva(gva), gpa: Gpa(gpa), size, access }
}

/// The messages of a machine that has no layout.
fn messages(spec: &MachineSpec, occupied: &[LayoutEntry]) -> Vec<String> {
    let error = compute(spec, occupied).unwrap_err();
    error.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn tables_go_up_from_page_1_and_the_stack_hangs_from_the_top() {
    let layout = compute(&machine(Mode::Long), &[guest("guest", 0x1800, 0x1001)]).unwrap();
    let at = |part| layout.part(part).unwrap().start().0;
    // The guest keeps its pages 1 and 2 for itself, though the GDT would fit in front of it.
    assert_eq!((at(LayoutPart::Gdt), at(LayoutPart::Idt), at(LayoutPart::Tss)), (0x3000, 0x4000, 0x5000));
    assert_eq!(layout.part(LayoutPart::Stack), GpaRange::new(Gpa(0x1f_0000), 0x1_0000));
    assert_eq!(layout.part(LayoutPart::TrapPage), None);
}

#[test]
fn the_stack_gives_way_to_a_guest_at_the_top() {
    let layout = compute(&machine(Mode::Protected), &[guest("guest", 0x1f_f800, 0x800)]).unwrap();
    assert_eq!(layout.stack_top(), Some(Gpa(0x1f_f000)));
}

#[test]
fn a_small_machine_gets_a_small_stack() {
    let mut spec = machine(Mode::Long);
    spec.memory[0].size = 0x1_0000;
    let layout = compute(&spec, &[]).unwrap();
    assert_eq!(layout.part(LayoutPart::Stack).map(GpaRange::size), Some(0x4000));
    spec.memory[0].size = 0x4000;
    assert_eq!(
        messages(&spec, &[]),
        ["no room for the stack (4 KiB) in writable memory below 0x800000000000"]
    );
}

#[test]
fn a_real_mode_stack_goes_above_64_kib_if_it_must() {
    let mut spec = machine(Mode::Real);
    let low = |layout: Layout| layout.part(LayoutPart::Stack).unwrap();
    assert_eq!(low(compute(&spec, &[]).unwrap()).end(), Gpa(0xfff0));
    assert_eq!(low(compute(&spec, &[guest("guest", 0, 0x1_0000)]).unwrap()).end(), Gpa(0x10_0000));
    spec.pinned.stack_size = Some(0x2_0000);
    assert_eq!(low(compute(&spec, &[]).unwrap()).end(), Gpa(0x10_0000));
}

#[test]
fn nothing_is_placed_in_memory_that_cannot_be_written() {
    let mut spec = machine(Mode::Protected);
    spec.memory.insert(0, MemoryRegion { read_only: true, ..MemoryRegion::new(Gpa(0), 0x1_0000) });
    spec.memory[1].address = Gpa(0x10_0000);
    let layout = compute(&spec, &[guest("rom", 0, 0x1000)]).unwrap();
    assert_eq!(layout.part(LayoutPart::Gdt).map(GpaRange::start), Some(Gpa(0x10_0000)));
    spec.pinned.gdt = Some(Gpa(0x8000));
    assert_eq!(messages(&spec, &[]), ["GDT at 0x8000..0x8030 lies in memory region 1, which is read-only"]);
}

#[test]
fn bad_memory_regions() {
    let mut spec = machine(Mode::Long);
    spec.memory = vec![
        MemoryRegion::new(Gpa(0), 0x1800),
        MemoryRegion::new(Gpa(0x1000), 0x1000),
        MemoryRegion::new(Gpa(0x10_0000), 0),
        MemoryRegion::new(Gpa(0xfff0_0000), 0x10_0000),
        MemoryRegion::new(Gpa(!0xfff), 0x2000),
    ];
    assert_eq!(
        messages(&spec, &[]),
        [
            "memory region 1: size 0x1800 is not a multiple of 4 KiB",
            "memory region 3 is empty",
            "memory region 5 at 0xfffffffffffff000 (8 KiB) does not end below 0x10000000000000",
            "memory region 1 at 0x0..0x1800 overlaps memory region 2 at 0x1000..0x2000",
            "memory region 4 at 0xfff00000..0x100000000 overlaps \
             KVM's identity map page at 0xfffbc000..0xfffbd000",
            "memory region 4 at 0xfff00000..0x100000000 overlaps KVM's TSS pages at 0xfffbd000..0xfffc0000",
        ]
    );
    spec.memory.clear();
    assert_eq!(messages(&spec, &[]), ["the machine has no memory"]);
}

#[test]
fn bad_tss_addresses() {
    let mut spec = machine(Mode::Long);
    for (address, message) in [
        (0x1f_f000, "memory region 1 at 0x0..0x200000 overlaps KVM's TSS pages at 0x1ff000..0x202000"),
        (0xffff_e000, "TSS address 0xffffe000: its three pages do not end below 4 GiB"),
        (!0xfff, "TSS address 0xfffffffffffff000: its three pages do not end below 4 GiB"),
        (0x20_0800, "TSS address 0x200800 is not a multiple of 4 KiB"),
    ] {
        spec.tss_address = Gpa(address);
        assert_eq!(messages(&spec, &[]), [message]);
    }
    spec.tss_address = Gpa(0xffff_d000);
    assert!(compute(&spec, &[]).is_ok());
}

#[test]
fn devices_in_the_way() {
    let mut spec = machine(Mode::Long);
    spec.devices.debug_console =
        Some(DebugConsoleSpec { at: BusAddress::Mmio(Gpa(0x1f_fff0)), collect: false });
    spec.devices.hypercall =
        Some(HypercallSpec { at: BusAddress::Mmio(Gpa(0xd000_0000)), host_addresses: false });
    spec.devices.serial.as_mut().unwrap().at = BusAddress::Mmio(Gpa(0xd000_003f));
    assert_eq!(
        messages(&spec, &[guest("guest", 0xd000_0000, 0x10)]),
        [
            "memory region 1 at 0x0..0x200000 overlaps device `debug-console` at 0x1ffff0..0x1ffff1",
            "device `hypercall` at 0xd0000000..0xd0000040 overlaps device `serial` at 0xd000003f..0xd0000047",
            "guest at 0xd0000000..0xd0000010 overlaps device `hypercall` at 0xd0000000..0xd0000040",
        ]
    );
    spec.devices = crate::spec::DeviceSpecs::default();
    spec.devices.debug_console = Some(DebugConsoleSpec { at: BusAddress::Port(Port(0)), collect: false });
    assert!(compute(&spec, &[]).is_ok(), "ports are no addresses");
}

#[test]
fn guests_and_pinned_parts_in_each_others_way() {
    let mut spec = machine(Mode::Long);
    spec.pinned.gdt = Some(Gpa(0x3000));
    spec.pinned.tss = Some(Gpa(0x3000));
    spec.pinned.idt = Some(Gpa(0x1f_fff8));
    spec.pinned.page_tables = Some(Gpa(0x1_0004));
    spec.pinned.stack_top = Some(Gpa(0x9008));
    spec.pinned.stack_size = Some(0x1000);
    let occupied = [guest("segment 1", 0x8800, 0x100), guest("segment 2", 0x30_0000, 0x10)];
    assert_eq!(
        messages(&spec, &occupied),
        [
            "page tables at 0x10004 is not at a multiple of 4096",
            "stack at 0x9008 is not at a multiple of 16",
            "GDT at 0x3000..0x3038 overlaps TSS at 0x3000..0x3068",
            "stack at 0x8008..0x9008 overlaps segment 1 at 0x8800..0x8900",
            "segment 2 at 0x300000..0x300010: no memory at 0x300000..0x300010",
            "IDT at 0x1ffff8..0x200ff8: no memory at 0x200000..0x200ff8",
        ]
    );
}

#[test]
fn pinned_page_tables_are_checked_to_their_end() {
    let mut spec = machine(Mode::Long);
    spec.pinned.page_tables = Some(Gpa(0x1_0000));
    assert!(compute(&spec, &[]).is_ok());
    assert_eq!(
        messages(&spec, &[guest("guest", 0x1_1000, 0x10)]),
        ["page tables at 0x10000..0x13000 overlaps guest at 0x11000..0x11010"]
    );
}

#[test]
fn what_a_mode_does_not_have() {
    let mut spec = machine(Mode::Real);
    spec.boot.ring = Ring::User;
    spec.boot.paging.five_level = true;
    spec.pinned.gdt = Some(Gpa(0x1000));
    spec.pinned.page_tables = Some(Gpa(0x2000));
    spec.pinned.stack_top = Some(Gpa(0x10_1000));
    spec.memory[0].size = 4 << 20;
    assert_eq!(
        messages(&spec, &[]),
        [
            "real mode has no ring 3",
            "real mode has no five-level paging",
            "real mode has no GDT",
            "real mode has no page tables",
            "stack at 0xf1000 (64 KiB) does not end below 0x100000",
        ]
    );
    let mut spec = machine(Mode::Paged);
    spec.boot.paging.page_size = Some(PageSize::Size2M);
    let error = compute(&spec, &[]).unwrap_err();
    assert_eq!(error.to_string(), "paged mode has no 2MiB pages");
}

#[test]
fn a_stack_that_cannot_be() {
    let mut spec = machine(Mode::Protected);
    spec.pinned.stack_size = Some(0);
    assert_eq!(messages(&spec, &[]), ["a stack of 0 B does not fit below 0x100000000"]);
    spec.pinned.stack_top = Some(Gpa(0x1000));
    spec.pinned.stack_size = Some(0x2000);
    assert_eq!(messages(&spec, &[]), ["a stack of 8 KiB does not fit below 0x1000"]);
}

#[test]
fn a_page_cannot_belong_to_both_rings() {
    let mut spec = machine(Mode::Long);
    spec.pinned.gdt = Some(Gpa(0x8000));
    let occupied = [guest("guest", 0x8100, 0x100)];
    assert!(compute(&spec, &occupied).is_ok());
    spec.boot.ring = Ring::User;
    assert_eq!(
        messages(&spec, &occupied),
        ["GDT at 0x8000..0x8038 shares a page with guest at 0x8100..0x8200, which ring 3 must reach"]
    );
}

#[test]
fn a_mapping_may_reach_beyond_memory() {
    let mut spec = machine(Mode::Long);
    spec.boot.paging.maps = vec![map(0xffff_8000_0000_0000, 0, 4 << 30)];
    assert!(compute(&spec, &[]).is_ok());
}

#[test]
fn bad_mappings() {
    let mut spec = machine(Mode::Long);
    spec.boot.paging.maps = vec![
        map(0x4000_0800, 0x800, 0x800),
        map(0x7fff_ffff_f000, 0, 0x2000),
        map(0x5000_0000, 0x20_0000, 0x1000),
        map(0x6000_0000, 0, 0x3000),
        map(0x6000_2000, 0, 0x1000),
        map(0, 0, 0),
        map(0xffff_ffff_ffff_f000, 1 << 52, 0x1000),
        map(0xffff_ffff_ffff_f000, 0, 0x2000),
    ];
    assert_eq!(
        messages(&spec, &[]),
        [
            "mapping 1: gva 0x40000800 is not a multiple of 4 KiB",
            "mapping 1: gpa 0x800 is not a multiple of 4 KiB",
            "mapping 1: size 0x800 is not a multiple of 4 KiB",
            "mapping 2: four-level paging cannot address all of 0x7ffffffff000 (8 KiB)",
            "mapping 3: nothing at physical 0x200000..0x201000, neither memory nor a device",
            "mapping 6 is empty",
            "mapping 7: four-level paging cannot reach all of physical 0x10000000000000 (4 KiB)",
            "mapping 8: four-level paging cannot address all of 0xfffffffffffff000 (8 KiB)",
            "mapping 4 and mapping 5 both map 0x60002000",
        ]
    );
    let mut spec = machine(Mode::Paged);
    let mut data = map(0xffff_f000, 0, 0x1000);
    data.access.executable = false;
    spec.boot.paging.maps = vec![data, map(0xffff_f000, 0, 0x2000)];
    assert_eq!(
        messages(&spec, &[]),
        [
            "mapping 1: two-level paging cannot forbid execution",
            "mapping 2: two-level paging cannot address all of 0xfffff000 (8 KiB)",
        ]
    );
}

#[test]
fn a_mapping_must_not_hide_what_the_machine_needs() {
    let mut spec = machine(Mode::Long);
    spec.pinned.gdt = Some(Gpa(0x3000));
    spec.pinned.stack_top = Some(Gpa(0x8000));
    spec.boot.paging.maps = vec![map(0x3000, 0x10_3000, 0x5000)];
    let message = "mapping 1 hides the GDT at 0x3000..0x3038";
    assert_eq!(messages(&spec, &[])[0], message);
    assert_eq!(messages(&spec, &[]).len(), 2, "and the stack");
    spec.boot.registers = vec![(Register::Rsp, 0x7000_0000)];
    assert_eq!(messages(&spec, &[]), [message]);
    spec.boot.paging.maps = vec![map(0x3000, 0x3000, 0x5000)];
    assert!(compute(&spec, &[]).is_ok());
}

#[test]
fn a_mapping_can_show_a_device() {
    let mut spec = machine(Mode::Long);
    spec.devices.debug_console =
        Some(DebugConsoleSpec { at: BusAddress::Mmio(Gpa(0xd000_0010)), collect: false });
    spec.boot.paging.maps = vec![map(0x4000_0000, 0xd000_0000, 0x1000)];
    let layout = compute(&spec, &[]).unwrap();
    let frames: Vec<u64> = layout.paging().unwrap().pieces.iter().map(|piece| piece.gpa().0).collect();
    assert_eq!(
        frames,
        [0, 0xd000_0000, 0xd000_0000],
        "memory, the mapping, and the device at its own address"
    );
}

#[test]
fn too_many_page_tables_are_refused_and_not_built() {
    let mut spec = machine(Mode::Long);
    spec.memory = vec![MemoryRegion::new(Gpa(0), 2 << 20), MemoryRegion::new(Gpa(1 << 33), 4 << 40)];
    assert!(compute(&spec, &[]).is_ok());
    spec.boot.paging.page_size = Some(PageSize::Size4K);
    let message = &messages(&spec, &[])[0];
    assert!(message.starts_with("the page tables would take"), "{message}");
}
