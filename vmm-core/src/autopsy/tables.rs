//! Guest memory for the report: top of the stack, GDT and IDT. Also predicates for traced instructions.

use iced_x86::{FlowControl, Mnemonic, OpKind, Register};

use crate::Gva;
use crate::cpu::cpu_state::OperandWidth;
use crate::cpu::descriptor::SegmentDescriptor;
use crate::cpu::idt::Gate;

use super::delivery::IdtEntry;
use super::instruction_trace::TracedInstruction;
use crate::machine::guest_state::GuestState;

/// Maximum number of stack words in a report.
const MAX_STACK_WORDS: u64 = 16;
/// Maximum number of descriptors in a report.
const MAX_TABLE_ENTRIES: u64 = 32;

/// Word on the guest's stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StackWord {
    /// Linear address of the word.
    pub address: u64,
    /// Value of the word, which has 2, 4 or 8 bytes by the operand width of the code.
    pub value: u64,
}

/// Contents of the GDT and the IDT.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescriptorTables {
    /// Base and limit of the GDT.
    pub gdt: (u64, u16),
    /// Readable, non-empty GDT descriptors with their selectors.
    pub descriptors: Vec<(u16, SegmentDescriptor)>,
    /// Base and limit of the IDT, or of the interrupt vector table in real mode.
    pub idt: (u64, u16),
    /// Readable, non-empty IDT entries with their vectors.
    pub gates: Vec<(u8, IdtEntry)>,
    /// True if the first entry of the IDT can be read.
    pub idt_readable: bool,
}

/// Reads the words at the top of the stack.
pub(super) fn read_stack(guest: &GuestState<'_>) -> Vec<StackWord> {
    let registers = guest.registers;
    let size: u64 = match registers.width() {
        OperandWidth::Bits16 => 2,
        OperandWidth::Bits32 => 4,
        OperandWidth::Bits64 => 8,
    };
    let top = registers.linear_stack();
    (0..MAX_STACK_WORDS)
        .map_while(|number| {
            let at = top.checked_add(number * size)?;
            let to = guest.walker().walk(guest.memory, Gva(at)).translation()?;
            guest.memory.read(to.gpa, &mut [0])?;
            let value = guest.read_word(at, usize::try_from(size).ok()?).ok()?;
            Some(StackWord { address: at, value })
        })
        .collect()
}

/// Reads GDT and IDT.
pub(super) fn read_descriptor_tables(guest: &GuestState<'_>) -> DescriptorTables {
    let sregs = &guest.registers.sregs;
    let (gdt, idt) = ((sregs.gdt.base, sregs.gdt.limit), (sregs.idt.base, sregs.idt.limit));
    DescriptorTables {
        gdt,
        descriptors: if guest.registers.is_protected() { read_descriptors(guest) } else { Vec::new() },
        idt,
        gates: read_gates(guest),
        idt_readable: guest.read_word(idt.0, 2).is_ok(),
    }
}

fn read_descriptors(guest: &GuestState<'_>) -> Vec<(u16, SegmentDescriptor)> {
    let gdt = &guest.registers.sregs.gdt;
    let count = (u64::from(gdt.limit) + 1) / 8;
    let (mut list, mut skip) = (Vec::new(), false);
    for number in 1..count.min(MAX_TABLE_ENTRIES) {
        if std::mem::take(&mut skip) {
            continue;
        }
        let at = gdt.base.wrapping_add(number * 8);
        let Ok(entry) = guest.read_word(at, 8) else { break };
        let mut descriptor = SegmentDescriptor::from_entry(entry, 0);
        if entry == 0 {
            continue;
        }
        if guest.registers.is_long() && !descriptor.code_or_data && number + 1 < count {
            let high = guest.read_word(at.wrapping_add(8), 8).unwrap_or(0);
            descriptor = SegmentDescriptor::from_entry(entry, high);
            skip = true;
        }
        list.push((u16::try_from(number * 8).unwrap_or(0), descriptor));
    }
    list
}

fn read_gates(guest: &GuestState<'_>) -> Vec<(u8, IdtEntry)> {
    let registers = guest.registers;
    let idt = &registers.sregs.idt;
    let protected = registers.cr0().contains(crate::cpu::control_regs::Cr0::PE);
    let size: u64 = match (protected, registers.is_long()) {
        (false, _) => 4,
        (true, false) => 8,
        (true, true) => 16,
    };
    let count = (u64::from(idt.limit) + 1) / size;
    let mut list = Vec::new();
    for vector in (0..=u8::MAX).take(usize::try_from(count).unwrap_or(usize::MAX)) {
        let at = idt.base.wrapping_add(u64::from(vector) * size);
        let Ok(low) = guest.read_word(at, if protected { 8 } else { 4 }) else { break };
        if low == 0 {
            continue;
        }
        list.push((
            vector,
            if protected {
                let high = if size == 16 { guest.read_word(at.wrapping_add(8), 8).unwrap_or(0) } else { 0 };
                IdtEntry::Gate { at, gate: Gate::from_entry(low, high) }
            } else {
                IdtEntry::Vector { at, segment: (low >> 16 & 0xffff) as u16, offset: (low & 0xffff) as u16 }
            },
        ));
    }
    list
}

/// Returns true if an instruction loads CR3.
pub(super) fn writes_cr3(traced: &TracedInstruction) -> bool {
    let decoded = traced.decode();
    decoded.mnemonic() == Mnemonic::Mov
        && decoded.op0_kind() == OpKind::Register
        && decoded.op0_register() == Register::CR3
}

/// Returns true if an instruction pushes on the stack.
pub(super) fn is_push(traced: &TracedInstruction) -> bool {
    let decoded = traced.decode();
    decoded.is_stack_instruction() && decoded.stack_pointer_increment() < 0
}

/// Returns true if an instruction is a jump, call or return.
pub(super) fn is_jump(traced: &TracedInstruction) -> bool {
    match traced.decode().flow_control() {
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
