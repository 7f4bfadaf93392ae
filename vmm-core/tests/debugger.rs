//! The debugger on a real KVM: breakpoints, steps and the way back, in every mode and ring that the host has.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::cell::Cell;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmm_core::console::Console;
use vmm_core::debugger::{Abilities, Debugger, Direction, EditError, Stop};
use vmm_core::end::End;
use vmm_core::error::{Blame, Error};
use vmm_core::image::FlatImage;
use vmm_core::machine::Machine;
use vmm_core::mode::{Mode, Ring};
use vmm_core::spec::{Entry, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

use Direction::{Back, Forward};

const CODE: u64 = 0x8000;

/// What the guest printed.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn build(mode: Mode, ring: Ring, code: &[u8], console: Console) -> Result<Machine, Error> {
    let mut spec = MachineSpec::new(mode, 2 << 20, Entry::Address(Gva(CODE)));
    spec.boot.ring = ring;
    Machine::build(&Kvm::open().unwrap(), spec, &FlatImage { address: Gpa(CODE), bytes: code }, console)
}

/// Calls `test` with a debugger for each mode and ring.
fn in_each_mode(code: &[u8], test: impl Fn(&str, &mut Debugger<'_>, &Printed)) {
    for mode in Mode::ALL {
        for ring in [Ring::Kernel, Ring::User] {
            if mode == Mode::Real && ring == Ring::User {
                continue;
            }
            let name = format!("{mode} in ring {}", ring.level());
            let printed = Printed::default();
            let machine = match build(mode, ring, code, Console::to(printed.clone())) {
                Ok(machine) => machine,
                Err(error) => {
                    assert_eq!(error.blame(), Blame::HostLacks, "{name}: {error}");
                    println!("skipped: {name}: {error}");
                    continue;
                }
            };
            let again = || build(mode, ring, code, Console::to(std::io::sink()));
            let mut debugger = Debugger::new(machine, again).unwrap();
            println!("{name}: {}", debugger.abilities());
            test(&name, &mut debugger, &printed);
        }
    }
}

fn run(debugger: &mut Debugger<'_>, direction: Direction) -> Stop {
    debugger.run(direction, &mut || false).unwrap()
}

fn step(debugger: &mut Debugger<'_>, direction: Direction) -> Stop {
    debugger.step(direction, &mut || false).unwrap()
}

fn offset(debugger: &Debugger<'_>) -> u64 {
    debugger.pc().unwrap().0.wrapping_sub(CODE)
}

fn al(debugger: &Debugger<'_>) -> u64 {
    debugger.registers().unwrap().0.rax & 0xff
}

/// Prints AB, reads a port with nothing behind it, ends with code 0; the same bytes in all modes.
const PRINTER: [u8; 15] = [
    0xb0, b'A', // 0: mov $'A', %al
    0xe6, 0xe9, // 2: out %al, $0xe9
    0xb0, b'B', // 4: mov $'B', %al
    0xe6, 0xe9, // 6: out %al, $0xe9
    0xe4, 0x99, // 8: in $0x99, %al
    0x90, // a: nop
    0xb0, 0, // b: mov $0, %al
    0xe6, 0xf4, // d: out %al, $0xf4
];

#[test]
#[ignore = "needs /dev/kvm"]
fn forward_and_back_over_exits() {
    in_each_mode(&PRINTER, |name, debugger, printed| {
        debugger.add_breakpoint(Gva(CODE + 8));
        assert_eq!(run(debugger, Forward), Stop::Breakpoint, "{name}");
        assert_eq!((offset(debugger), al(debugger)), (8, b'B'.into()), "{name}");
        // The byte is there for the guest alone.
        let mut byte = [0];
        assert_eq!(debugger.read(Gva(CODE + 8), &mut byte).unwrap(), 1);
        assert_eq!(byte, [0xe4]);
        assert_eq!(step(debugger, Forward), Stop::Step, "{name}");
        assert_eq!((offset(debugger), al(debugger)), (0xa, 0xff), "{name}");
        assert_eq!(*printed.0.lock().unwrap(), b"AB");

        for (at, value) in [(8, b'B'), (6, b'B'), (4, b'A'), (2, b'A'), (0, 0)] {
            assert_eq!(step(debugger, Back), Stop::Step, "{name}");
            assert_eq!((offset(debugger), al(debugger)), (at, value.into()), "{name}");
            assert!(debugger.is_in_past());
        }
        assert_eq!(step(debugger, Back), Stop::HistoryStart, "{name}");
        assert!(matches!(debugger.write(Gva(CODE), &[0x90]), Err(EditError::Past)));

        assert_eq!(step(debugger, Forward), Stop::Step, "{name}");
        assert_eq!(offset(debugger), 2, "{name}");
        assert_eq!(run(debugger, Forward), Stop::Breakpoint, "{name}");
        assert_eq!(offset(debugger), 8, "{name}");
        assert_eq!(run(debugger, Forward), Stop::Ended(End::Exit { code: 0 }), "{name}");
        assert_eq!(*printed.0.lock().unwrap(), b"AB", "{name}: nothing is printed twice");
        assert_eq!(debugger.exits(), 4, "{name}: breakpoints and steps are no exits of the guest");

        assert_eq!(run(debugger, Back), Stop::Breakpoint, "{name}");
        assert_eq!((offset(debugger), al(debugger)), (8, b'B'.into()), "{name}");
        assert_eq!(run(debugger, Back), Stop::HistoryStart, "{name}");
        assert_eq!(offset(debugger), 0, "{name}");
    });
}

/// `mov $3, %cl; again: dec %cl; jnz again; nop; mov $0, %al; out %al, $0xf4`
const LOOP: [u8; 11] = [0xb1, 3, 0xfe, 0xc9, 0x75, 0xfc, 0x90, 0xb0, 0, 0xe6, 0xf4];

#[test]
#[ignore = "needs /dev/kvm"]
fn each_round_of_a_loop_is_a_stop_of_its_own() {
    in_each_mode(&LOOP, |name, debugger, _| {
        let cl = |debugger: &Debugger<'_>| debugger.registers().unwrap().0.rcx & 0xff;
        debugger.add_breakpoint(Gva(CODE + 2));
        // More than there are debug registers.
        for unused in [0x20, 0x21, 0x22, 0x23] {
            debugger.add_breakpoint(Gva(CODE + unused));
        }
        for round in [3, 2, 1] {
            assert_eq!(run(debugger, Forward), Stop::Breakpoint, "{name}");
            assert_eq!((offset(debugger), cl(debugger)), (2, round), "{name}");
        }
        for round in [2, 3] {
            assert_eq!(run(debugger, Back), Stop::Breakpoint, "{name}");
            assert_eq!((offset(debugger), cl(debugger)), (2, round), "{name}");
        }
        assert_eq!(run(debugger, Back), Stop::HistoryStart, "{name}");
        for round in [3, 2, 1] {
            assert_eq!(run(debugger, Forward), Stop::Breakpoint, "{name}");
            assert_eq!((offset(debugger), cl(debugger)), (2, round), "{name}");
        }
        assert!(debugger.remove_breakpoint(Gva(CODE + 2)) && !debugger.remove_breakpoint(Gva(CODE + 2)));
        assert_eq!(run(debugger, Forward), Stop::Ended(End::Exit { code: 0 }), "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn what_was_changed_by_hand_is_where_the_way_back_ends() {
    in_each_mode(&LOOP, |name, debugger, _| {
        debugger.add_breakpoint(Gva(CODE + 4));
        assert_eq!(run(debugger, Forward), Stop::Breakpoint, "{name}");
        // Five more rounds than the code asks for, and something else in memory behind it.
        debugger.change(|state| state.regs.rcx = 5).unwrap();
        debugger.write(Gva(CODE + 0x100), &[7]).unwrap();
        assert_eq!(step(debugger, Forward), Stop::Step, "{name}");
        assert_eq!(step(debugger, Back), Stop::Step, "{name}");
        assert_eq!((offset(debugger), debugger.registers().unwrap().0.rcx), (4, 5), "{name}");
        assert_eq!(step(debugger, Back), Stop::HistoryStart, "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_crash_can_be_looked_at_from_before() {
    // nop; mov $7, %al; ud2. There is no handler: the vCPU shuts down, and in ring 3 the landing page gets it.
    in_each_mode(&[0x90, 0xb0, 7, 0x0f, 0x0b], |name, debugger, _| {
        if name.starts_with("real") {
            // There the vector table leads somewhere, and what lies there is executed.
            return;
        }
        let Stop::Ended(end) = run(debugger, Forward) else { panic!("{name}: no end") };
        assert!(matches!(end, End::Shutdown | End::Exception { vector: 6, .. }), "{name}: {end}");
        assert!(debugger.look_before_end(&mut || false).unwrap(), "{name}");
        assert_eq!((offset(debugger), al(debugger)), (3, 7), "{name}");
        assert_eq!(step(debugger, Back), Stop::Step, "{name}");
        assert_eq!(offset(debugger), 1, "{name}");
        assert_eq!(run(debugger, Forward), Stop::Ended(end), "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_spins_can_be_stopped() {
    in_each_mode(&[0x90, 0xeb, 0xfe], |name, debugger, _| {
        let stopper = debugger.stopper();
        let waker = std::thread::spawn(move || {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_millis(50));
                stopper.wake();
            }
        });
        let asked = Cell::new(0);
        let stop = debugger.run(Forward, &mut || asked.replace(asked.get() + 1) > 2).unwrap();
        assert_eq!((stop, offset(debugger)), (Stop::Asked, 1), "{name}");
        assert_eq!(step(debugger, Back), Stop::Step, "{name}");
        assert_eq!(offset(debugger), 0, "{name}");
        waker.join().unwrap();
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_step_leaves_no_trap_flag_behind() {
    // pushf; pop %ax; nop: with the width of the mode.
    in_each_mode(&[0x9c, 0x58, 0x90], |name, debugger, _| {
        assert_eq!([step(debugger, Forward), step(debugger, Forward)], [Stop::Step, Stop::Step], "{name}");
        let (regs, _) = debugger.registers().unwrap();
        assert_eq!((offset(debugger), regs.rax & 0x1ff), (2, 2), "{name}: bit 1 is always set, bit 8 is TF");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn abilities_are_found_out() {
    let spec = MachineSpec::new(Mode::Long, 2 << 20, Entry::Address(Gva(CODE)));
    let found = Abilities::probe(&Kvm::open().unwrap(), &spec).unwrap();
    assert!(found.single_step, "{found}");
}
