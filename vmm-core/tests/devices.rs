//! Tables of devices in the documentation, and custom devices in layout, call sequence, run, snapshot and replay.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "the helpers of tests are tests")]

#[path = "support/document_tables.rs"]
mod document_tables;
#[path = "support/golden.rs"]
mod golden;

use std::io;

use vmm_core::devices::console::Console;
use vmm_core::devices::custom::CustomDevice;
use vmm_core::devices::device::{Action, Device, Guest, StateMismatch};
use vmm_core::devices::irq::IrqLine;
use vmm_core::devices::{DeviceKind, DeviceLocation};
use vmm_core::explain::call_sequence::flow;
use vmm_core::initial_state::{HostQuirks, initial_state};
use vmm_core::layout;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::Error;
use vmm_core::machine::image::{FlatImage, GuestImage};
use vmm_core::record::Recording;
use vmm_core::record::replay::{Replayed, Replayer};
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{BusAddress, EntryPoint, Interrupts, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm, Port};

/// Device whose register reads as the sum of the written bytes. Its state can be saved if `saves`.
struct Adder {
    sum: u8,
    saves: bool,
    line: IrqLine,
}

impl Device for Adder {
    fn length(&self) -> u64 {
        1
    }

    fn read(&mut self, _: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        data[0] = self.sum;
        Ok(Action::Continue)
    }

    fn write(&mut self, _: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        self.sum = self.sum.wrapping_add(data[0]);
        self.line.pulse()?;
        Ok(Action::Continue)
    }

    fn save(&self) -> Option<Vec<u8>> {
        self.saves.then(|| vec![self.sum])
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        let [sum] = *state else { return Err(StateMismatch) };
        self.sum = sum;
        Ok(())
    }
}

fn adder(at: BusAddress, saves: bool) -> CustomDevice {
    CustomDevice::new("adder", at, 1, move |line| Adder { sum: 0, saves, line }).with_purpose("adds bytes")
}

fn spec() -> MachineSpec {
    MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)))
}

const PORT: BusAddress = BusAddress::Port(Port(0x99));

/// `mov $20, %al; out %al, $0x99; mov $1, %al; out %al, $0x99; in $0x99, %al; out %al, $0xf4`: 21 times 2, plus 1.
const ADDS: &[u8] = &[0xb0, 20, 0xe6, 0x99, 0xb0, 1, 0xe6, 0x99, 0xe4, 0x99, 0xe6, 0xf4];

fn build(devices: Vec<CustomDevice>) -> Result<Machine, Error> {
    let guest = FlatImage { address: Gpa(0x8000), bytes: ADDS };
    Machine::build_with_devices(
        &Kvm::open().unwrap(),
        spec(),
        &guest,
        Console::with_output(io::sink()),
        devices,
    )
}

/// Returns the table of all built-in devices that `select` takes, by address.
fn table(select: impl Fn(DeviceLocation) -> bool) -> String {
    let mut devices: Vec<_> = DeviceKind::ALL.iter().map(|kind| kind.info()).collect();
    devices.retain(|info| select(info.location));
    devices.sort_by_key(|info| info.location.address());
    let mut text = "| ports | table | line | what it does |\n|---|---|---|---|\n".to_owned();
    for info in devices {
        let (kind, first) = match info.location.address() {
            BusAddress::Port(port) => ("", u64::from(port.0)),
            BusAddress::Mmio(address) => ("addresses ", address.0),
        };
        let range = match info.length {
            1 => format!("{kind}{first:#x}"),
            _ => format!("{kind}{first:#x} to {:#x}", info.last()),
        };
        let line = match info.irqs {
            [] => String::new(),
            [only] => only.to_string(),
            [first, .., last] => format!("{first} to {last}"),
        };
        text += &format!("| {range} | `{}` | {line} | {} |\n", info.name, info.purpose);
    }
    text
}

/// `UPDATE_GOLDEN=1` writes the tables.
#[test]
fn the_device_tables_of_the_documentation_match_the_declarations() {
    let tables = [
        ("movable devices", table(|location| matches!(location, DeviceLocation::Movable(_)))),
        ("devices of a PC", table(|location| matches!(location, DeviceLocation::Fixed(_)))),
    ];
    document_tables::check("machine.md", &tables);
}

#[test]
fn the_layout_contains_a_custom_device() {
    let mut spec = spec();
    let in_memory = adder(BusAddress::Mmio(Gpa(0x1000)), true);
    spec.devices.custom = vec![in_memory.spec().clone()];
    let error = layout::compute(&spec, &[]).unwrap_err().to_string();
    assert!(error.contains("device `adder`"), "{error}");
    spec.devices.custom = vec![adder(BusAddress::Mmio(Gpa(0xd000_0000)), true).spec().clone()];
    let layout = layout::compute(&spec, &[]).unwrap();
    assert!(layout.ranges().iter().any(|entry| entry.owner.to_string() == "device `adder`"));
}

#[test]
fn the_call_sequence_contains_the_interrupt_line_of_a_custom_device() {
    let mut spec = spec();
    spec.interrupts = Interrupts::Pc;
    spec.devices.custom = vec![adder(PORT, true).with_irq(11).spec().clone()];
    let guest = FlatImage { address: Gpa(0x8000), bytes: ADDS };
    let layout = layout::compute(&spec, &guest.occupied()).unwrap();
    let sregs = vmm_core::cpu::reset_state::sregs();
    let state = initial_state(&sregs, &spec, &layout, HostQuirks::default()).unwrap();
    let steps = flow(&spec, &layout, &guest.mapped(), &state);
    assert!(steps.iter().any(|step| step.why.starts_with("adder: ")), "no line of the device");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_uses_a_custom_device_and_a_replay_creates_it_again() {
    let mut machine = build(vec![adder(PORT, true)]).unwrap();
    assert_eq!(machine.buses().0.name_at(0x99), Some("adder"));
    let mut recording = Recording::new();
    let outcome = machine.runner().observe(&mut [&mut recording]).run().unwrap();
    assert_eq!(outcome.end, End::Exit { code: 43 });
    let mut replayer = Replayer::new(|| build(vec![adder(PORT, true)]), &recording).unwrap();
    assert!(matches!(replayer.replay_to(u64::MAX).unwrap(), Replayed::Ended(End::Exit { code: 43 })));
    assert_eq!(replayer.divergence(), None);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn overlapping_and_missing_custom_devices_are_errors() {
    let error = build(vec![adder(BusAddress::Port(Port(0xf5)), true)]).unwrap_err();
    assert_eq!(error.to_string(), "device `adder` at 0xf5 and device `debug-exit` at 0xf4 overlap");
    let mut spec = spec();
    spec.devices.custom = vec![adder(PORT, true).spec().clone()];
    let guest = FlatImage { address: Gpa(0x8000), bytes: ADDS };
    let error =
        Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(io::sink())).unwrap_err();
    assert_eq!(error.to_string(), "device `adder` is described, but was not supplied");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_snapshot_saves_a_custom_device_or_names_it() {
    let mut machine = build(vec![adder(PORT, true)]).unwrap();
    let mut copy = machine.fork(Console::with_output(io::sink())).unwrap();
    for machine in [&mut machine, &mut copy] {
        assert_eq!(machine.run().unwrap().end, End::Exit { code: 43 });
    }
    let mut machine = build(vec![adder(PORT, false)]).unwrap();
    assert_eq!(machine.snapshot().unwrap_err().to_string(), "device `adder` cannot be saved");
    assert_eq!(machine.run().unwrap().end, End::Exit { code: 43 });
}
