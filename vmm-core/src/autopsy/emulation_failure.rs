//! Emulation failures (`KVM_EXIT_INTERNAL_ERROR`): why KVM emulated the instruction, and how to avoid it.
//!
//! KVM executes guest code in hardware. It emulates instructions that access MMIO and, on hosts without hardware
//! virtualization, all code outside of 64-bit ring 3. The emulator (arch/x86/kvm/emulate.c) knows only a part of the
//! instruction set.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind, Register};

use crate::machine::guest_state::GuestState;
use crate::machine::host::is_pvm;

/// Reason why KVM could not emulate an instruction, and ways to avoid that. Both are clauses without full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmulationFailure {
    /// Reason why KVM emulated the instruction and failed.
    pub reason: String,
    /// Ways for the guest's author to avoid the failure.
    pub advice: String,
}

/// Explains why KVM failed to emulate an instruction.
pub(super) fn explain(guest: &GuestState<'_>, instruction: &Instruction) -> EmulationFailure {
    let outside = unmapped_operand(guest, instruction);
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
            reason: format!("its operand at {at:#x} is not memory, so KVM had to emulate it, and its interpreter does not know it"),
            advice: "read and write devices with plain MOV of 1 to 8 bytes; where no device was meant, the address is wrong".to_owned(),
        };
    }
    let reason = if is_pvm() {
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
    EmulationFailure { reason: reason.to_owned(), advice: advice.to_owned() }
}

/// First memory operand of the instruction that is not in guest memory.
fn unmapped_operand(guest: &GuestState<'_>, instruction: &Instruction) -> Option<u64> {
    let number = (0..instruction.op_count()).find(|number| instruction.op_kind(*number) == OpKind::Memory)?;
    if instruction.mnemonic() == Mnemonic::Lea
        || instruction.memory_base() == Register::None && instruction.memory_size().size() == 0
    {
        return None;
    }
    let at = guest.operand_address(instruction, number)?;
    let to = guest.walker().walk(guest.memory, crate::Gva(at)).translation()?;
    guest.memory.read(to.gpa, &mut [0]).is_none().then_some(at)
}
