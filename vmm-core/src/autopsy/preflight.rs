//! Before the run: what the first instructions of a guest will surely run into.
//!
//! The same reasoning as after a death, on the initial state of a machine that was never built. It looks at the first
//! instruction, at the stack, and at all code that can be reached by direct jumps and calls from some addresses.

use std::collections::BTreeSet;

use iced_x86::{EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::exception::Exception;
use super::fetch::Fetched;
use super::page_fault::{AccessKind, PageAccess};
use super::summary;
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

/// Instructions that are looked at.
const MAX_INSTRUCTIONS: usize = 50_000;

/// What comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryCheck {
    /// An instruction that can be executed.
    Fine,
    /// A fault: the instruction as text and why.
    Fault(String, Exception),
    /// Zeros, which is `add [rax],al`: most likely nothing was loaded there.
    Zeros,
}

/// A place in the code that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeLocation {
    /// Its linear address.
    pub linear: u64,
    /// The instruction.
    pub text: String,
}

/// What was found in the code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reachability {
    /// The first SSE instruction.
    pub sse: Option<CodeLocation>,
    /// The first STI.
    pub sti: Option<CodeLocation>,
    /// Whether an IDT is loaded somewhere.
    pub loads_idt: bool,
    /// Whether CR4 is written somewhere.
    pub writes_cr4: bool,
}

impl GuestState<'_> {
    /// What the next instruction runs into.
    #[must_use]
    pub fn first(&self) -> EntryCheck {
        let fetched = self.fetch();
        if let Fetched::Instruction(_, bytes) = &fetched
            && bytes.iter().all(|byte| *byte == 0)
        {
            return EntryCheck::Zeros;
        }
        let text = match &fetched {
            Fetched::Instruction(_, bytes) | Fetched::Invalid(bytes) => {
                summary::code(bytes, self.registers.width(), self.registers.linear_rip())
            }
            Fetched::Fault(_) | Fetched::NoMemory => "the instruction fetch".to_owned(),
        };
        match self.fault_of(&fetched) {
            // INT is an instruction like any other.
            Some(fault) if !fault.software => EntryCheck::Fault(text, fault),
            Some(_) | None => EntryCheck::Fine,
        }
    }

    /// What a push runs into: `Err` with the reason. The physical address otherwise.
    ///
    /// # Errors
    /// The page fault that it would raise.
    pub fn push(&self) -> Result<crate::Gpa, Exception> {
        let linear = self.registers.linear_stack().wrapping_sub(2);
        let user = self.registers.cpl() == 3;
        let access = PageAccess { linear, size: 2, kind: AccessKind::Write, user, implicit: false };
        let pieces = self.pieces(&access)?;
        Ok(pieces.first().map_or(crate::Gpa(linear), |(gpa, _)| *gpa))
    }

    /// Looks at the code that can be reached from the present instruction and from `entries`, offsets in the code segment.
    #[must_use]
    pub fn reach(&self, entries: &[u64]) -> Reachability {
        let mut found = Reachability::default();
        let mut waiting: Vec<u64> = entries.to_vec();
        waiting.push(self.registers.regs.rip);
        let mut seen = BTreeSet::new();
        while let Some(rip) = waiting.pop() {
            if seen.len() >= MAX_INSTRUCTIONS {
                break;
            }
            if !seen.insert(rip) {
                continue;
            }
            let mut registers: CpuState = *self.registers;
            registers.regs.rip = rip;
            let there = GuestState { registers: &registers, ..*self };
            let Fetched::Instruction(instruction, bytes) = there.fetch() else { continue };
            // What is zero is not code.
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            found.note(&instruction, &bytes, &registers);
            waiting.extend(successors(&instruction));
        }
        found
    }
}

impl Reachability {
    #[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
    fn note(&mut self, instruction: &Instruction, bytes: &[u8], registers: &CpuState) {
        let linear = registers.linear_rip();
        let spot = || Some(CodeLocation { linear, text: summary::code(bytes, registers.width(), linear) });
        if is_sse(instruction) && self.sse.as_ref().is_none_or(|spot| linear < spot.linear) {
            self.sse = spot();
        }
        match instruction.mnemonic() {
            Mnemonic::Sti if self.sti.is_none() => self.sti = spot(),
            Mnemonic::Lidt => self.loads_idt = true,
            _ => {}
        }
        let to_register = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register;
        self.writes_cr4 |= to_register && instruction.op0_register() == Register::CR4;
    }
}

/// Where an instruction can lead, as far as that stands in it.
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
