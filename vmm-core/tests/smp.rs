//! Machines with interrupts on KVM: the end of a machine that nothing can wake, and unknown MSRs.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::io;
use std::time::Duration;

use vmm_core::devices::console::Console;
use vmm_core::kvm_sys_wrap::Capability;
use vmm_core::kvm_sys_wrap::vm_memory::Bytes;
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

/// `mov dword [0xfee00000 + offset], value`, in 32-bit code.
fn write_apic(offset: u8, high: u8, value: u32) -> Vec<u8> {
    [&[0xc7, 0x05, offset, high, 0xe0, 0xfe][..], &value.to_le_bytes()].concat()
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_local_apic_has_its_timer_modes_and_x2apic_mode_without_a_cpuid_policy() {
    const RESULTS: u64 = 0x9000;
    let mut code = write_apic(0xf0, 0, 0x1ff); // spurious vector register: enabled
    for (index, mode) in (0..).zip([0x2_0040, 0x4_0040]) {
        code.extend(write_apic(0x20, 0x03, mode)); // LVT timer
        code.extend([0xa1, 0x20, 0x03, 0xe0, 0xfe]); // mov 0xfee00320, %eax
        code.extend([0xa3, index * 4, 0x90, 0, 0]); // mov %eax, 0x9000 + index * 4
    }
    // IA32_APIC_BASE: mov $0x1b, %ecx; rdmsr; or $0xc00, %eax; wrmsr; rdmsr; mov %eax, 0x9008; cli; hlt
    code.extend([0xb9, 0x1b, 0, 0, 0, 0x0f, 0x32, 0x0d, 0, 0x0c, 0, 0, 0x0f, 0x30, 0x0f, 0x32]);
    code.extend([0xa3, 8, 0x90, 0, 0, 0xfa, 0xf4]);
    let kvm = Kvm::open().unwrap();
    let has_deadline_mode = kvm.capability(Capability::TscDeadlineTimer) > 0;
    for interrupts in [Interrupts::Split, Interrupts::Pc] {
        let mut spec = MachineSpec::new(Mode::Protected, 2 << 20, EntryPoint::Address(Gva(CODE)));
        (spec.interrupts, spec.limits.time) = (interrupts, Some(TIMEOUT));
        assert_eq!(spec.cpuid, CpuidPolicy::None);
        let guest = FlatImage { address: Gpa(CODE), bytes: &code };
        let mut machine = Machine::build(&kvm, spec, &guest, Console::with_output(io::sink())).unwrap();
        assert_eq!(machine.run().unwrap().end, End::Halt { interrupts: false });
        let [periodic, deadline, base] =
            [0, 4, 8].map(|at| machine.memory().read_obj::<u32>(Gpa(RESULTS + at).into()).unwrap());
        assert_eq!(periodic, 0x2_0040);
        assert_eq!(deadline == 0x4_0040, has_deadline_mode, "{deadline:#x}");
        assert_eq!(base & 0xc00, 0xc00, "{base:#x}");
    }
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
