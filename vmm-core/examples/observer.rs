//! An observer that counts the port accesses of a guest.
//!
//! `cargo run -p vmm-core --example observer`
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io;

use vmm_core::devices::console::Console;
use vmm_core::kvm_sys_wrap::Exit;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::image::FlatImage;
use vmm_core::machine::observer::{ExitView, Observer};
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{EntryPoint, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

/// Number of accesses by port.
#[derive(Default)]
struct PortCounter(BTreeMap<u16, u64>);

impl Observer for PortCounter {
    fn on_exit(&mut self, view: &ExitView<'_>) -> Option<End> {
        if let Exit::PioOut { port, .. } | Exit::PioIn { port, .. } = view.exit {
            *self.0.entry(port.0).or_default() += 1;
        }
        None
    }
}

/// `mov $0x41, %al; out %al, $0xe9; out %al, $0xe9; in $0x60, %al; hlt`
const GUEST: [u8; 9] = [0xb0, 0x41, 0xe6, 0xe9, 0xe6, 0xe9, 0xe4, 0x60, 0xf4];

fn main() -> Result<(), Box<dyn Error>> {
    let guest = FlatImage { address: Gpa(0x8000), bytes: &GUEST };
    let spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)));
    let mut machine = Machine::build(&Kvm::open()?, spec, &guest, Console::with_output(io::sink()))?;
    let mut counter = PortCounter::default();
    let outcome = machine.runner().observe(&mut [&mut counter]).run()?;
    println!("{}", outcome.end);
    for (port, count) in &counter.0 {
        println!("port {port:#x}: {count}");
    }
    assert_eq!(counter.0, BTreeMap::from([(0x60, 1), (0xe9, 2)]));
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_example_runs() {
    main().unwrap();
}
