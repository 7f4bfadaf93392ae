//! Machines made from snapshots behave like the original machine, on KVM.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use vm_memory::Bytes;
use vmm_core::cpu::exit_counts::ExitCounts;
use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::machine::image::FlatImage;
use vmm_core::machine::stop_point::StopPoint;
use vmm_core::snapshot::Snapshot;
use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{EntryPoint, LimitSpec, MachineSpec, Mapping, PagePermissions, Register};
use vmm_core::{Gpa, Gva, Kvm};

const CODE: u64 = 0x8000;
/// Address after the code, in the page of the guest.
const TABLE: u64 = 0x8800;
/// Code that is valid in 16, 32 and 64 bits. It mixes AL with a counter, stores it, prints it, reads a port and uses the stack, 64
/// times, and ends with a write to the exit port:
/// `mov $64, %cl; 1: add %cl, %al; rol $3, %al; stosb; out %al, $0xe9; push; in $0x80, %al; pop; dec %cl; jnz 1b; out %al, $0xf4`
const GUEST: [u8; 20] = [
    0xb1, 64, 0x00, 0xc8, 0xc0, 0xc0, 3, 0xaa, 0xe6, 0xe9, 0x50, 0xe4, 0x80, 0x58, 0xfe, 0xc9, 0x75, 0xf0,
    0xe6, 0xf4,
];
/// Number of exits: two in each round, and the last one.
const EXITS: u64 = 129;
/// MSRs that count time: the TSC, and two of Hyper-V's (TLFS, appendix F).
const CLOCKS: [u32; 3] = [0x10, 0x4000_0010, 0x4000_0020];

/// Output of a machine.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Printed {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn spec(mode: Mode, ring: Ring) -> MachineSpec {
    let mut spec = MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(CODE)));
    spec.boot.ring = ring;
    spec.limits.time = Some(Duration::from_secs(120));
    spec
}

fn build(mode: Mode, ring: Ring, printed: &Printed) -> Result<Machine, Error> {
    let mut spec = spec(mode, ring);
    spec.boot.registers = vec![(Register::Rdi, TABLE)];
    let mut bytes = GUEST.to_vec();
    bytes.resize(0x1000, 0);
    let guest = FlatImage { address: Gpa(CODE), bytes: &bytes };
    Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(printed.clone()))
}

/// Returns all modes and rings that this host supports.
fn machines() -> impl Iterator<Item = (Mode, Ring)> {
    let all = Mode::ALL.into_iter().flat_map(|mode| [(mode, Ring::Kernel), (mode, Ring::User)]);
    all.filter(|&(mode, ring)| mode.is_protected() || ring == Ring::Kernel).filter(
        |&(mode, ring)| match build(mode, ring, &Printed::default()) {
            Ok(_) => true,
            Err(error) if error.blame() == Blame::HostLacks => false,
            Err(error) => panic!("{mode}: {error}"),
        },
    )
}

fn limits() -> LimitSpec {
    let time = Some(Duration::from_secs(120));
    LimitSpec { time, exits: None }
}

/// Comparable state of a machine that has ended.
struct FinalState {
    end: End,
    exits: ExitCounts,
    printed: Vec<u8>,
    registers: String,
    msrs: Vec<(u32, u64)>,
    memory: Vec<u8>,
}

fn run_to_end(machine: &mut Machine, printed: &Printed) -> FinalState {
    let end = machine.run().unwrap().end;
    let exits = machine.exits();
    let mut memory = vec![0; 2 << 20];
    machine.memory().read_slice(&mut memory, Gpa(0).into()).unwrap();
    let state = machine.vcpu().save_with(&machine.vcpu().vm().kvm().msr_index_list().unwrap()).unwrap();
    let msrs = state
        .msrs
        .iter()
        .map(|msr| (msr.index, msr.data))
        .filter(|(index, _)| !CLOCKS.contains(index))
        .collect();
    let registers = format!("{state:?} {:?}", state.fxsave());
    FinalState { end, exits, printed: printed.take(), registers, msrs, memory }
}

impl FinalState {
    /// Returns short descriptions of the differences, at most 8 of memory.
    fn differences(&self, other: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let mut differ = |what: &str, a: String, b: String| {
            if a != b {
                all.push(format!("{what}: {a} and {b}"));
            }
        };
        differ("end", format!("{:?}", self.end), format!("{:?}", other.end));
        differ("exits", self.exits.to_string(), other.exits.to_string());
        differ("printed", format!("{:x?}", self.printed), format!("{:x?}", other.printed));
        differ("registers", self.registers.clone(), other.registers.clone());
        differ("MSRs", format!("{:x?}", self.msrs), format!("{:x?}", other.msrs));
        let places = self.memory.iter().zip(&other.memory).enumerate().filter(|(_, (a, b))| a != b);
        all.extend(places.take(8).map(|(at, (a, b))| format!("memory at {at:#x}: {a:#x} and {b:#x}")));
        all
    }
}

/// Takes a snapshot after a number of exits. Checks that the machine, a copy and the copy after each reset end in the same state.
fn check_snapshot_after(mode: Mode, ring: Ring, exits: u64) {
    let (first, second) = (Printed::default(), Printed::default());
    let mut machine = build(mode, ring, &first).unwrap();
    assert_eq!(machine.runner().until(StopPoint::Exits(exits)).limits(limits()).run().unwrap(), None);
    let snapshot = machine.snapshot().unwrap();
    first.take();
    let expected = run_to_end(&mut machine, &first);
    assert!(matches!(expected.end, End::Exit { .. }), "{mode}: {:?}", expected.end);

    let kvm = Kvm::open().unwrap();
    let mut copy = snapshot.machine(&kvm, Console::with_output(second.clone())).unwrap();
    for round in 0..3 {
        let found = run_to_end(&mut copy, &second);
        let differences = found.differences(&expected);
        let level = ring.level();
        assert!(
            differences.is_empty(),
            "{mode} in ring {level}, {exits} exits, round {round}: {differences:#?}"
        );
        copy.reset().unwrap();
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_machine_from_a_snapshot_continues_like_the_original() {
    for (mode, ring) in machines() {
        for exits in [0, 1, 2, EXITS - 1] {
            check_snapshot_after(mode, ring, exits);
        }
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(6));
        let property = |exits| {
            check_snapshot_after(mode, ring, exits);
            Ok(())
        };
        runner.run(&(0..EXITS), property).unwrap();
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn copies_do_not_share_writes() {
    let printed = Printed::default();
    let mut machine = build(Mode::Long, Ring::Kernel, &printed).unwrap();
    assert_eq!(machine.runner().until(StopPoint::Exits(20)).limits(limits()).run().unwrap(), None);
    let snapshot: Snapshot = machine.snapshot().unwrap();
    let kvm = Kvm::open().unwrap();
    let mut copies: Vec<_> =
        (0..4).map(|_| snapshot.machine(&kvm, Console::with_output(std::io::sink())).unwrap()).collect();
    let byte = |machine: &Machine| -> u8 { machine.memory().read_obj(Gpa(TABLE + 60).into()).unwrap() };
    copies[1].run().unwrap();
    assert_ne!(byte(&copies[1]), 0);
    assert_eq!([byte(&copies[0]), byte(&copies[2]), byte(&machine)], [0; 3]);
    machine.run().unwrap();
    copies[3].run().unwrap();
    assert_eq!(byte(&copies[3]), byte(&machine));
    assert_eq!(byte(&copies[2]), 0);
    // A copy of a copy.
    let mut second = copies[2].fork(Console::with_output(std::io::sink())).unwrap();
    second.run().unwrap();
    assert_eq!(byte(&second), byte(&machine));
}

/// A reset writes registers to KVM only at the next run. Reads and changes before that see the registers of the snapshot.
#[test]
#[ignore = "needs /dev/kvm"]
fn registers_can_be_read_and_changed_right_after_a_reset() {
    for (mode, ring) in machines() {
        let printed = Printed::default();
        let mut machine = build(mode, ring, &printed).unwrap();
        assert_eq!(machine.runner().until(StopPoint::Exits(11)).limits(limits()).run().unwrap(), None);
        let snapshot = machine.snapshot().unwrap();
        let mut copy =
            snapshot.machine(&Kvm::open().unwrap(), Console::with_output(printed.clone())).unwrap();
        let (regs, sregs) = (copy.vcpu().regs().unwrap(), copy.vcpu().sregs().unwrap());
        printed.take();
        copy.run().unwrap();
        let whole = printed.take();
        for reads in [true, false, true] {
            copy.reset().unwrap();
            if reads {
                assert_eq!((copy.vcpu().regs().unwrap(), copy.vcpu().sregs().unwrap()), (regs, sregs));
            }
            // CL counts the remaining rounds, the current one included.
            copy.reset_to(&snapshot.with_registers(|regs| regs.rcx = 2)).unwrap();
            assert_eq!(copy.vcpu().regs().unwrap().rcx, 2, "{mode}, {ring:?}");
            copy.run().unwrap();
            assert_eq!(printed.take().len(), 1, "{mode}, {ring:?}");
            copy.reset().unwrap();
            copy.run().unwrap();
            assert_eq!(printed.take(), whole, "{mode}, {ring:?}");
        }
        let mut other = machine.fork(Console::with_output(printed)).unwrap();
        let error = other.reset_to(&snapshot).unwrap_err().to_string();
        assert_eq!(error, "the snapshot is not usable: the machine was made from another one");
    }
}

/// A reset invalidates translations that the CPU caches, and shadow page tables of KVM.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_reset_restores_page_tables() {
    const WINDOW: Gva = Gva(0x4000_0000);
    const PAGES: [(u64, u8); 2] = [(0x10_0000, b'a'), (0x10_1000, b'b')];
    let access = PagePermissions { writable: true, user: true, executable: true };
    let window = Mapping { gva: WINDOW, gpa: Gpa(PAGES[0].0), size: 0x1000, access };
    for (mode, ring) in machines().filter(|(mode, _)| mode.has_paging()) {
        let printed = Printed::default();
        let mut spec = spec(mode, ring);
        spec.boot.paging.maps = vec![window];
        spec.boot.registers = vec![(Register::Rsi, WINDOW.0)];
        // mov (%rsi), %al; out %al, $0xe9; out %al, $0xf4
        let guest = FlatImage { address: Gpa(CODE), bytes: &[0x8a, 0x06, 0xe6, 0xe9, 0xe6, 0xf4] };
        let kvm = Kvm::open().unwrap();
        let mut machine = Machine::build(&kvm, spec, &guest, Console::with_output(printed.clone())).unwrap();
        for (page, letter) in PAGES {
            machine.memory().write_obj(letter, Gpa(page).into()).unwrap();
        }
        let mut copy = machine.fork(Console::with_output(printed.clone())).unwrap();
        let walk = copy.walker().unwrap().walk(copy.memory(), WINDOW);
        let entry = walk.steps.last().unwrap().at.into();
        for _ in 0..3 {
            let value: u32 = copy.memory().read_obj(entry).unwrap();
            let other = u32::try_from(PAGES[0].0 ^ PAGES[1].0).unwrap();
            copy.memory().write_obj(value ^ other, entry).unwrap();
            copy.run().unwrap();
            copy.reset().unwrap();
            copy.run().unwrap();
            copy.reset().unwrap();
        }
        assert_eq!(printed.take(), b"bababa", "{mode}, {ring:?}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn only_a_machine_from_a_snapshot_can_be_reset() {
    let mut machine = build(Mode::Long, Ring::Kernel, &Printed::default()).unwrap();
    let error = machine.reset().unwrap_err();
    assert_eq!(error.to_string(), "the snapshot is not usable: the machine was not made from one");
}
