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
use crate::spec::{BootSpec, EntryPoint, Register, RegisterFile};

/// Returns the general registers, and adds all problems with the presets to `problems`.
pub(super) fn registers(boot: &BootSpec, layout: &Layout, problems: &mut Vec<StateProblem>) -> kvm_regs {
    let mut regs = kvm_regs { rflags: Rflags::FIXED.bits(), ..Default::default() };
    let top = layout.stack_top().unwrap_or_default().0;
    (regs.rip, regs.rsp) = match boot.entry {
        entry if !boot.mode.is_protected() => {
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
        // The entry decides RIP; a preset of it is a problem.
        if *register != Register::Rip {
            regs.set(*register, *value);
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
    if !mode.is_long() {
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
