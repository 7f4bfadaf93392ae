//! Exceptions of control transfers: jumps to invalid addresses, far transfers through bad descriptors, IRET.
//!
//! Source: SDM vol. 2, CALL, JMP, RET, IRET; vol. 3, 5.8.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind};

use crate::cpu::cpu_state::OperandWidth;

use super::exception::Exception;
use super::page_fault::{AccessKind, PageAccess};
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

/// RFLAGS.NT, nested task.
const RFLAGS_NT: u64 = 1 << 14;
/// RFLAGS.VM, virtual-8086 mode.
const RFLAGS_VM: u64 = 1 << 17;

/// Returns the #GP of a RIP that is not canonical or exceeds the limit of CS.
pub(super) fn rip_fault(registers: &CpuState, rip: u64) -> Option<Exception> {
    match registers.width() {
        OperandWidth::Bits64 if !is_canonical(registers, rip) => {
            Some(Exception::gp(0, format!("{rip:#x} is not canonical")))
        }
        OperandWidth::Bits64 => None,
        OperandWidth::Bits16 | OperandWidth::Bits32 => {
            let limit = u64::from(registers.sregs.cs.limit);
            (rip & 0xffff_ffff > limit)
                .then(|| Exception::gp(0, format!("{rip:#x} lies beyond the limit of cs ({limit:#x})")))
        }
    }
}

/// Returns true if an address is canonical: 48 bits, or 57 with CR4.LA57 (SDM vol. 1, 3.3.7.1).
pub(super) fn is_canonical(registers: &CpuState, address: u64) -> bool {
    let bits = if registers.cr4().contains(crate::cpu::control_regs::Cr4::LA57) { 57 } else { 48 };
    let unused = 64 - bits;
    (address << unused).cast_signed() >> unused == address.cast_signed()
}

impl GuestState<'_> {
    /// Checks the target of a jump, call, return or IRET. The caller has checked its memory operands.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    pub(super) fn check_control_transfer(&self, instruction: &Instruction) -> Result<(), Exception> {
        match instruction.mnemonic() {
            Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => return self.check_iret(instruction),
            Mnemonic::Retf => return self.check_far_return(instruction),
            Mnemonic::Jmp | Mnemonic::Call if is_far(instruction) => {
                return self.check_far_branch(instruction);
            }
            _ => {}
        }
        let Some(target) = self.near_target(instruction) else { return Ok(()) };
        match rip_fault(self.registers, target) {
            Some(fault) => {
                let verb = if instruction.mnemonic() == Mnemonic::Ret { "returns" } else { "jumps" };
                Err(Exception { reason: format!("it {verb} to {target:#x}: {}", fault.reason), ..fault })
            }
            None => Ok(()),
        }
    }

    /// Target of an unconditional near branch.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    fn near_target(&self, instruction: &Instruction) -> Option<u64> {
        let size = usize::try_from(instruction.stack_pointer_increment().unsigned_abs()).ok()?;
        match instruction.flow_control() {
            FlowControl::UnconditionalBranch | FlowControl::Call if !is_far(instruction) => {
                Some(instruction.near_branch_target())
            }
            FlowControl::IndirectBranch | FlowControl::IndirectCall if !is_far(instruction) => {
                self.operand_value(instruction, 0)
            }
            FlowControl::Return if instruction.mnemonic() == Mnemonic::Ret => {
                let width = match self.registers.width() {
                    OperandWidth::Bits64 => 8,
                    OperandWidth::Bits16 | OperandWidth::Bits32 => size.min(4),
                };
                self.read_word(self.registers.linear_stack(), width).ok()
            }
            _ => None,
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    fn check_far_branch(&self, instruction: &Instruction) -> Result<(), Exception> {
        let (selector, offset) = match instruction.op0_kind() {
            OpKind::FarBranch16 => (instruction.far_branch_selector(), instruction.far_branch16().into()),
            OpKind::FarBranch32 => (instruction.far_branch_selector(), instruction.far_branch32().into()),
            _ => {
                let Some(at) = self.operand_address(instruction, 0) else { return Ok(()) };
                let size = instruction.memory_size().size().saturating_sub(2);
                let offset = self.read_word(at, size)?;
                let selector = self.read_word(at.wrapping_add(size as u64), 2)?;
                (u16::try_from(selector).unwrap_or(0), offset)
            }
        };
        self.check_far_target(selector, offset, "the far jump")
    }

    fn check_far_return(&self, instruction: &Instruction) -> Result<(), Exception> {
        let size =
            usize::try_from(instruction.stack_pointer_increment().unsigned_abs() / 2).unwrap_or(4).min(8);
        let stack = self.registers.linear_stack();
        let offset = self.read_word(stack, size)?;
        let selector = self.read_word(stack.wrapping_add(size as u64), 2)?;
        self.check_far_target(u16::try_from(selector).unwrap_or(0), offset, "the far return")
    }

    fn check_far_target(&self, selector: u16, offset: u64, what: &str) -> Result<(), Exception> {
        if !self.registers.is_protected() {
            return Ok(());
        }
        if !super::segments::is_null(selector)
            && let Ok(found) = self.descriptor(selector, 0)
            && !found.code_or_data
            && matches!(found.kind, 1 | 4 | 5 | 9 | 0xc)
            && found.present
        {
            // A call gate, a task gate or a TSS. Transfers through them are not checked.
            return Ok(());
        }
        let found = self.check_code(selector, 0, what)?;
        let long = self.registers.is_long() && found.long;
        if long && !is_canonical(self.registers, offset) {
            return Err(Exception::gp(0, format!("{what} leads to {offset:#x}, which is not canonical")));
        }
        if !long && offset > u64::from(found.limit) {
            let why =
                format!("{what} leads to {offset:#x}, beyond the limit of its segment ({:#x})", found.limit);
            return Err(Exception::gp(0, why));
        }
        Ok(())
    }

    /// Checks the frame that IRET pops.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    fn check_iret(&self, instruction: &Instruction) -> Result<(), Exception> {
        let registers = self.registers;
        let size: u64 = match instruction.mnemonic() {
            Mnemonic::Iretq => 8,
            Mnemonic::Iretd => 4,
            _ => 2,
        };
        if registers.is_long() && registers.regs.rflags & RFLAGS_NT != 0 {
            return Err(Exception::gp(0, "RFLAGS.NT is set, and long mode has no task to return to"));
        }
        let stack = registers.linear_stack();
        let word = |number: u64| self.read_stack_word(stack.wrapping_add(number * size), size);
        let (rip, cs, flags) = (word(0)?, word(1)?, word(2)?);
        let cs = u16::try_from(cs & 0xffff).unwrap_or(0);
        if !registers.is_protected() || flags & RFLAGS_VM != 0 && !registers.is_long() {
            return Ok(());
        }
        let found = self.check_code(cs, 0, "the frame that iret pops")?;
        let target = (cs & 3) as u8;
        if target < registers.cpl() {
            let why =
                format!("the frame that iret pops leads from ring {} to ring {target}", registers.cpl());
            return Err(Exception::gp(super::segments::selector_error_code(cs), why));
        }
        let long = registers.is_long() && found.long;
        if long && !is_canonical(registers, rip) {
            return Err(Exception::gp(0, format!("iret returns to {rip:#x}, which is not canonical")));
        }
        if !long && rip > u64::from(found.limit) {
            return Err(Exception::gp(
                0,
                format!("iret returns to {rip:#x}, beyond the limit of its segment"),
            ));
        }
        if target > registers.cpl() || registers.width() == OperandWidth::Bits64 {
            let ss = u16::try_from(word(4)? & 0xffff).unwrap_or(0);
            self.check_stack(ss, target, 13, 0).map_err(|fault| Exception {
                reason: format!("the frame that iret pops is wrong: {}", fault.reason),
                ..fault
            })?;
        }
        Ok(())
    }

    fn read_stack_word(&self, linear: u64, size: u64) -> Result<u64, Exception> {
        let mut bytes = [0; 8];
        let user = self.registers.cpl() == 3;
        let access = PageAccess { linear, size, kind: AccessKind::Read, user, implicit: false };
        if let Some(part) = usize::try_from(size).ok().and_then(|size| bytes.get_mut(..size)) {
            self.read_checked(access, part)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Returns true for a far jump or call, direct or through memory.
fn is_far(instruction: &Instruction) -> bool {
    instruction.is_jmp_far()
        || instruction.is_call_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect()
}
