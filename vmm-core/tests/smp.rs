//! Machines with interrupts on KVM: the end of a machine that nothing can wake, and unknown MSRs.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::io;
use std::time::Duration;

use vmm_core::devices::console::Console;
use vmm_core::machine::end::End;
use vmm_core::machine::image::FlatImage;
use vmm_core::machine::{Machine, MsrUse};
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{CpuidPolicy, EntryPoint, Interrupts, MachineSpec};
use vmm_core::{Gpa, Gva, Kvm};

const CODE: u64 = 0x8000;

/// Limit of a run that ends by itself.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Builds a long-mode machine with `vcpus` vCPUs. The first one runs `code`, the others wait for INIT.
fn machine(interrupts: Interrupts, vcpus: u32, code: &[u8], time: Duration) -> Machine {
    let mut spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(CODE)));
    (spec.interrupts, spec.vcpus) = (interrupts, vcpus);
    spec.limits.time = Some(time);
    if vcpus > 1 {
        spec.cpuid = CpuidPolicy::Host;
    }
    let guest = FlatImage { address: Gpa(CODE), bytes: code };
    Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(io::sink())).unwrap()
}

fn run(interrupts: Interrupts, vcpus: u32, code: &[u8]) -> End {
    machine(interrupts, vcpus, code, TIMEOUT).run().unwrap().end
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_machine_that_nothing_can_wake_ends() {
    for interrupts in [Interrupts::Split, Interrupts::Pc] {
        for vcpus in [1, 3] {
            // cli; hlt
            assert_eq!(run(interrupts, vcpus, &[0xfa, 0xf4]), End::Halt { interrupts: false });
            // sti; hlt, with no input unmasked and no timer armed
            assert_eq!(run(interrupts, vcpus, &[0xfb, 0xf4]), End::Halt { interrupts: true });
        }
    }
}

/// `mov $value, %al; out %al, $port`.
fn out(port: u8, value: u8) -> [u8; 4] {
    [0xb0, value, 0xe6, port]
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_machine_that_a_device_can_wake_does_not_end() {
    const LIMIT: Duration = Duration::from_secs(3);
    // The master PIC: vectors from 0x20, input 1 (the keyboard's) unmasked.
    let mut code =
        [out(0x20, 0x11), out(0x21, 0x20), out(0x21, 0x04), out(0x21, 0x01), out(0x21, 0xfd)].concat();
    code.extend([0xfb, 0xf4]);
    assert_eq!(machine(Interrupts::Pc, 1, &code, LIMIT).run().unwrap().end, End::TimeLimit(LIMIT));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_msr_that_kvm_does_not_have_is_named() {
    // mov $0x12345, %ecx; rdmsr: #GP, and no handler
    let mut machine = machine(Interrupts::Pc, 1, &[0xb9, 0x45, 0x23, 0x01, 0x00, 0x0f, 0x32], TIMEOUT);
    assert_eq!(machine.run().unwrap().end, End::Shutdown);
    let asked: Vec<_> = machine.unknown_msrs().into_iter().collect();
    assert_eq!(asked, [(0x12345, MsrUse { reads: 1, writes: 0 })]);
}
