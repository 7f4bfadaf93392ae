//! A guest of five instructions in long mode that prints a line.
//!
//! `cargo run -p vmm-core --example hello`
#![forbid(unsafe_code)]

use std::error::Error;
use std::io;

use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::image::FlatImage;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{EntryPoint, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

/// `mov $0x8012, %esi; mov $14, %ecx; mov $0xe9, %edx; rep outsb; hlt`, then the string at 0x8012.
const GUEST: [u8; 32] =
    *b"\xbe\x12\x80\x00\x00\xb9\x0e\x00\x00\x00\xba\xe9\x00\x00\x00\xf3\x6e\xf4Hello, world!\n";

fn main() -> Result<(), Box<dyn Error>> {
    let guest = FlatImage { address: Gpa(0x8000), bytes: &GUEST };
    let spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)));
    let mut machine = Machine::build(&Kvm::open()?, spec, &guest, Console::with_output(io::stdout()))?;
    let outcome = machine.run()?;
    assert!(matches!(outcome.end, End::Halt { .. }), "{}", outcome.end);
    Ok(())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_example_runs() {
    main().unwrap();
}
