//! What a state is made of, and each mistake that it can be refused for.

use super::*;
use crate::Gva;
use crate::cpu::reset_state;
use crate::layout::{self, LayoutEntry};
use crate::spec::mode::{Mode, Ring};
use crate::spec::{EntryPoint, Mapping, PagePermissions, Register};

fn machine(mode: Mode, entry: u64) -> MachineSpec {
    MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(entry)))
}

fn state(spec: &MachineSpec) -> Result<InitialState, StateError> {
    let layout = layout::compute(spec, &[]).unwrap();
    initial_state(&reset_state::sregs(), spec, &layout, HostQuirks::default())
}

fn messages(spec: &MachineSpec) -> Vec<String> {
    let error = state(spec).unwrap_err();
    error.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_no_part_of_the_mode_is_left_as_the_reset_has_it() {
    let mut reset = reset_state::sregs();
    (reset.apic_base, reset.cr8) = (0xfee0_0800, 3);
    let spec = machine(Mode::Long, 0x10_0000);
    let layout = layout::compute(&spec, &[]).unwrap();
    let sregs = initial_state(&reset, &spec, &layout, HostQuirks::default()).unwrap().sregs;
    assert_eq!((sregs.apic_base, sregs.cr8), (0xfee0_0800, 3));
}

#[test]
fn the_quirk_reaches_cache_and_memory() {
    let spec = machine(Mode::Protected, 0x10_0000);
    let layout = layout::compute(&spec, &[]).unwrap();
    for (tr_type, kind) in [(TrType::Busy, 11), (TrType::Available, 9)] {
        let state = initial_state(&reset_state::sregs(), &spec, &layout, HostQuirks { tr_type }).unwrap();
        let gdt = state.images.iter().find(|image| image.gpa.0 == state.sregs.gdt.base).unwrap();
        assert_eq!((state.sregs.tr.type_, gdt.bytes[0x28 + 5] & 0xf), (kind, kind));
    }
}

#[test]
fn sse_is_for_long_mode_unless_asked_for() {
    let bits = (Cr4::OSFXSR | Cr4::OSXMMEXCPT).bits();
    for (mode, wish, expected) in [
        (Mode::Long, None, true),
        (Mode::Long, Some(false), false),
        (Mode::Pae, None, false),
        (Mode::Real, Some(true), true),
    ] {
        let mut spec = machine(mode, 0x8000);
        spec.boot.sse = wish;
        let sregs = state(&spec).unwrap().sregs;
        assert_eq!(sregs.cr4 & bits == bits, expected, "{mode} {wish:?}");
        assert_eq!(sregs.cr0 & Cr0::MP.bits() != 0, expected, "{mode} {wish:?}");
    }
}

#[test]
fn features_are_needed_only_when_used() {
    let mut spec = machine(Mode::Long, 0x10_0000);
    spec.boot.paging.page_size = Some(PageSize::Size1G);
    assert_eq!(state(&spec).unwrap().needs, [], "2 MiB of memory hold no page of 1 GiB");
    spec.memory[0].size = 1 << 30;
    spec.boot.paging.five_level = true;
    let access = PagePermissions { writable: true, user: false, executable: false };
    spec.boot.paging.maps = vec![Mapping { gva: Gva(1 << 40), gpa: Gpa(0), size: 0x1000, access }];
    let state = state(&spec).unwrap();
    assert_eq!(state.needs, [RequiredFeature::Nx, RequiredFeature::Page1G, RequiredFeature::La57]);
    assert_ne!(state.sregs.efer & Efer::NXE.bits(), 0);
}

#[test]
fn presets_replace_the_defaults() {
    let mut spec = machine(Mode::Long, 0x10_0000);
    spec.boot.registers = vec![
        (Register::Rdi, u64::MAX),
        (Register::Rsp, 0x8000),
        (Register::Rflags, 0x200),
        (Register::R15, 7),
    ];
    let regs = state(&spec).unwrap().regs;
    assert_eq!((regs.rdi, regs.rsp, regs.rflags, regs.r15), (u64::MAX, 0x8000, 0x202, 7));
    assert_eq!((regs.rip, regs.rax), (0x10_0000, 0));
}

#[test]
fn bad_presets_are_all_reported() {
    let mut spec = machine(Mode::Protected, 0x10_0000);
    spec.boot.registers = vec![
        (Register::Rip, 0),
        (Register::R8, 0),
        (Register::Rax, 1 << 32),
        (Register::Rax, 1),
        (Register::Rflags, 1 << 17 | 1 << 3 | 1),
    ];
    assert_eq!(
        messages(&spec),
        [
            "register rip cannot be preset",
            "protected mode has no register r8",
            "register rax: 0x100000000 has more than the 32 bits of protected mode",
            "register rax is preset twice",
            "register rflags: cannot set bit3 VM",
        ]
    );
}

#[test]
fn entries_that_no_cpu_could_start_at() {
    for (mode, entry, message) in [
        (Mode::Real, 0x10_0000, "entry 0x100000 is beyond what the mode can address"),
        (Mode::Protected, 1 << 32, "entry 0x100000000 is beyond what the mode can address"),
        (Mode::Protected, 0x20_0000, "entry 0x200000: no memory at physical 0x200000"),
        (Mode::Paged, 1 << 32, "entry 0x100000000 is beyond what the mode can address"),
        (Mode::Paged, 0x20_0000, "entry 0x200000 is not mapped"),
        (Mode::Long, 0x8000_0000_0000, "entry 0x800000000000 is not mapped"),
    ] {
        assert_eq!(messages(&machine(mode, entry)), [message]);
    }
    let mut spec = machine(Mode::Long, 0);
    spec.boot.entry = EntryPoint::Segmented { segment: 0x7c0, offset: 0 };
    assert_eq!(messages(&spec), ["entry 07c0:0000: long mode takes an address, not segment:offset"]);
    let mut spec = machine(Mode::Long, 0x1080);
    spec.boot.ring = Ring::User;
    assert_eq!(messages(&spec), ["entry 0x1080 lies in a page of the GDT, which ring 3 cannot use"]);
    let access = PagePermissions { writable: true, user: true, executable: false };
    spec.boot.paging.maps = vec![Mapping { gva: Gva(1 << 40), gpa: Gpa(0x10_0000), size: 0x1000, access }];
    spec.boot.entry = EntryPoint::Address(Gva(1 << 40));
    assert_eq!(messages(&spec), ["entry 0x10000000000 is not executable"]);
}

#[test]
fn a_layout_of_another_machine_is_a_bug_of_ours() {
    let real = layout::compute(&machine(Mode::Real, 0x8000), &[]).unwrap();
    let error =
        initial_state(&reset_state::sregs(), &machine(Mode::Long, 0x8000), &real, HostQuirks::default());
    assert_eq!(
        error.unwrap_err().to_string(),
        "the layout has no room for the TSS: it belongs to another machine"
    );
}

#[test]
fn images_read_as_memory() {
    let spec = machine(Mode::Long, 0x10_0000);
    let guest = LayoutEntry::guest("guest", GpaRange::new(Gpa(0x1000), 0x1000).unwrap());
    let layout = layout::compute(&spec, &[guest]).unwrap();
    let state = initial_state(&reset_state::sregs(), &spec, &layout, HostQuirks::default()).unwrap();
    let mut entry = [0; 8];
    assert_eq!(state.images.read(Gpa(0x2008), &mut entry), Some(()));
    assert_eq!(u64::from_le_bytes(entry), 0x00af_9b00_0000_ffff);
    assert_eq!(state.images.read(Gpa(0x1000), &mut entry), None);
    assert_eq!(state.images.read(Gpa(u64::MAX), &mut entry), None);
}
