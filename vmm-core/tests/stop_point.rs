//! Machines that run to a stop point on KVM, in every mode and ring that the host supports.
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
/// `mov $5, %al; out %al, $0x80; in $0x80, %al; nop; out %al, $0xf4`: valid in 16-, 32- and 64-bit code.
const GUEST: [u8; 9] = [0xb0, 5, 0xe6, 0x80, 0xe4, 0x80, 0x90, 0xe6, 0xf4];

fn build(mode: Mode, ring: Ring, code: &[u8]) -> Result<Machine, Error> {
    let mut spec = MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(CODE)));
    spec.boot.ring = ring;
    spec.limits.time = Some(Duration::from_secs(60));
    let guest = FlatImage { address: Gpa(CODE), bytes: code };
    Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(std::io::sink()))
}

/// Builds a machine for each mode and ring that this host supports.
fn machines() -> Vec<Machine> {
    let rings = Mode::ALL.into_iter().flat_map(|mode| [(mode, Ring::Kernel), (mode, Ring::User)]);
    let possible = rings.filter(|(mode, ring)| mode.is_protected() || *ring == Ring::Kernel);
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

/// Observer that stores the exit counts.
#[derive(Default)]
struct LastCounts(ExitCounts);

impl Observer for LastCounts {
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
fn a_machine_stops_before_the_instruction_at_an_address() {
    for mut machine in machines() {
        let name = name(&machine);
        assert_eq!(machine.runner().until(address(6)).limits(limits()).run().unwrap(), None, "{name}");
        let regs = machine.vcpu().regs().unwrap();
        assert_eq!(machine.next_instruction().unwrap(), Gva(CODE + 6), "{name}");
        // The IN before it has been completed: nothing answers at port 0x80.
        assert_eq!(regs.rax & 0xff, 0xff, "{name}");
        assert_eq!(machine.vcpu().sregs().unwrap().cs.dpl, machine.spec().boot.ring.level(), "{name}");
        // The machine is at the address already.
        assert_eq!(machine.runner().until(address(6)).limits(limits()).run().unwrap(), None, "{name}");
        let mut last = LastCounts::default();
        let end =
            machine.runner().until(StopPoint::End).observe(&mut [&mut last]).limits(limits()).run().unwrap();
        // The exit port turns 0xff into this code.
        assert_eq!(end, Some(End::Exit { code: 511 }), "{name}");
        assert_eq!(last.0.total(), 3, "{name}: only OUT, IN and OUT");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_machine_stops_after_the_instruction_of_the_last_exit() {
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
fn a_machine_that_never_reaches_the_address_runs_to_its_end() {
    for mut machine in machines() {
        let name = name(&machine);
        let end = machine.runner().until(address(0x800)).limits(limits()).run().unwrap();
        assert_eq!(end, Some(End::Exit { code: 511 }), "{name}");
        let byte: u8 =
            vm_memory::Bytes::read_obj(machine.memory(), vm_memory::GuestAddress(CODE + 0x800)).unwrap();
        assert_eq!(byte, 0, "{name}: the breakpoint is removed");
    }
}

/// There is no memory for a breakpoint instruction. If the host has no hardware breakpoints, the guest is single-stepped.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_stop_point_may_be_an_address_without_memory() {
    for mut machine in machines() {
        let name = name(&machine);
        let far = StopPoint::Address { gva: Gva(0x4000_0000), gpa: None };
        let mut last = LastCounts::default();
        let end = machine.runner().until(far).observe(&mut [&mut last]).limits(limits()).run().unwrap();
        assert_eq!(end, Some(End::Exit { code: 511 }), "{name}");
        assert_eq!(machine.exits().get(ExitKind::Debug), 0, "{name}: steps are not the guest's exits");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn two_probes_have_the_same_result() {
    let kvm = Kvm::open().unwrap();
    for machine in machines() {
        let probe = || DebugCapabilities::probe(&kvm, machine.spec()).unwrap();
        assert_eq!(probe(), probe(), "{}", name(&machine));
    }
}
