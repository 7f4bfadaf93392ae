//! Exits served without KVM: a vCPU that is only registers, and a board with two devices.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvm_sys_wrap::{GuestMemory, IoBytes};
use vm_memory::GuestAddress;

use kvm_sys_wrap::bindings::KVM_MSR_EXIT_REASON_UNKNOWN;

use super::*;
use crate::cpu::ring3_trap::TrapPage;
use crate::devices::console::Output;
use crate::devices::device::{Action, Device, Guest};
use crate::layout;
use crate::machine::end::Suspend;
use crate::machine::host::CpuTraits;
use crate::spec::mode::Mode;
use crate::spec::{EntryPoint, MachineSpec};

const DEVICE: u16 = 0x300;
const MMIO: u64 = 0xd000_0000;
const TRAP_PAGE: u64 = 0x5000;

/// A vCPU without KVM.
#[derive(Default)]
struct TestVcpu {
    regs: kvm_regs,
    msr_faults: u32,
}

impl ServedVcpu for TestVcpu {
    fn number(&self) -> usize {
        0
    }

    fn regs_at_exit(&self) -> Result<kvm_regs, kvm_sys_wrap::Error> {
        Ok(self.regs)
    }

    fn translate(&self, address: Gva) -> Result<Option<Gpa>, kvm_sys_wrap::Error> {
        Ok(Some(Gpa(address.0)))
    }

    fn complete_msr(&mut self, _: u64) -> Result<(), kvm_sys_wrap::Error> {
        Ok(())
    }

    fn inject_msr_fault(&mut self) -> Result<(), kvm_sys_wrap::Error> {
        self.msr_faults += 1;
        Ok(())
    }
}

/// A device that notes what is written, reads as 1, 2, 3 ..., and at its last address does what it was made for.
struct TestDevice {
    written: Arc<Mutex<Vec<Vec<u8>>>>,
    reads: u8,
    action: Action,
}

impl Device for TestDevice {
    fn length(&self) -> u64 {
        8
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        for byte in data {
            self.reads += 1;
            *byte = self.reads;
        }
        Ok(if offset == 7 { self.action.clone() } else { Action::Continue })
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        self.written.lock().unwrap().push(data.to_vec());
        Ok(if offset == 7 { self.action.clone() } else { Action::Continue })
    }
}

/// A processor on a board with one device at a port and one at an address.
struct Fixture {
    processor: Processor<TestVcpu>,
    board: Board,
    written: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Fixture {
    fn new(change: impl FnOnce(&mut MachineSpec)) -> Self {
        Self::with_action(Action::Exit(3), change)
    }

    fn with_action(action: Action, change: impl FnOnce(&mut MachineSpec)) -> Self {
        let mut spec = MachineSpec::new(Mode::Long, 2 << 20, EntryPoint::Address(Gva(0x8000)));
        change(&mut spec);
        let written = Arc::default();
        let device = || TestDevice { written: Arc::clone(&written), reads: 0, action: action.clone() };
        let (mut ports, mut mmio) = (Bus::default(), Bus::default());
        ports.insert("port", DEVICE.into(), 0xffff, Arc::new(Mutex::new(device()))).unwrap();
        mmio.insert("mmio", MMIO, u64::MAX, Arc::new(Mutex::new(device()))).unwrap();
        let board = Board {
            irqchip: None,
            layout: layout::compute(&spec, &[]).unwrap(),
            spec,
            memory: GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap(),
            read_only: Vec::new(),
            ports,
            mmio,
            output: Output::new(io::sink()),
            input_sources: Vec::new(),
            custom: Vec::new(),
            trap_page: None,
            cpu: CpuTraits::from_cpuid(None),
        };
        Self { processor: Processor::new(TestVcpu::default()), board, written }
    }

    fn serve(&mut self, exit: &Exit) -> Option<End> {
        self.processor.serve(&self.board, exit).unwrap()
    }

    fn written(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut *self.written.lock().unwrap())
    }
}

fn pio_out(port: u16, width: u8, data: &[u8]) -> Exit {
    let count = u32::try_from(data.len()).unwrap() / u32::from(width);
    Exit::PioOut { port: Port(port), width, count, data: IoBytes::new(data) }
}

fn pio_in(port: u16, width: u8, count: u32) -> Exit {
    Exit::PioIn { port: Port(port), width, count }
}

#[test]
fn a_string_write_reaches_the_device_item_by_item() {
    let mut test = Fixture::new(|_| {});
    assert_eq!(test.serve(&pio_out(DEVICE, 2, &[1, 2, 3, 4, 5, 6])), None);
    assert_eq!(test.written(), [[1, 2], [3, 4], [5, 6]]);
    assert_eq!(test.serve(&pio_out(DEVICE + 4, 4, &[1, 2, 3, 4])), None);
    assert_eq!(test.written(), [[1, 2, 3, 4]]);
    assert!(test.processor.answer.is_empty());
}

#[test]
fn a_string_read_is_answered_in_full() {
    let mut test = Fixture::new(|_| {});
    for (width, count, answer) in [(1, 1, 1..=1_u8), (4, 1, 2..=5), (2, 3, 6..=11)] {
        assert_eq!(test.serve(&pio_in(DEVICE, width, count)), None);
        assert_eq!(test.processor.answer, answer.collect::<Vec<_>>(), "{count} items of {width}");
    }
    assert_eq!(test.serve(&pio_out(DEVICE, 1, &[0])), None);
    assert!(test.processor.answer.is_empty(), "a write leaves no answer of the read before it");
}

#[test]
fn mmio_goes_to_the_other_bus() {
    let mut test = Fixture::new(|_| {});
    let data = IoBytes::new(&[1, 2, 3]);
    assert_eq!(test.serve(&Exit::MmioWrite { address: Gpa(MMIO + 1), data }), None);
    assert_eq!(test.written(), [[1, 2, 3]]);
    assert_eq!(test.serve(&Exit::MmioRead { address: Gpa(MMIO), width: 8 }), None);
    assert_eq!(test.processor.answer, [1, 2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn an_action_of_a_device_ends_the_run() {
    let alarm = Duration::from_secs(1);
    for (action, end) in [
        (Action::Exit(3), End::Exit { code: 3 }),
        (Action::PowerOff, End::PowerOff),
        (Action::Reset, End::Reset),
        (Action::Suspend { wake: None }, End::Suspend(Suspend::NoAlarm)),
        (Action::Suspend { wake: Some(alarm) }, End::Suspend(Suspend::Until(alarm))),
    ] {
        let mut test = Fixture::with_action(action, |_| {});
        assert_eq!(test.serve(&pio_out(DEVICE + 7, 1, &[1, 2])), Some(end.clone()));
        assert_eq!(test.written(), [[1]], "the items after the one that ends the run are not written");
        assert_eq!(test.serve(&pio_in(DEVICE + 7, 1, 1)), Some(end));
        assert!(test.processor.answer.is_empty());
    }
}

#[test]
fn unmapped_accesses_read_ones_or_stop() {
    let mut test = Fixture::new(|spec| spec.unmapped = UnmappedPolicy::ReadOnes);
    assert_eq!(test.serve(&pio_in(0x80, 2, 2)), None);
    assert_eq!(test.processor.answer, [0xff; 4]);
    assert_eq!(test.serve(&pio_out(0x80, 1, &[1])), None);
    assert_eq!(test.serve(&Exit::MmioRead { address: Gpa(0x9000_0000), width: 4 }), None);
    assert_eq!(test.processor.answer, [0xff; 4]);

    let mut test = Fixture::new(|spec| spec.unmapped = UnmappedPolicy::Stop);
    test.processor.vcpu.regs.rip = 0x8123;
    let unmapped =
        |at, width, written| Some(End::Unmapped(UnmappedAccess { at, width, written, rip: 0x8123 }));
    let port = BusAddress::Port(Port(0x80));
    assert_eq!(test.serve(&pio_out(0x80, 2, &[0x34, 0x12])), unmapped(port, 2, Some(0x1234)));
    assert_eq!(test.serve(&pio_in(0x80, 4, 1)), unmapped(port, 4, None));
    let mmio = BusAddress::Mmio(Gpa(0x9000_0000));
    assert_eq!(test.serve(&Exit::MmioRead { address: Gpa(0x9000_0000), width: 8 }), unmapped(mmio, 8, None));
    let data = IoBytes::new(&[7]);
    assert_eq!(test.serve(&Exit::MmioWrite { address: Gpa(0x9000_0000), data }), unmapped(mmio, 1, Some(7)));
}

#[test]
fn hlt_says_whether_interrupts_are_on() {
    let mut test = Fixture::new(|_| {});
    test.processor.vcpu.regs.rflags = 0x2;
    assert_eq!(test.serve(&Exit::Hlt), Some(End::Halt { interrupts: false }));
    test.processor.vcpu.regs.rflags = 0x202;
    assert_eq!(test.serve(&Exit::Hlt), Some(End::Halt { interrupts: true }));
}

#[test]
fn hlt_on_the_trap_page_is_the_way_out_of_ring_3() {
    let mut test = Fixture::new(|_| {});
    test.board.trap_page = Some(TrapPage { address: Gpa(TRAP_PAGE) });
    let after_stub = |vector: u8| TRAP_PAGE + u64::from(vector) * 16 + 1;
    test.processor.vcpu.regs.rip = after_stub(EXIT_VECTOR);
    assert_eq!(test.serve(&Exit::Hlt), Some(End::Ring3Exit));

    // #GP with its frame: error code, RIP, CS, RFLAGS, RSP, SS.
    let stack: Vec<u8> =
        [0_u64, 0x8001, 0x1b, 0x202, 0x7000, 0x23].iter().flat_map(|word| word.to_le_bytes()).collect();
    test.board.memory.write_slice(&stack, GuestAddress(0x6000)).unwrap();
    test.processor.vcpu.regs = kvm_regs { rip: after_stub(13), rsp: 0x6000, ..kvm_regs::default() };
    let frame =
        ExceptionFrame { error_code: Some(0), rip: 0x8001, cs: 0x1b, rflags: 0x202, rsp: 0x7000, ss: 0x23 };
    assert_eq!(test.serve(&Exit::Hlt), Some(End::Exception { vector: 13, frame: Some(frame) }));

    // A stack outside memory: the exception is reported without a frame.
    test.processor.vcpu.regs.rsp = 1 << 40;
    assert_eq!(test.serve(&Exit::Hlt), Some(End::Exception { vector: 13, frame: None }));
}

#[test]
fn msrs_that_kvm_does_not_have_fault_and_are_counted() {
    let mut test = Fixture::new(|_| {});
    assert_eq!(test.serve(&Exit::ReadMsr { index: 0x1234, reason: KVM_MSR_EXIT_REASON_UNKNOWN }), None);
    assert_eq!(
        test.serve(&Exit::WriteMsr { index: 0x1234, data: 5, reason: KVM_MSR_EXIT_REASON_UNKNOWN }),
        None
    );
    assert_eq!(
        test.serve(&Exit::WriteMsr { index: 0x10, data: 5, reason: KVM_MSR_EXIT_REASON_UNKNOWN }),
        None
    );
    assert_eq!(test.processor.vcpu.msr_faults, 3);
    let expected = [(0x10, MsrUse { reads: 0, writes: 1 }), (0x1234, MsrUse { reads: 1, writes: 1 })];
    assert_eq!(test.processor.unknown_msrs, UnknownMsrs::from(expected));
}

#[test]
fn crashes_end_the_run_with_their_data() {
    let mut test = Fixture::new(|_| {});
    for (exit, end) in [
        (Exit::Shutdown, End::Shutdown),
        (Exit::FailEntry { reason: 7, cpu: 1 }, End::FailEntry { reason: 7, cpu: 1 }),
        (
            Exit::InternalError { suberror: 1, data: vec![2, 3] },
            End::InternalError { suberror: 1, data: vec![2, 3] },
        ),
        (Exit::SystemEvent { kind: 3, data: vec![] }, End::SystemEvent { kind: 3 }),
        (Exit::Other(99), End::Unserved(Exit::Other(99))),
    ] {
        assert_eq!(test.serve(&exit), Some(end), "{exit:?}");
    }
}

#[test]
fn signals_and_debug_events_need_no_answer() {
    let mut test = Fixture::new(|_| {});
    let debug = Exit::Debug { exception: 1, pc: 0x8000, dr6: 1 << 14, dr7: 0x400 };
    assert_eq!(test.serve(&pio_in(DEVICE, 1, 1)), None);
    for exit in [Exit::Interrupted, Exit::Retry, debug] {
        assert_eq!(test.serve(&exit), None);
        assert!(test.processor.answer.is_empty(), "{exit:?}");
    }
}
