//! A device that this library does not have: a hypercall that takes the address of a string, at a port of its own.
//!
//! `cargo run -p vmm-core --example custom_device` prints what the guest says, and the machine's ports.
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;

use vmm_core::devices::console::Console;
use vmm_core::devices::custom::CustomDevice;
use vmm_core::devices::device::{Action, Device, Guest, StateMismatch, read_virtual};
use vmm_core::machine::Machine;
use vmm_core::machine::image::FlatImage;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{BusAddress, EntryPoint, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm, Port, devices};

/// OUT of a virtual address prints the five bytes there; IN returns the number of calls.
#[derive(Default)]
struct Announcer {
    calls: u32,
}

impl Device for Announcer {
    fn length(&self) -> u64 {
        4
    }

    fn read(&mut self, _: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        for (byte, value) in data.iter_mut().zip(self.calls.to_le_bytes()) {
            *byte = value;
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, _: u64, data: &[u8], guest: &dyn Guest) -> io::Result<Action> {
        let (mut text, Ok(address)) = ([0; 5], <[u8; 4]>::try_from(data)) else {
            return Ok(Action::Continue);
        };
        if read_virtual(guest, Gva(u32::from_le_bytes(address).into()), &mut text).is_some() {
            self.calls += 1;
            println!("the guest says {}", String::from_utf8_lossy(&text));
        }
        Ok(Action::Continue)
    }

    fn save(&self) -> Option<Vec<u8>> {
        Some(self.calls.to_le_bytes().to_vec())
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        self.calls = state.try_into().map(u32::from_le_bytes).map_err(|_| StateMismatch)?;
        Ok(())
    }
}

/// `mov $0x8010, %eax; mov $0x700, %edx; out %eax, (%dx); in (%dx), %eax; hlt`, then the string at 0x8010.
const GUEST: [u8; 21] = *b"\xb8\x10\x80\x00\x00\xba\x00\x07\x00\x00\xef\xed\xf4\x00\x00\x00hello";

fn main() -> Result<(), Box<dyn Error>> {
    let announcer =
        CustomDevice::new("announcer", BusAddress::Port(Port(0x700)), 4, |_| Announcer::default())
            .with_purpose("OUT of an address prints five bytes; IN counts the calls");
    let spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)));
    let guest = FlatImage { address: Gpa(0x8000), bytes: &GUEST };
    let console = Console::with_output(io::stdout());
    let mut machine = Machine::build_with_devices(&Kvm::open()?, spec, &guest, console, vec![announcer])?;
    let outcome = machine.run()?;
    println!("{}; calls: {}", outcome.end, machine.vcpu().regs()?.rax);
    for device in devices::installed(&machine.spec().devices) {
        println!("{:<14} {:<10} {}", device.name, device.at.to_string(), device.purpose);
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_example_runs() {
    main().unwrap();
}
