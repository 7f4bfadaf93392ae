//! The kernel's interrupt controllers and timer, accessed by a guest in real mode.

use kvm_sys_wrap::{Exit, Gpa, IrqchipState, Kvm, Port, Slot, TssAddress, Vcpu, Vm};
use vm_memory::{Bytes, GuestAddress};

use crate::encoding::{from_bytes, to_bytes};

/// Address of the guest's code.
const CODE: u16 = 0x1000;
/// Address of the handlers of all vectors, four bytes each.
const HANDLERS: u16 = 0x2000;
/// Address to which the guest writes what it reads from ports.
const ANSWERS: u16 = 0x3000;
const STACK: u64 = 0x8000;
/// RFLAGS with interrupts off.
const FLAGS: u64 = 1 << 1;
const INTERRUPT_FLAG: u64 = 1 << 9;
/// Port that a handler writes its vector to.
const INTERRUPTED: u8 = 0xe9;
/// Port that ends the guest's code.
const DONE: u8 = 0xea;

/// Access to a port by the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum PortAccess {
    Out(u16, u8),
    In(u16),
}

/// Saved state of the kernel's chips as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct ChipBytes {
    /// `kvm_irqchip` of the master, the slave and the IOAPIC.
    pub(in super::super) chips: Vec<Vec<u8>>,
    /// `kvm_pit_state2`.
    pub(in super::super) pit: Vec<u8>,
}

/// VM with the kernel's PICs, IOAPIC, local APIC and 8254, and one vCPU.
pub(in super::super) struct KernelChips {
    pub(in super::super) vm: Vm,
    vcpu: Vcpu,
}

impl KernelChips {
    pub(in super::super) fn new() -> Self {
        let vm = Kvm::open().unwrap().create_vm().unwrap();
        vm.set_tss_addr(TssAddress::new(Gpa(0xfffb_d000)).unwrap()).unwrap();
        vm.add_slot(Slot::new(0, Gpa(0), 0x1_0000)).unwrap();
        vm.create_irqchip().unwrap();
        vm.create_pit2().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut sregs = vcpu.sregs().unwrap();
        (sregs.cs.base, sregs.cs.selector) = (0, 0);
        vcpu.set_sregs(&sregs).unwrap();
        for vector in 0..=u8::MAX {
            let handler = HANDLERS + u16::from(vector) * 4;
            let address = GuestAddress(handler.into());
            vm.memory().write_slice(&[0xb0, vector, 0xe6, INTERRUPTED], address).unwrap(); // mov al, vector; out
            vm.memory().write_obj(u32::from(handler), GuestAddress(u64::from(vector) * 4)).unwrap();
        }
        Self { vm, vcpu }
    }

    /// Makes these accesses with interrupts off, and returns what was read.
    pub(in super::super) fn access(&mut self, accesses: &[PortAccess]) -> Vec<u8> {
        let mut code = vec![0xbf]; // mov di, ANSWERS
        code.extend(ANSWERS.to_le_bytes());
        for access in accesses {
            let (PortAccess::Out(port, _) | PortAccess::In(port)) = *access;
            code.push(0xba); // mov dx, port
            code.extend(port.to_le_bytes());
            match *access {
                PortAccess::Out(_, value) => code.extend([0xb0, value, 0xee]), // mov al, value; out dx, al
                PortAccess::In(_) => code.extend([0xec, 0xaa]),                // in al, dx; stosb
            }
        }
        assert_eq!(self.run(&code, FLAGS), None, "interrupts are off");
        let count = accesses.iter().filter(|access| matches!(access, PortAccess::In(_))).count();
        let mut answers = vec![0; count];
        self.vm.memory().read_slice(&mut answers, GuestAddress(ANSWERS.into())).unwrap();
        answers
    }

    /// Runs an instruction with interrupts on, and returns the vector if there was an interrupt.
    pub(in super::super) fn take_interrupt(&mut self) -> Option<u8> {
        self.run(&[0x90, 0xfa], FLAGS | INTERRUPT_FLAG) // nop; cli
    }

    /// Runs code with these flags to its end, or to a handler, whose vector it returns.
    fn run(&mut self, code: &[u8], flags: u64) -> Option<u8> {
        let code = [code, &[0xe6, DONE]].concat(); // out DONE, al
        self.vm.memory().write_slice(&code, GuestAddress(CODE.into())).unwrap();
        let mut regs = self.vcpu.regs().unwrap();
        (regs.rip, regs.rflags, regs.rsp) = (CODE.into(), flags, STACK);
        self.vcpu.set_regs(&regs).unwrap();
        loop {
            let exit = self.vcpu.run().unwrap();
            if matches!(exit, Exit::Interrupted | Exit::Retry) {
                continue;
            }
            let Exit::PioOut { port: Port(port), ref data, .. } = exit else { panic!("{exit:?}") };
            assert_eq!(self.vcpu.finish_instruction().unwrap(), None);
            let interrupted = port == u16::from(INTERRUPTED);
            assert!(interrupted || port == u16::from(DONE), "port {port:#x}");
            return interrupted.then(|| data[0]);
        }
    }

    /// Returns the state of the chips (`KVM_GET_IRQCHIP`, `KVM_GET_PIT2`).
    pub(in super::super) fn state(&self) -> ChipBytes {
        let (chips, pit) = from_bytes(&to_bytes(&self.vm.save_irqchip().unwrap()).unwrap()).unwrap();
        ChipBytes { chips, pit }
    }

    /// Sets the state of the chips (`KVM_SET_IRQCHIP`, `KVM_SET_PIT2`).
    pub(in super::super) fn set_state(&self, ChipBytes { chips, pit }: &ChipBytes) {
        let state: IrqchipState = from_bytes(&to_bytes(&(chips, pit)).unwrap()).unwrap();
        self.vm.restore_irqchip(&state).unwrap();
    }
}
