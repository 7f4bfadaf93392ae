//! One moment of a guest: the registers between two instructions, and the memory as it is then.
//!
//! All reasoning about faults looks at a [`GuestState`] and at nothing else. It never touches KVM, so it works on a
//! replayed machine, on the registers that a host kept after a shutdown, and on made-up ones in tests.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction, Register};
use kvm_sys_wrap::bindings::{kvm_regs, kvm_segment, kvm_sregs};

use crate::cpu::control_regs::{Cr0, Cr4, Efer, Rflags};
use crate::disassembly::{MAX_INSTRUCTION_LENGTH, OperandWidth, linear_rip};
use crate::machine::Machine;
use crate::machine::host::CpuTraits;
use crate::paging::walk::{ReadMemory, Walker};

use super::exception::Exception;
use super::page_fault::{AccessKind, PageAccess};

/// Width of a physical address in KVM's eyes, for a guest whose CPUID says nothing of it.
pub(super) const DEFAULT_PHYSICAL_BITS: u32 = 36;

/// The registers between two instructions.
#[derive(Debug, Clone, Copy)]
pub struct CpuState {
    /// General registers.
    pub regs: kvm_regs,
    /// Special registers.
    pub sregs: kvm_sregs,
}

/// Registers and memory.
#[derive(Clone, Copy)]
pub struct GuestState<'a> {
    /// The registers.
    pub registers: &'a CpuState,
    /// Guest-physical memory.
    pub memory: &'a dyn ReadMemory,
    /// How many bits a physical address has; the bits above are reserved in page table entries.
    pub physical_bits: u32,
    /// An AMD CPU, which reserves one bit more.
    pub amd: bool,
}

/// The instruction that comes next, or why there is none.
pub(super) enum Fetched {
    /// An instruction and its bytes.
    Instruction(Instruction, Vec<u8>),
    /// Bytes that are none.
    Invalid(Vec<u8>),
    /// Reading it faults.
    Fault(Exception),
    /// It lies where no memory is.
    NoMemory,
}

impl CpuState {
    /// Those of a stopped vCPU.
    ///
    /// # Errors
    /// What the host says.
    pub fn of(machine: &Machine) -> Result<Self, kvm_sys_wrap::Error> {
        Ok(Self { regs: machine.vcpu().regs()?, sregs: machine.vcpu().sregs()? })
    }

    /// The width of the code.
    #[must_use]
    pub const fn width(&self) -> OperandWidth {
        OperandWidth::from_sregs(&self.sregs)
    }

    /// The linear address of the next instruction.
    #[must_use]
    pub const fn linear_rip(&self) -> u64 {
        linear_rip(&self.regs, &self.sregs)
    }

    /// The control register.
    #[must_use]
    pub const fn cr0(&self) -> Cr0 {
        Cr0::from_bits_retain(self.sregs.cr0)
    }

    /// The control register.
    #[must_use]
    pub const fn cr4(&self) -> Cr4 {
        Cr4::from_bits_retain(self.sregs.cr4)
    }

    /// The extended features.
    #[must_use]
    pub const fn efer(&self) -> Efer {
        Efer::from_bits_retain(self.sregs.efer)
    }

    /// The flags.
    #[must_use]
    pub const fn rflags(&self) -> Rflags {
        Rflags::from_bits_retain(self.regs.rflags)
    }

    /// IA-32e mode: 64-bit mode or compatibility mode.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        self.efer().contains(Efer::LMA)
    }

    /// Protected mode, without virtual-8086 mode: selectors mean descriptors.
    #[must_use]
    pub const fn is_protected(&self) -> bool {
        self.cr0().contains(Cr0::PE) && !self.rflags().contains(Rflags::VM)
    }

    /// The current privilege level. KVM keeps it in SS (SDM vol. 3, 24.4.1: the DPL of SS is the CPL).
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

    /// IOPL, bits 12 and 13 of the flags.
    pub(super) const fn iopl(&self) -> u8 {
        (self.regs.rflags >> 12 & 3) as u8
    }

    /// Which bits of RSP the stack uses (SDM vol. 1, 6.2.3).
    pub(super) const fn stack_mask(&self) -> u64 {
        match self.width() {
            OperandWidth::Bits64 => u64::MAX,
            OperandWidth::Bits16 | OperandWidth::Bits32 => self.mask_of(&self.sregs.ss),
        }
    }

    const fn mask_of(&self, stack: &kvm_segment) -> u64 {
        if stack.db != 0 { 0xffff_ffff } else { 0xffff }
    }

    /// The linear address of the top of the stack.
    #[must_use]
    pub const fn linear_stack(&self) -> u64 {
        match self.width() {
            OperandWidth::Bits64 => self.regs.rsp,
            OperandWidth::Bits16 | OperandWidth::Bits32 => {
                self.sregs.ss.base.wrapping_add(self.regs.rsp & self.stack_mask()) & 0xffff_ffff
            }
        }
    }

    /// A segment register by its number in iced.
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

    /// The value of a general register of any width, and the base of a segment register.
    pub(super) fn value(&self, register: Register) -> Option<u64> {
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

impl<'a> GuestState<'a> {
    /// Registers and memory of a guest without CPUID.
    #[must_use]
    pub const fn new(registers: &'a CpuState, memory: &'a dyn ReadMemory) -> Self {
        Self { registers, memory, physical_bits: DEFAULT_PHYSICAL_BITS, amd: false }
    }

    /// The registers of a machine's vCPU, now or at another time, with its memory.
    #[must_use]
    pub fn of(machine: &'a Machine, registers: &'a CpuState) -> Self {
        let CpuTraits { physical_bits, amd } = machine.board.cpu;
        Self { registers, memory: &machine.board.memory, physical_bits, amd }
    }

    /// The walker of this moment.
    #[must_use]
    pub fn walker(&self) -> Walker {
        Walker {
            physical_bits: self.physical_bits,
            amd: self.amd,
            ..Walker::from_sregs(&self.registers.sregs)
        }
    }

    /// Reads what the CPU reads for itself: gates, descriptors, the TSS. Those are supervisor accesses at any privilege
    /// level (SDM vol. 3, 4.6.1).
    pub(super) fn read_system(&self, linear: u64, bytes: &mut [u8]) -> Result<(), Exception> {
        let kind = AccessKind::Read;
        self.read(PageAccess { linear, size: bytes.len() as u64, kind, user: false, implicit: true }, bytes)
    }

    /// Reads a little-endian number of 2, 4 or 8 bytes for the CPU itself.
    pub(super) fn read_word(&self, linear: u64, size: usize) -> Result<u64, Exception> {
        let mut bytes = [0; 8];
        if let Some(part) = bytes.get_mut(..size) {
            self.read_system(linear, part)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads memory with the rights of an access; what is not memory reads as ones.
    pub(super) fn read(&self, access: PageAccess, bytes: &mut [u8]) -> Result<(), Exception> {
        let mut rest = bytes;
        for (gpa, size) in self.pieces(&access)? {
            let size = usize::try_from(size).unwrap_or(0).min(rest.len());
            let (piece, more) = rest.split_at_mut(size);
            if self.memory.read(gpa, piece).is_none() {
                piece.fill(0xff);
            }
            rest = more;
        }
        Ok(())
    }

    /// Reads and decodes the next instruction.
    pub(super) fn fetch(&self) -> Fetched {
        let registers = self.registers;
        let linear = registers.linear_rip();
        if let Some(fault) = super::control_transfer::cannot_be_at(registers, registers.regs.rip) {
            return Fetched::Fault(fault);
        }
        let (mut bytes, mut stop) = (Vec::with_capacity(MAX_INSTRUCTION_LENGTH), None);
        // Page by page: an instruction that ends before a page which is not there does not fault.
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
            match self.pieces(&access) {
                Err(fault) => {
                    stop = Some(Fetched::Fault(fault));
                    break;
                }
                Ok(pieces) => {
                    let mut piece = vec![0; size];
                    let found = pieces.first().and_then(|(gpa, _)| self.memory.read(*gpa, &mut piece));
                    if found.is_none() {
                        stop = Some(Fetched::NoMemory);
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
            _ if instruction.is_invalid() || instruction.code() == Code::INVALID => Fetched::Invalid(bytes),
            _ => {
                bytes.truncate(instruction.len());
                Fetched::Instruction(instruction, bytes)
            }
        }
    }
}
