//! Memory reads and instruction fetches of a [`GuestState`], with the exceptions that they raise.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, Register};
use kvm_sys_wrap::bindings::kvm_segment;

use crate::cpu::cpu_state::{CpuState, OperandWidth};
use crate::disassembly::MAX_INSTRUCTION_LENGTH;
use crate::machine::guest_state::GuestState;

use super::exception::Exception;
use super::page_fault::{AccessKind, PageAccess};

/// Result of an instruction fetch.
pub(super) enum FetchResult {
    /// Instruction and its bytes.
    Instruction(Instruction, Vec<u8>),
    /// Bytes that do not decode to an instruction.
    Invalid(Vec<u8>),
    /// Exception raised by the fetch.
    Fault(Exception),
    /// Guest-physical address without memory.
    Unmapped,
}

impl CpuState {
    /// I/O privilege level, bits 12 and 13 of RFLAGS.
    pub(super) const fn iopl(&self) -> u8 {
        (self.regs.rflags >> 12 & 3) as u8
    }

    /// Segment register by its name in iced-x86.
    pub(super) fn segment(&self, register: Register) -> Option<&kvm_segment> {
        let sregs = &self.sregs;
        let all = [
            (Register::ES, &sregs.es),
            (Register::CS, &sregs.cs),
            (Register::SS, &sregs.ss),
            (Register::DS, &sregs.ds),
            (Register::FS, &sregs.fs),
            (Register::GS, &sregs.gs),
        ];
        all.into_iter().find(|(name, _)| *name == register).map(|(_, segment)| segment)
    }

    /// Value of a general-purpose register of any width, of RIP, or the base of a segment register.
    pub(super) fn register_value(&self, register: Register) -> Option<u64> {
        if let Some(segment) = self.segment(register) {
            // In 64-bit mode only FS and GS have a base (SDM vol. 3, 3.4.4).
            let counts =
                self.width() != OperandWidth::Bits64 || register == Register::FS || register == Register::GS;
            return Some(if counts { segment.base } else { 0 });
        }
        if !register.is_gpr() {
            return (register == Register::RIP || register == Register::EIP).then_some(self.regs.rip);
        }
        let regs = &self.regs;
        let full = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi, regs.r8, regs.r9,
            regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
        ];
        let value = *full.get(register.full_register().number())?;
        let high = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
        Some(match register.size() {
            1 if high => value >> 8 & 0xff,
            1 => value & 0xff,
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        })
    }
}

impl GuestState<'_> {
    /// Reads system structures: gates, descriptors, the TSS. These are supervisor accesses at any privilege level (SDM
    /// vol. 3, 4.6.1).
    pub(super) fn read_system(&self, linear: u64, bytes: &mut [u8]) -> Result<(), Exception> {
        let kind = AccessKind::Read;
        self.read_checked(
            PageAccess { linear, size: bytes.len() as u64, kind, user: false, implicit: true },
            bytes,
        )
    }

    /// Reads a little-endian number of 2, 4 or 8 bytes from a system structure.
    pub(super) fn read_word(&self, linear: u64, size: usize) -> Result<u64, Exception> {
        let mut bytes = [0; 8];
        if let Some(part) = bytes.get_mut(..size) {
            self.read_system(linear, part)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads memory with the rights of an access. Addresses without memory read as all ones.
    pub(super) fn read_checked(&self, access: PageAccess, bytes: &mut [u8]) -> Result<(), Exception> {
        let mut rest = bytes;
        for (gpa, size) in self.physical_ranges(&access)? {
            let size = usize::try_from(size).unwrap_or(0).min(rest.len());
            let (piece, more) = rest.split_at_mut(size);
            if self.memory.read(gpa, piece).is_none() {
                piece.fill(0xff);
            }
            rest = more;
        }
        Ok(())
    }

    /// Fetches and decodes the next instruction.
    pub(super) fn fetch(&self) -> FetchResult {
        let registers = self.registers;
        let linear = registers.linear_rip();
        if let Some(fault) = super::control_transfer::rip_fault(registers, registers.regs.rip) {
            return FetchResult::Fault(fault);
        }
        let (mut bytes, mut stop) = (Vec::with_capacity(MAX_INSTRUCTION_LENGTH), None);
        // Page by page: an instruction that ends before an unmapped page does not fault.
        while bytes.len() < MAX_INSTRUCTION_LENGTH {
            let at = linear.wrapping_add(bytes.len() as u64);
            let size =
                (MAX_INSTRUCTION_LENGTH - bytes.len()).min(usize::try_from(4096 - at % 4096).unwrap_or(1));
            let access = PageAccess {
                linear: at,
                size: size as u64,
                kind: AccessKind::Fetch,
                user: registers.cpl() == 3,
                implicit: false,
            };
            match self.physical_ranges(&access) {
                Err(fault) => {
                    stop = Some(FetchResult::Fault(fault));
                    break;
                }
                Ok(pieces) => {
                    let mut piece = vec![0; size];
                    let found = pieces.first().and_then(|(gpa, _)| self.memory.read(*gpa, &mut piece));
                    if found.is_none() {
                        stop = Some(FetchResult::Unmapped);
                        break;
                    }
                    bytes.extend(piece);
                }
            }
        }
        let width = registers.width();
        let mut decoder = Decoder::with_ip(width.bits(), &bytes, registers.regs.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        match (decoder.last_error(), stop) {
            (DecoderError::NoMoreBytes, Some(stop)) => stop,
            _ if instruction.is_invalid() || instruction.code() == Code::INVALID => {
                FetchResult::Invalid(bytes)
            }
            _ => {
                bytes.truncate(instruction.len());
                FetchResult::Instruction(instruction, bytes)
            }
        }
    }
}
