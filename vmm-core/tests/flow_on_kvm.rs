//! Compares the described call sequence (`vmm_core::explain::call_sequence`) with the calls of a real machine: every call, the
//! order, and every value that is known before the run.
//!
//! A host that does not support a mode fails in the middle of the sequence. The calls before that are compared.
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

/// Observer that records calls and their arguments as text.
#[derive(Default)]
struct RecordedCalls(Mutex<Vec<(Call, String)>>);

impl CallObserver for RecordedCalls {
    fn observe(&self, record: &CallRecord<'_>) {
        self.0.lock().unwrap().push((record.call, record.arguments.to_string()));
    }
}

fn spec(mode: Mode) -> MachineSpec {
    MachineSpec::new(mode, 2 << 20, EntryPoint::Address(Gva(CODE)))
}

const HALT: &[u8] = &[0xf4];
// out %al, $0xf4: the exit port, which works in ring 3 too.
const EXIT: &[u8] = &[0xe6, 0xf4];
// mov $0x50c, %edx; mov $0x8000, %eax; out %eax, %dx; hlt: the hypercall PRINT_STRING, in 32- or 64-bit code.
const PRINT: &[u8] = &[0xba, 0x0c, 0x05, 0, 0, 0xb8, 0, 0x80, 0, 0, 0xef, 0xf4];

/// Returns machines that together take every branch of the sequence, with a guest for each.
fn machines() -> Vec<(&'static str, MachineSpec, &'static [u8])> {
    let mut machines = vec![
        ("real", spec(Mode::Real), HALT),
        ("protected", spec(Mode::Protected), HALT),
        ("paged", spec(Mode::Paged), HALT),
        ("pae", spec(Mode::Pae), HALT),
        ("long", spec(Mode::Long), HALT),
        ("long, prints", spec(Mode::Long), PRINT),
    ];
    for (name, mode) in [
        ("protected, ring 3", Mode::Protected),
        ("paged, ring 3", Mode::Paged),
        ("pae, ring 3", Mode::Pae),
        ("long, ring 3", Mode::Long),
    ] {
        let mut user = spec(mode);
        user.boot.ring = Ring::User;
        machines.push((name, user, EXIT));
    }
    let mut full = spec(Mode::Long);
    full.memory = vec![MemoryRegion { huge_pages: true, ..MemoryRegion::new(Gpa(0), 2 << 20) }];
    full.memory.push(MemoryRegion {
        read_only: true,
        mergeable: false,
        ..MemoryRegion::new(Gpa(0x4000_0000), 0x2000)
    });
    full.limits.time = Some(Duration::from_secs(3600));
    full.boot.registers.push((vmm_core::spec::Register::Rdi, 0x1234));
    let access = PagePermissions { writable: true, user: false, executable: false };
    full.boot.paging.maps.push(Mapping { gva: Gva(0x8000_0000), gpa: Gpa(0), size: 0x1000, access });
    machines.push(("long, two regions, no-execute", full, HALT));
    let mut host = spec(Mode::Real);
    host.cpuid = CpuidPolicy::Host;
    host.devices.hypercall = None;
    machines.push(("real, the host's CPUID", host, HALT));
    let mut collected = spec(Mode::Long);
    collected.devices.debug_console =
        Some(DebugConsoleSpec { at: BusAddress::Port(Port(0xe9)), collect: true });
    machines.push(("long, collected output", collected, HALT));
    let mut split = spec(Mode::Long);
    (split.interrupts, split.vcpus) = (Interrupts::Split, 3);
    machines.push(("long, local APICs", split, EXIT));
    let mut pc = spec(Mode::Long);
    (pc.interrupts, pc.vcpus, pc.cpuid) = (Interrupts::Pc, 2, CpuidPolicy::Host);
    pc.devices.hypercall = None;
    pc.devices.virtio = vec![VirtioSpec::Entropy];
    pc.devices.platform = PlatformSpec { kvm_testdev: true, ..PlatformSpec::pc() };
    machines.push(("long, a PC", pc, EXIT));
    machines
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_described_calls_are_those_of_a_real_run() {
    for (name, spec, code) in machines() {
        let guest = FlatImage { address: Gpa(CODE), bytes: code };
        let layout = layout::compute(&spec, &guest.occupied()).unwrap();
        let state = initial_state(&reset_state::sregs(), &spec, &layout, HostQuirks::default()).unwrap();
        let described = flow(&spec, &layout, &guest.mapped(), &state);

        let recorded = Arc::new(RecordedCalls::default());
        let complete = observed_run(spec, &guest, recorded.clone()).unwrap_or_else(|error| {
            assert_eq!(error.blame(), Blame::HostLacks, "{name}: {error}");
            println!("{name}: compared up to where this host refuses it: {error}");
            false
        });
        let recorded = recorded.0.lock().unwrap();
        compare(name, &described, &recorded, complete);
    }
}

/// Builds and runs a machine. Returns true if it ran to its end.
fn observed_run(
    spec: MachineSpec,
    guest: &FlatImage<'_>,
    recorded: Arc<RecordedCalls>,
) -> Result<bool, Error> {
    let kvm = Kvm::open_with(Path::new(Kvm::DEVICE), Some(recorded))?;
    Machine::build(&kvm, spec, guest, Console::with_output(std::io::sink()))?.run()?;
    Ok(true)
}

fn compare(name: &str, described: &[SequenceStep], recorded: &[(Call, String)], complete: bool) {
    let calls = described.iter().filter_map(|step| match step.act {
        CallAction::Call(call) => Some((call, step)),
        CallAction::WriteMemory | CallAction::SetTimer => None,
    });
    let (once, later): (Vec<_>, Vec<_>) = calls.partition(|(_, step)| step.times == CallFrequency::Once);
    for (index, (call, step)) in once.iter().enumerate() {
        let Some((made_call, arguments)) = recorded.get(index) else {
            assert!(!complete, "{name}: {call} is described, but was not made");
            return;
        };
        assert_eq!(call, made_call, "{name}: call {index}");
        if step.direction == ArgumentDirection::Into {
            assert_ne!(arguments, "", "{name}: {call}");
        }
        check_argument(&format!("{name}: {call}"), &step.argument, arguments);
    }
    let mut during: Vec<Call> = recorded.iter().skip(once.len()).map(|(call, _)| *call).collect();
    // On a busy host the idle timer may expire, and the idle check run, before the first KVM_RUN.
    let idle_check = [Call::GetMpState, Call::GetIrqchip, Call::GetLapic];
    let first = during.iter().find(|call| !idle_check.contains(call));
    assert_eq!(first, complete.then_some(&Call::Run), "{name}");
    during.retain(|call| !later.iter().any(|(described, _)| described == call));
    assert_eq!(during, [], "{name}: made, but not described");
    // Calls that are described for an event are made when the event happens.
    let made = |wanted| recorded.iter().any(|(call, _)| *call == wanted);
    assert_eq!(made(Call::Translate), name == "long, prints", "{name}");
    assert!(!made(Call::GetRegs), "{name}: the kernel did not leave the registers in kvm_run");
}

/// Checks that all known parts of an argument occur in the text that an observer was given.
fn check_argument(name: &str, described: &Argument, recorded: &str) {
    match described {
        Argument::None => assert_eq!(recorded, "", "{name}"),
        Argument::Value(value) => assert_eq!(recorded, value, "{name}"),
        Argument::Later(_) => {}
        Argument::Struct { fields, .. } if !recorded.is_empty() => {
            for Field { name: field, value } in fields {
                match value {
                    Value::Number(number) => {
                        let shown = [format!("{field}: {number},"), format!("{field}: {number} ")];
                        assert!(
                            shown.iter().any(|text| recorded.contains(text)),
                            "{name}: {field} {number} in {recorded}"
                        );
                    }
                    Value::Words(_) => {
                        assert!(*field == "..." || recorded.contains(field), "{name}: {field} in {recorded}");
                    }
                }
            }
        }
        // The kernel fills it in, so an observer is given nothing.
        Argument::Struct { .. } => {}
    }
}
