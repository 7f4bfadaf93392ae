//! Predicts the exception of the next instruction from the state before it. KVM does not report the first exception of a
//! triple fault.
//!
//! The checks follow the order of the CPU: fetch, opcode, privilege, memory operands, completion (SDM vol. 3, table 6-2).
//! Features that the CPUID lacks and MSR values that KVM rejects are not part of the state. `suspected_fault` names such
//! a reason for an instruction that is known to have failed.

use iced_x86::{CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::cpu::control_regs::{Cr0, Cr4, Efer};

use super::exception::Exception;
use super::fetch::FetchResult;
use crate::machine::guest_state::GuestState;

/// RFLAGS.OF, overflow.
const RFLAGS_OF: u64 = 1 << 11;

impl GuestState<'_> {
    /// Predicts the exception of a fetched instruction.
    pub(super) fn predict_fault(&self, fetched: &FetchResult) -> Option<Exception> {
        let fault = match fetched {
            FetchResult::Fault(fault) => Some(fault.clone()),
            FetchResult::Invalid(bytes) => {
                let shown: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
                Some(Exception::ud(format!("the bytes there ({} ...) are no instruction", shown.join(" "))))
            }
            FetchResult::Instruction(instruction, _) => self.check_instruction(instruction).err(),
            FetchResult::Unmapped => None,
        };
        // Real mode pushes no error codes (SDM vol. 3, 20.1.4).
        let protected = self.registers.cr0().contains(Cr0::PE);
        fault.map(|fault| Exception { error_code: fault.error_code.filter(|_| protected), ..fault })
    }

    fn check_instruction(&self, instruction: &Instruction) -> Result<(), Exception> {
        self.check_opcode(instruction)?;
        self.check_fpu(instruction)?;
        self.check_interrupt(instruction)?;
        self.check_privileged(instruction)?;
        self.check_operands(instruction)?;
        self.check_segment_pop(instruction)?;
        self.check_divide(instruction)?;
        self.check_control_transfer(instruction)
    }

    /// Checks for instructions that raise #UD always or in the current mode.
    fn check_opcode(&self, instruction: &Instruction) -> Result<(), Exception> {
        let registers = self.registers;
        let mnemonic = instruction.mnemonic();
        if matches!(mnemonic, Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2) {
            return Err(Exception::ud("it is defined to raise this exception"));
        }
        if matches!(mnemonic, Mnemonic::Syscall | Mnemonic::Sysret) && !registers.efer().contains(Efer::SCE) {
            return Err(Exception::ud("EFER.SCE is clear"));
        }
        let needs_protection = matches!(
            mnemonic,
            Mnemonic::Lldt
                | Mnemonic::Ltr
                | Mnemonic::Sldt
                | Mnemonic::Str
                | Mnemonic::Lar
                | Mnemonic::Lsl
                | Mnemonic::Verr
                | Mnemonic::Verw
                | Mnemonic::Arpl
        );
        if needs_protection && !registers.is_protected() {
            return Err(Exception::ud("it exists in protected mode only"));
        }
        let xsave = matches!(
            mnemonic,
            Mnemonic::Xgetbv
                | Mnemonic::Xsetbv
                | Mnemonic::Xsave
                | Mnemonic::Xrstor
                | Mnemonic::Xsaveopt
                | Mnemonic::Xsave64
                | Mnemonic::Xrstor64
        );
        if xsave && !registers.cr4().contains(Cr4::OSXSAVE) {
            return Err(Exception::ud("CR4.OSXSAVE is clear"));
        }
        if mnemonic == Mnemonic::Mov
            && instruction.op0_kind() == OpKind::Register
            && instruction.op0_register() == Register::CS
        {
            return Err(Exception::ud("CS cannot be loaded with MOV"));
        }
        if mnemonic == Mnemonic::Rsm {
            return Err(Exception::ud("the CPU is not in system management mode"));
        }
        Ok(())
    }

    /// Checks the control register bits that enable SSE, AVX, MMX and x87 (SDM vol. 3, 2.5 and 13.1).
    fn check_fpu(&self, instruction: &Instruction) -> Result<(), Exception> {
        let (cr0, cr4) = (self.registers.cr0(), self.registers.cr4());
        let uses = |is: fn(Register) -> bool| {
            (0..instruction.op_count()).any(|number| {
                instruction.op_kind(number) == OpKind::Register && is(instruction.op_register(number))
            })
        };
        let vector = uses(Register::is_vector_register)
            || matches!(instruction.mnemonic(), Mnemonic::Ldmxcsr | Mnemonic::Stmxcsr);
        let mmx = uses(Register::is_mm);
        let x87 = instruction.cpuid_features().iter().any(|feature| {
            matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387)
        });
        let legacy = instruction.encoding() == EncodingKind::Legacy;
        if vector && legacy && !cr4.contains(Cr4::OSFXSR) {
            return Err(Exception::ud("it is an SSE instruction, and CR4.OSFXSR is clear"));
        }
        if vector && !legacy && !cr4.contains(Cr4::OSXSAVE) {
            return Err(Exception::ud("it is an AVX instruction, and CR4.OSXSAVE is clear"));
        }
        if (vector && legacy || mmx) && cr0.contains(Cr0::EM) {
            return Err(Exception::ud("it is an SSE or MMX instruction, and CR0.EM is set"));
        }
        if x87 && instruction.mnemonic() != Mnemonic::Wait && cr0.contains(Cr0::EM) {
            return Err(Exception::new(7, None, "it is an x87 instruction, and CR0.EM is set"));
        }
        if (vector || mmx || x87) && cr0.contains(Cr0::TS) {
            return Err(Exception::new(7, None, "it uses the FPU, and CR0.TS is set"));
        }
        Ok(())
    }

    /// Returns the interrupt of INT n, INT3, INTO, INT1 or the exception of BOUND as `Err`: they are delivered like a fault.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    fn check_interrupt(&self, instruction: &Instruction) -> Result<(), Exception> {
        let software = |vector, why: &str| {
            Err(Exception { software: true, trap: true, ..Exception::new(vector, None, why) })
        };
        match instruction.mnemonic() {
            Mnemonic::Int => software(instruction.immediate8(), "the guest asked for it"),
            Mnemonic::Int3 => software(3, "a breakpoint instruction"),
            Mnemonic::Into if self.registers.regs.rflags & RFLAGS_OF != 0 => {
                software(4, "the overflow flag is set")
            }
            Mnemonic::Int1 => {
                Err(Exception { trap: true, ..Exception::new(1, None, "a debug trap instruction") })
            }
            Mnemonic::Bound => self.check_bound(instruction),
            _ => Ok(()),
        }
    }

    fn check_bound(&self, instruction: &Instruction) -> Result<(), Exception> {
        let size = instruction.op0_register().size();
        let (Some(at), Some(index)) =
            (self.operand_address(instruction, 1), self.operand_value(instruction, 0))
        else {
            return Ok(());
        };
        let shift = 64 - 8 * u32::try_from(size).unwrap_or(4);
        let signed = |value: u64| (value << shift).cast_signed() >> shift;
        let (low, high) = (self.read_word(at, size)?, self.read_word(at.wrapping_add(size as u64), size)?);
        if signed(index) < signed(low) || signed(index) > signed(high) {
            return Err(Exception::new(5, None, "the index is out of bounds"));
        }
        Ok(())
    }

    /// Checks for a division by zero or a quotient overflow.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    fn check_divide(&self, instruction: &Instruction) -> Result<(), Exception> {
        let mnemonic = instruction.mnemonic();
        if mnemonic == Mnemonic::Aam && instruction.immediate8() == 0 {
            return Err(Exception::new(0, None, "it divides by 0"));
        }
        if !matches!(mnemonic, Mnemonic::Div | Mnemonic::Idiv) {
            return Ok(());
        }
        let Some(divisor) = self.operand_value(instruction, 0) else { return Ok(()) };
        if divisor == 0 {
            return Err(Exception::new(0, None, "it divides by 0"));
        }
        let size = match instruction.op0_kind() {
            OpKind::Register => instruction.op0_register().size(),
            _ => instruction.memory_size().size(),
        };
        let bits = u32::try_from(size).unwrap_or(8) * 8;
        let regs = &self.registers.regs;
        let mask = u64::MAX >> (64 - bits);
        let dividend = match bits {
            8 => u128::from(regs.rax & 0xffff),
            _ => u128::from(regs.rdx & mask) << bits | u128::from(regs.rax & mask),
        };
        let fits = if mnemonic == Mnemonic::Div {
            dividend / u128::from(divisor) <= u128::from(mask)
        } else {
            let extend = |value: u128, bits: u32| (value << (128 - bits)).cast_signed() >> (128 - bits);
            let (dividend, divisor) = (extend(dividend, 2 * bits), extend(divisor.into(), bits));
            let half = 1i128 << (bits - 1);
            dividend.checked_div(divisor).is_some_and(|quotient| (-half..half).contains(&quotient))
        };
        if fits { Ok(()) } else { Err(Exception::new(0, None, "the quotient is too large for its register")) }
    }

    /// Likely exception of an instruction that failed although the state shows no reason.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    pub(super) fn suspected_fault(&self, instruction: &Instruction) -> Option<Exception> {
        let regs = &self.registers.regs;
        let msr = regs.rcx & 0xffff_ffff;
        Some(match instruction.mnemonic() {
            Mnemonic::Rdmsr => Exception::gp(0, format!("this vCPU has no MSR {msr:#x}")),
            Mnemonic::Wrmsr => Exception::gp(
                0,
                format!(
                    "this vCPU has no MSR {msr:#x}, or the MSR does not take the value {:#x}",
                    (regs.rdx & 0xffff_ffff) << 32 | regs.rax & 0xffff_ffff
                ),
            ),
            Mnemonic::Xsetbv => Exception::gp(0, "XCR0 does not take this value"),
            Mnemonic::Mov
                if instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_cr() =>
            {
                let register = instruction.op0_register();
                let value = self.operand_value(instruction, 1).unwrap_or(0);
                Exception::gp(
                    0,
                    format!(
                        "{register:?} does not take the value {value:#x} on this vCPU; a feature may be missing in its CPUID"
                    ),
                )
            }
            _ if instruction.flow_control() != FlowControl::Next => return None,
            _ if is_optional(instruction) => Exception::ud(
                "this vCPU does not have the instruction: it belongs to an extension that its CPUID does not announce",
            ),
            _ => return None,
        })
    }
}

/// Returns true if the instruction belongs to an extension of the base instruction set.
fn is_optional(instruction: &Instruction) -> bool {
    let plain = |feature: &CpuidFeature| {
        matches!(
            feature,
            CpuidFeature::INTEL8086
                | CpuidFeature::INTEL186
                | CpuidFeature::INTEL286
                | CpuidFeature::INTEL386
                | CpuidFeature::INTEL486
                | CpuidFeature::X64
                | CpuidFeature::FPU
                | CpuidFeature::CPUID
        )
    };
    !instruction.cpuid_features().iter().any(plain)
}

/// Name of the nondeterministic source that an instruction reads: a clock, a counter or random numbers.
#[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
pub(super) fn nondeterministic_source(instruction: &Instruction) -> Option<&'static str> {
    match instruction.mnemonic() {
        Mnemonic::Rdtsc | Mnemonic::Rdtscp => Some("the time-stamp counter"),
        Mnemonic::Rdrand | Mnemonic::Rdseed => Some("the random number generator"),
        Mnemonic::Rdpmc => Some("a performance counter"),
        _ => None,
    }
}
