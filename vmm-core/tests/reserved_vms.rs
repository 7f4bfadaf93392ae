//! Copies of machines on KVM without `KVM_CREATE_VM`: autopsies and reverse execution after the first `KVM_RUN`.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_sys_wrap::{Call, CallObserver, CallRecord};
use vmm_core::autopsy::hang::HangKind;
use vmm_core::autopsy::{Autopsy, AutopsyNote, Cause, StateSource, examine};
use vmm_core::debugger::{DebugStop, DebugTarget, Debugger, ExecDirection};
use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::image::FlatImage;
use vmm_core::machine::reserved_vms::ReplayPurpose;
use vmm_core::record::Recording;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{CpuidPolicy, EntryPoint, Interrupts, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

const CODE: u64 = 0x8000;
const BUDGET: Duration = Duration::from_secs(600);

/// Calls from the first `KVM_RUN` on.
#[derive(Default)]
struct CallsOfRun {
    running: AtomicBool,
    calls: Mutex<Vec<Call>>,
}

impl CallObserver for CallsOfRun {
    fn observe(&self, record: &CallRecord<'_>) {
        if record.call == Call::Run {
            self.running.store(true, Ordering::SeqCst);
        }
        if self.running.load(Ordering::SeqCst) {
            self.calls.lock().unwrap().push(record.call);
        }
    }
}

impl CallsOfRun {
    fn count(&self, call: Call) -> usize {
        self.calls.lock().unwrap().iter().filter(|made| **made == call).count()
    }

    /// Checks that neither a VM was created nor the device opened.
    fn check(&self, name: &str) {
        assert!(self.running.load(Ordering::SeqCst), "{name}");
        for call in [Call::CreateVm, Call::OpenDevKvm] {
            assert_eq!(self.count(call), 0, "{name}: {call}");
        }
        let calls = self.calls.lock().unwrap();
        let names: BTreeSet<_> = calls.iter().map(|call| call.name()).collect();
        println!("{name}: {}", names.into_iter().collect::<Vec<_>>().join(", "));
    }
}

fn observed() -> (Kvm, Arc<CallsOfRun>) {
    let calls = Arc::new(CallsOfRun::default());
    (Kvm::open_with(Kvm::DEVICE.as_ref(), Some(calls.clone())).unwrap(), calls)
}

fn spec(mode: Mode) -> MachineSpec {
    let mut spec = MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(CODE)));
    spec.limits.time = Some(Duration::from_secs(120));
    spec
}

fn build(kvm: &Kvm, spec: &MachineSpec, code: &[u8]) -> Machine {
    let guest = FlatImage { address: Gpa(CODE), bytes: code };
    Machine::build(kvm, spec.clone(), &guest, Console::with_output(io::sink())).unwrap()
}

/// Runs a guest to its end, and examines it with copies on the same device or on one of their own.
fn autopsy(kvm: &Kvm, copies: &Kvm, spec: &MachineSpec, code: &[u8]) -> (Autopsy, Machine) {
    let mut machine = build(kvm, spec, code);
    let _reserved = machine.reserve_replays(ReplayPurpose::Autopsy).unwrap();
    let mut recording = Recording::new();
    let end = machine.runner().observe(&mut [&mut recording]).run().unwrap().end;
    let again = |irqchip| Ok(build(copies, &MachineSpec { irqchip, ..spec.clone() }, code));
    (examine(&machine, &end, &recording, &again, BUDGET), machine)
}

/// Examines a guest without `KVM_CREATE_VM`, and compares the result with that of copies that have VMs of their own.
fn examine_on_one_vm(name: &str, spec: &MachineSpec, code: &[u8]) -> Autopsy {
    let (kvm, calls) = observed();
    let (found, machine) = autopsy(&kvm, &kvm, spec, code);
    calls.check(name);
    let errors = found.notes.iter().filter(|note| matches!(note, AutopsyNote::HostError(_)));
    assert_eq!(errors.count(), 0, "{name}: {:?}", found.notes);
    let (expected, other) = autopsy(&Kvm::open().unwrap(), &Kvm::open().unwrap(), spec, code);
    let words = |found: &Autopsy| {
        let registers = found.registers.map(|state| (state.regs, state.sregs));
        (found.summary(&|_| None), registers, format!("{:?}", found.source), format!("{:?}", found.notes))
    };
    assert_eq!(words(&found), words(&expected), "{name}");
    assert_eq!(machine.vcpu().regs().unwrap().rip, other.vcpu().regs().unwrap().rip, "{name}");
    found
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_crash_is_examined_without_another_vm() {
    for mode in [Mode::Protected, Mode::Long] {
        // out 0xe9, al; ud2
        let found = examine_on_one_vm(&format!("{mode}"), &spec(mode), &[0xe6, 0xe9, 0x0f, 0x0b]);
        assert!(matches!(found.cause, Cause::Exception), "{mode}: {:?}", found.cause);
        assert!(matches!(found.source, StateSource::Replay { .. }), "{mode}");
    }
    let mut spec = spec(Mode::Long);
    spec.cpuid = CpuidPolicy::Host;
    examine_on_one_vm("long with the host's CPUID", &spec, &[0xe6, 0xe9, 0x0f, 0x0b]);
}

/// Code with 400000 instructions before its crash.
#[rustfmt::skip]
const LONG_WAY: [u8; 13] = [
    0xe6, 0xe9,                   // out 0xe9, al
    0xb9, 0x40, 0x0d, 0x03, 0x00, // mov ecx, 200000
    0xff, 0xc9,                   // again: dec ecx
    0x75, 0xfc,                   // jnz again
    0x0f, 0x0b,                   // ud2
];

#[test]
#[ignore = "needs /dev/kvm"]
fn a_long_way_to_a_crash_is_bisected_without_another_vm() {
    let (kvm, calls) = observed();
    let (found, _) = autopsy(&kvm, &kvm, &spec(Mode::Long), &LONG_WAY);
    calls.check("bisection");
    assert!(matches!(found.source, StateSource::Replay { .. }), "{:?}", found.notes);
    assert!(found.summary(&|_| None).contains("`ud2`"));
    assert!(calls.count(Call::CreateVcpu) <= 2, "the copies share one vCPU");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_hang_is_sampled_without_another_vm() {
    let mut spec = spec(Mode::Long);
    spec.limits.time = Some(Duration::from_millis(100));
    // again: inc eax; jmp again
    let (kvm, calls) = observed();
    let (found, machine) = autopsy(&kvm, &kvm, &spec, &[0xff, 0xc0, 0xeb, 0xfc]);
    calls.check("hang");
    assert!(
        matches!(&found.cause, Cause::Hang(kind) if matches!(**kind, HangKind::Loop(_))),
        "{:?}",
        found.cause
    );
    assert!(machine.is_released());
    let before = machine.vcpu().regs().unwrap().rip;
    assert!((CODE..CODE + 4).contains(&before));
}

/// Protected-mode guest that never returns from the handler of its local APIC's timer.
fn busy_handler() -> Vec<u8> {
    let mut code = vec![
        0x0f, 0x01, 0x1d, 0x80, 0x80, 0x00, 0x00, // lidt [0x8080]
        0x8c, 0xc8, // mov eax, cs
        0x66, 0xa3, 0x02, 0x82, 0x00, 0x00, // mov [0x8202], ax
    ];
    // Spurious vector and enable bit; vector 0x20, one-shot; initial count.
    for (register, value) in [(0xf0, 0x1ff_u32), (0x320, 0x20), (0x380, 0x100)] {
        code.extend([0xc7, 0x05]); // mov dword [0xfee00000 + register], value
        code.extend((0xfee0_0000_u32 + register).to_le_bytes());
        code.extend(value.to_le_bytes());
    }
    code.extend([0xfb, 0xeb, 0xfe]); // sti; jmp $
    let mut put = |at: usize, bytes: &[u8]| {
        code.resize(at, 0x90);
        code.extend(bytes);
    };
    put(0x80, &[0x07, 0x01, 0x00, 0x81, 0x00, 0x00]); // IDT at 0x8100 with 33 gates
    // The handler: mov dword [0xfee00380], 0x100 starts the timer again; jmp $
    put(0x180, &[0xc7, 0x05, 0x80, 0x03, 0xe0, 0xfe, 0x00, 0x01, 0x00, 0x00, 0xeb, 0xfe]);
    put(0x200, &[0x80, 0x81, 0, 0, 0x00, 0x8e, 0, 0]); // the gate of vector 0x20
    code
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_hang_with_an_interrupt_in_service_is_examined_on_the_reserved_vm() {
    let mut spec = spec(Mode::Protected);
    (spec.interrupts, spec.limits.time) = (Interrupts::Pc, Some(Duration::from_millis(500)));
    let (kvm, calls) = observed();
    let (found, _) = autopsy(&kvm, &kvm, &spec, &busy_handler());
    calls.check("interrupt in service");
    assert!(matches!(found.end, End::TimeLimit(_)), "{:?}", found.end);
    let errors = found.notes.iter().filter(|note| matches!(note, AutopsyNote::HostError(_)));
    assert_eq!(errors.count(), 0, "{:?}", found.notes);
    let is_jump = matches!(&found.cause, Cause::Hang(kind) if matches!(**kind, HangKind::JumpToSelf));
    assert!(is_jump, "{:?}", found.cause);
    assert_eq!(calls.count(Call::CreateIrqchip), 0, "the copies have their controllers in this process");
    assert_eq!(found.source, StateSource::SecondRun);
    let in_service = found.vcpus.first().and_then(|vcpu| vcpu.in_service.as_ref()?.vector);
    assert_eq!(in_service, Some(0x20), "its handler does not end it");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_crash_with_interrupt_controllers_is_replayed_on_the_reserved_vm() {
    for interrupts in [Interrupts::Split, Interrupts::Pc] {
        let mut spec = spec(Mode::Long);
        spec.interrupts = interrupts;
        let (kvm, calls) = observed();
        let (found, _) = autopsy(&kvm, &kvm, &spec, &LONG_WAY);
        calls.check("with interrupt controllers");
        assert!(matches!(found.source, StateSource::Replay { .. }), "{interrupts:?}: {:?}", found.notes);
        assert!(found.summary(&|_| None).contains("`ud2`"));
        assert_eq!(calls.count(Call::CreateVcpu), 1, "the copies have their controllers in this process");
    }
}

/// With controllers in the kernel, `KVM_RUN` does not return at HLT.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_halt_with_interrupt_controllers_is_followed_to_its_end() {
    #[rustfmt::skip]
    let code = [
        0xb9, 0xd0, 0x07, 0x00, 0x00, // mov ecx, 2000
        0xff, 0xc9,                   // again: dec ecx
        0x75, 0xfc,                   // jnz again
        0xfa, 0xf4,                   // cli; hlt
    ];
    for interrupts in [Interrupts::Split, Interrupts::Pc] {
        let mut spec = spec(Mode::Long);
        spec.interrupts = interrupts;
        let (kvm, calls) = observed();
        let (found, _) = autopsy(&kvm, &kvm, &spec, &code);
        calls.check("halt with interrupt controllers");
        assert_eq!(found.end, End::Halt { interrupts: false }, "{interrupts:?}");
        assert!(matches!(found.source, StateSource::Replay { .. }), "{interrupts:?}: {:?}", found.notes);
        assert!(found.notes.is_empty(), "{interrupts:?}: {:?}", found.notes);
        assert_eq!(found.previous_instructions.last().unwrap().linear, CODE + 9, "{interrupts:?}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_debugger_goes_back_without_another_vm() {
    let spec = spec(Mode::Long);
    #[rustfmt::skip]
    let code = [
        0xb9, 20, 0, 0, 0,            // mov ecx, 20
        0xe6, 0xe9,                   // again: out 0xe9, al
        0xff, 0xc0,                   // inc eax
        0xff, 0xc9,                   // dec ecx
        0x75, 0xf8,                   // jnz again
        0xf4,                         // hlt
    ];
    let (kvm, calls) = observed();
    let machine = build(&kvm, &spec, &code);
    let mut debugger = Debugger::new(machine, || Ok(build(&kvm, &spec, &code))).unwrap();
    // The probes ran other machines.
    calls.running.store(false, Ordering::SeqCst);
    calls.calls.lock().unwrap().clear();
    let reserved = debugger.machine().reserve_replays(ReplayPurpose::Debugger).unwrap();
    assert_eq!(reserved.count(), 2);
    assert!(matches!(debugger.run(ExecDirection::Forward).unwrap(), DebugStop::Ended(End::Halt { .. })));
    for step in 0..30 {
        let stop = debugger.step(ExecDirection::Back).unwrap();
        assert_eq!(stop, DebugStop::Step, "step {step}");
    }
    // Back to a breakpoint, and to the start.
    debugger.add_breakpoint(Gva(CODE + 5)).unwrap();
    let steps = |debugger: &Debugger<'_>| debugger.machine().vcpu().regs().unwrap().rax;
    let before = steps(&debugger);
    for back in 1..4 {
        assert_eq!(debugger.run(ExecDirection::Back).unwrap(), DebugStop::Breakpoint, "{back}");
        assert!(steps(&debugger) < before);
    }
    debugger.remove_breakpoint(Gva(CODE + 5));
    assert_eq!(debugger.run(ExecDirection::Back).unwrap(), DebugStop::HistoryStart);
    assert!(debugger.is_in_past());
    assert!(matches!(debugger.run(ExecDirection::Forward).unwrap(), DebugStop::Ended(_)));
    calls.check("debugger");
    assert!(calls.count(Call::CreateVcpu) <= 4, "{}", calls.count(Call::CreateVcpu));
}
