//! General registers: instruction pointer, stack pointer, flags, and the user's presets.
//!
//! All registers are 0 unless preset, so a run is the same every time. The stack pointer is a multiple of 16, as
//! the System V ABI has it at a program's entry; the 128 bytes of red zone below it are stack. A preset RSP
//! replaces it.
//!
//! RFLAGS is 2: bit 1 is always 1, interrupts are off.

use kvm_sys_wrap::bindings::kvm_regs;

use super::{StateProblem, real};
use crate::cpu::control_regs::Rflags;
use crate::layout::Layout;
use crate::spec::mode::Mode;
use crate::spec::{BootSpec, EntryPoint, Register};

/// Returns the general registers, and adds all problems with the presets to `problems`.
pub(super) fn registers(boot: &BootSpec, layout: &Layout, problems: &mut Vec<StateProblem>) -> kvm_regs {
    let mut regs = kvm_regs { rflags: Rflags::FIXED.bits(), ..Default::default() };
    let top = layout.stack_top().unwrap_or_default().0;
    (regs.rip, regs.rsp) = match boot.entry {
        entry if boot.mode == Mode::Real => {
            let (_, ip) = real::code_address(entry).unwrap_or_default();
            let (_, sp) = real::stack_address(top);
            (ip.into(), sp.into())
        }
        EntryPoint::Address(gva) => (gva.0, top),
        // Refused by the entry check.
        EntryPoint::Segmented { .. } => (0, top),
    };
    for (number, (register, value)) in boot.registers.iter().enumerate() {
        let earlier = boot.registers.iter().take(number);
        if earlier.clone().any(|(other, _)| other == register) {
            problems.push(StateProblem::RegisterTwice(*register));
        }
        problems.extend(preset_problem(boot.mode, *register, *value));
        if let Some(field) = field(&mut regs, *register) {
            *field = *value;
        }
    }
    regs.rflags |= Rflags::FIXED.bits();
    regs
}

/// Returns a problem if the register cannot start with the value.
fn preset_problem(mode: Mode, register: Register, value: u64) -> Option<StateProblem> {
    if register == Register::Rip {
        return Some(StateProblem::RipPreset);
    }
    if mode != Mode::Long {
        if register.is_64_bit_only() {
            return Some(StateProblem::NoSuchRegister { register, mode });
        }
        if value >> 32 != 0 {
            return Some(StateProblem::RegisterTooWide { register, value, mode });
        }
    }
    // Virtual-8086 mode would need other segments than those of any mode here.
    let allowed = Rflags::all().difference(Rflags::VM);
    let refused = Rflags::from_bits_retain(value).difference(allowed);
    (register == Register::Rflags && !refused.is_empty()).then_some(StateProblem::Flags(refused))
}

impl Register {
    /// Returns true if the register exists in 64-bit code only.
    const fn is_64_bit_only(self) -> bool {
        match self {
            Self::R8 | Self::R9 | Self::R10 | Self::R11 | Self::R12 | Self::R13 | Self::R14 | Self::R15 => {
                true
            }
            Self::Rax | Self::Rbx | Self::Rcx | Self::Rdx | Self::Rsi | Self::Rdi | Self::Rbp | Self::Rsp => {
                false
            }
            Self::Rip | Self::Rflags => false,
        }
    }
}

/// Returns the field of a register; `None` for RIP, which the entry sets.
fn field(regs: &mut kvm_regs, register: Register) -> Option<&mut u64> {
    Some(match register {
        Register::Rax => &mut regs.rax,
        Register::Rbx => &mut regs.rbx,
        Register::Rcx => &mut regs.rcx,
        Register::Rdx => &mut regs.rdx,
        Register::Rsi => &mut regs.rsi,
        Register::Rdi => &mut regs.rdi,
        Register::Rbp => &mut regs.rbp,
        Register::Rsp => &mut regs.rsp,
        Register::R8 => &mut regs.r8,
        Register::R9 => &mut regs.r9,
        Register::R10 => &mut regs.r10,
        Register::R11 => &mut regs.r11,
        Register::R12 => &mut regs.r12,
        Register::R13 => &mut regs.r13,
        Register::R14 => &mut regs.r14,
        Register::R15 => &mut regs.r15,
        Register::Rflags => &mut regs.rflags,
        Register::Rip => return None,
    })
}
