//! Checks of a machine before its first instruction, without KVM.
//!
//! Applies the exception prediction of an autopsy to the initial state: to the first instruction, to a push on the stack,
//! and to all code that direct jumps and calls reach from given addresses.

use std::collections::BTreeSet;

use iced_x86::{EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::exception::Exception;
use super::fetch::FetchResult;
use super::page_fault::{AccessKind, PageAccess};
use super::summary;
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

/// Maximum number of instructions of a scan.
const MAX_SCANNED_INSTRUCTIONS: usize = 50_000;

/// Result of the check of the first instruction.
///
/// Exhaustive: a caller has to report each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryCheck {
    /// First instruction that raises no exception.
    Executable,
    /// First instruction that raises an exception: its text, and the exception.
    Fault(String, Exception),
    /// First instruction of zeros, which decode to `add [rax],al`. Most likely nothing was loaded there.
    Zeros,
}

/// Location of an instruction, and the instruction as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeLocation {
    /// Linear address of the instruction.
    pub linear: u64,
    /// Instruction as text, such as `sti`.
    pub text: String,
}

/// Result of a scan of the code that a guest can reach without indirect jumps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reachability {
    /// SSE instruction with the lowest address in the reachable code.
    pub sse: Option<CodeLocation>,
    /// First STI instruction that the scan found.
    pub sti: Option<CodeLocation>,
    /// True if the reachable code contains LIDT.
    pub loads_idt: bool,
    /// True if the reachable code writes to CR4.
    pub writes_cr4: bool,
}

impl GuestState<'_> {
    /// Checks if the CPU can execute the next instruction.
    #[must_use]
    pub fn check_entry(&self) -> EntryCheck {
        let fetched = self.fetch();
        if let FetchResult::Instruction(_, bytes) = &fetched
            && bytes.iter().all(|byte| *byte == 0)
        {
            return EntryCheck::Zeros;
        }
        let text = match &fetched {
            FetchResult::Instruction(_, bytes) | FetchResult::Invalid(bytes) => {
                summary::disassemble(bytes, self.registers.width(), self.registers.linear_rip())
            }
            FetchResult::Fault(_) | FetchResult::Unmapped => "the instruction fetch".to_owned(),
        };
        match self.predict_fault(&fetched) {
            // A software interrupt is not an error.
            Some(fault) if !fault.software => EntryCheck::Fault(text, fault),
            Some(_) | None => EntryCheck::Executable,
        }
    }

    /// Checks if a push of 2 bytes is possible, and returns its guest-physical address.
    ///
    /// # Errors
    /// Exception that the push would raise.
    pub fn check_first_push(&self) -> Result<crate::Gpa, Exception> {
        let linear = self.registers.linear_stack().wrapping_sub(2);
        let user = self.registers.cpl() == 3;
        let access = PageAccess { linear, size: 2, kind: AccessKind::Write, user, implicit: false };
        let pieces = self.physical_ranges(&access)?;
        Ok(pieces.first().map_or(crate::Gpa(linear), |(gpa, _)| *gpa))
    }

    /// Scans the code that direct jumps and calls reach from the next instruction and from `entries`, which are offsets in
    /// the code segment.
    #[must_use]
    pub fn scan_reachable(&self, entries: &[u64]) -> Reachability {
        let mut found = Reachability::default();
        let mut pending: Vec<u64> = entries.to_vec();
        pending.push(self.registers.regs.rip);
        let mut visited = BTreeSet::new();
        while let Some(rip) = pending.pop() {
            if visited.len() >= MAX_SCANNED_INSTRUCTIONS {
                break;
            }
            if !visited.insert(rip) {
                continue;
            }
            let mut registers: CpuState = *self.registers;
            registers.regs.rip = rip;
            let guest = GuestState { registers: &registers, ..*self };
            let FetchResult::Instruction(instruction, bytes) = guest.fetch() else { continue };
            // Zeros are not code.
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            found.record(&instruction, &bytes, &registers);
            pending.extend(successors(&instruction));
        }
        found
    }
}

impl Reachability {
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    fn record(&mut self, instruction: &Instruction, bytes: &[u8], registers: &CpuState) {
        let linear = registers.linear_rip();
        let location =
            || Some(CodeLocation { linear, text: summary::disassemble(bytes, registers.width(), linear) });
        if is_sse(instruction) && self.sse.as_ref().is_none_or(|location| linear < location.linear) {
            self.sse = location();
        }
        match instruction.mnemonic() {
            Mnemonic::Sti if self.sti.is_none() => self.sti = location(),
            Mnemonic::Lidt => self.loads_idt = true,
            _ => {}
        }
        let to_register = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register;
        self.writes_cr4 |= to_register && instruction.op0_register() == Register::CR4;
    }
}

/// Returns the offsets of the possible next instructions, without indirect targets.
fn successors(instruction: &Instruction) -> Vec<u64> {
    let (next, target) = (instruction.next_ip(), instruction.near_branch_target());
    match instruction.flow_control() {
        FlowControl::Next
        | FlowControl::Interrupt
        | FlowControl::IndirectCall
        | FlowControl::XbeginXabortXend => {
            vec![next]
        }
        FlowControl::UnconditionalBranch if target != 0 => vec![target],
        FlowControl::ConditionalBranch => vec![next, target],
        FlowControl::Call if target != 0 => vec![next, target],
        FlowControl::Call => vec![next],
        FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::Return
        | FlowControl::Exception => Vec::new(),
    }
}

fn is_sse(instruction: &Instruction) -> bool {
    instruction.encoding() == EncodingKind::Legacy
        && (0..instruction.op_count()).any(|number| {
            instruction.op_kind(number) == OpKind::Register && instruction.op_register(number).is_xmm()
        })
}
