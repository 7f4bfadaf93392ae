//! What a report shows of the guest's memory: the stack, the GDT, the IDT.

use iced_x86::{Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::Gva;
use crate::cpu::cpu_state::OperandWidth;
use crate::cpu::descriptor::SegmentDescriptor;
use crate::cpu::idt::Gate;

use super::delivery::GateFound;
use super::instruction_trace::TracedInstruction;
use crate::machine::guest_state::GuestState;

/// Words of the stack that are shown.
const STACK_WORDS: u64 = 16;
/// Descriptors and gates that are shown at most.
const SHOWN: u64 = 32;

/// A word on the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StackWord {
    /// Its linear address.
    pub at: u64,
    /// Its value.
    pub value: u64,
}

/// GDT and IDT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Base and limit of the GDT.
    pub gdt: (u64, u16),
    /// Its descriptors, by selector, as far as they can be read and are not empty.
    pub descriptors: Vec<(u16, SegmentDescriptor)>,
    /// Base and limit of the IDT, or of the vector table.
    pub idt: (u64, u16),
    /// Its gates by vector, as far as they can be read and are not empty.
    pub gates: Vec<(u8, GateFound)>,
    /// Whether it can be read.
    pub idt_readable: bool,
}

/// The top of the stack, as far as it can be read.
pub(super) fn stack(moment: &GuestState<'_>) -> Vec<StackWord> {
    let registers = moment.registers;
    let size: u64 = match registers.width() {
        OperandWidth::Bits16 => 2,
        OperandWidth::Bits32 => 4,
        OperandWidth::Bits64 => 8,
    };
    let top = registers.linear_stack();
    (0..STACK_WORDS)
        .map_while(|number| {
            let at = top.checked_add(number * size)?;
            let to = moment.walker().walk(moment.memory, Gva(at)).translation()?;
            moment.memory.read(to.gpa, &mut [0])?;
            let value = moment.read_word(at, usize::try_from(size).ok()?).ok()?;
            Some(StackWord { at, value })
        })
        .collect()
}

/// Both tables.
pub(super) fn found(moment: &GuestState<'_>) -> Tables {
    let sregs = &moment.registers.sregs;
    let (gdt, idt) = ((sregs.gdt.base, sregs.gdt.limit), (sregs.idt.base, sregs.idt.limit));
    Tables {
        gdt,
        descriptors: if moment.registers.is_protected() { descriptors(moment) } else { Vec::new() },
        idt,
        gates: gates(moment),
        idt_readable: moment.read_word(idt.0, 2).is_ok(),
    }
}

fn descriptors(moment: &GuestState<'_>) -> Vec<(u16, SegmentDescriptor)> {
    let gdt = &moment.registers.sregs.gdt;
    let count = (u64::from(gdt.limit) + 1) / 8;
    let (mut list, mut skip) = (Vec::new(), false);
    for number in 1..count.min(SHOWN) {
        if std::mem::take(&mut skip) {
            continue;
        }
        let at = gdt.base.wrapping_add(number * 8);
        let Ok(entry) = moment.read_word(at, 8) else { break };
        let mut descriptor = SegmentDescriptor::from_entry(entry, 0);
        if entry == 0 {
            continue;
        }
        if moment.registers.is_long() && !descriptor.code_or_data && number + 1 < count {
            let high = moment.read_word(at.wrapping_add(8), 8).unwrap_or(0);
            descriptor = SegmentDescriptor::from_entry(entry, high);
            skip = true;
        }
        list.push((u16::try_from(number * 8).unwrap_or(0), descriptor));
    }
    list
}

fn gates(moment: &GuestState<'_>) -> Vec<(u8, GateFound)> {
    let registers = moment.registers;
    let idt = &registers.sregs.idt;
    let protected = registers.cr0().contains(crate::cpu::control_regs::Cr0::PE);
    let size: u64 = match (protected, registers.is_long()) {
        (false, _) => 4,
        (true, false) => 8,
        (true, true) => 16,
    };
    let count = (u64::from(idt.limit) + 1) / size;
    let mut list = Vec::new();
    for vector in 0..u8::try_from(count.min(SHOWN)).unwrap_or(0) {
        let at = idt.base.wrapping_add(u64::from(vector) * size);
        let Ok(low) = moment.read_word(at, if protected { 8 } else { 4 }) else { break };
        if low == 0 {
            continue;
        }
        list.push((
            vector,
            if protected {
                let high = if size == 16 { moment.read_word(at.wrapping_add(8), 8).unwrap_or(0) } else { 0 };
                GateFound::Gate { at, gate: Gate::from_entry(low, high) }
            } else {
                GateFound::Vector { at, segment: (low >> 16 & 0xffff) as u16, offset: (low & 0xffff) as u16 }
            },
        ));
    }
    list
}

fn decode(past: &TracedInstruction) -> Instruction {
    Decoder::with_ip(past.width.bits(), &past.bytes, past.linear, 0).decode()
}

/// Whether an instruction loads CR3.
pub(super) fn writes_cr3(past: &TracedInstruction) -> bool {
    let decoded = decode(past);
    decoded.mnemonic() == Mnemonic::Mov
        && decoded.op0_kind() == OpKind::Register
        && decoded.op0_register() == Register::CR3
}

/// Whether an instruction pushes.
pub(super) fn is_push(past: &TracedInstruction) -> bool {
    let decoded = decode(past);
    decoded.is_stack_instruction() && decoded.stack_pointer_increment() < 0
}

/// Whether an instruction is a jump, call or return.
pub(super) fn is_jump(past: &TracedInstruction) -> bool {
    match decode(past).flow_control() {
        FlowControl::Next
        | FlowControl::XbeginXabortXend
        | FlowControl::Interrupt
        | FlowControl::Exception => false,
        FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::ConditionalBranch
        | FlowControl::Return
        | FlowControl::Call
        | FlowControl::IndirectCall => true,
    }
}
