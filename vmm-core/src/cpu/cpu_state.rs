//! Registers of a stopped vCPU as a value, and what follows from them alone: operand width, privilege level, linear addresses.

use kvm_sys_wrap::bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::cpu::control_regs::{Cr0, Cr4, Efer, Rflags};

pub use crate::spec::mode::OperandWidth;

/// Returns the operand width that CS selects: its L bit counts in long mode only, its D bit decides otherwise (SDM vol. 3,
/// 3.4.5).
#[must_use]
pub const fn operand_width(sregs: &kvm_sregs) -> OperandWidth {
    let long = Efer::from_bits_retain(sregs.efer).contains(Efer::LMA);
    match (sregs.cs.l, sregs.cs.db) {
        (1.., _) if long => OperandWidth::Bits64,
        (_, 0) => OperandWidth::Bits16,
        (_, _) => OperandWidth::Bits32,
    }
}

/// Returns the linear address of the next instruction: CS.base + RIP, of which 16- and 32-bit code has 32 bits.
#[must_use]
pub const fn linear_rip(regs: &kvm_regs, sregs: &kvm_sregs) -> u64 {
    match operand_width(sregs) {
        OperandWidth::Bits64 => regs.rip,
        OperandWidth::Bits16 | OperandWidth::Bits32 => sregs.cs.base.wrapping_add(regs.rip) & 0xffff_ffff,
    }
}

/// Registers of a vCPU that is stopped between two instructions.
#[derive(Debug, Clone, Copy)]
pub struct CpuState {
    /// General registers, RIP and RFLAGS.
    pub regs: kvm_regs,
    /// Segments, descriptor tables, control registers and EFER.
    pub sregs: kvm_sregs,
}

impl CpuState {
    /// Returns true if CS and RIP are those after a reset (SDM vol. 3, 10.1.4).
    pub(crate) const fn is_reset(&self) -> bool {
        self.regs.rip == 0xfff0 && self.sregs.cs.selector == 0xf000
    }

    /// Returns the operand width of the code that CS selects.
    #[must_use]
    pub const fn width(&self) -> OperandWidth {
        operand_width(&self.sregs)
    }

    /// Returns the linear address of the next instruction.
    #[must_use]
    pub const fn linear_rip(&self) -> u64 {
        linear_rip(&self.regs, &self.sregs)
    }

    /// Returns the value of CR0.
    #[must_use]
    pub const fn cr0(&self) -> Cr0 {
        Cr0::from_bits_retain(self.sregs.cr0)
    }

    /// Returns the value of CR4.
    #[must_use]
    pub const fn cr4(&self) -> Cr4 {
        Cr4::from_bits_retain(self.sregs.cr4)
    }

    /// Returns the value of EFER.
    #[must_use]
    pub const fn efer(&self) -> Efer {
        Efer::from_bits_retain(self.sregs.efer)
    }

    /// Returns the value of RFLAGS.
    #[must_use]
    pub const fn rflags(&self) -> Rflags {
        Rflags::from_bits_retain(self.regs.rflags)
    }

    /// Returns true in IA-32e mode: 64-bit mode or compatibility mode.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.efer().contains(Efer::LMA)
    }

    /// Returns true in protected mode without virtual-8086 mode, where selectors refer to descriptors.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.cr0().contains(Cr0::PE) && !self.rflags().contains(Rflags::VM)
    }

    /// Returns the current privilege level (CPL), 0 to 3. KVM keeps it in SS (SDM vol. 3, 24.4.1: the DPL of SS is the CPL).
    #[must_use]
    pub const fn cpl(&self) -> u8 {
        if !self.cr0().contains(Cr0::PE) {
            0
        } else if self.rflags().contains(Rflags::VM) {
            3
        } else {
            self.sregs.ss.dpl & 3
        }
    }

    /// Returns the mask of the bits of RSP that the stack uses (SDM vol. 1, 6.2.3).
    pub(crate) const fn stack_mask(&self) -> u64 {
        match self.width() {
            OperandWidth::Bits64 => u64::MAX,
            OperandWidth::Bits16 | OperandWidth::Bits32 => self.mask_of(&self.sregs.ss),
        }
    }

    const fn mask_of(&self, stack: &kvm_segment) -> u64 {
        if stack.db != 0 { 0xffff_ffff } else { 0xffff }
    }

    /// Returns the linear address of the top of the stack.
    #[must_use]
    pub const fn linear_stack(&self) -> u64 {
        match self.width() {
            OperandWidth::Bits64 => self.regs.rsp,
            OperandWidth::Bits16 | OperandWidth::Bits32 => {
                self.sregs.ss.base.wrapping_add(self.regs.rsp & self.stack_mask()) & 0xffff_ffff
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_width_is_that_of_cs() {
        let mut sregs = kvm_sregs::default();
        assert_eq!(operand_width(&sregs), OperandWidth::Bits16);
        sregs.cs.db = 1;
        assert_eq!(operand_width(&sregs), OperandWidth::Bits32);
        // Without long mode the L bit means nothing.
        (sregs.cs.db, sregs.cs.l) = (0, 1);
        assert_eq!(operand_width(&sregs), OperandWidth::Bits16);
        sregs.efer = (Efer::LME | Efer::LMA).bits();
        assert_eq!(operand_width(&sregs), OperandWidth::Bits64);
        sregs.cs.base = 0x1_0000;
        let regs = kvm_regs { rip: 0x8000, ..Default::default() };
        assert_eq!(linear_rip(&regs, &sregs), 0x8000);
        sregs.efer = 0;
        assert_eq!(linear_rip(&regs, &sregs), 0x1_8000);
    }
}
