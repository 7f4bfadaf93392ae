//! What a single step leaves behind in the guest: the trap flag.
//!
//! To step, KVM sets RFLAGS.TF under the guest's feet. It hides that from us, but not from the guest: PUSHF, SYSCALL and the
//! frame of an exception store the flags with TF in them. Loaded again later, when nobody steps any more, they raise a #DB
//! that nobody expects. So after a step that stored flags, TF is taken out of them, unless the guest had set it itself.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};

use super::memory;
use crate::Gva;
use crate::disassembly::{Width, linear_rip};
use crate::error::Error;
use crate::machine::Machine;

/// RFLAGS.TF (SDM vol. 1, 3.4.3.3).
const TF: u64 = 1 << 8;
/// CF, PF, AF, ZF, SF, IF, DF, OF: what an exception stores as it was.
const STORED: u64 = 0b1110_1101_0101;
/// As far from the stack pointer as a frame is looked for.
const FRAME_AREA: u64 = 96;
/// The longest instruction (SDM vol. 2, 2.3.11).
const LONGEST: usize = 15;

/// The vCPU before a step.
pub(super) struct Before {
    regs: kvm_regs,
    sregs: kvm_sregs,
    mnemonic: Mnemonic,
    next: u64,
}

impl Before {
    pub(super) fn of(machine: &Machine) -> Result<Self, Error> {
        let (regs, sregs) = (machine.vcpu.regs()?, machine.vcpu.sregs()?);
        let mut code = [0; LONGEST];
        let length = memory::read(machine, Gva(linear_rip(&regs, &sregs)), &mut code)?;
        let bits = Width::of_sregs(&sregs).bits();
        let code = code.get(..length).unwrap_or_default();
        let instruction = Decoder::with_ip(bits, code, regs.rip, DecoderOptions::NONE).decode();
        Ok(Self { regs, sregs, mnemonic: instruction.mnemonic(), next: instruction.next_ip() })
    }

    /// Takes TF out of what the step has stored.
    pub(super) fn clean(&self, machine: &Machine) -> Result<(), Error> {
        if self.regs.rflags & TF != 0 {
            return Ok(());
        }
        let mut regs = machine.vcpu.regs()?;
        if self.mnemonic == Mnemonic::Syscall && regs.r11 & TF != 0 {
            regs.r11 &= !TF;
            machine.vcpu.set_regs(&regs)?;
        }
        let sregs = machine.vcpu.sregs()?;
        let stack = |rsp: u64| if sregs.cs.l == 0 { sregs.ss.base.wrapping_add(rsp) } else { rsp };
        if matches!(self.mnemonic, Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq) {
            return clear(machine, stack(regs.rsp));
        }
        // No exception, and nothing was pushed.
        if regs.rip == self.next || regs.rsp == self.regs.rsp {
            return Ok(());
        }
        // Some hosts report the step only after the first instruction of the handler, which may push more. So the frame is
        // looked for a little way up from the stack pointer, and down from where it was.
        for from in [regs.rsp, self.regs.rsp.wrapping_sub(FRAME_AREA)] {
            let mut area = [0; 96];
            let read = memory::read(machine, Gva(stack(from)), &mut area)?;
            let area = area.get(..read).unwrap_or_default();
            if let Some(flags) = self.frame_in(area) {
                return clear(machine, stack(from).wrapping_add(flags));
            }
        }
        Ok(())
    }

    /// Where in a piece of stack the flags of a frame lie that a gate has pushed: the instruction pointer, CS, the flags, as
    /// words of 8, 4 or 2 bytes. Only flags with TF count.
    fn frame_in(&self, area: &[u8]) -> Option<u64> {
        let cs = u64::from(self.sregs.cs.selector);
        [8, 4, 2].into_iter().find_map(|size| {
            let words: Vec<u64> = area.chunks_exact(size).map(number).collect();
            let found = words.windows(3).position(|frame| {
                let [rip, code, flags] = *frame else { return false };
                (rip == self.regs.rip || rip == self.next)
                    && code & 0xffff == cs
                    && flags & STORED == self.regs.rflags & STORED
                    && flags & TF != 0
            })?;
            u64::try_from((found + 2) * size).ok()
        })
    }
}

/// Clears TF in the flags at an address.
fn clear(machine: &Machine, flags: u64) -> Result<(), Error> {
    let at = Gva(flags.wrapping_add(1));
    let mut bytes = [0];
    let read = memory::read(machine, at, &mut bytes)?;
    let [byte] = bytes;
    if read == 1 {
        memory::write(machine, at, &[byte & !1])?;
    }
    Ok(())
}

/// Up to 8 bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_by_what_was_before() {
        let regs = kvm_regs { rip: 0x1000, rflags: 0x46, ..Default::default() };
        let mut sregs = kvm_sregs::default();
        sregs.cs.selector = 8;
        let before = Before { regs, sregs, mnemonic: Mnemonic::Mov, next: 0x1007 };
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
