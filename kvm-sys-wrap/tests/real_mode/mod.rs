//! VM with a vCPU in real mode, for the tests of calls and memory.

use kvm_sys_wrap::{Gpa, Kvm, Slot, SlotBacking, TssAddress, Vcpu, Vm};

/// Address of the guest's first instruction.
pub(crate) const CODE: u64 = 0x1000;

/// Returns a slot with read-write memory.
pub(crate) fn slot(number: u32, address: u64, size: u64, backing: SlotBacking) -> Slot {
    let mut slot = Slot::new(number, Gpa(address), size);
    slot.backing = backing;
    slot
}

/// Creates a VM with 64 KiB at address 0 and a vCPU at 0:1000.
pub(crate) fn boot(kvm: &Kvm, backing: SlotBacking) -> (Vm, Vcpu) {
    let vm = kvm.create_vm().unwrap();
    vm.set_tss_addr(TssAddress::new(Gpa(0xfffb_d000)).unwrap()).unwrap();
    vm.add_slot(slot(0, 0, 0x1_0000, backing)).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    go_to_code(&vcpu);
    (vm, vcpu)
}

/// Sets CS:IP of a vCPU in its reset state to 0:1000.
pub(crate) fn go_to_code(vcpu: &Vcpu) {
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.regs().unwrap();
    (regs.rip, regs.rflags) = (CODE, 2);
    vcpu.set_regs(&regs).unwrap();
}
