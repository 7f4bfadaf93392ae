//! Checks of privileged and system instructions: privilege level and operand values.
//!
//! Source: SDM vol. 2, MOV CRn, WRMSR, LTR, LLDT and the like; vol. 3, 2.5, 4.1, 5.9; vol. 1, 19.5 for ports.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::cpu::control_regs::{Cr0, Cr4, Efer, Rflags};
use crate::cpu::cpu_state::OperandWidth;
use crate::paging::Scheme;

use super::exception::Exception;
use super::segments;
use crate::machine::guest_state::GuestState;

/// MSR index of EFER.
const MSR_EFER: u64 = 0xc000_0080;

impl GuestState<'_> {
    /// Checks a system instruction before its memory operands.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    pub(super) fn check_privileged(&self, instruction: &Instruction) -> Result<(), Exception> {
        self.check_privilege(instruction)?;
        if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register {
            let (register, value) = (instruction.op0_register(), self.operand_value(instruction, 1));
            if let (true, Some(value)) = (register.is_cr(), value) {
                return self.check_control_register(register, value);
            }
            if register.is_segment_register() && instruction.mnemonic() == Mnemonic::Mov {
                let selector = value.unwrap_or(0);
                return self.check_segment_load(register, (selector & 0xffff) as u16);
            }
        }
        match instruction.mnemonic() {
            Mnemonic::Wrmsr => self.check_wrmsr(),
            Mnemonic::Ltr | Mnemonic::Lldt => self.check_table_load(instruction),
            _ => Ok(()),
        }
    }

    /// Checks the selector that POP, LDS, LES, LSS, LFS or LGS loads. The caller has checked their memory operands.
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    pub(super) fn check_segment_pop(&self, instruction: &Instruction) -> Result<(), Exception> {
        let (register, at) = match instruction.mnemonic() {
            Mnemonic::Pop if instruction.op0_kind() == OpKind::Register => {
                (instruction.op0_register(), Some(self.registers.linear_stack()))
            }
            Mnemonic::Lds => (Register::DS, self.pointer_selector(instruction)),
            Mnemonic::Les => (Register::ES, self.pointer_selector(instruction)),
            Mnemonic::Lss => (Register::SS, self.pointer_selector(instruction)),
            Mnemonic::Lfs => (Register::FS, self.pointer_selector(instruction)),
            Mnemonic::Lgs => (Register::GS, self.pointer_selector(instruction)),
            _ => return Ok(()),
        };
        let Some(at) = at.filter(|_| register.is_segment_register()) else { return Ok(()) };
        let selector = self.read_word(at, 2)?;
        self.check_segment_load(register, (selector & 0xffff) as u16)
    }

    fn pointer_selector(&self, instruction: &Instruction) -> Option<u64> {
        let offset = instruction.memory_size().size().checked_sub(2)?;
        Some(self.operand_address(instruction, 1)?.wrapping_add(offset as u64))
    }

    fn check_segment_load(&self, register: Register, selector: u16) -> Result<(), Exception> {
        if !self.registers.is_protected() {
            return Ok(());
        }
        if register == Register::SS {
            return self.check_stack(selector, self.registers.cpl(), 13, 0).map(drop);
        }
        self.check_data(selector, &format!("{register:?}").to_lowercase())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    fn check_privilege(&self, instruction: &Instruction) -> Result<(), Exception> {
        let registers = self.registers;
        let cpl = registers.cpl();
        let umip = registers.cr4().contains(Cr4::UMIP);
        let mnemonic = instruction.mnemonic();
        let refused = |what: &str| Err(Exception::gp(0, format!("{what}, and this is ring {cpl}")));
        match mnemonic {
            Mnemonic::Cli | Mnemonic::Sti => {
                if cpl > registers.iopl() {
                    return refused(&format!(
                        "it needs an I/O privilege of at least its ring (IOPL is {})",
                        registers.iopl()
                    ));
                }
                Ok(())
            }
            Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Insb
            | Mnemonic::Insw
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd => self.check_port(instruction),
            Mnemonic::Sgdt | Mnemonic::Sidt | Mnemonic::Sldt | Mnemonic::Smsw | Mnemonic::Str
                if umip && cpl > 0 =>
            {
                refused("CR4.UMIP reserves it for ring 0")
            }
            Mnemonic::Rdtsc | Mnemonic::Rdtscp if cpl > 0 && registers.cr4().contains(Cr4::TSD) => {
                refused("CR4.TSD reserves it for ring 0")
            }
            Mnemonic::Rdpmc if cpl > 0 && registers.cr4().contains(Cr4::PCE) => Ok(()),
            _ if cpl > 0 && instruction.is_privileged() => refused("only ring 0 may execute it"),
            _ => Ok(()),
        }
    }

    /// Checks a port access against IOPL and the I/O permission bitmap of the TSS (SDM vol. 1, 19.5.2).
    fn check_port(&self, instruction: &Instruction) -> Result<(), Exception> {
        let registers = self.registers;
        let v86 = registers.rflags().contains(Rflags::VM);
        if registers.cpl() <= registers.iopl() && !v86 {
            return Ok(());
        }
        let (is_out, immediate) = (
            instruction.mnemonic() == Mnemonic::Out,
            instruction.op_kinds().any(|kind| kind == OpKind::Immediate8),
        );
        let port = if immediate {
            u64::from(instruction.immediate8())
        } else {
            registers.register_value(Register::DX).unwrap_or(0)
        };
        let data = if is_out { instruction.op1_register() } else { instruction.op0_register() };
        let width = if data == Register::None { 1 } else { data.size().max(1) };
        let denied = |why: &str| {
            Err(Exception::gp(0, format!("ring {} may not use port {port:#x}: {why}", registers.cpl())))
        };
        let tr = &registers.sregs.tr;
        if tr.limit < 0x67 {
            return denied("the TSS has no I/O permission bitmap");
        }
        let map = self.read_word(tr.base.wrapping_add(0x66), 2)?;
        let byte = map + port / 8;
        if byte + 1 > u64::from(tr.limit) {
            return denied("it lies beyond the I/O permission bitmap of the TSS");
        }
        let bits = self.read_word(tr.base.wrapping_add(byte), 2)? >> (port % 8);
        if bits & ((1 << width) - 1) != 0 {
            return denied("its bit in the I/O permission bitmap of the TSS is set");
        }
        Ok(())
    }

    fn check_control_register(&self, register: Register, value: u64) -> Result<(), Exception> {
        let registers = self.registers;
        let no = |why: &str| Err(Exception::gp(0, format!("{register:?} cannot be {value:#x}: {why}")));
        let (old, efer) = (registers.cr0(), registers.efer());
        if register == Register::CR0 {
            let new = Cr0::from_bits_retain(value);
            let turns_on = new.contains(Cr0::PG) && !old.contains(Cr0::PG);
            if value >> 32 != 0 {
                return no("the upper half must be 0");
            }
            if new.contains(Cr0::PG) && !new.contains(Cr0::PE) {
                return no("PG needs PE");
            }
            if new.contains(Cr0::NW) && !new.contains(Cr0::CD) {
                return no("NW needs CD");
            }
            if turns_on && efer.contains(Efer::LME) && !registers.cr4().contains(Cr4::PAE) {
                return no("paging with EFER.LME needs CR4.PAE");
            }
            if !new.contains(Cr0::PG) && old.contains(Cr0::PG) && registers.width() == OperandWidth::Bits64 {
                return no("64-bit code cannot turn paging off");
            }
            if turns_on && registers.cr4().contains(Cr4::PAE) && !efer.contains(Efer::LME) {
                return self.check_pae_root(registers.sregs.cr3);
            }
        }
        if register == Register::CR3 {
            if registers.is_long() && value & !(1 << 63) & !((1 << self.physical_bits) - 1) != 0 {
                return no("it has bits beyond the width of a physical address");
            }
            if self.walker().scheme == Some(Scheme::Pae) {
                return self.check_pae_root(value);
            }
        }
        if register == Register::CR4 {
            let new = Cr4::from_bits_retain(value);
            if value & !Cr4::all().bits() != 0 {
                return no("it has reserved bits set");
            }
            if registers.is_long() && !new.contains(Cr4::PAE) {
                return no("long mode needs PAE");
            }
            if registers.is_long() && (new ^ registers.cr4()).contains(Cr4::LA57) {
                return no("LA57 cannot change in long mode");
            }
            if new.contains(Cr4::PCIDE) && !registers.is_long() {
                return no("PCIDE needs long mode");
            }
        }
        if register == Register::CR8 && value > 0xf {
            return no("it has 4 bits");
        }
        Ok(())
    }

    /// Checks the four PDPT entries that PAE paging loads with CR3 (SDM vol. 3, 4.4.1).
    fn check_pae_root(&self, cr3: u64) -> Result<(), Exception> {
        for number in 0..4 {
            let mut bytes = [0; 8];
            let at = (cr3 & 0xffff_ffe0) + number * 8;
            if self.memory.read(crate::Gpa(at), &mut bytes).is_none() {
                return Err(Exception::gp(0, format!("CR3 leads to {at:#x}, where no memory is")));
            }
            let entry = u64::from_le_bytes(bytes);
            let reserved = entry & (0x1e6 | !((1 << self.physical_bits) - 1));
            if entry & 1 != 0 && reserved != 0 {
                let why = format!(
                    "entry {number} of the PDPT that CR3 leads to ({entry:#x}) has reserved bits set ({reserved:#x})"
                );
                return Err(Exception::gp(0, why));
            }
        }
        Ok(())
    }

    fn check_wrmsr(&self) -> Result<(), Exception> {
        let regs = &self.registers.regs;
        let value = (regs.rdx & 0xffff_ffff) << 32 | regs.rax & 0xffff_ffff;
        if regs.rcx & 0xffff_ffff != MSR_EFER {
            return Ok(());
        }
        let (old, new) = (self.registers.efer(), Efer::from_bits_retain(value));
        if value & !Efer::all().bits() != 0 {
            return Err(Exception::gp(0, format!("EFER cannot be {value:#x}: it has reserved bits set")));
        }
        if self.registers.cr0().contains(Cr0::PG) && (old ^ new).contains(Efer::LME) {
            return Err(Exception::gp(0, "EFER.LME cannot change while paging is on"));
        }
        Ok(())
    }

    fn check_table_load(&self, instruction: &Instruction) -> Result<(), Exception> {
        if !self.registers.is_protected() {
            return Err(Exception::ud("it needs protected mode"));
        }
        let Some(selector) = self.operand_value(instruction, 0) else { return Ok(()) };
        let selector = (selector & 0xffff) as u16;
        let tss = instruction.mnemonic() == Mnemonic::Ltr;
        if segments::is_null(selector) {
            return if tss { Err(Exception::gp(0, "TR is loaded with the null selector")) } else { Ok(()) };
        }
        let found = self.descriptor(selector, 0)?;
        let code = segments::selector_error_code(selector);
        let fits = !found.code_or_data && if tss { matches!(found.kind, 1 | 9) } else { found.kind == 2 };
        if !fits {
            let wanted = if tss { "an available TSS" } else { "an LDT" };
            let why =
                format!("it loads {}, which is {found}, not {wanted}", segments::describe_selector(selector));
            return Err(Exception::gp(code, why));
        }
        if !found.present {
            return Err(Exception::new(
                11,
                Some(code),
                format!("it loads {}, which is not present", segments::describe_selector(selector)),
            ));
        }
        Ok(())
    }
}
