//! A machine that is stopped after its first exit, saved, and continued three times from copies.
//!
//! `cargo run -p vmm-core --example snapshot`
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;

use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::image::FlatImage;
use vmm_core::machine::stop_point::StopPoint;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{EntryPoint, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

/// `mov $0x2e, %al; out %al, $0xe9; mov %edi, %eax; out %al, $0xf4; hlt`: prints a dot, then exits with EDI.
const GUEST: [u8; 9] = [0xb0, b'.', 0xe6, 0xe9, 0x89, 0xf8, 0xe6, 0xf4, 0xf4];

fn main() -> Result<(), Box<dyn Error>> {
    let kvm = Kvm::open()?;
    let guest = FlatImage { address: Gpa(0x8000), bytes: &GUEST };
    let spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)));
    let mut machine = Machine::build(&kvm, spec, &guest, Console::with_output(io::sink()))?;
    let end = machine.runner().until(StopPoint::Exits(1)).run()?;
    assert_eq!(end, None, "the guest has more to do");
    let snapshot = machine.snapshot()?;
    for number in 1..=3 {
        let changed = snapshot.with_registers(|regs| regs.rdi = number);
        let end = changed.machine(&kvm, Console::with_output(io::sink()))?.run()?.end;
        println!("copy {number}: {end}");
        // A value v written to the exit port ends the run with the code 2v + 1.
        assert_eq!(end, End::Exit { code: u32::try_from(2 * number + 1)? });
    }
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_example_runs() {
    main().unwrap();
}
