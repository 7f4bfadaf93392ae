//! The debugger on a real KVM: breakpoints, steps and the way back, in every mode and ring that the host has.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_sys_wrap::{Breakpoint, BreakpointCondition};
use vmm_core::cpu::cpu_state::CpuState;
use vmm_core::cpu::idt::Gate;
use vmm_core::debugger::{
    DebugCapabilities, DebugStop, DebugTarget, Debugger, EditError, ExecDirection, StepIntoHandler,
};
use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::machine::image::FlatImage;
use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{EntryPoint, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

use ExecDirection::{Back, Forward};

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
    let mut spec = MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(CODE)));
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
            let machine = match build(mode, ring, code, Console::with_output(printed.clone())) {
                Ok(machine) => machine,
                Err(error) => {
                    assert_eq!(error.blame(), Blame::HostLacks, "{name}: {error}");
                    println!("skipped: {name}: {error}");
                    continue;
                }
            };
            let again = || build(mode, ring, code, Console::with_output(std::io::sink()));
            let mut debugger = Debugger::new(machine, again).unwrap();
            println!("{name}: {}", debugger.capabilities());
            test(&name, &mut debugger, &printed);
        }
    }
}

fn run(debugger: &mut Debugger<'_>, direction: ExecDirection) -> DebugStop {
    debugger.run(direction).unwrap()
}

fn step(debugger: &mut Debugger<'_>, direction: ExecDirection) -> DebugStop {
    debugger.step(direction).unwrap()
}

fn offset(debugger: &Debugger<'_>) -> u64 {
    debugger.pc(0).unwrap().0.wrapping_sub(CODE)
}

fn al(debugger: &Debugger<'_>) -> u64 {
    debugger.registers(0).unwrap().regs.rax & 0xff
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
        assert!(debugger.add_breakpoint(Gva(CODE + 8)).unwrap());
        assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
        assert_eq!((offset(debugger), al(debugger)), (8, b'B'.into()), "{name}");
        // The byte is there for the guest alone.
        let mut byte = [0];
        assert_eq!(debugger.read(0, Gva(CODE + 8), &mut byte).unwrap(), 1);
        assert_eq!(byte, [0xe4]);
        assert_eq!(step(debugger, Forward), DebugStop::Step, "{name}");
        assert_eq!((offset(debugger), al(debugger)), (0xa, 0xff), "{name}");
        assert_eq!(*printed.0.lock().unwrap(), b"AB");

        for (at, value) in [(8, b'B'), (6, b'B'), (4, b'A'), (2, b'A'), (0, 0)] {
            assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
            assert_eq!((offset(debugger), al(debugger)), (at, value.into()), "{name}");
            assert!(debugger.is_in_past());
        }
        assert_eq!(step(debugger, Back), DebugStop::HistoryStart, "{name}");
        assert!(matches!(debugger.write(0, Gva(CODE), &[0x90]), Err(EditError::Past)));

        assert_eq!(step(debugger, Forward), DebugStop::Step, "{name}");
        assert_eq!(offset(debugger), 2, "{name}");
        assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
        assert_eq!(offset(debugger), 8, "{name}");
        assert_eq!(run(debugger, Forward), DebugStop::Ended(End::Exit { code: 0 }), "{name}");
        assert_eq!(*printed.0.lock().unwrap(), b"AB", "{name}: nothing is printed twice");
        assert_eq!(debugger.exits(), 4, "{name}: breakpoints and steps are no exits of the guest");

        assert_eq!(run(debugger, Back), DebugStop::Breakpoint, "{name}");
        assert_eq!((offset(debugger), al(debugger)), (8, b'B'.into()), "{name}");
        assert_eq!(run(debugger, Back), DebugStop::HistoryStart, "{name}");
        assert_eq!(offset(debugger), 0, "{name}");
    });
}

/// `mov $3, %cl; again: dec %cl; jnz again; nop; mov $0, %al; out %al, $0xf4`
const LOOP: [u8; 11] = [0xb1, 3, 0xfe, 0xc9, 0x75, 0xfc, 0x90, 0xb0, 0, 0xe6, 0xf4];

#[test]
#[ignore = "needs /dev/kvm"]
fn each_round_of_a_loop_is_a_stop_of_its_own() {
    in_each_mode(&LOOP, |name, debugger, _| {
        let cl = |debugger: &Debugger<'_>| debugger.registers(0).unwrap().regs.rcx & 0xff;
        assert!(debugger.add_breakpoint(Gva(CODE + 2)).unwrap());
        // More than there are debug registers.
        for unused in [0x20, 0x21, 0x22, 0x23] {
            assert!(debugger.add_breakpoint(Gva(CODE + unused)).unwrap());
        }
        for round in [3, 2, 1] {
            assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
            assert_eq!((offset(debugger), cl(debugger)), (2, round), "{name}");
        }
        for round in [2, 3] {
            assert_eq!(run(debugger, Back), DebugStop::Breakpoint, "{name}");
            assert_eq!((offset(debugger), cl(debugger)), (2, round), "{name}");
        }
        assert_eq!(run(debugger, Back), DebugStop::HistoryStart, "{name}");
        for round in [3, 2, 1] {
            assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
            assert_eq!((offset(debugger), cl(debugger)), (2, round), "{name}");
        }
        assert!(debugger.remove_breakpoint(Gva(CODE + 2)) && !debugger.remove_breakpoint(Gva(CODE + 2)));
        assert_eq!(run(debugger, Forward), DebugStop::Ended(End::Exit { code: 0 }), "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn what_was_changed_by_hand_is_where_the_way_back_ends() {
    in_each_mode(&LOOP, |name, debugger, _| {
        assert!(debugger.add_breakpoint(Gva(CODE + 4)).unwrap());
        assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
        // Five more rounds than the code asks for, and something else in memory behind it.
        debugger.change(0, &mut |state| state.regs.rcx = 5).unwrap();
        debugger.write(0, Gva(CODE + 0x100), &[7]).unwrap();
        assert_eq!(step(debugger, Forward), DebugStop::Step, "{name}");
        assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
        assert_eq!((offset(debugger), debugger.registers(0).unwrap().regs.rcx), (4, 5), "{name}");
        assert_eq!(step(debugger, Back), DebugStop::HistoryStart, "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_crash_can_be_looked_at_from_before() {
    // nop; mov $7, %al; ud2. There is no handler: the vCPU shuts down, and in ring 3 the trap page gets it.
    in_each_mode(&[0x90, 0xb0, 7, 0x0f, 0x0b], |name, debugger, _| {
        if name.starts_with("real") {
            // There the vector table leads somewhere, and what lies there is executed.
            return;
        }
        let DebugStop::Ended(end) = run(debugger, Forward) else { panic!("{name}: no end") };
        assert!(matches!(end, End::Shutdown | End::Exception { vector: 6, .. }), "{name}: {end}");
        assert!(debugger.go_before_end().unwrap(), "{name}");
        assert_eq!((offset(debugger), al(debugger)), (3, 7), "{name}");
        assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
        assert_eq!(offset(debugger), 1, "{name}");
        assert_eq!(run(debugger, Forward), DebugStop::Ended(end), "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_spins_can_be_stopped() {
    in_each_mode(&[0x90, 0xeb, 0xfe], |name, debugger, _| {
        let stopper = debugger.interrupt_handle();
        let (stopped, stop) = std::sync::mpsc::channel::<()>();
        let waker = std::thread::spawn(move || {
            while stop.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
                stopper.interrupt();
            }
        });
        let asked = AtomicU32::new(0);
        debugger.stop_if(Box::new(move || asked.fetch_add(1, Ordering::Relaxed) > 2));
        let stop = run(debugger, Forward);
        debugger.stop_if(Box::new(|| false));
        drop(stopped);
        waker.join().unwrap();
        assert_eq!((stop, offset(debugger)), (DebugStop::Interrupted, 1), "{name}");
        assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
        assert_eq!(offset(debugger), 0, "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_step_leaves_no_trap_flag_behind() {
    // pushf; pop %ax; nop: with the width of the mode.
    in_each_mode(&[0x9c, 0x58, 0x90], |name, debugger, _| {
        assert_eq!(
            [step(debugger, Forward), step(debugger, Forward)],
            [DebugStop::Step, DebugStop::Step],
            "{name}"
        );
        let CpuState { regs, .. } = debugger.registers(0).unwrap();
        assert_eq!((offset(debugger), regs.rax & 0x1ff), (2, 2), "{name}: bit 1 is always set, bit 8 is TF");
    });
}

/// Faults, with a handler that steps over the instruction and returns; the same bytes in all modes.
const FAULTING: [u8; 23] = [
    0x0f, 0x0b, // 0: ud2
    0xb0, 0, // 2: mov $0, %al
    0xe6, 0xf4, // 4: out %al, $0xf4
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    // 6: nothing
    0x58, // 10: pop %rax
    0x83, 0xc0, 2,    // 11: add $2, %eax
    0x50, // 14: push %rax
    0x48, 0xcf, // 15: iretq; elsewhere dec %eax and iret
];

/// Gives the guest a handler for #UD.
fn handle_invalid_opcode(debugger: &mut Debugger<'_>) {
    let CpuState { sregs, .. } = debugger.registers(0).unwrap();
    let handler = u16::try_from(CODE + 0x10).unwrap();
    let gate = Gate::interrupt(handler.into(), Ring::Kernel).entry().to_le_bytes();
    let (size, entry) = match (sregs.cr0 & 1, sregs.efer & 1 << 10) {
        (0, _) => (4, [handler.to_le_bytes(), [0, 0]].concat()),
        (_, 0) => (8, gate.to_vec()),
        (_, _) => (16, gate.to_vec()),
    };
    debugger.write(0, Gva(sregs.idt.base + 6 * size), &entry).unwrap();
}

/// kvm-pvm knows no 32-bit IRET.
fn assert_end(name: &str, stop: &DebugStop) {
    let unknown =
        matches!(stop, DebugStop::Ended(End::InternalError { .. })) && name.starts_with("protected");
    assert!(unknown || *stop == DebugStop::Ended(End::Exit { code: 0 }), "{name}: {stop:?}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_step_over_a_fault_ends_at_the_handler() {
    in_each_mode(&FAULTING, |name, debugger, _| {
        if name.ends_with("ring 3") {
            return;
        }
        handle_invalid_opcode(debugger);
        for at in [0x10, 0x11, 0x14, 0x15] {
            assert_eq!(step(debugger, Forward), DebugStop::Step, "{name}");
            assert_eq!(offset(debugger), at, "{name}");
        }
        // What lay there lies there again, and the frame has no trap flag.
        let mut byte = [0];
        assert_eq!(debugger.read(0, Gva(CODE + 0x10), &mut byte).unwrap(), 1);
        assert_eq!(byte, [0x58], "{name}");
        for at in [0x14, 0x11, 0x10, 0] {
            assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
            assert_eq!(offset(debugger), at, "{name}");
        }
        assert_end(name, &run(debugger, Forward));
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_breakpoint_in_a_handler_is_reached_by_single_steps() {
    in_each_mode(&FAULTING, |name, debugger, _| {
        if name.ends_with("ring 3") {
            return;
        }
        handle_invalid_opcode(debugger);
        assert!(debugger.add_breakpoint(Gva(CODE + 0x10)).unwrap());
        assert!(debugger.add_breakpoint(Gva(CODE + 0x14)).unwrap());
        // More than there are debug registers, where no memory is.
        for nowhere in 0..5 {
            assert!(debugger.add_breakpoint(Gva(0x5000_0000 + nowhere)).unwrap());
        }
        for at in [0x10, 0x14] {
            assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
            assert_eq!(offset(debugger), at, "{name}");
        }
        assert_end(name, &run(debugger, Forward));
    });
}

/// `nop; mov $7, %al; push %rax; nop; mov $0, %al; out %al, $0xf4`
const PUSH: [u8; 9] = [0x90, 0xb0, 7, 0x50, 0x90, 0xb0, 0, 0xe6, 0xf4];

#[test]
#[ignore = "needs /dev/kvm"]
fn a_write_to_watched_memory_is_a_stop() {
    in_each_mode(&PUSH, |name, debugger, _| {
        let CpuState { regs, sregs } = debugger.registers(0).unwrap();
        let top = sregs.ss.base.wrapping_add(regs.rsp);
        let width = match (sregs.cs.l, sregs.cs.db) {
            (0, 0) => 2,
            (0, _) => 4,
            (_, _) => 8,
        };
        let written = Breakpoint { address: Gva(top - width), condition: BreakpointCondition::Write(2) };
        assert!(debugger.add_watchpoint(written).unwrap());
        let seldom = Breakpoint { address: Gva(CODE + 0x101), condition: BreakpointCondition::Write(3) };
        assert!(debugger.add_watchpoint(seldom).unwrap(), "no debug register can watch that");
        let nothing = Breakpoint { address: Gva(CODE), condition: BreakpointCondition::Execute };
        assert!(!debugger.add_watchpoint(nothing).unwrap());

        assert_eq!(run(debugger, Forward), DebugStop::Watchpoint(written), "{name}");
        assert_eq!(offset(debugger), 4, "{name}: behind the write");
        assert_eq!(run(debugger, Back), DebugStop::Watchpoint(written), "{name}");
        assert_eq!(offset(debugger), 3, "{name}: before the write");
        assert_eq!(run(debugger, Back), DebugStop::HistoryStart, "{name}");
        // A breakpoint on the instruction that writes is left by a step, which must see the write too.
        assert!(debugger.add_breakpoint(Gva(CODE + 3)).unwrap());
        for _ in 0..2 {
            assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
            assert_eq!(run(debugger, Forward), DebugStop::Watchpoint(written), "{name}");
            assert_eq!(offset(debugger), 4, "{name}");
            assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
            assert_eq!(run(debugger, Back), DebugStop::HistoryStart, "{name}");
        }
        assert!(debugger.remove_watchpoint(written) && debugger.remove_watchpoint(seldom));
        assert!(debugger.remove_breakpoint(Gva(CODE + 3)) && !debugger.remove_watchpoint(written));
        assert_eq!(run(debugger, Forward), DebugStop::Ended(End::Exit { code: 0 }), "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_halt_ends_the_run_when_it_is_stepped_too() {
    // nop; hlt; and what is never reached. In ring 3 HLT is a #GP.
    in_each_mode(&[0x90, 0xf4, 0x90, 0xeb, 0xfe], |name, debugger, _| {
        for _ in 0..2 {
            assert_eq!(step(debugger, Forward), DebugStop::Step, "{name}");
            let DebugStop::Ended(end) = step(debugger, Forward) else { panic!("{name}: no end") };
            assert!(matches!(end, End::Halt { .. } | End::Exception { vector: 13, .. }), "{name}: {end}");
            assert_eq!(run(debugger, Forward), DebugStop::Ended(end), "{name}");
            assert_eq!(debugger.exits(), 1, "{name}");
            assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
            assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
            assert_eq!(offset(debugger), 0, "{name}");
        }
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn abilities_are_found_out() {
    let spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(CODE)));
    let found = DebugCapabilities::probe(&Kvm::open().unwrap(), &spec).unwrap();
    assert!(found.single_step, "{found}");
    assert_ne!(found.handlers, StepIntoHandler::Missed, "{found}");
}
