//! What a guest does that does not come to an end: a sample of its steps, and what that looks like.
//!
//! The state at the limit is put into a new machine and led on for a while. A few addresses that come again and again are a
//! loop; what the loop reads says what it waits for. Exceptions at one place, again and again, are a storm. And an
//! instruction that never ends is one too.

use std::time::Duration;

use iced_x86::{Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::cpu::control_regs::Cr0;
use crate::machine::Machine;
use crate::machine::error::Error;
use crate::record::Recording;
use crate::record::replay::Replayer;

use super::exception::Exception;
use super::fetch::Fetched;
use super::instruction_trace::{DeliveredException, InstructionTrace, StepResult, TracedInstruction};
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

/// Steps of a sample.
const SAMPLE: u64 = 1000;
/// Time for it.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(3);
/// A loop has at most this many instructions; more is called a program at work.
const LARGEST_LOOP: usize = 256;
/// This many exceptions at one place are a storm.
const STORM: u64 = 20;

/// What a guest that does not end is doing.
#[derive(Debug, Clone)]
pub enum Hang {
    /// One instruction that jumps to itself.
    JumpToSelf,
    /// A small loop.
    Loop(Loop),
    /// The same exception at the same place, again and again: the handler returns without mending its cause.
    ExceptionStorm {
        /// The exception, where it is raised, and its handler.
        raised: Box<DeliveredException>,
        /// How often in the sample; `None` if the handler is the very instruction that raised it.
        count: Option<u64>,
    },
    /// Interrupts come faster than the guest gets work done.
    Interrupts {
        /// How many.
        count: u64,
        /// In how much time.
        time: Duration,
        /// The vector of the one that is being served, or is due.
        vector: u8,
    },
    /// It sleeps, and only an interrupt that does not come would wake it.
    Asleep,
    /// It had suspended the machine, and the alarm that would wake it had not come.
    Suspended,
    /// An instruction that does not come to an end.
    NonTerminatingInstruction(Option<Exception>),
    /// The CPU runs through zeros, which are no code of anybody's.
    ExecutingZeros {
        /// Whether it is in real mode, where an empty vector leads to such a place.
        real: bool,
    },
    /// No pattern: it may just need more time.
    NoPattern {
        /// Different instructions in the sample.
        distinct: usize,
    },
    /// It ended by itself when it was given more time.
    FinishesWithMoreTime(crate::machine::end::End),
}

/// A small loop.
#[derive(Debug, Clone)]
pub struct Loop {
    /// Its instructions, by address.
    pub body: Vec<TracedInstruction>,
    /// Ports that it reads.
    pub reads_ports: Vec<u16>,
    /// Ports that it writes.
    pub writes_ports: Vec<u16>,
    /// An address in memory that it reads and compares, with the value there.
    pub watches: Option<(u64, u64)>,
    /// A HLT in it.
    pub halts: bool,
    /// A call to the hypervisor in it: its number in `body`.
    pub calls: Option<usize>,
}

/// Samples a machine that was stopped by a limit.
pub(super) fn sample(
    ended: &Machine,
    build: &dyn Fn() -> Result<Machine, Error>,
    budget: Duration,
) -> Result<(Hang, InstructionTrace), Error> {
    let checkpoint = ended.checkpoint()?;
    let nothing = Recording::new();
    let mut replayer = Replayer::new(build, &nothing)?;
    replayer.machine_mut().restore(&checkpoint)?;
    replayer.set_budget(budget.min(SAMPLE_TIMEOUT))?;
    let mut trail = InstructionTrace::default();
    let walked = trail.follow(&mut replayer, SAMPLE, SAMPLE_TIMEOUT)?;
    let hang = match walked {
        StepResult::Stuck(registers) => stuck(replayer.machine(), &registers),
        StepResult::Ended { end, .. } => Hang::FinishesWithMoreTime(end),
        StepResult::Circle(raised) => Hang::ExceptionStorm { raised, count: None },
        StepResult::Enough | StepResult::Diverged | StepResult::OutOfTime => pattern(&replayer, &trail)?,
    };
    Ok((hang, trail))
}

/// An instruction without an end. Some hosts do not report a step that leads to where it began.
fn stuck(machine: &Machine, registers: &CpuState) -> Hang {
    let moment = GuestState::from_machine(machine, registers);
    let fetched = moment.fetch();
    match &fetched {
        Fetched::Instruction(instruction, _) if leads_to(instruction, registers.regs.rip) => Hang::JumpToSelf,
        Fetched::Instruction(..) | Fetched::Invalid(_) | Fetched::Fault(_) | Fetched::NoMemory => {
            Hang::NonTerminatingInstruction(moment.fault_of(&fetched))
        }
    }
}

/// A guest that cannot be stepped: what the one instruction says that it stood at.
pub(super) fn at_rest(ended: &Machine, registers: &CpuState) -> Hang {
    let moment = GuestState::from_machine(ended, registers);
    match moment.fetch() {
        Fetched::Instruction(instruction, _) if leads_to(&instruction, registers.regs.rip) => {
            Hang::JumpToSelf
        }
        Fetched::Instruction(..) | Fetched::Invalid(_) | Fetched::Fault(_) | Fetched::NoMemory => {
            Hang::NoPattern { distinct: 0 }
        }
    }
}

/// What the steps look like.
fn pattern(replayer: &Replayer<'_>, trail: &InstructionTrace) -> Result<Hang, Error> {
    if let Some(((at, vector), count)) = trail.raised.iter().max_by_key(|(_, count)| **count)
        && *count >= STORM.min(trail.steps / 8 + 1)
        && let Some(raised) = trail.last_raised(*at, *vector)
    {
        return Ok(Hang::ExceptionStorm { raised: Box::new(raised.clone()), count: Some(*count) });
    }
    let zeros = trail.past.iter().filter(|past| past.bytes.iter().all(|byte| *byte == 0)).count();
    if zeros > trail.past.len() / 2 {
        return Ok(Hang::ExecutingZeros {
            real: !CpuState::from_vcpu(replayer.machine().vcpu())?.cr0().contains(Cr0::PE),
        });
    }
    // What was executed once belongs to the way into the loop.
    let body: Vec<u64> = trail.visits.iter().filter(|(_, count)| **count > 1).map(|(at, _)| *at).collect();
    let rounds: u64 = body.iter().filter_map(|at| trail.visits.get(at)).sum();
    if body.is_empty() || body.len() > LARGEST_LOOP || rounds < trail.steps / 2 {
        return Ok(Hang::NoPattern { distinct: trail.visits.len() });
    }
    let registers = CpuState::from_vcpu(replayer.machine().vcpu())?;
    if body.len() == 1 && trail.past.back().is_some_and(jumps_to_itself) {
        return Ok(Hang::JumpToSelf);
    }
    Ok(Hang::Loop(describe(replayer, &registers, &body)))
}

fn jumps_to_itself(past: &TracedInstruction) -> bool {
    leads_to(&decode(past), past.linear)
}

/// A plain jump to an address.
fn leads_to(instruction: &Instruction, address: u64) -> bool {
    instruction.flow_control() == FlowControl::UnconditionalBranch
        && instruction.near_branch_target() == address
}

fn decode(past: &TracedInstruction) -> Instruction {
    Decoder::with_ip(past.width.bits(), &past.bytes, past.linear, 0).decode()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
fn describe(replayer: &Replayer<'_>, registers: &CpuState, body: &[u64]) -> Loop {
    let machine = replayer.machine();
    let mut found = Loop {
        body: Vec::new(),
        reads_ports: Vec::new(),
        writes_ports: Vec::new(),
        watches: None,
        halts: false,
        calls: None,
    };
    let (width, base) = (registers.width(), registers.linear_rip().wrapping_sub(registers.regs.rip));
    for linear in body {
        let mut there = *registers;
        there.regs.rip = linear.wrapping_sub(base);
        let moment = GuestState::from_machine(machine, &there);
        let Fetched::Instruction(instruction, bytes) = moment.fetch() else { continue };
        let port = || {
            let immediate = instruction.op_kinds().any(|kind| kind == OpKind::Immediate8);
            if immediate { instruction.immediate8().into() } else { (registers.regs.rdx & 0xffff) as u16 }
        };
        match instruction.mnemonic() {
            Mnemonic::In | Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => found.reads_ports.push(port()),
            Mnemonic::Out | Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
                found.writes_ports.push(port());
            }
            Mnemonic::Hlt => found.halts = true,
            Mnemonic::Vmcall | Mnemonic::Vmmcall => found.calls = Some(found.body.len()),
            _ => {}
        }
        if found.watches.is_none() {
            found.watches = watched(&moment, &instruction);
        }
        found.body.push(TracedInstruction {
            linear: *linear,
            width,
            bytes,
            regs: registers.regs,
            raised: None,
            times: 1,
        });
    }
    for ports in [&mut found.reads_ports, &mut found.writes_ports] {
        ports.sort_unstable();
        ports.dedup();
    }
    found
}

/// A variable that is looked at: read from an address without registers that change in every round.
fn watched(moment: &GuestState<'_>, instruction: &Instruction) -> Option<(u64, u64)> {
    let looks = matches!(
        instruction.mnemonic(),
        Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Bt
    );
    if !looks
        || instruction.flow_control() != FlowControl::Next
        || instruction.memory_index() != Register::None
    {
        return None;
    }
    let number = (0..instruction.op_count()).find(|number| instruction.op_kind(*number) == OpKind::Memory)?;
    let written = number == 0 && instruction.mnemonic() == Mnemonic::Mov;
    // The frame of a function is its own business.
    let local =
        matches!(instruction.memory_base(), Register::RBP | Register::EBP | Register::RSP | Register::ESP);
    if written || local {
        return None;
    }
    Some((moment.operand_address(instruction, number)?, moment.operand(instruction, number)?))
}
