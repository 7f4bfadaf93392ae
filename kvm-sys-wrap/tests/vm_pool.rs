//! VMs and vCPUs that are used again, on KVM, with 16-bit guests of a few bytes.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod real_mode;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread;

use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use kvm_sys_wrap::{
    Call, CallObserver, CallRecord, Error, Exit, Gpa, Gva, Kvm, Port, SlotBacking, TssAddress, Vcpu,
    VcpuState, Vm,
};
use real_mode::{CODE, boot, go_to_code, slot};
use vm_memory::{Bytes, GuestAddress};

/// Byte that the guests increment.
const COUNTER: GuestAddress = GuestAddress(0x5000);
const COUNTING_GUEST: [u8; 7] = [0xfe, 0x06, 0x00, 0x50, 0xf4, 0xeb, 0xf9]; // inc byte [0x5000]; hlt; jmp back

/// Calls that an observer saw.
#[derive(Default)]
struct Calls(Mutex<Vec<Call>>);

impl CallObserver for Calls {
    fn observe(&self, record: &CallRecord<'_>) {
        self.0.lock().unwrap().push(record.call);
    }
}

impl Calls {
    fn count(&self, call: Call) -> usize {
        self.0.lock().unwrap().iter().filter(|seen| **seen == call).count()
    }
}

fn observed() -> (Kvm, Arc<Calls>) {
    let calls = Arc::new(Calls::default());
    (Kvm::open_with(Kvm::DEVICE.as_ref(), Some(calls.clone())).unwrap(), calls)
}

/// Starts a guest with a VM of its own or from the pool.
fn start(kvm: &Kvm, code: &[u8]) -> (Vm, Vcpu) {
    let (vm, vcpu) = boot(kvm, SlotBacking::default());
    vm.memory().write_slice(code, GuestAddress(CODE)).unwrap();
    (vm, vcpu)
}

fn counter(vm: &Vm) -> u8 {
    vm.memory().read_obj(COUNTER).unwrap()
}

fn registers(vcpu: &Vcpu) -> (kvm_regs, kvm_sregs) {
    (vcpu.regs().unwrap(), vcpu.sregs().unwrap())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_released_machine_stays_readable_and_cannot_run() {
    let (kvm, calls) = observed();
    let (vm, mut vcpu) = start(&kvm, &COUNTING_GUEST);
    for _ in 0..3 {
        assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    }
    let memory = vm.memory();
    let before = registers(&vcpu);
    let _reservation = vm.release().unwrap().unwrap();
    assert!(vm.is_released());
    assert!(vm.release().unwrap().is_none());

    // mov al, 0x77; mov [0x5000], al; mov bx, 0x1234; hlt
    let (second, mut other) = start(&kvm, &[0xb0, 0x77, 0xa2, 0, 0x50, 0xbb, 0x34, 0x12, 0xf4]);
    assert_eq!(other.run().unwrap(), Exit::Hlt);
    assert_eq!((counter(&second), other.regs().unwrap().rbx), (0x77, 0x1234));

    assert_eq!((other.id(), other.sregs().unwrap().apic_base), (0, before.1.apic_base));

    assert_eq!(registers(&vcpu), before);
    assert_eq!((memory.read_obj::<u8>(COUNTER).unwrap(), counter(&vm)), (3, 3));
    assert!(matches!(vcpu.run(), Err(Error::Released { vcpu: 0 })));
    assert!(matches!(vcpu.finish_instruction(), Err(Error::Released { vcpu: 0 })));
    assert!(vcpu.translate(Gva(0)).is_err());
    assert!(vm.add_slot(slot(3, 0x10_0000, 0x1000, SlotBacking::default())).is_err());
    assert!(vm.create_vcpu(1).is_err());
    assert!(vm.delete_slot(0).is_err());
    assert_eq!(counter(&second), 0x77);
    assert_eq!(calls.count(Call::CreateVm), 1);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_vm_is_used_hundreds_of_times() {
    let (kvm, calls) = observed();
    let _reservation = kvm.reserve_vm().unwrap();
    for round in 0..300 {
        let (vm, mut vcpu) = start(&kvm, &COUNTING_GUEST);
        for expected in 1..=3 {
            assert_eq!((vcpu.run().unwrap(), counter(&vm)), (Exit::Hlt, expected), "round {round}");
        }
    }
    assert_eq!(calls.count(Call::CreateVm), 1);
    assert_eq!(calls.count(Call::CreateVcpu), 1, "a vCPU is used again");
    assert_eq!(calls.count(Call::SetTssAddr), 1, "Intel hosts refuse a second call");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_vcpu_that_is_used_again_is_in_its_reset_state() {
    let (kvm, calls) = observed();
    let msrs = kvm.msr_index_list().unwrap();
    let cpuid = kvm.supported_cpuid().unwrap();
    let state = |vcpu: &Vcpu| -> VcpuState { vcpu.save_with(&msrs).unwrap() };
    let fresh_vm = kvm.create_vm().unwrap();
    let fresh = fresh_vm.create_vcpu(0).unwrap();
    let expected = state(&fresh);
    fresh.set_cpuid2(&cpuid).unwrap();
    let expected_with_cpuid = state(&fresh);

    let _reservation = kvm.reserve_vm().unwrap();
    for round in 0..4 {
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_addr(TssAddress::new(Gpa(0xfffb_d000)).unwrap()).unwrap();
        vm.add_slot(slot(0, 0, 0x1_0000, SlotBacking::default())).unwrap();
        let mut vcpu = vm.create_vcpu(0).unwrap();
        // A vCPU keeps its CPUID.
        assert_same(&state(&vcpu), if round == 0 { &expected } else { &expected_with_cpuid }, round);
        vcpu.set_cpuid2(&cpuid).unwrap();
        assert_same(&state(&vcpu), &expected_with_cpuid, round);
        #[rustfmt::skip]
        let code = [
            0xb8, 0x34, 0x12, 0x8e, 0xd8,                   // mov ax, 0x1234; mov ds, ax
            0x66, 0xb9, 0x81, 0x00, 0x00, 0xc0,             // mov ecx, 0xc0000081
            0x66, 0x31, 0xd2, 0x0f, 0x30,                   // xor edx, edx; wrmsr
            0x66, 0xb8, 0x00, 0x30, 0x00, 0x00,             // mov eax, 0x3000
            0x0f, 0x22, 0xd8, 0x0f, 0x22, 0xd0,             // mov cr3, eax; mov cr2, eax
            0xe4, 0x60,                                     // in al, 0x60
            0xf4,
        ];
        vm.memory().write_slice(&code, GuestAddress(CODE)).unwrap();
        go_to_code(&vcpu);
        assert!(matches!(vcpu.run().unwrap(), Exit::PioIn { .. }));
        assert_eq!(vcpu.sregs().unwrap().cr3, 0x3000);
        // Dropped in the middle of the instruction: the kernel waits for input.
    }
    assert_eq!((calls.count(Call::CreateVm), calls.count(Call::CreateVcpu)), (2, 2));
}

/// Compares all that a guest can see but clocks, which go on: the time stamp counter, Hyper-V's run time and reference counter.
fn assert_same(found: &VcpuState, expected: &VcpuState, round: u32) {
    const CLOCKS: [u32; 3] = [0x10, 0x4000_0010, 0x4000_0020];
    assert_eq!(found.regs, expected.regs, "round {round}");
    assert_eq!(found.sregs, expected.sregs, "round {round}");
    assert_eq!(found.fxsave(), expected.fxsave(), "round {round}");
    let msrs = |state: &VcpuState| -> BTreeMap<u32, u64> {
        let msrs = state.msrs.iter().filter(|msr| !CLOCKS.contains(&msr.index));
        msrs.map(|msr| (msr.index, msr.data)).collect()
    };
    let (found, expected) = (msrs(found), msrs(expected));
    let differ = |index: &&u32| found.get(index) != expected.get(index);
    let indices: BTreeSet<_> = found.keys().chain(expected.keys()).filter(differ).collect();
    let shown = indices
        .iter()
        .map(|index| format!("{index:#x}: {:x?}, {:x?}", found.get(index), expected.get(index)));
    assert!(indices.is_empty(), "round {round}: {:?}", shown.collect::<Vec<_>>());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn two_reservations_serve_two_machines_and_other_threads_none() {
    let (kvm, calls) = observed();
    let first = kvm.reserve_vm().unwrap();
    let second = kvm.reserve_vm().unwrap();
    for _ in 0..3 {
        let (one, mut vcpu) = start(&kvm, &COUNTING_GUEST);
        let (_two, _other) = start(&kvm, &COUNTING_GUEST);
        assert_eq!((vcpu.run().unwrap(), counter(&one)), (Exit::Hlt, 1));
    }
    assert_eq!(calls.count(Call::CreateVm), 2);
    let clone = kvm.clone();
    thread::spawn(move || drop(start(&clone, &COUNTING_GUEST))).join().unwrap();
    assert_eq!(calls.count(Call::CreateVm), 3, "a reservation is that of a thread");
    drop(second);
    let _one = start(&kvm, &COUNTING_GUEST);
    assert_eq!(calls.count(Call::CreateVm), 3);
    let _two = start(&kvm, &COUNTING_GUEST);
    assert_eq!(calls.count(Call::CreateVm), 4);
    drop(first);
    drop(start(&kvm, &COUNTING_GUEST));
    assert_eq!(calls.count(Call::CreateVm), 5);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_machine_outlives_the_reservation_of_its_vm() {
    let (kvm, _) = observed();
    let (ended, mut vcpu) = start(&kvm, &COUNTING_GUEST);
    assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    let reservation = ended.release().unwrap();
    let (vm, mut other) = start(&kvm, &COUNTING_GUEST);
    assert_eq!(other.run().unwrap(), Exit::Hlt);
    drop(reservation);
    assert_eq!((other.run().unwrap(), counter(&vm)), (Exit::Hlt, 2));
    drop((vm, other));
    assert_eq!((vcpu.regs().unwrap().rip, counter(&ended)), (CODE + 5, 1));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn interrupt_controllers_are_used_again_in_their_reset_state() {
    let (kvm, calls) = observed();
    let build = || {
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_addr(TssAddress::new(Gpa(0xfffb_d000)).unwrap()).unwrap();
        vm.add_slot(slot(0, 0, 0x1_0000, SlotBacking::default())).unwrap();
        vm.create_irqchip().unwrap();
        vm.create_pit2().unwrap();
        vm.enable_unknown_msr_exits().unwrap();
        let vcpus = [vm.create_vcpu(0).unwrap(), vm.create_vcpu(1).unwrap()];
        (vm, vcpus)
    };
    let _reservation = kvm.reserve_vm().unwrap();
    for round in 0..5 {
        let (vm, vcpus) = build();
        assert!(vm.release().unwrap().is_none(), "the numbers of its vCPUs are taken");
        assert_eq!(vcpus[0].mp_state().unwrap(), kvm_sys_wrap::MpState::Runnable, "round {round}");
        assert_eq!(vcpus[1].mp_state().unwrap(), kvm_sys_wrap::MpState::Uninitialized, "round {round}");
        assert_eq!(vcpus[0].interrupt_in_service().unwrap(), None, "round {round}");
        assert!(vm.create_vcpu(1).is_err());
        assert!(!vm.any_irq_unmasked().unwrap(), "round {round}");
        vm.init_pics(0x20, 0x28).unwrap();
        assert!(vm.any_irq_unmasked().unwrap());
        vm.set_irq_line(4, true).unwrap();
        vcpus[0].emulate_hlt(CODE).unwrap();
        assert_eq!(vcpus[0].mp_state().unwrap(), kvm_sys_wrap::MpState::Halted);
        let _line = vm.register_irqfd(8).unwrap();
    }
    let made = [Call::CreateVm, Call::CreateIrqchip, Call::CreatePit2, Call::EnableCapVm];
    assert_eq!(made.map(|call| calls.count(call)), [1; 4]);
    assert_eq!(calls.count(Call::CreateVcpu), 2);

    // Without the controllers it would be another machine: HLT would not exit.
    let vm = kvm.create_vm().unwrap();
    assert!(vm.create_vcpu(0).is_err());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn coalesced_writes_of_one_machine_do_not_reach_the_next() {
    let (kvm, calls) = observed();
    let _reservation = kvm.reserve_vm().unwrap();
    let code = [0xe6, 0xe9, 0xe6, 0xe9, 0xf4]; // out 0xe9, al; out 0xe9, al; hlt
    for _ in 0..3 {
        let (vm, mut vcpu) = start(&kvm, &code);
        if !vm.register_coalesced_pio(Port(0xe9)).unwrap() {
            println!("skipped: this host has no KVM_CAP_COALESCED_PIO");
            return;
        }
        // The second write and HLT are not taken.
        assert!(matches!(vcpu.run().unwrap(), Exit::PioOut { port: Port(0xe9), .. }));
        drop((vm, vcpu));
        let (_vm, mut vcpu) = start(&kvm, &[0xf4]);
        assert_eq!(vcpu.run().unwrap(), Exit::Hlt);
    }
    assert_eq!(calls.count(Call::UnregisterCoalescedMmio), 3);
}
