//! The debugger on KVM: breakpoints, watchpoints, steps and going back, in every mode and ring that the host supports.
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

/// Output of the guest.
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
            if !mode.is_protected() && ring == Ring::User {
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

/// Code that is valid in all modes. It prints AB, reads an unmapped port and ends with code 0.
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
        // Reads through the debugger do not show the breakpoint byte.
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
        assert_eq!(debugger.exits(), 4, "{name}: breakpoints and steps are not exits of the guest");

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
fn a_breakpoint_in_a_loop_stops_in_each_round() {
    in_each_mode(&LOOP, |name, debugger, _| {
        let cl = |debugger: &Debugger<'_>| debugger.registers(0).unwrap().regs.rcx & 0xff;
        assert!(debugger.add_breakpoint(Gva(CODE + 2)).unwrap());
        // More breakpoints than debug registers.
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
fn going_back_ends_at_a_change_by_the_user() {
    in_each_mode(&LOOP, |name, debugger, _| {
        assert!(debugger.add_breakpoint(Gva(CODE + 4)).unwrap());
        assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
        // A change of a register and of memory.
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
fn a_crash_can_be_inspected_before_its_instruction() {
    // nop; mov $7, %al; ud2. There is no handler: the vCPU shuts down, or in ring 3 enters the trap page.
    in_each_mode(&[0x90, 0xb0, 7, 0x0f, 0x0b], |name, debugger, _| {
        if name.starts_with("real") {
            // The vector table in memory points somewhere, and the CPU executes the bytes there.
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
fn a_spinning_guest_can_be_interrupted() {
    in_each_mode(&[0x90, 0xeb, 0xfe], |name, debugger, _| {
        let interrupt_handle = debugger.interrupt_handle();
        let (stopped, stop) = std::sync::mpsc::channel::<()>();
        let waker = std::thread::spawn(move || {
            while stop.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
                interrupt_handle.interrupt();
            }
        });
        let asked = AtomicU32::new(0);
        debugger.stop_if(Box::new(move || asked.fetch_add(1, Ordering::Relaxed) % 4 == 3));
        // On a busy host the guest may be interrupted before its first instruction.
        loop {
            assert_eq!(run(debugger, Forward), DebugStop::Interrupted, "{name}");
            if offset(debugger) == 1 {
                break;
            }
        }
        debugger.stop_if(Box::new(|| false));
        drop(stopped);
        waker.join().unwrap();
        assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
        assert_eq!(offset(debugger), 0, "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_step_leaves_no_trap_flag_behind() {
    // pushf; pop %ax; nop, with the operand width of the mode.
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

/// Code that is valid in all modes. It faults, and its handler skips the instruction and returns.
const FAULTING: [u8; 23] = [
    0x0f, 0x0b, // 0: ud2
    0xb0, 0, // 2: mov $0, %al
    0xe6, 0xf4, // 4: out %al, $0xf4
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    // 6: padding
    0x58, // 10: pop %rax
    0x83, 0xc0, 2,    // 11: add $2, %eax
    0x50, // 14: push %rax
    0x48, 0xcf, // 15: iretq; elsewhere dec %eax and iret
];

/// Installs the handler of the guest for #UD.
fn install_ud_handler(debugger: &mut Debugger<'_>) {
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

/// Checks that the run ended with code 0. kvm-pvm cannot emulate a 32-bit IRET.
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
        install_ud_handler(debugger);
        for at in [0x10, 0x11, 0x14, 0x15] {
            assert_eq!(step(debugger, Forward), DebugStop::Step, "{name}");
            assert_eq!(offset(debugger), at, "{name}");
        }
        // The byte is restored, and the frame has no trap flag.
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
        install_ud_handler(debugger);
        assert!(debugger.add_breakpoint(Gva(CODE + 0x10)).unwrap());
        assert!(debugger.add_breakpoint(Gva(CODE + 0x14)).unwrap());
        // More breakpoints than debug registers, at addresses without memory.
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
        let odd_size = Breakpoint { address: Gva(CODE + 0x101), condition: BreakpointCondition::Write(3) };
        assert!(debugger.add_watchpoint(odd_size).unwrap(), "no debug register can watch that");
        let execute = Breakpoint { address: Gva(CODE), condition: BreakpointCondition::Execute };
        assert!(!debugger.add_watchpoint(execute).unwrap());

        assert_eq!(run(debugger, Forward), DebugStop::Watchpoint(written), "{name}");
        assert_eq!(offset(debugger), 4, "{name}: after the write");
        assert_eq!(run(debugger, Back), DebugStop::Watchpoint(written), "{name}");
        assert_eq!(offset(debugger), 3, "{name}: before the write");
        assert_eq!(run(debugger, Back), DebugStop::HistoryStart, "{name}");
        // The debugger steps off a breakpoint at the writing instruction. That step must report the write too.
        assert!(debugger.add_breakpoint(Gva(CODE + 3)).unwrap());
        for _ in 0..2 {
            assert_eq!(run(debugger, Forward), DebugStop::Breakpoint, "{name}");
            assert_eq!(run(debugger, Forward), DebugStop::Watchpoint(written), "{name}");
            assert_eq!(offset(debugger), 4, "{name}");
            assert_eq!(step(debugger, Back), DebugStop::Step, "{name}");
            assert_eq!(run(debugger, Back), DebugStop::HistoryStart, "{name}");
        }
        assert!(debugger.remove_watchpoint(written) && debugger.remove_watchpoint(odd_size));
        assert!(debugger.remove_breakpoint(Gva(CODE + 3)) && !debugger.remove_watchpoint(written));
        assert_eq!(run(debugger, Forward), DebugStop::Ended(End::Exit { code: 0 }), "{name}");
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_stepped_hlt_ends_the_run() {
    // nop; hlt; then code that is never reached. In ring 3, HLT raises #GP.
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
fn the_probe_finds_single_stepping() {
    let spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(CODE)));
    let found = DebugCapabilities::probe(&Kvm::open().unwrap(), &spec).unwrap();
    assert!(found.single_step, "{found}");
    assert_ne!(found.handlers, StepIntoHandler::Missed, "{found}");
}
