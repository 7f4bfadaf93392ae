//! Memory operands of an instruction: their addresses, and the checks of each access.
//!
//! iced-x86 lists the operands that an instruction reads, writes, pushes and pops. This module computes their addresses from
//! the registers and checks segment limits, canonical form, alignment and page tables.
//!
//! Source: SDM vol. 3, 5.3 (limits), 5.5 (types), 4.6 (pages); vol. 1, 10.4.1 (alignment of SSE operands).

use iced_x86::{
    EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register, UsedMemory,
};

use crate::cpu::control_regs::{Cr0, Rflags};
use crate::cpu::cpu_state::OperandWidth;

use super::control_transfer::is_canonical;
use super::exception::Exception;
use super::page_fault::{AccessKind, PageAccess};
use crate::machine::guest_state::GuestState;

/// Write to memory: linear address and size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryWrite {
    pub(super) linear: u64,
    pub(super) size: u64,
}

/// Memory operand with its linear address and size in bytes.
struct MemoryOperand {
    linear: u64,
    size: u64,
    reads: bool,
    writes: bool,
    segment: Register,
}

/// Returns the memory operands of an instruction, in the order in which the CPU checks them.
fn memory_operands(guest: &GuestState<'_>, instruction: &Instruction) -> Vec<MemoryOperand> {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    // REP with a count of 0 touches nothing.
    if instruction.is_string_instruction()
        && (instruction.has_rep_prefix() || instruction.has_repne_prefix())
        && rep_count(guest, instruction) == 0
    {
        return Vec::new();
    }
    info.used_memory().iter().filter_map(|used| memory_operand(guest, instruction, used)).collect()
}

fn rep_count(guest: &GuestState<'_>, instruction: &Instruction) -> u64 {
    let narrow = instruction
        .op_kinds()
        .any(|kind| matches!(kind, OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI));
    let wide = instruction
        .op_kinds()
        .any(|kind| matches!(kind, OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI));
    let register = if narrow {
        Register::CX
    } else if wide {
        Register::RCX
    } else {
        Register::ECX
    };
    guest.registers.register_value(register).unwrap_or(1)
}

fn memory_operand(
    guest: &GuestState<'_>,
    instruction: &Instruction,
    used: &UsedMemory,
) -> Option<MemoryOperand> {
    let (reads, writes) = match used.access() {
        OpAccess::None | OpAccess::NoMemAccess => return None,
        OpAccess::Read | OpAccess::CondRead => (true, false),
        OpAccess::Write | OpAccess::CondWrite => (false, true),
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
    };
    let mut linear = used.virtual_address(0, |register, _, _| guest.registers.register_value(register))?;
    // BT, BTS, BTR and BTC with a register operand access bits beyond the operand (SDM vol. 2, BT).
    if matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && instruction.op1_kind() == OpKind::Register
    {
        let bits = instruction.op1_register().size() * 8;
        let shift = 64u32.saturating_sub(u32::try_from(bits).ok()?);
        let bit =
            (guest.registers.register_value(instruction.op1_register())? << shift).cast_signed() >> shift;
        let unit = i64::try_from(bits).ok()?;
        linear = linear.wrapping_add_signed(bit.div_euclid(unit).wrapping_mul(unit / 8));
    }
    if guest.registers.width() != OperandWidth::Bits64 {
        linear &= 0xffff_ffff;
    }
    let size = u64::try_from(used.memory_size().size()).unwrap_or(1).max(1);
    Some(MemoryOperand { linear, size, reads, writes, segment: used.segment() })
}

impl GuestState<'_> {
    /// Checks all memory operands, implicit ones included.
    pub(super) fn check_operands(&self, instruction: &Instruction) -> Result<(), Exception> {
        let user = self.registers.cpl() == 3;
        for operand in memory_operands(self, instruction) {
            let MemoryOperand { linear, size, reads, writes, segment } = operand;
            self.check_segment(&operand, instruction)?;
            // A read-modify-write is checked as a write.
            let kind = if writes { AccessKind::Write } else { AccessKind::Read };
            debug_assert!(reads || writes);
            self.physical_ranges(&PageAccess { linear, size, kind, user, implicit: false }).map_err(
                |fault| {
                    let what = describe_access(instruction, &operand);
                    Exception { reason: format!("{what}, and {}", fault.reason), ..fault }
                },
            )?;
            self.check_alignment(instruction, linear, size, user)?;
            let _ = segment;
        }
        Ok(())
    }

    /// Checks canonical form in 64-bit mode, and type, presence and limit of the segment in other modes.
    fn check_segment(&self, operand: &MemoryOperand, instruction: &Instruction) -> Result<(), Exception> {
        let registers = self.registers;
        let stack = operand.segment == Register::SS
            || (registers.width() == OperandWidth::Bits64 && uses_stack(instruction));
        let vector = if stack { 12 } else { 13 };
        let fail = |why: String| Err(Exception::new(vector, Some(0), why));
        let MemoryOperand { linear, size, writes, segment, .. } = *operand;
        if registers.width() == OperandWidth::Bits64 {
            if !is_canonical(registers, linear) || !is_canonical(registers, linear.wrapping_add(size - 1)) {
                return fail(format!(
                    "{}, and that address is not canonical",
                    describe_access(instruction, operand)
                ));
            }
            return Ok(());
        }
        let Some(found) = registers.segment(segment) else { return Ok(()) };
        let name = format!("{segment:?}");
        if registers.is_protected() {
            if found.unusable != 0 || found.present == 0 {
                return fail(format!("{name} holds no segment (selector {:#x})", found.selector));
            }
            if writes && found.type_ & 0b1010 != 0b0010 {
                return fail(format!("it writes through {name}, whose segment is not writable data"));
            }
            if !writes && found.type_ & 0b1010 == 0b1000 {
                return fail(format!("it reads through {name}, whose segment can only be executed"));
            }
        }
        let offset = linear.wrapping_sub(found.base) & 0xffff_ffff;
        let (limit, last) = (u64::from(found.limit), offset + size - 1);
        let expand_down = found.type_ & 0b1100 == 0b0100 && registers.is_protected();
        if (!expand_down && last > limit) || (expand_down && offset <= limit) {
            return fail(format!(
                "it touches offset {offset:#x} of {name}, beyond the segment's limit {limit:#x}"
            ));
        }
        Ok(())
    }

    fn check_alignment(
        &self,
        instruction: &Instruction,
        linear: u64,
        size: u64,
        user: bool,
    ) -> Result<(), Exception> {
        if needs_alignment(instruction, size) && !linear.is_multiple_of(size) {
            let why = format!("its operand at {linear:#x} has to be aligned to {size} bytes");
            return Err(Exception::gp(0, why));
        }
        let checks =
            user && self.registers.cr0().contains(Cr0::AM) && self.registers.rflags().contains(Rflags::AC);
        if checks && size.is_power_of_two() && size <= 8 && !linear.is_multiple_of(size) {
            return Err(Exception::new(
                17,
                Some(0),
                format!("its operand at {linear:#x} is not aligned, and RFLAGS.AC is set"),
            ));
        }
        Ok(())
    }

    /// Returns the memory writes of an instruction.
    pub(super) fn memory_writes(&self, instruction: &Instruction) -> Vec<MemoryWrite> {
        let all = memory_operands(self, instruction).into_iter().filter(|operand| operand.writes);
        all.map(|MemoryOperand { linear, size, .. }| MemoryWrite { linear, size }).collect()
    }

    /// Linear address of memory operand `number`.
    pub(super) fn operand_address(&self, instruction: &Instruction, number: u32) -> Option<u64> {
        let address = instruction
            .virtual_address(number, 0, |register, _, _| self.registers.register_value(register))?;
        Some(if self.registers.width() == OperandWidth::Bits64 { address } else { address & 0xffff_ffff })
    }

    /// Value of operand `number`: register, immediate or memory, at most 8 bytes.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    pub(super) fn operand_value(&self, instruction: &Instruction, number: u32) -> Option<u64> {
        match instruction.op_kind(number) {
            OpKind::Register => {
                let register = instruction.op_register(number);
                match self.registers.segment(register) {
                    Some(segment) => Some(segment.selector.into()),
                    None => self.registers.register_value(register),
                }
            }
            OpKind::Memory => {
                let size = instruction.memory_size().size();
                let at = self.operand_address(instruction, number)?;
                self.read_word(at, size).ok().filter(|_| size <= 8)
            }
            _ => instruction.try_immediate(number).ok(),
        }
    }
}

fn uses_stack(instruction: &Instruction) -> bool {
    instruction.is_stack_instruction() || matches!(instruction.memory_base(), Register::RSP | Register::RBP)
}

/// Returns true if the operand must be aligned to its size: 16-byte operands of SSE instructions in legacy encoding, apart
/// from the unaligned forms, and the save areas of FXSAVE and CMPXCHG16B.
fn needs_alignment(instruction: &Instruction, size: u64) -> bool {
    let vector = instruction
        .op_kinds()
        .zip(0..)
        .any(|(kind, number)| kind == OpKind::Register && instruction.op_register(number).is_xmm());
    let unaligned = matches!(
        instruction.mnemonic(),
        Mnemonic::Movups
            | Mnemonic::Movupd
            | Mnemonic::Movdqu
            | Mnemonic::Lddqu
            | Mnemonic::Pcmpistri
            | Mnemonic::Pcmpistrm
            | Mnemonic::Pcmpestri
            | Mnemonic::Pcmpestrm
    );
    let wide = matches!(
        instruction.mnemonic(),
        Mnemonic::Cmpxchg16b
            | Mnemonic::Fxsave
            | Mnemonic::Fxrstor
            | Mnemonic::Fxsave64
            | Mnemonic::Fxrstor64
    );
    if wide {
        return true;
    }
    size == 16 && vector && instruction.encoding() == EncodingKind::Legacy && !unaligned
}

/// Returns the beginning of a sentence that describes an access.
fn describe_access(instruction: &Instruction, operand: &MemoryOperand) -> String {
    let MemoryOperand { linear, size, writes, .. } = operand;
    let bytes = if *size == 1 { "1 byte".to_owned() } else { format!("{size} bytes") };
    let stack = instruction.is_stack_instruction() && instruction.memory_base() == Register::None;
    let place = match (writes, stack) {
        (true, true) => "on the stack, at",
        (false, true) => "from the stack, at",
        (_, false) => "at",
    };
    let verb = match (writes, stack) {
        (true, true) => "pushes",
        (false, true) => "pops",
        (true, false) => "writes",
        (false, false) => "reads",
    };
    format!("it {verb} {bytes} {place} {linear:#x}")
}
