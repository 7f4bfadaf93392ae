//! Machines run up to a point, on a real KVM, in every mode and ring that the host has.
#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests are tests")]

use std::time::Duration;

use vmm_core::cpu::exit_counts::{ExitCounts, ExitKind};
use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::debug_capabilities::DebugCapabilities;
use vmm_core::machine::end::End;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::machine::image::FlatImage;
use vmm_core::machine::observer::{ExitView, Observer};
use vmm_core::machine::stop_point::StopPoint;
use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{EntryPoint, LimitSpec, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

const CODE: u64 = 0x8000;
/// `mov $5, %al; out %al, $0x80; in $0x80, %al; nop; out %al, $0xf4`: the same in 16, 32 and 64 bits.
const GUEST: [u8; 9] = [0xb0, 5, 0xe6, 0x80, 0xe4, 0x80, 0x90, 0xe6, 0xf4];

fn build(mode: Mode, ring: Ring, code: &[u8]) -> Result<Machine, Error> {
    let mut spec = MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(CODE)));
    spec.boot.ring = ring;
    spec.limits.time = Some(Duration::from_secs(60));
    let guest = FlatImage { address: Gpa(CODE), bytes: code };
    Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(std::io::sink()))
}

/// All machines that this host can build.
fn machines() -> Vec<Machine> {
    let rings = Mode::ALL.into_iter().flat_map(|mode| [(mode, Ring::Kernel), (mode, Ring::User)]);
    let possible = rings.filter(|(mode, ring)| (*mode, *ring) != (Mode::Real, Ring::User));
    possible
        .filter_map(|(mode, ring)| match build(mode, ring, &GUEST) {
            Ok(machine) => Some(machine),
            Err(error) if error.blame() == Blame::HostLacks => None,
            Err(error) => panic!("{mode}: {error}"),
        })
        .collect()
}

fn name(machine: &Machine) -> String {
    format!("{} in ring {}", machine.spec().boot.mode, machine.spec().boot.ring.level())
}

fn limits() -> LimitSpec {
    LimitSpec { time: Some(Duration::from_secs(60)), exits: None }
}

/// Remembers how many exits the guest sees.
#[derive(Default)]
struct Last(ExitCounts);

impl Observer for Last {
    fn on_exit(&mut self, view: &ExitView<'_>) -> Option<End> {
        self.0 = view.exits.clone();
        None
    }
}

fn address(offset: u64) -> StopPoint {
    StopPoint::Address { gva: Gva(CODE + offset), gpa: None }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_address_is_reached_before_its_instruction_and_leaves_no_trace() {
    for mut machine in machines() {
        let name = name(&machine);
        assert_eq!(machine.runner().until(address(6)).limits(limits()).run().unwrap(), None, "{name}");
        let regs = machine.vcpu().regs().unwrap();
        assert_eq!(machine.next_instruction().unwrap(), Gva(CODE + 6), "{name}");
        // The IN before it has been completed: nothing answers at port 0x80.
        assert_eq!(regs.rax & 0xff, 0xff, "{name}");
        assert_eq!(machine.vcpu().sregs().unwrap().cs.dpl, machine.spec().boot.ring.level(), "{name}");
        // It is there already.
        assert_eq!(machine.runner().until(address(6)).limits(limits()).run().unwrap(), None, "{name}");
        let mut last = Last::default();
        let end =
            machine.runner().until(StopPoint::End).observe(&mut [&mut last]).limits(limits()).run().unwrap();
        // An odd code is what the exit port makes of 0xff.
        assert_eq!(end, Some(End::Exit { code: 511 }), "{name}");
        assert_eq!(last.0.total(), 3, "{name}: OUT, IN, OUT, and nothing of ours");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_number_of_exits_includes_the_instruction_of_the_last() {
    for mut machine in machines() {
        let name = name(&machine);
        for (count, offset, al) in [(0, 0, 0), (1, 4, 5), (2, 6, 0xff)] {
            assert_eq!(
                machine.runner().until(StopPoint::Exits(count)).limits(limits()).run().unwrap(),
                None,
                "{name}"
            );
            assert_eq!(machine.next_instruction().unwrap(), Gva(CODE + offset), "{name} after {count}");
            assert_eq!(machine.vcpu().regs().unwrap().rax & 0xff, al, "{name} after {count}");
        }
        let end = machine.runner().until(StopPoint::Exits(99)).limits(limits()).run().unwrap();
        assert_eq!(end, Some(End::Exit { code: 511 }), "{name}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_address_that_is_never_reached_is_the_end() {
    for mut machine in machines() {
        let name = name(&machine);
        let end = machine.runner().until(address(0x800)).limits(limits()).run().unwrap();
        assert_eq!(end, Some(End::Exit { code: 511 }), "{name}");
        let byte: u8 =
            vm_memory::Bytes::read_obj(machine.memory(), vm_memory::GuestAddress(CODE + 0x800)).unwrap();
        assert_eq!(byte, 0, "{name}: no breakpoint is left behind");
    }
}

/// Such an address cannot hold a breakpoint of memory's: where the host has none of the CPU's, this is single-stepped.
#[test]
#[ignore = "needs /dev/kvm"]
fn an_address_without_memory_can_be_asked_for() {
    for mut machine in machines() {
        let name = name(&machine);
        let far = StopPoint::Address { gva: Gva(0x4000_0000), gpa: None };
        let mut last = Last::default();
        let end = machine.runner().until(far).observe(&mut [&mut last]).limits(limits()).run().unwrap();
        assert_eq!(end, Some(End::Exit { code: 511 }), "{name}");
        assert_eq!(machine.exits().get(ExitKind::Debug), 0, "{name}: steps are not the guest's exits");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn probing_twice_finds_the_same() {
    let kvm = Kvm::open().unwrap();
    for machine in machines() {
        let probe = || DebugCapabilities::probe(&kvm, machine.spec()).unwrap();
        assert_eq!(probe(), probe(), "{}", name(&machine));
    }
}
