//! Machines on KVM: every mode runs, and the page walker agrees with `KVM_TRANSLATE`.
//!
//! A test that cannot run on a host prints `skipped: REASON`.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::machine::image::FlatImage;
use vmm_core::machine::probe::{ModeProbe, ProbeResult};
use vmm_core::paging::walk::Walker;
use vmm_core::spec::mode::{Mode, PageSize, Ring};
use vmm_core::spec::{
    EntryPoint, HaltPolicy, MachineSpec, Mapping, PagePermissions, ResetPolicy, UnmappedPolicy,
};
use vmm_core::{Gpa, Gva, Kvm};

const CODE: u64 = 0x8000;
const MEMORY: u64 = 16 << 20;

/// Returns true on kvm-pvm, which has no hardware virtualization, no 32-bit paging and no 1 GiB pages.
fn is_pvm() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

fn spec(mode: Mode) -> MachineSpec {
    let mut spec = MachineSpec::new(mode, MEMORY, EntryPoint::Address(Gva(CODE)));
    spec.limits.time = Some(Duration::from_secs(60));
    spec
}

fn build(spec: MachineSpec, code: &[u8]) -> Result<Machine, Error> {
    let guest = FlatImage { address: Gpa(CODE), bytes: code };
    Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(std::io::sink()))
}

fn run(spec: MachineSpec, code: &[u8]) -> End {
    build(spec, code).unwrap().run().unwrap().end
}

#[test]
#[ignore = "needs /dev/kvm"]
fn every_mode_and_ring_works_or_is_refused_before_the_run() {
    let kvm = Kvm::open().unwrap();
    for probe in ModeProbe::all() {
        let name = format!("{} in ring {} {:?}", probe.mode, probe.ring.level(), probe.extra);
        let known_gap = is_pvm() && matches!(probe.mode, Mode::Paged | Mode::Pae);
        match probe.run(&kvm) {
            ProbeResult::Works => {
                assert!(!known_gap, "{name} works now: correct the documentation of kvm-pvm");
            }
            // A missing feature of the host is always an error of the class `HostLacks`.
            ProbeResult::Refused(error) => {
                assert_eq!(error.blame(), Blame::HostLacks, "{name}: {error}");
                assert!(known_gap || probe.extra.is_some(), "{name}: {error}");
            }
            ProbeResult::Failed(end) => panic!("{name}: {end}"),
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_dropped_paging_bit_is_named() {
    if !is_pvm() {
        println!("skipped: this host's KVM has 32-bit paging");
        return;
    }
    let error = build(spec(Mode::Pae), &[0xf4]).unwrap_err();
    assert_eq!(error.to_string(), "this host's KVM cannot do mode pae: it cleared CR0.PG");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn every_kind_of_end_is_reported() {
    assert_eq!(run(spec(Mode::Long), &[0xfa, 0xf4]), End::Halt { interrupts: false });
    assert_eq!(run(spec(Mode::Long), &[0xfb, 0xf4]), End::Halt { interrupts: true });
    // mov $7, %al; out %al, $0xf4
    assert_eq!(run(spec(Mode::Long), &[0xb0, 7, 0xe6, 0xf4]), End::Exit { code: 15 });
    // ud2 with an empty IDT
    assert_eq!(run(spec(Mode::Long), &[0x0f, 0x0b]), End::Shutdown);

    let mut unmapped_stops = spec(Mode::Long);
    unmapped_stops.unmapped = UnmappedPolicy::Stop;
    let End::Unmapped(access) = run(unmapped_stops, &[0xe6, 0x99]) else { panic!() };
    assert_eq!((access.width, access.written), (1, Some(0)));

    let mut endless = spec(Mode::Long);
    endless.limits.time = Some(Duration::from_millis(50));
    assert_eq!(run(endless.clone(), &[0xeb, 0xfe]), End::TimeLimit(Duration::from_millis(50)));
    // A guest that exits all the time is stopped as well.
    assert_eq!(run(endless, &[0xe6, 0x80, 0xeb, 0xfc]), End::TimeLimit(Duration::from_millis(50)));

    let mut many_exits = spec(Mode::Long);
    many_exits.limits.exits = Some(10);
    assert_eq!(run(many_exits, &[0xe6, 0x80, 0xeb, 0xfc]), End::ExitLimit(10));

    let hung = End::Halt { interrupts: false }.verdict(HaltPolicy::Hung, ResetPolicy::Failure);
    assert_eq!(hung, vmm_core::machine::end::Verdict::Hung);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_exception_in_ring_3_is_named_with_its_frame() {
    let mut user = spec(Mode::Long);
    user.boot.ring = Ring::User;
    // hlt is privileged
    let End::Exception { vector: 13, frame: Some(frame) } = run(user, &[0x90, 0xf4]) else { panic!() };
    assert_eq!((frame.error_code, frame.rip, frame.cs & 3), (Some(0), CODE + 1, 3));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn execution_on_a_no_execute_page_faults() {
    let mut guarded = spec(Mode::Long);
    let access = PagePermissions { writable: true, user: false, executable: false };
    let map = Mapping { gva: Gva(0x4000_0000), gpa: Gpa(0), size: 1 << 20, access };
    guarded.boot.paging.maps.push(map);
    // mov $0x40008006, %eax; jmp *%rax: the hlt after it, through the mapping
    let code = [0xb8, 0x07, 0x80, 0x00, 0x40, 0xff, 0xe0, 0xf4];
    assert_eq!(run(guarded.clone(), &code), End::Shutdown);
    guarded.boot.paging.maps[0].access.executable = true;
    assert_eq!(run(guarded, &code), End::Halt { interrupts: false });
}

/// Parameters of a machine with random mappings.
#[derive(Debug, Clone)]
struct Paging {
    page_size: PageSize,
    ring: Ring,
    maps: Vec<Mapping>,
    addresses: Vec<u64>,
}

fn paging(mode: Mode) -> impl Strategy<Value = Paging> {
    // Without 1 GiB pages: not every host has them, and the memory is smaller than one.
    let sizes: Vec<_> = mode.page_sizes().iter().copied().filter(|size| *size != PageSize::Size1G).collect();
    // Low and high halves in long mode; all of 32 bits elsewhere.
    let gva = if mode == Mode::Long {
        prop_oneof![0_u64..1 << 47, 0xffff_8000_0000_0000_u64..0xffff_ffff_ff00_0000].boxed()
    } else {
        (0_u64..0xff00_0000).boxed()
    };
    // Alignments from 4 KiB to 4 MiB, so that pages of every size occur.
    let map = (gva.clone(), 0..MEMORY, 1_u64..1 << 22, 12_u32..=22, any::<(bool, bool)>());
    let map = map.prop_map(move |(gva, gpa, size, shift, (writable, user))| {
        let align = |value: u64| value >> shift << shift;
        let (gpa, size) = (align(gpa), (size >> 12 << 12).max(4096));
        let size = size.min(MEMORY - gpa);
        let access = PagePermissions { writable, user, executable: true };
        Mapping { gva: Gva(align(gva)), gpa: Gpa(gpa), size, access }
    });
    let ring = prop_oneof![Just(Ring::Kernel), Just(Ring::User)];
    let addresses = prop::collection::vec(gva, 20);
    (prop::sample::select(sizes), ring, prop::collection::vec(map, 0..6), addresses)
        .prop_map(|(page_size, ring, maps, addresses)| Paging { page_size, ring, maps, addresses })
}

/// Builds machines with random page tables and compares the translations of at least 100 addresses each.
fn check_walker(mode: Mode, five_level: bool) {
    let mut runner = TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let compared = Cell::new(0_u32);
    runner
        .run(&paging(mode), |paging| {
            let mut spec = spec(mode);
            spec.boot.ring = paging.ring;
            spec.boot.paging.page_size = Some(paging.page_size);
            spec.boot.paging.five_level = five_level;
            spec.boot.paging.maps.clone_from(&paging.maps);
            let machine = match build(spec, &[0xf4]) {
                Ok(machine) => machine,
                // Random mappings may overlap each other or hide a table.
                Err(Error::Layout(_)) => return Err(TestCaseError::reject("layout")),
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            };
            let vcpu = machine.vcpu();
            let walker = Walker::from_sregs(&vcpu.sregs().unwrap());
            let edges = paging.maps.iter().flat_map(|map| {
                let start = map.gva.0;
                [start.wrapping_sub(1), start, start + map.size / 2, start + map.size - 1, start + map.size]
            });
            let own = (0..80).map(|page| page * (MEMORY / 64) + 0x123);
            for address in own.chain(edges).chain(paging.addresses) {
                let gva = Gva(if mode == Mode::Long { address } else { address & 0xffff_ffff });
                let found = walker.walk(machine.memory(), gva).translation().map(|t| t.gpa);
                let kvm = vcpu.translate(gva).unwrap();
                prop_assert_eq!(found, kvm, "{}", gva);
                compared.set(compared.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    assert!(compared.get() >= 48 * 100, "{} addresses were compared", compared.get());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_walker_agrees_with_kvm_translate_in_long_mode() {
    check_walker(Mode::Long, false);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_walker_agrees_with_kvm_translate_with_two_levels() {
    if is_pvm() {
        println!("skipped: kvm-pvm has no 32-bit paging");
        return;
    }
    check_walker(Mode::Paged, false);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_walker_agrees_with_kvm_translate_with_pae() {
    if is_pvm() {
        println!("skipped: kvm-pvm has no 32-bit paging");
        return;
    }
    check_walker(Mode::Pae, false);
}
