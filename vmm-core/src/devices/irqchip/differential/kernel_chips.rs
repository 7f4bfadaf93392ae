//! Interrupt controllers of the kernel, and a guest that accesses them, one instruction after the other.
//!
//! The guest is in protected mode without paging. For each access the host sets its registers, and the instruction is followed by an
//! OUT. Each vector has a handler, which ends with another OUT; the host continues elsewhere, without IRET.

use std::sync::OnceLock;
use std::time::Duration;

use kvm_sys_wrap::bindings::{kvm_regs, kvm_segment};
use kvm_sys_wrap::vm_memory::{Bytes, GuestAddress};
use kvm_sys_wrap::{Exit, Gpa, Kvm, LapicState, Port, Slot, TssAddress, Vcpu, Vm};

use crate::encoding::{from_bytes, to_bytes};

const READ: u64 = 0x1000;
const WRITE: u64 = 0x1010;
const READ_MSR: u64 = 0x1020;
const WRITE_MSR: u64 = 0x1030;
const TAKE: u64 = 0x1040;
/// Handlers of 4 bytes for each vector.
const HANDLERS: u64 = 0x2000;
const GDT: u64 = 0x3000;
const IDT: u64 = 0x4000;
const STACK: u64 = 0x8000;
/// Port that the guest writes when it is done.
const DONE: u8 = 0x10;
/// RFLAGS: interrupts are on.
const INTERRUPT_FLAG: u64 = 1 << 9;
/// Vector of #GP.
const GENERAL_PROTECTION: u8 = 13;
/// Instructions of the guest.
const CODE: [(u64, &[u8]); 5] = [
    // mov (%edi), %eax; out %al, $DONE
    (READ, &[0x8b, 0x07, 0xe6, DONE]),
    // mov %eax, (%edi); out %al, $DONE
    (WRITE, &[0x89, 0x07, 0xe6, DONE]),
    // rdmsr; out %al, $DONE
    (READ_MSR, &[0x0f, 0x32, 0xe6, DONE]),
    // wrmsr; out %al, $DONE
    (WRITE_MSR, &[0x0f, 0x30, 0xe6, DONE]),
    // cli; out %al, $DONE
    (TAKE, &[0xfa, 0xe6, DONE]),
];
/// CPUID.1:ECX: x2APIC and TSC-deadline timer. The latter depends on the interrupt controllers, so the host does not report it.
const APIC_FEATURES: u32 = 1 << 21 | 1 << 24;
/// IA32_APIC_BASE: x2APIC mode.
const X2APIC_ENABLE: u64 = 1 << 10;

/// Registers in the saved state of a local APIC, after their length.
const SAVED_PAGE: std::ops::Range<usize> = 2..1026;

/// Virtual machine with the kernel's interrupt controllers.
pub(super) struct KernelChips {
    vm: Vm,
    vcpus: Vec<Vcpu>,
    /// Interrupts that the kernel ends at once are put back into service.
    pub(super) restores_in_service: bool,
}

impl KernelChips {
    pub(super) fn new(cpus: usize) -> Self {
        let kvm = Kvm::open().unwrap();
        let vm = kvm.create_vm().unwrap();
        vm.set_tss_addr(TssAddress::new(Gpa(0xfffb_d000)).unwrap()).unwrap();
        vm.add_slot(Slot::new(0, Gpa(0), 0x1_0000)).unwrap();
        let write =
            |address: u64, bytes: &[u8]| vm.memory().write_slice(bytes, GuestAddress(address)).unwrap();
        CODE.iter().for_each(|(address, code)| write(*address, code));
        // Flat segments: code at selector 8, data at 0x10.
        let gdt = [0_u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
        write(GDT, &gdt.map(u64::to_le_bytes).concat());
        for vector in 0..256 {
            let handler = HANDLERS + vector * 4;
            write(handler, &[0xe6, DONE, 0xeb, 0xfe]);
            // An interrupt gate: offset, selector 8, present.
            let gate = handler & 0xffff | 8 << 16 | 0x8e00 << 32 | handler >> 16 << 48;
            write(IDT + vector * 8, &gate.to_le_bytes());
        }
        vm.create_irqchip().unwrap();
        let mut cpuid = kvm.supported_cpuid().unwrap();
        for leaf in cpuid.as_mut_slice().iter_mut().filter(|leaf| leaf.function == 1) {
            leaf.ecx |= APIC_FEATURES;
        }
        let vcpus = (0..cpus).map(|id| {
            let vcpu = vm.create_vcpu(id as u64).unwrap();
            vcpu.set_cpuid2(&cpuid).unwrap();
            set_protected_mode(&vcpu);
            set_runnable(&vcpu);
            vcpu
        });
        Self { vcpus: vcpus.collect(), vm, restores_in_service: false }
    }

    pub(super) fn read(&mut self, cpu: usize, address: u32) -> u32 {
        let (None, regs) = self.run(cpu, kvm_regs { rip: READ, rdi: address.into(), ..kvm_regs::default() })
        else {
            panic!("an interrupt although IF is clear")
        };
        u32::try_from(regs.rax & 0xffff_ffff).unwrap()
    }

    pub(super) fn write(&mut self, cpu: usize, address: u32, value: u32) {
        let regs = kvm_regs { rip: WRITE, rdi: address.into(), rax: value.into(), ..kvm_regs::default() };
        assert_eq!(self.run(cpu, regs).0, None, "an interrupt although IF is clear");
    }

    pub(super) fn take(&mut self, cpu: usize) -> Option<u8> {
        // An interrupt that waits comes before the first instruction.
        let vector = self.run(cpu, kvm_regs { rip: TAKE, rflags: INTERRUPT_FLAG, ..kvm_regs::default() }).0?;
        if self.restores_in_service {
            self.set_in_service(cpu, vector);
        }
        Some(vector)
    }

    /// Sets the bit of a vector in ISR (`KVM_SET_LAPIC`).
    fn set_in_service(&self, cpu: usize, vector: u8) {
        let mut bytes = to_bytes(&self.vcpus[cpu].save_lapic().unwrap()).unwrap();
        let (word, bit) = (usize::from(vector / 32), usize::from(vector % 32));
        bytes[SAVED_PAGE.start + 0x100 + word * 16 + bit / 8] |= 1 << (bit % 8);
        self.vcpus[cpu].restore_lapic(&from_bytes::<LapicState>(&bytes).unwrap()).unwrap();
    }

    pub(super) fn set_line(&mut self, input: u8, level: bool) {
        self.vm.set_irq_line(input.into(), level).unwrap();
    }

    /// Reads an MSR of the first vCPU; `None` is #GP.
    pub(super) fn read_msr(&mut self, msr: u32) -> Option<u64> {
        let (vector, regs) = self.run(0, kvm_regs { rip: READ_MSR, rcx: msr.into(), ..kvm_regs::default() });
        assert!(matches!(vector, None | Some(GENERAL_PROTECTION)), "{vector:?}");
        vector.is_none().then_some(regs.rdx << 32 | regs.rax & 0xffff_ffff)
    }

    /// Writes an MSR of the first vCPU; `None` is #GP.
    pub(super) fn write_msr(&mut self, msr: u32, value: u64) -> Option<()> {
        let (rax, rdx) = (value & 0xffff_ffff, value >> 32);
        let regs = kvm_regs { rip: WRITE_MSR, rcx: msr.into(), rax, rdx, ..kvm_regs::default() };
        let vector = self.run(0, regs).0;
        assert!(matches!(vector, None | Some(GENERAL_PROTECTION)), "{vector:?}");
        vector.is_none().then_some(())
    }

    pub(super) fn set_x2apic(&mut self) {
        for vcpu in &self.vcpus {
            let mut sregs = vcpu.sregs().unwrap();
            sregs.apic_base |= X2APIC_ENABLE;
            vcpu.set_sregs(&sregs).unwrap();
        }
    }

    /// Returns the registers of a local APIC (`KVM_GET_LAPIC`).
    pub(super) fn page(&self, cpu: usize) -> Vec<u8> {
        let bytes = to_bytes(&self.vcpus[cpu].save_lapic().unwrap()).unwrap();
        bytes[SAVED_PAGE].to_vec()
    }

    /// Returns true on a host whose kernel ends an interrupt when the processor takes it: kvm-pvm does, at least in protected mode. Then
    /// no interrupt is ever in service.
    pub(super) fn ends_interrupts_at_once() -> bool {
        static RESULT: OnceLock<bool> = OnceLock::new();
        *RESULT.get_or_init(|| {
            let mut chips = Self::new(1);
            chips.write(0, super::APIC + super::SVR, 0x1ff);
            chips.write(0, super::APIC + super::ICR, 0x4_4021);
            assert_eq!(chips.take(0), Some(0x21));
            chips.read(0, super::APIC + 0x110) == 0
        })
    }

    /// Lets the vCPU run for the time, without interrupts.
    pub(super) fn wait(&mut self, cpu: usize, time: Duration) {
        std::thread::sleep(time);
        // The kernel delivers interrupts of the timer when the vCPU runs.
        self.read(cpu, super::APIC + super::TPR);
    }

    /// Runs a vCPU from `regs.rip` to the next OUT. Returns its registers, and the vector if it is in a handler.
    fn run(&mut self, cpu: usize, regs: kvm_regs) -> (Option<u8>, kvm_regs) {
        let vcpu = &mut self.vcpus[cpu];
        vcpu.set_regs(&kvm_regs { rsp: STACK, rflags: regs.rflags | 2, ..regs }).unwrap();
        loop {
            let exit = vcpu.run().unwrap();
            if matches!(exit, Exit::PioOut { port: Port(port), .. } if port == u16::from(DONE)) {
                break;
            }
            assert!(matches!(exit, Exit::Interrupted | Exit::Retry), "{exit:?} from {:#x}", regs.rip);
        }
        let regs = vcpu.regs().unwrap();
        (regs.rip.checked_sub(HANDLERS).map(|offset| u8::try_from(offset / 4).unwrap()), regs)
    }
}

fn set_protected_mode(vcpu: &Vcpu) {
    let mut sregs = vcpu.sregs().unwrap();
    let segment = |selector, type_| kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    };
    sregs.cs = segment(8, 0xb);
    for data in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *data = segment(0x10, 3);
    }
    (sregs.gdt.base, sregs.gdt.limit) = (GDT, 23);
    (sregs.idt.base, sregs.idt.limit) = (IDT, 0x7ff);
    sregs.cr0 |= 1;
    vcpu.set_sregs(&sregs).unwrap();
}

/// Ends the wait for INIT and SIPI: what follows the registers in the saved state, with its length, is the state of the vCPU. That of
/// one that runs is `KVM_MP_STATE_RUNNABLE`, 0.
fn set_runnable(vcpu: &Vcpu) {
    let mut bytes = to_bytes(&vcpu.save_lapic().unwrap()).unwrap();
    bytes[SAVED_PAGE.end + 1..].fill(0);
    vcpu.restore_lapic(&from_bytes::<LapicState>(&bytes).unwrap()).unwrap();
}
