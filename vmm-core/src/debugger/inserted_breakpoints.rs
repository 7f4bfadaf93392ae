//! Breakpoints and watchpoints while the guest runs: inserted before, removed after.
//!
//! A debug register is best: it costs the guest nothing, and works before its address is mapped. There are four. The
//! other means is an [`TrapOpcode`] in place of the instruction's first byte. Every host reports a HLT: in ring 0 as an exit,
//! and in ring 3, where the trap page is, as the #GP that it raises there; then the vCPU is put back to where it was.
//! A breakpoint for which neither means will do leaves only single steps.

use kvm_sys_wrap::bindings::kvm_segment;
use kvm_sys_wrap::{Breakpoint, BreakpointCondition, Exit, GuestDebug};
use vm_memory::Bytes;

use super::DebugCapabilities;
use super::linear_memory::LinearMemory;
use crate::layout::LayoutPart;
use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::debug_capabilities::TrapOpcode;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::processor::Processor;
use crate::{Gpa, Gva};

/// #GP, which HLT raises in ring 3.
const GENERAL_PROTECTION: u8 = 13;
/// More than the CPU pushes on its way to the trap page: six words.
const FRAME: u64 = 64;

/// Debug registers and bytes that are in place while the guest runs.
#[derive(Debug, Default)]
pub(super) struct InsertedBreakpoints {
    debug: GuestDebug,
    opcode: TrapOpcode,
    bytes: Vec<InsertedByte>,
    ring_3: Option<Ring3>,
    /// True if a breakpoint could not be inserted.
    pub(super) unplaced: bool,
}

/// Byte of guest memory that an opcode replaces.
#[derive(Debug, Clone, Copy)]
struct InsertedByte {
    gva: Gva,
    gpa: Gpa,
    covered: u8,
}

/// State that a HLT in ring 3 changes, as it was before.
#[derive(Debug)]
struct Ring3 {
    cs: kvm_segment,
    ss: kvm_segment,
    /// Address at which the CPU pushes its frame, and the bytes there.
    stack: Gpa,
    bytes: Vec<u8>,
}

impl InsertedBreakpoints {
    /// No breakpoints.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Inserts the breakpoints and watchpoints of the debugger, as far as possible.
    pub(super) fn place(
        machine: &Machine,
        capabilities: DebugCapabilities,
        breakpoints: &[Gva],
        watchpoints: &[Breakpoint],
    ) -> Result<Self, Error> {
        let mut registers = [None; 4];
        let mut rest = breakpoints.iter().copied();
        let executions: Box<dyn Iterator<Item = Breakpoint>> = if capabilities.hardware_breakpoints {
            Box::new(
                rest.by_ref().map(|address| Breakpoint { address, condition: BreakpointCondition::Execute }),
            )
        } else {
            Box::new(std::iter::empty())
        };
        for (register, wanted) in registers.iter_mut().zip(watchpoints.iter().copied().chain(executions)) {
            *register = Some(wanted);
        }
        let mut breakpoints = Self::at(machine, &rest.collect::<Vec<_>>())?;
        breakpoints.debug.breakpoints = registers;
        machine.processors.bsp().vcpu.set_guest_debug(&breakpoints.debug)?;
        Ok(breakpoints)
    }

    /// Inserts HLT bytes at these addresses.
    pub(super) fn at(machine: &Machine, addresses: &[Gva]) -> Result<Self, Error> {
        let mut breakpoints = Self { ring_3: Ring3::from_machine(machine)?, ..Self::default() };
        let memory = LinearMemory::from_machine(machine)?;
        for gva in addresses {
            // In code of ring 3 a HLT is a #GP, and only the trap page knows what that means.
            let for_ring_3 = memory.walk(*gva).is_some_and(|to| to.size.is_some() && to.access.user);
            let lost = for_ring_3 && machine.board.trap_page.is_none();
            let placed = !lost && breakpoints.insert(machine, &memory, *gva)?;
            breakpoints.unplaced |= !placed;
        }
        Ok(breakpoints)
    }

    /// Inserts an opcode into code that will run in ring 0, where that is in memory.
    pub(super) fn in_ring_0(
        machine: &Machine,
        memory: &LinearMemory<'_>,
        opcode: TrapOpcode,
        addresses: &[Gva],
    ) -> Result<Self, Error> {
        let mut breakpoints = Self { opcode, ..Self::default() };
        for gva in addresses {
            breakpoints.insert(machine, memory, *gva)?;
        }
        Ok(breakpoints)
    }

    fn insert(&mut self, machine: &Machine, memory: &LinearMemory<'_>, gva: Gva) -> Result<bool, Error> {
        let Some(to) = memory.walk(gva) else { return Ok(false) };
        let Ok(covered) = machine.board.memory.read_obj::<u8>(to.gpa.into()) else { return Ok(false) };
        machine.board.memory.write_obj(self.opcode.byte(), to.gpa.into()).map_err(failed)?;
        self.bytes.push(InsertedByte { gva, gpa: to.gpa, covered });
        Ok(true)
    }

    /// Removes everything that was inserted.
    pub(super) fn remove(&self, machine: &Machine) -> Result<(), Error> {
        // Backwards: where two lie on each other, the first knows what was there.
        for byte in self.bytes.iter().rev() {
            let now: u8 = machine.board.memory.read_obj(byte.gpa.into()).map_err(failed)?;
            // What the guest has written there meanwhile stays.
            if now == self.opcode.byte() {
                machine.board.memory.write_obj(byte.covered, byte.gpa.into()).map_err(failed)?;
            }
        }
        if self.debug == GuestDebug::default() {
            return Ok(());
        }
        Ok(machine.processors.bsp().vcpu.set_guest_debug(&GuestDebug::default())?)
    }

    /// Returns true if an exit was caused by an inserted opcode. Then the vCPU is set back to before it.
    pub(super) fn undo(&self, processor: &Processor, board: &Board, exit: &Exit) -> Result<bool, Error> {
        let refused = matches!(exit, Exit::InternalError { suberror: 1, .. });
        match self.opcode {
            _ if self.bytes.is_empty() => Ok(false),
            TrapOpcode::Hlt if matches!(exit, Exit::Hlt) => self.undo_halt(processor, board),
            TrapOpcode::Int1 if refused && self.covers(processor.linear_rip()?) => {
                // KVM has made a #UD of it, which is dropped when registers are set.
                processor.vcpu.set_regs(&processor.vcpu.regs()?)?;
                Ok(true)
            }
            TrapOpcode::Hlt | TrapOpcode::Int1 => Ok(false),
        }
    }

    fn undo_halt(&self, processor: &Processor, board: &Board) -> Result<bool, Error> {
        let mut regs = processor.vcpu.regs()?;
        let end = processor.halted(board, &regs);
        if let End::Halt { .. } = end
            && self.covers(processor.linear_rip()?.wrapping_sub(1))
        {
            regs.rip = regs.rip.wrapping_sub(1);
            processor.vcpu.set_regs(&regs)?;
            return Ok(true);
        }
        if let End::Exception { vector: GENERAL_PROTECTION, frame: Some(frame) } = end
            && self.covers(frame.rip)
            && let Some(before) = &self.ring_3
        {
            processor.return_to_ring_3(board, &frame, before.cs, before.ss)?;
            board.memory.write_slice(&before.bytes, before.stack.into()).map_err(failed)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn covers(&self, address: u64) -> bool {
        self.bytes.iter().any(|byte| byte.gva.0 == address)
    }

    /// Watchpoint or breakpoint that the bits of DR6 stand for.
    pub(super) fn fired(&self, dr6: u64) -> Option<Breakpoint> {
        let hit = |number: usize| dr6 & 1 << number != 0;
        (0..)
            .zip(self.debug.breakpoints)
            .filter(|(number, _)| hit(*number))
            .find_map(|(_, breakpoint)| breakpoint)
    }
}

impl Ring3 {
    /// `None` on a machine whose guest has no trap page below it.
    fn from_machine(machine: &Machine) -> Result<Option<Self>, Error> {
        let Some(span) = machine.board.layout.part(LayoutPart::KernelStack) else { return Ok(None) };
        let sregs = machine.processors.bsp().vcpu.sregs()?;
        let stack = Gpa(span.end().0.saturating_sub(FRAME));
        let mut bytes = vec![0; 64];
        machine.board.memory.read_slice(&mut bytes, stack.into()).map_err(failed)?;
        Ok(Some(Self { cs: sregs.cs, ss: sregs.ss, stack, bytes }))
    }
}

fn failed(source: vm_memory::GuestMemoryError) -> Error {
    Error::Table { what: "a breakpoint", source }
}
