//! Guest memory by linear addresses.
//!
//! A linear address is a virtual one with the base of its segment added. Page tables are walked here and not by
//! `KVM_TRANSLATE`, which would set accessed bits: reading must not change the guest.

use iced_x86::{Decoder, DecoderOptions, Instruction};
use kvm_sys_wrap::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use crate::Gva;
use crate::PAGE_SIZE;
use crate::cpu::cpu_state::CpuState;
use crate::disassembly::MAX_INSTRUCTION_LENGTH;
use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::error::Error;
use crate::machine::host::CpuTraits;
use crate::paging::walk::{Translation, Walker};

/// Guest memory with a page walker.
pub(super) struct LinearMemory<'a> {
    memory: &'a GuestMemory,
    walker: Walker,
}

impl<'a> LinearMemory<'a> {
    /// Uses the current registers of the machine's vCPU.
    pub(super) fn from_machine(machine: &'a Machine) -> Result<Self, Error> {
        Ok(Self { memory: &machine.board.memory, walker: machine.walker()? })
    }

    /// Uses registers that were read before.
    pub(super) fn with_registers(machine: &'a Machine, registers: &CpuState) -> Self {
        Self::from_board(&machine.board, registers)
    }

    /// Uses the registers of any vCPU of a board.
    pub(super) fn from_board(board: &'a Board, registers: &CpuState) -> Self {
        let CpuTraits { physical_bits, amd } = board.cpu;
        let walker = Walker { physical_bits, amd, ..Walker::from_sregs(&registers.sregs) };
        Self { memory: &board.memory, walker }
    }

    /// Translates an address; `None` where nothing is mapped.
    pub(super) fn walk(&self, gva: Gva) -> Option<Translation> {
        self.walker.walk(self.memory, gva).translation()
    }

    /// Reads up to the first byte that is not mapped; returns the number of bytes read.
    pub(super) fn read(&self, start: Gva, data: &mut [u8]) -> usize {
        self.each_page(start, data.len(), |gpa, range| {
            let Some(piece) = data.get_mut(range) else { return false };
            self.memory.read_slice(piece, gpa).is_ok()
        })
    }

    /// Writes up to the first byte that is not mapped; returns the number of bytes written. Read-only regions are written too:
    /// the debugger writes here, not the guest.
    pub(super) fn write(&self, start: Gva, data: &[u8]) -> usize {
        self.each_page(start, data.len(), |gpa, range| {
            let Some(piece) = data.get(range) else { return false };
            self.memory.write_slice(piece, gpa).is_ok()
        })
    }

    /// Reads a little-endian number of up to 8 bytes; `None` where not all of them are mapped.
    pub(super) fn number(&self, start: Gva, size: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        let wanted = bytes.get_mut(..size)?;
        (self.read(start, wanted) == size).then(|| u64::from_le_bytes(bytes))
    }

    /// Decodes the next instruction of a vCPU with these registers; the result is invalid where no memory is mapped.
    pub(super) fn next_instruction(&self, registers: &CpuState) -> Instruction {
        let mut code = [0; MAX_INSTRUCTION_LENGTH];
        let length = self.read(Gva(registers.linear_rip()), &mut code);
        let code = code.get(..length).unwrap_or_default();
        Decoder::with_ip(registers.width().bits(), code, registers.regs.rip, DecoderOptions::NONE).decode()
    }

    fn each_page(
        &self,
        start: Gva,
        length: usize,
        mut access: impl FnMut(GuestAddress, std::ops::Range<usize>) -> bool,
    ) -> usize {
        let mut done = 0;
        while done < length {
            let Some(gva) = u64::try_from(done).ok().and_then(|offset| start.checked_add(offset)) else {
                break;
            };
            let Some(to) = self.walk(gva) else { break };
            let in_page = usize::try_from(PAGE_SIZE - gva.0 % PAGE_SIZE).unwrap_or(1);
            let end = length.min(done.saturating_add(in_page));
            if !access(to.gpa.into(), done..end) {
                break;
            }
            done = end;
        }
        done
    }
}
