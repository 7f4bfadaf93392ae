//! Breakpoints and watchpoints of a machine with interrupts, while it runs.
//!
//! Debug registers come first: they need no memory, and each vCPU has its own four. What does not fit in there is a byte
//! in place of the instruction's first one. A HLT would not do here, for the vCPU would fall asleep on it without an exit.
//! Two others do:
//!
//! - INT3, where KVM gives it to us (`KVM_GUESTDBG_USE_SW_BP`): in any ring.
//! - IN, which every host gives to us, since what it reads comes from us: in ring 0, and in ring 3 above the trap page.
//!   `IN AL, imm8` takes the byte behind it for the port. The exit is taken back, so it does not matter that the
//!   instruction is longer than what was replaced. Ports of the PICs and the timer are answered within the kernel, without
//!   an exit. If the byte behind is one of these, `IN eAX, DX` is used: none of them is four bytes wide, but for the
//!   timer at 0x40. So what is left is an instruction whose second byte is 0x20, 0x40 or the like, reached with the
//!   timer's port in DX (16-bit code: a PIC's too); a breakpoint there needs a debug register.

use kvm_sys_wrap::{Breakpoint, BreakpointCondition, Exit, GuestDebug, Vcpu};
use vm_memory::Bytes;

use crate::cpu::cpu_state::CpuState;
use crate::debugger::linear_memory::LinearMemory;
use crate::machine::board::Board;
use crate::machine::debug_capabilities::{DebugCapabilities, TrapByte};
use crate::machine::error::Error;
use crate::spec::Interrupts;
use crate::{Gpa, Gva};

const IN_EAX_DX: u8 = 0xed;
/// The vector of an INT3 in a debug exit.
const BREAKPOINT_VECTOR: u32 = 3;

/// Debug registers and bytes that are in place while the vCPUs run.
#[derive(Debug, Default)]
pub(super) struct SmpBreakpoints {
    pub(super) debug: GuestDebug,
    bytes: Vec<InsertedByte>,
}

/// Byte of guest memory that another one replaces.
#[derive(Debug, Clone, Copy)]
struct InsertedByte {
    gva: Gva,
    gpa: Gpa,
    covered: u8,
    inserted: u8,
}

/// Cause of an exit, as far as breakpoints and watchpoints go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DebugExitCause {
    /// A breakpoint; the vCPU stands before its instruction.
    Breakpoint,
    /// A watchpoint; the access is done.
    Watchpoint(Breakpoint),
    /// An INT3 of the guest's own, whose #BP has been injected.
    GuestInt3,
    /// A debug exit that no breakpoint or watchpoint caused, such as the end of a step.
    Unknown,
    /// An exit like any other.
    NotDebug,
}

impl SmpBreakpoints {
    /// Puts everything in place that fits, and says which breakpoints do not. `views` are those of the vCPUs: an address is
    /// taken as the first of them sees it that sees memory there.
    pub(super) fn place(
        board: &Board,
        views: &[LinearMemory<'_>],
        capabilities: DebugCapabilities,
        breakpoints: impl Iterator<Item = Gva>,
        watchpoints: &[Breakpoint],
    ) -> Result<(Self, Vec<Gva>), Error> {
        let placer = TrapBytePlacer { board, views, byte: capabilities.trap_byte };
        let (mut bytes, mut other) = (Vec::new(), Vec::new());
        for gva in breakpoints {
            match placer.byte_at(gva) {
                Some(byte) => bytes.push(byte),
                None => other.push(gva),
            }
        }
        let mut breakpoints = Self::default();
        let mut other = other.into_iter();
        let mut bytes = bytes.into_iter();
        let mut wanted = watchpoints.iter().copied();
        // Registers are for what cannot be a byte; what is left of them is still better than a byte.
        let mut executions = other.by_ref().chain(bytes.by_ref().map(|byte| byte.gva));
        for register in &mut breakpoints.debug.breakpoints {
            *register = wanted.next();
            if register.is_none() && capabilities.hardware_breakpoints {
                *register = executions
                    .next()
                    .map(|address| Breakpoint { address, condition: BreakpointCondition::Execute });
            }
        }
        for byte in bytes {
            board.memory.write_obj(byte.inserted, byte.gpa.into()).map_err(failed)?;
            breakpoints.bytes.push(byte);
        }
        breakpoints.debug.software_breakpoints =
            capabilities.trap_byte == Some(TrapByte::Int3) && !breakpoints.bytes.is_empty();
        Ok((breakpoints, other.collect()))
    }

    /// Removes the bytes. Bytes that the guest has written there meanwhile stay.
    pub(super) fn remove(&self, board: &Board) -> Result<(), Error> {
        // Backwards: where two lie on each other, the first knows what was there.
        for byte in self.bytes.iter().rev() {
            let now: u8 = board.memory.read_obj(byte.gpa.into()).map_err(failed)?;
            if now == byte.inserted {
                board.memory.write_obj(byte.covered, byte.gpa.into()).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Finds the cause of an exit. If an inserted byte caused it, the vCPU is set back to before it.
    pub(super) fn identify(
        &self,
        board: &Board,
        vcpu: &mut Vcpu,
        exit: &Exit,
    ) -> Result<DebugExitCause, Error> {
        if let Exit::PioIn { .. } = exit
            && !self.bytes.is_empty()
            && self.covers(board, vcpu)?
        {
            vcpu.cancel_pio_in()?;
            return Ok(DebugExitCause::Breakpoint);
        }
        let Exit::Debug { exception, dr6, .. } = exit else { return Ok(DebugExitCause::NotDebug) };
        if *exception == BREAKPOINT_VECTOR {
            if self.covers(board, vcpu)? {
                return Ok(DebugExitCause::Breakpoint);
            }
            vcpu.set_guest_debug(&GuestDebug { inject_int3: true, ..self.debug })?;
            return Ok(DebugExitCause::GuestInt3);
        }
        Ok(match self.fired(*dr6) {
            Some(Breakpoint { condition: BreakpointCondition::Execute, .. }) => DebugExitCause::Breakpoint,
            Some(watchpoint) => DebugExitCause::Watchpoint(watchpoint),
            None => DebugExitCause::Unknown,
        })
    }

    /// Returns true if a debug register stops before the instruction at this linear address.
    pub(super) fn has_register_at(&self, pc: u64) -> bool {
        let wanted = Breakpoint { address: Gva(pc), condition: BreakpointCondition::Execute };
        self.debug.breakpoints.contains(&Some(wanted))
    }

    /// Returns true if the vCPU stands on an inserted byte, by any address that is mapped to it.
    fn covers(&self, board: &Board, vcpu: &Vcpu) -> Result<bool, Error> {
        let registers = CpuState::from_vcpu(vcpu)?;
        let pc = Gva(registers.linear_rip());
        if self.bytes.iter().any(|byte| byte.gva == pc) {
            return Ok(true);
        }
        let to = LinearMemory::from_board(board, &registers).walk(pc);
        Ok(to.is_some_and(|to| self.bytes.iter().any(|byte| byte.gpa == to.gpa)))
    }

    /// Watchpoint or breakpoint that the bits of DR6 stand for.
    fn fired(&self, dr6: u64) -> Option<Breakpoint> {
        let hit = |number: usize| dr6 & 1 << number != 0;
        (0..).zip(self.debug.breakpoints).filter(|(number, _)| hit(*number)).find_map(|(_, wanted)| wanted)
    }
}

/// Choice of the byte for each breakpoint.
struct TrapBytePlacer<'a> {
    board: &'a Board,
    views: &'a [LinearMemory<'a>],
    byte: Option<TrapByte>,
}

impl TrapBytePlacer<'_> {
    /// Byte for a breakpoint; `None` where it needs a debug register.
    fn byte_at(&self, gva: Gva) -> Option<InsertedByte> {
        let (memory, to) = self.views.iter().find_map(|memory| Some((memory, memory.walk(gva)?)))?;
        let is_ring_3 = to.size.is_some() && to.access.user;
        let inserted = match self.byte? {
            TrapByte::Int3 => TrapByte::INT3,
            // Below a kernel of its own, code of ring 3 may not touch ports.
            TrapByte::In if is_ring_3 && self.board.trap_page.is_none() => return None,
            TrapByte::In => {
                let port = memory.number(Gva(gva.0.wrapping_add(1)), 1).unwrap_or(0);
                let is_in_kernel = self.board.spec.interrupts == Interrupts::Pc && is_in_kernel(port);
                if is_in_kernel { IN_EAX_DX } else { TrapByte::IN_AL_IMM8 }
            }
        };
        let covered = self.board.memory.read_obj::<u8>(to.gpa.into()).ok()?;
        Some(InsertedByte { gva, gpa: to.gpa, covered, inserted })
    }
}

/// Returns true for ports that the kernel answers: the PICs, the timer, and the speaker's, which belongs to it.
const fn is_in_kernel(port: u64) -> bool {
    matches!(port, 0x20 | 0x21 | 0x40..=0x43 | 0x61 | 0xa0 | 0xa1)
}

fn failed(source: vm_memory::GuestMemoryError) -> Error {
    Error::Table { what: "a breakpoint", source }
}
