//! Why KVM could not go on: the reasons behind an INTERNAL_ERROR, and what can be done.
//!
//! KVM executes guest code in hardware. Where it cannot, its own interpreter takes over for an instruction: one that
//! touches a device's address, and on hosts without hardware virtualization all code outside of 64-bit ring 3. That
//! interpreter knows a part of the instruction set only (arch/x86/kvm/emulate.c).

use std::path::Path;

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind, Register};

use crate::machine::guest_state::GuestState;

/// Why, and what helps. Clauses without full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulationFailure {
    /// Why this instruction came to KVM's interpreter, or what it lacks.
    pub why: String,
    /// What to do.
    pub advice: String,
}

/// Whether this host's KVM interprets all code outside of 64-bit ring 3.
pub(super) fn interprets_all() -> bool {
    Path::new("/sys/module/kvm_pvm").exists()
}

/// Why KVM had to give up at an instruction.
pub(super) fn of(moment: &GuestState<'_>, instruction: &Instruction) -> EmulationFailure {
    let outside = memory_outside(moment, instruction);
    let vector = (0..instruction.op_count()).any(|number| {
        instruction.op_kind(number) == OpKind::Register
            && instruction.op_register(number).is_vector_register()
    });
    let x87 = instruction.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            CpuidFeature::FPU
                | CpuidFeature::FPU287
                | CpuidFeature::FPU287XL_ONLY
                | CpuidFeature::FPU387
                | CpuidFeature::FPU387SL_ONLY
        )
    });
    let software_interrupt =
        matches!(instruction.mnemonic(), Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Int1 | Mnemonic::Into);
    if let Some(at) = outside {
        return EmulationFailure {
            why: format!("its operand at {at:#x} is not memory, so KVM had to emulate it, and its interpreter does not know it"),
            advice: "read and write devices with plain MOV of 1 to 8 bytes; where no device was meant, the address is wrong".to_owned(),
        };
    }
    let here = if interprets_all() {
        "this host's KVM (kvm-pvm) emulates all code outside of 64-bit ring 3, and its interpreter does not know it"
    } else {
        "KVM had to emulate it and its interpreter does not know it"
    };
    let advice = if vector || x87 {
        "build the guest without SSE and x87 (gcc -mgeneral-regs-only; Rust: target x86_64-unknown-none), or run it on a host with VT-x or AMD-V"
    } else if software_interrupt {
        "use another way into the handler, or run the guest on a host with VT-x or AMD-V (`cargo xtask nested CONFIG`)"
    } else {
        "run the guest on a host with VT-x or AMD-V (`cargo xtask nested CONFIG`), or avoid the instruction"
    };
    EmulationFailure { why: here.to_owned(), advice: advice.to_owned() }
}

/// The first address that the instruction touches where no memory is.
fn memory_outside(moment: &GuestState<'_>, instruction: &Instruction) -> Option<u64> {
    let number = (0..instruction.op_count()).find(|number| instruction.op_kind(*number) == OpKind::Memory)?;
    if instruction.mnemonic() == Mnemonic::Lea
        || instruction.memory_base() == Register::None && instruction.memory_size().size() == 0
    {
        return None;
    }
    let at = moment.operand_address(instruction, number)?;
    let to = moment.walker().walk(moment.memory, crate::Gva(at)).translation()?;
    moment.memory.read(to.gpa, &mut [0]).is_none().then_some(at)
}
