//! Removal of the trap flag that a single step leaves in guest memory.
//!
//! To step, KVM sets RFLAGS.TF in the guest. It hides that from `KVM_GET_REGS`, but not from the guest: PUSHF, SYSCALL and
//! exception frames store the flags with TF set. Loaded again later without stepping, they raise an unexpected #DB. So after a
//! step that stored flags, TF is cleared in them, unless the guest had set it itself.

use iced_x86::{Instruction, Mnemonic};
use kvm_sys_wrap::Vcpu;
use kvm_sys_wrap::bindings::kvm_regs;

use super::linear_memory::LinearMemory;
use crate::Gva;
use crate::cpu::cpu_state::CpuState;
use crate::machine::error::Error;

/// RFLAGS.TF (SDM vol. 1, 3.4.3.3).
const TF: u64 = 1 << 8;
/// CF, PF, AF, ZF, SF, IF, DF, OF: flags that an exception frame stores unchanged.
const STORED: u64 = 0b1110_1101_0101;

/// Registers and instruction of a vCPU before a step.
pub(super) struct StateBeforeStep {
    pub(super) registers: CpuState,
    pub(super) instruction: Instruction,
}

impl StateBeforeStep {
    /// Clears TF in flags that the step has stored. `after` are the registers after the step.
    pub(super) fn clear_stored_trap_flag(
        &self,
        vcpu: &Vcpu,
        memory: &LinearMemory<'_>,
        after: &CpuState,
    ) -> Result<(), Error> {
        if self.registers.regs.rflags & TF != 0 {
            return Ok(());
        }
        let mnemonic = self.instruction.mnemonic();
        if mnemonic == Mnemonic::Syscall && after.regs.r11 & TF != 0 {
            vcpu.set_regs(&kvm_regs { r11: after.regs.r11 & !TF, ..after.regs })?;
        }
        if matches!(mnemonic, Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq) {
            clear(memory, after.linear_stack());
            return Ok(());
        }
        // No exception, and nothing was pushed.
        if after.regs.rip == self.instruction.next_ip() || after.regs.rsp == self.registers.regs.rsp {
            return Ok(());
        }
        // Where the host reports the step only after the first instruction of the handler, that may have pushed more. So the
        // frame is looked for in 96 bytes up from the stack pointer, and down from where it was.
        let below = self.registers.linear_stack().wrapping_sub(96);
        for from in [after.linear_stack(), below] {
            let mut area = [0; 96];
            let read = memory.read(Gva(from), &mut area);
            let area = area.get(..read).unwrap_or_default();
            if let Some(flags) = self.frame_in(area) {
                clear(memory, from.wrapping_add(flags));
                return Ok(());
            }
        }
        Ok(())
    }

    /// Offset of the flags of an exception frame in a part of the stack: instruction pointer, CS, flags, as words of 8, 4 or 2
    /// bytes. Only flags with TF set count.
    fn frame_in(&self, area: &[u8]) -> Option<u64> {
        let cs = u64::from(self.registers.sregs.cs.selector);
        [8, 4, 2].into_iter().find_map(|size| {
            let words: Vec<u64> = area.chunks_exact(size).map(number).collect();
            let found = words.windows(3).position(|frame| {
                let [rip, code, flags] = *frame else { return false };
                (rip == self.registers.regs.rip || rip == self.instruction.next_ip())
                    && code & 0xffff == cs
                    && flags & STORED == self.registers.regs.rflags & STORED
                    && flags & TF != 0
            })?;
            u64::try_from((found + 2) * size).ok()
        })
    }
}

/// Clears TF in the flags at an address.
fn clear(memory: &LinearMemory<'_>, flags: u64) {
    let at = Gva(flags.wrapping_add(1));
    let mut byte = [0];
    if memory.read(at, &mut byte) == 1 {
        memory.write(at, &byte.map(|byte| byte & !1));
    }
}

/// Up to 8 bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};
    use kvm_sys_wrap::bindings::kvm_sregs;

    use super::*;

    #[test]
    fn a_frame_is_found_by_what_was_before() {
        let regs = kvm_regs { rip: 0x1000, rflags: 0x46, ..Default::default() };
        let mut sregs = kvm_sregs::default();
        sregs.cs.selector = 8;
        // mov %rax, 0x1000(%rip)
        let code = [0x48, 0x89, 0x05, 0, 0x10, 0, 0];
        let instruction = Decoder::with_ip(64, &code, 0x1000, DecoderOptions::NONE).decode();
        let before = StateBeforeStep { registers: CpuState { regs, sregs }, instruction };
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        // A saved register, the error code, then the frame.
        assert_eq!(before.frame_in(&words(&[7, 2, 0x1000, 8, 0x10146, 0x2000, 16])), Some(32));
        assert_eq!(before.frame_in(&words(&[0x1007, 8, 0x146])), Some(16));
        // Without TF, with other flags, from other code.
        for other in [[0x1000, 8, 0x46], [0x1000, 8, 0x147], [0x1000, 16, 0x146], [0x1001, 8, 0x146]] {
            assert_eq!(before.frame_in(&words(&other)), None);
        }
        let narrow: Vec<u8> = [0x1000_u16, 8, 0x146].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(before.frame_in(&narrow), Some(4));
    }
}
