//! Predicted exceptions on initial states, without KVM.

use super::exception::Exception;
use super::exception_chain::{ChainEnd, ExceptionChain};
use super::fetch::FetchResult;
use crate::cpu::control_regs::{Cr0, Cr4};
use crate::cpu::cpu_state::CpuState;
use crate::cpu::reset_state;
use crate::initial_state::{HostQuirks, TableImage, initial_state};
use crate::layout;
use crate::machine::guest_state::GuestState;
use crate::paging::walk::ReadMemory;
use crate::spec::mode::{Mode, Ring};
use crate::spec::{EntryPoint, MachineSpec};
use crate::{Gpa, Gva};

const CODE: u64 = 0x10_0000;
const MEMORY: u64 = 2 << 20;

/// Initial state of a machine.
struct Machine {
    registers: CpuState,
    images: Vec<TableImage>,
}

impl ReadMemory for Machine {
    fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Option<()> {
        if gpa.0 + bytes.len() as u64 > MEMORY {
            return None;
        }
        for (byte, at) in bytes.iter_mut().zip(gpa.0..) {
            let image = self
                .images
                .iter()
                .rev()
                .find(|image| image.gpa.0 <= at && at < image.gpa.0 + image.bytes.len() as u64);
            *byte = image.map_or(0, |image| image.bytes[usize::try_from(at - image.gpa.0).unwrap()]);
        }
        Some(())
    }
}

impl Machine {
    fn new(mode: Mode, ring: Ring, code: &[u8]) -> Self {
        let at = if mode == Mode::Real { 0x8000 } else { CODE };
        let mut spec = MachineSpec::new(mode, MEMORY, EntryPoint::Address(Gva(at)));
        spec.boot.ring = ring;
        let layout = layout::compute(&spec, &[]).unwrap();
        let state = initial_state(&reset_state::sregs(), &spec, &layout, HostQuirks::default()).unwrap();
        let mut images = state.images;
        images.push(TableImage { gpa: Gpa(at), name: "code", bytes: code.to_vec() });
        Self { registers: CpuState { regs: state.regs, sregs: state.sregs }, images }
    }

    fn put(&mut self, gpa: u64, bytes: &[u8]) {
        self.images.push(TableImage { gpa: Gpa(gpa), name: "more", bytes: bytes.to_vec() });
    }

    fn guest(&self) -> GuestState<'_> {
        GuestState::new(&self.registers, self)
    }

    fn fault(&self) -> Option<Exception> {
        self.guest().predict_fault(&self.guest().fetch())
    }

    fn chain(&self) -> ExceptionChain {
        self.guest().exception_chain(self.fault().unwrap())
    }

    /// Returns the vectors of the exception chain in order.
    fn vectors(&self) -> Vec<u8> {
        self.chain().links.iter().map(|link| link.fault.vector).collect()
    }
}

fn kernel(mode: Mode, code: &[u8]) -> Machine {
    Machine::new(mode, Ring::Kernel, code)
}

/// Exceptions in long mode, ring 0: vector, error code and a word of the reason.
#[test]
fn predicted_exceptions() {
    type Case<'a> = (&'a str, &'a [u8], Option<(u8, Option<u32>, &'a str)>);
    let cases: &[Case<'_>] = &[
        ("nop", &[0x90], None),
        ("ud2", &[0x0f, 0x0b], Some((6, None, "defined"))),
        ("no instruction", &[0x06], Some((6, None, "no instruction"))),
        ("int 0x80", &[0xcd, 0x80], Some((0x80, None, "asked"))),
        ("mov al,[0x40000000]", &[0xa0, 0, 0, 0, 0x40, 0, 0, 0, 0], Some((14, Some(0), "not present"))),
        ("mov [0x40000000],al", &[0xa2, 0, 0, 0, 0x40, 0, 0, 0, 0], Some((14, Some(2), "not present"))),
        ("mov al,[1 << 47]", &[0xa0, 0, 0, 0, 0, 0, 0x80, 0, 0], Some((13, Some(0), "not canonical"))),
        ("call 0x40000000", &[0xe8, 0xfb, 0xff, 0xef, 0x3f], None),
        ("div cl", &[0xf6, 0xf1], Some((0, None, "divides by 0"))),
        ("mov ds,ax of a null selector", &[0x8e, 0xd8], None),
        ("mov ss,ax of a null selector", &[0x8e, 0xd0], None),
        ("syscall", &[0x0f, 0x05], None),
        ("jmp rax to 0", &[0xff, 0xe0], None),
        ("lgdt [0]", &[0x0f, 0x01, 0x14, 0x25, 0, 0, 0, 0], None),
        ("movaps xmm0,[1]", &[0x0f, 0x28, 0x04, 0x25, 1, 0, 0, 0], Some((13, Some(0), "aligned"))),
        ("movups xmm0,[1]", &[0x0f, 0x10, 0x04, 0x25, 1, 0, 0, 0], None),
        ("vaddps xmm0,xmm0,xmm0", &[0xc5, 0xf8, 0x58, 0xc0], Some((6, None, "OSXSAVE"))),
        ("rep movsb with rcx 0", &[0xf3, 0xa4], None),
        ("hlt", &[0xf4], None),
        ("mov cr0,rax of 0", &[0x0f, 0x22, 0xc0], Some((13, Some(0), "paging off"))),
        ("mov cr4,rax of 0", &[0x0f, 0x22, 0xe0], Some((13, Some(0), "PAE"))),
        ("ltr ax of a null selector", &[0x0f, 0x00, 0xd8], Some((13, Some(0), "null"))),
    ];
    for (name, code, expected) in cases {
        let mut machine = kernel(Mode::Long, code);
        machine.registers.sregs.efer |= 1;
        let fault = machine.fault();
        match (&fault, expected) {
            (None, None) => {}
            (Some(fault), Some((vector, code, word))) => {
                assert_eq!((fault.vector, fault.error_code), (*vector, *code), "{name}: {fault}");
                assert!(fault.reason.contains(word), "{name}: {fault}");
            }
            (_, _) => panic!("{name}: {fault:?}"),
        }
    }
}

#[test]
fn rings_and_modes() {
    let ring3 = |mode, code: &[u8]| Machine::new(mode, Ring::User, code).fault().unwrap();
    for mode in [Mode::Protected, Mode::Paged, Mode::Pae, Mode::Long] {
        let fault = ring3(mode, &[0xf4]);
        assert_eq!((fault.vector, fault.error_code), (13, Some(0)), "{mode}");
        assert!(fault.reason.contains("only ring 0"));
        // The I/O bitmap allows all ports; IOPL still forbids CLI.
        assert_eq!(Machine::new(mode, Ring::User, &[0xe6, 0xe9]).fault(), None, "{mode}");
        assert_eq!(ring3(mode, &[0xfa]).vector, 13);
    }
    // In ring 3 the tables of the machine are out of reach: mov eax,[0x1000].
    let fault = ring3(Mode::Long, &[0x8b, 0x04, 0x25, 0, 0x10, 0, 0]);
    assert_eq!((fault.vector, fault.error_code, fault.address), (14, Some(5), Some(0x1000)));
    assert!(fault.reason.contains("kernel page"));

    // 16 bits: a word at offset 0xffff leaves the segment, and no error code is pushed.
    let fault = kernel(Mode::Real, &[0xa1, 0xff, 0xff]).fault().unwrap();
    assert_eq!((fault.vector, fault.error_code), (13, None));
    assert_eq!(kernel(Mode::Real, &[0x0f, 0x00, 0xd8]).fault().unwrap().vector, 6, "ltr");
    // The divisor in 32 bits: edx:eax / ecx.
    let mut machine = kernel(Mode::Protected, &[0xf7, 0xf1]);
    machine.registers.regs.rdx = 1;
    machine.registers.regs.rcx = 1;
    assert_eq!(machine.fault().unwrap().reason, "the quotient is too large for its register");
}

#[test]
fn control_registers_enable_exceptions() {
    let mut machine = kernel(Mode::Long, &[0x0f, 0x28, 0xc1]);
    assert_eq!(machine.fault(), None, "movaps xmm0,xmm1");
    machine.registers.sregs.cr0 |= Cr0::TS.bits();
    assert_eq!(machine.fault().unwrap().vector, 7);
    machine.registers.sregs.cr4 &= !Cr4::OSFXSR.bits();
    assert!(machine.fault().unwrap().reason.contains("OSFXSR"));

    // Write protection: ring 0 may write to a read-only page unless CR0.WP is set. mov [0x5000],al
    let mut machine = kernel(Mode::Paged, &[0xa2, 0, 0x50, 0, 0]);
    machine.registers.sregs.cr4 |= Cr4::PSE.bits();
    let root = machine.registers.sregs.cr3;
    machine.put(root, &0x81_u32.to_le_bytes());
    assert_eq!(machine.fault().unwrap().error_code, Some(3));
    machine.registers.sregs.cr0 &= !Cr0::WP.bits();
    assert_eq!(machine.fault(), None);
}

#[test]
fn an_empty_idt_leads_to_a_triple_fault_by_class() {
    // A benign fault is followed by #GP on its own, a contributory one and #PF become #DF at once.
    assert_eq!(kernel(Mode::Long, &[0x0f, 0x0b]).vectors(), [6, 13, 8]);
    assert_eq!(kernel(Mode::Protected, &[0xf6, 0xf1]).vectors(), [0, 8]);
    let fetch = kernel(Mode::Long, &[0xff, 0xe0]);
    let mut away = fetch.registers;
    away.regs.rip = 0x4000_0000;
    let guest = GuestState { registers: &away, ..fetch.guest() };
    let FetchResult::Fault(fault) = guest.fetch() else { panic!() };
    let chain = guest.exception_chain(fault);
    assert_eq!(chain.links.iter().map(|link| link.fault.vector).collect::<Vec<_>>(), [14, 8]);
    assert_eq!(chain.end, ChainEnd::TripleFault);
}

/// Returns the bytes of a 64-bit gate.
fn gate(offset: u64, selector: u16, kind: u8, present: bool) -> [u8; 16] {
    let gate = crate::cpu::idt::Gate { offset, selector, ist: 0, kind, dpl: 0, present };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&gate.entry().to_le_bytes());
    bytes[8..].copy_from_slice(&(offset >> 32).to_le_bytes());
    bytes
}

#[test]
fn each_kind_of_invalid_gate() {
    let why = |change: &dyn Fn(&mut Machine, u64)| {
        let mut machine = kernel(Mode::Long, &[0x0f, 0x0b]);
        let idt = machine.registers.sregs.idt.base;
        machine.put(idt + 6 * 16, &gate(CODE, 8, 0xe, true));
        change(&mut machine, idt + 6 * 16);
        let link = machine.chain().links.swap_remove(0);
        match link.delivery.outcome {
            super::delivery::DeliveryOutcome::Failed(fault) => {
                format!("{} {}", fault.mnemonic(), fault.reason)
            }
            super::delivery::DeliveryOutcome::Handler(handler) => format!("handler {:#x}", handler.linear),
            super::delivery::DeliveryOutcome::TaskSwitch => panic!(),
        }
    };
    let shows = |words: &str, change: &dyn Fn(&mut Machine, u64)| {
        let why = why(change);
        assert!(why.contains(words), "{why}");
    };
    shows("handler 0x100000", &|_, _| {});
    shows("#NP IDT gate 6 is not present", &|machine, at| machine.put(at, &gate(CODE, 8, 0xe, false)));
    shows("#GP IDT gate 6 has the wrong type: 0x2", &|machine, at| machine.put(at, &gate(CODE, 8, 2, true)));
    shows("not a code segment", &|machine, at| machine.put(at, &gate(CODE, 0x10, 0xe, true)));
    shows("null selector", &|machine, at| machine.put(at, &gate(CODE, 0, 0xe, true)));
    shows("beyond the GDT limit", &|machine, at| machine.put(at, &gate(CODE, 0x100, 0xe, true)));
    shows("not canonical", &|machine, at| machine.put(at, &gate(1 << 47, 8, 0xe, true)));
    shows("beyond the IDT limit (0x5f)", &|machine, _| machine.registers.sregs.idt.limit = 0x5f);
    shows("#PF the IDT at 0x40000000 cannot be read", &|machine, _| {
        machine.registers.sregs.idt.base = 0x4000_0000;
    });
    shows("#PF the frame for the handler cannot be pushed", &|machine, _| {
        machine.registers.regs.rsp = 0x4000_0000;
    });
    shows("#SS the stack for the handler is at", &|machine, _| machine.registers.regs.rsp = 9 << 44);
}

#[test]
fn an_unmapped_page_fault_handler_is_a_recursive_fault() {
    let mut machine = kernel(Mode::Long, &[0xa0, 0, 0, 0, 0x40, 0, 0, 0, 0]);
    let idt = machine.registers.sregs.idt.base;
    machine.put(idt + 14 * 16, &gate(0x5000_0000, 8, 0xe, true));
    assert!(
        matches!(machine.chain().end, ChainEnd::RecursiveFault(handler) if handler.linear == 0x5000_0000)
    );
}

#[test]
fn the_real_mode_vector_table_is_not_checked() {
    let mut machine = kernel(Mode::Real, &[0x0f, 0x0b]);
    machine.put(6 * 4, &[0x41; 4]);
    let chain = machine.chain();
    assert!(matches!(chain.end, ChainEnd::Handler(handler) if handler.linear == 0x4_5551));
    machine.registers.sregs.idt.limit = 0;
    assert_eq!(machine.vectors(), [6, 13, 8]);
    assert_eq!(machine.chain().links[1].fault.error_code, None);
}
