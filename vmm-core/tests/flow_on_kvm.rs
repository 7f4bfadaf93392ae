//! The flow as it is told (`vmm_core::flow`) against the calls that a real machine makes: every call, its order, and every
//! value that is known beforehand.
//!
//! A host that refuses a mode does so in the middle of the flow; up to there it has to be the same.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_sys_wrap::{Call, CallObserver, CallRecord};
use vmm_core::cpu::reset_state;
use vmm_core::devices::console::Console;
use vmm_core::explain::call_sequence::{
    Argument, ArgumentDirection, CallAction, CallFrequency, Field, SequenceStep, Value, flow,
};
use vmm_core::initial_state::{HostQuirks, initial_state};
use vmm_core::machine::Machine;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::machine::image::{FlatImage, GuestImage};
use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{
    BusAddress, CpuidPolicy, DebugConsoleSpec, EntryPoint, Interrupts, MachineSpec, Mapping, MemoryRegion,
    PagePermissions, PlatformSpec, VirtioSpec,
};
use vmm_core::{Gpa, Gva, Kvm, Port, layout};

const CODE: u64 = 0x8000;

/// What an observer saw: calls and their arguments as text.
#[derive(Default)]
struct Seen(Mutex<Vec<(Call, String)>>);

impl CallObserver for Seen {
    fn observe(&self, record: &CallRecord<'_>) {
        self.0.lock().unwrap().push((record.call, record.arguments.to_string()));
    }
}

fn spec(mode: Mode) -> MachineSpec {
    MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(CODE)))
}

const HALTS: &[u8] = &[0xf4];
// out %al, $0xf4: the exit port, which works in ring 3 too.
const EXITS: &[u8] = &[0xe6, 0xf4];
// mov $0x50c, %edx; mov $0x8000, %eax; out %eax, %dx; hlt: the hypercall PRINT_STRING, in 32- or 64-bit code.
const PRINTS: &[u8] = &[0xba, 0x0c, 0x05, 0, 0, 0xb8, 0, 0x80, 0, 0, 0xef, 0xf4];

/// Machines that take every branch of the flow, with a guest for each.
fn machines() -> Vec<(&'static str, MachineSpec, &'static [u8])> {
    let mut machines = vec![
        ("real", spec(Mode::Real), HALTS),
        ("protected", spec(Mode::Protected), HALTS),
        ("paged", spec(Mode::Paged), HALTS),
        ("pae", spec(Mode::Pae), HALTS),
        ("long", spec(Mode::Long), HALTS),
        ("long, prints", spec(Mode::Long), PRINTS),
    ];
    for (name, mode) in [
        ("protected, ring 3", Mode::Protected),
        ("paged, ring 3", Mode::Paged),
        ("pae, ring 3", Mode::Pae),
        ("long, ring 3", Mode::Long),
    ] {
        let mut user = spec(mode);
        user.boot.ring = Ring::User;
        machines.push((name, user, EXITS));
    }
    let mut rich = spec(Mode::Long);
    rich.memory = vec![MemoryRegion { huge_pages: true, ..MemoryRegion::new(Gpa(0), 2 << 20) }];
    rich.memory.push(MemoryRegion {
        read_only: true,
        mergeable: false,
        ..MemoryRegion::new(Gpa(0x4000_0000), 0x2000)
    });
    rich.limits.time = Some(Duration::from_secs(3600));
    rich.boot.registers.push((vmm_core::spec::Register::Rdi, 0x1234));
    let access = PagePermissions { writable: true, user: false, executable: false };
    rich.boot.paging.maps.push(Mapping { gva: Gva(0x8000_0000), gpa: Gpa(0), size: 0x1000, access });
    machines.push(("long, two regions, no-execute", rich, HALTS));
    let mut host = spec(Mode::Real);
    host.cpuid = CpuidPolicy::Host;
    host.devices.hypercall = None;
    machines.push(("real, the host's CPUID", host, HALTS));
    let mut collected = spec(Mode::Long);
    collected.devices.debug_console =
        Some(DebugConsoleSpec { at: BusAddress::Port(Port(0xe9)), collect: true });
    machines.push(("long, collected output", collected, HALTS));
    let mut split = spec(Mode::Long);
    (split.interrupts, split.vcpus) = (Interrupts::Split, 3);
    machines.push(("long, local APICs", split, EXITS));
    let mut pc = spec(Mode::Long);
    (pc.interrupts, pc.vcpus, pc.cpuid) = (Interrupts::Pc, 2, CpuidPolicy::Host);
    pc.devices.hypercall = None;
    pc.devices.virtio = vec![VirtioSpec::Entropy];
    pc.devices.platform = PlatformSpec { kvm_testdev: true, ..PlatformSpec::pc() };
    machines.push(("long, a PC", pc, EXITS));
    machines
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_flow_is_what_a_real_run_does() {
    for (name, spec, code) in machines() {
        let guest = FlatImage { address: Gpa(CODE), bytes: code };
        let layout = layout::compute(&spec, &guest.occupied()).unwrap();
        let state = initial_state(&reset_state::sregs(), &spec, &layout, HostQuirks::default()).unwrap();
        let told = flow(&spec, &layout, &guest.mapped(), &state);

        let seen = Arc::new(Seen::default());
        let complete = observed_run(spec, &guest, seen.clone()).unwrap_or_else(|error| {
            assert_eq!(error.blame(), Blame::HostLacks, "{name}: {error}");
            println!("{name}: compared up to where this host refuses it: {error}");
            false
        });
        let seen = seen.0.lock().unwrap();
        compare(name, &told, &seen, complete);
    }
}

/// Builds and runs; whether it came to the end.
fn observed_run(spec: MachineSpec, guest: &FlatImage<'_>, seen: Arc<Seen>) -> Result<bool, Error> {
    let kvm = Kvm::open_with(Path::new(Kvm::DEVICE), Some(seen))?;
    Machine::build(&kvm, spec, guest, Console::with_output(std::io::sink()))?.run()?;
    Ok(true)
}

fn compare(name: &str, told: &[SequenceStep], seen: &[(Call, String)], complete: bool) {
    let calls = told.iter().filter_map(|step| match step.act {
        CallAction::Call(call) => Some((call, step)),
        CallAction::WriteMemory | CallAction::SetTimer => None,
    });
    let (once, later): (Vec<_>, Vec<_>) = calls.partition(|(_, step)| step.times == CallFrequency::Once);
    for (index, (call, step)) in once.iter().enumerate() {
        let Some((seen_call, arguments)) = seen.get(index) else {
            assert!(!complete, "{name}: {call} was told and not made");
            return;
        };
        assert_eq!(call, seen_call, "{name}: call {index}");
        if step.direction == ArgumentDirection::Into {
            assert_ne!(arguments, "", "{name}: {call}");
        }
        check_argument(&format!("{name}: {call}"), &step.argument, arguments);
    }
    let mut during: Vec<Call> = seen.iter().skip(once.len()).map(|(call, _)| *call).collect();
    // On a busy host the idle timer may expire, and the idle check run, before the first KVM_RUN.
    let idle_check = [Call::GetMpState, Call::GetIrqchip, Call::GetLapic];
    let first = during.iter().find(|call| !idle_check.contains(call));
    assert_eq!(first, complete.then_some(&Call::Run), "{name}");
    during.retain(|call| !later.iter().any(|(told, _)| told == call));
    assert_eq!(during, [], "{name}: made and not told");
    // What is told as happening whenever something does, does happen then.
    let made = |wanted| seen.iter().any(|(call, _)| *call == wanted);
    assert_eq!(made(Call::Translate), name == "long, prints", "{name}");
    assert!(!made(Call::GetRegs), "{name}: the kernel did not leave the registers in kvm_run");
}

/// All that is known of an argument occurs in what an observer was shown.
fn check_argument(name: &str, told: &Argument, seen: &str) {
    match told {
        Argument::None => assert_eq!(seen, "", "{name}"),
        Argument::Value(value) => assert_eq!(seen, value, "{name}"),
        Argument::Later(_) => {}
        Argument::Struct { fields, .. } if !seen.is_empty() => {
            for Field { name: field, value } in fields {
                match value {
                    Value::Number(number) => {
                        let shown = [format!("{field}: {number},"), format!("{field}: {number} ")];
                        assert!(
                            shown.iter().any(|text| seen.contains(text)),
                            "{name}: {field} {number} in {seen}"
                        );
                    }
                    Value::Words(_) => {
                        assert!(*field == "..." || seen.contains(field), "{name}: {field} in {seen}");
                    }
                }
            }
        }
        // The kernel fills it in: an observer is shown nothing beforehand.
        Argument::Struct { .. } => {}
    }
}
