//! Classification of a hang by a sample of single steps.
//!
//! The state at the limit is restored into a new machine, which is single-stepped for a while. A small set of repeated
//! addresses is a loop, and its reads show the condition that it waits for. Repeated exceptions at one address are an
//! exception storm. An instruction that does not complete is a hang of its own kind.

use std::time::Duration;

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use crate::cpu::control_regs::Cr0;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::record::Recording;
use crate::record::checkpoint::Checkpoint;
use crate::record::replay::Replayer;

use super::exception::Exception;
use super::fetch::FetchResult;
use super::instruction_trace::{DeliveredException, InstructionTrace, StepResult, TracedInstruction};
use crate::cpu::cpu_state::CpuState;
use crate::devices::installed;
use crate::machine::guest_state::GuestState;
use crate::spec::Interrupts;
use crate::{Gpa, Gva, Port};

/// Single steps of a sample.
const SAMPLE_STEPS: u64 = 1000;
/// Time limit of a sample.
const SAMPLE_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of different instructions of a loop. With more of them the guest is taken to be working.
const MAX_LOOP_INSTRUCTIONS: usize = 256;
/// Number of exceptions at one address that make an exception storm.
const EXCEPTION_STORM_THRESHOLD: u64 = 20;

/// Kind of a hang: the activity of a guest that does not end.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum HangKind {
    /// Jump of an instruction to itself.
    JumpToSelf,
    /// Loop of a few instructions that does not end.
    Loop(LoopAnalysis),
    /// Repeated exception at one address: the handler returns without removing its cause.
    ExceptionStorm {
        /// Exception that is raised again and again, the instruction that raises it, and its handler.
        raised: Box<DeliveredException>,
        /// Number of times that the exception was raised in the sample. `None` if the handler is the instruction that raised
        /// it.
        count: Option<u64>,
    },
    /// Interrupts that arrive faster than the guest can handle them.
    InterruptStorm {
        /// Number of interrupts that were delivered.
        count: u64,
        /// Duration in which the interrupts were delivered.
        time: Duration,
        /// Vector of the interrupt in service or pending.
        vector: u8,
        /// Source of the interrupt in words; `None` if it is not known.
        source: Option<String>,
    },
    /// The vCPU is halted and waits for an interrupt.
    Halted,
    /// The machine is suspended until an RTC alarm that has not occurred yet.
    Suspended,
    /// Instruction that does not complete, and the exception that it must raise if one is predicted.
    NonTerminatingInstruction(Option<Exception>),
    /// Execution of memory that holds zeros.
    ExecutingZeros {
        /// True in real mode, where an empty vector leads to address 0.
        real: bool,
    },
    /// No pattern was found in the sample. The guest may need more time.
    NoPattern {
        /// Number of different instructions in the sample; `None` where the guest could not be single-stepped.
        distinct: Option<usize>,
    },
    /// The guest ended during the sample: it needs more time.
    FinishesWithMoreTime(End),
}

/// Analysis of a loop: its instructions, and the ports and memory that it reads.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LoopAnalysis {
    /// Instructions of the loop, by address.
    pub body: Vec<TracedInstruction>,
    /// I/O ports that the loop reads.
    pub reads_ports: Vec<u16>,
    /// I/O ports that the loop reads and no device of the machine has: they read as all ones.
    pub unanswered_ports: Vec<u16>,
    /// I/O ports that the loop writes.
    pub writes_ports: Vec<u16>,
    /// Memory that the loop polls.
    pub polled_memory: Option<PolledMemory>,
    /// True if the loop contains HLT.
    pub has_hlt: bool,
    /// Index of a VMCALL or VMMCALL among the instructions of the loop.
    pub hypercall: Option<usize>,
}

/// Memory that a loop polls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolledMemory {
    /// Linear address.
    pub address: u64,
    /// Guest-physical address; `None` if the address is not mapped.
    pub gpa: Option<Gpa>,
    /// Number of bytes, 1 to 8.
    pub size: usize,
    /// Value of the memory.
    pub value: u64,
    /// vCPU that wrote the value, on a machine whose vCPUs take turns, when the guest ran again. `None` if it is not known.
    pub writer: Option<u64>,
}

/// Single-steps a vCPU of a machine that was stopped by a limit from a checkpoint on, and classifies the hang. Interrupts are not
/// delivered.
pub(super) fn sample(
    checkpoint: &Checkpoint,
    vcpu: usize,
    build: &dyn Fn() -> Result<Machine, Error>,
    budget: Duration,
) -> Result<(HangKind, InstructionTrace), Error> {
    let nothing = Recording::new();
    let mut replayer = Replayer::new(build, &nothing)?;
    replayer.machine_mut().restore(checkpoint)?;
    replayer.machine_mut().stopped_vcpu = vcpu;
    replayer.set_budget(budget.min(SAMPLE_TIMEOUT))?;
    let mut trace = InstructionTrace::default();
    let result = trace.record(&mut replayer, SAMPLE_STEPS, SAMPLE_TIMEOUT)?;
    let hang = match result {
        StepResult::Stuck(registers) => classify_stuck(replayer.machine(), &registers),
        // An interrupt would end it.
        StepResult::Ended { end: End::Halt { interrupts: true }, .. }
            if replayer.machine().spec().interrupts != Interrupts::None =>
        {
            HangKind::NoPattern { distinct: None }
        }
        StepResult::Ended { end, .. } => HangKind::FinishesWithMoreTime(end),
        StepResult::RecursiveFault(raised) => HangKind::ExceptionStorm { raised, count: None },
        StepResult::StepLimit | StepResult::Diverged | StepResult::OutOfTime => {
            classify_trace(&replayer, &trace)?
        }
    };
    Ok((hang, trace))
}

/// Classifies an instruction that did not complete. Some hosts do not report the step of a jump to itself.
fn classify_stuck(machine: &Machine, registers: &CpuState) -> HangKind {
    let guest = GuestState::from_machine(machine, registers);
    let fetched = guest.fetch();
    match &fetched {
        FetchResult::Instruction(instruction, _) if jumps_to(instruction, registers.regs.rip) => {
            HangKind::JumpToSelf
        }
        FetchResult::Instruction(..)
        | FetchResult::Invalid(_)
        | FetchResult::Fault(_)
        | FetchResult::Unmapped => HangKind::NonTerminatingInstruction(guest.predict_fault(&fetched)),
    }
}

/// Classifies a hang of a guest that cannot be single-stepped, by its current instruction.
pub(super) fn classify_instruction(ended: &Machine, registers: &CpuState) -> HangKind {
    let guest = GuestState::from_machine(ended, registers);
    match guest.fetch() {
        FetchResult::Instruction(instruction, _) if jumps_to(&instruction, registers.regs.rip) => {
            HangKind::JumpToSelf
        }
        FetchResult::Instruction(..)
        | FetchResult::Invalid(_)
        | FetchResult::Fault(_)
        | FetchResult::Unmapped => HangKind::NoPattern { distinct: None },
    }
}

/// Classifies a hang by its instruction trace.
fn classify_trace(replayer: &Replayer<'_>, trace: &InstructionTrace) -> Result<HangKind, Error> {
    if let Some(((at, vector), count)) = trace.exception_counts.iter().max_by_key(|(_, count)| **count)
        && *count >= EXCEPTION_STORM_THRESHOLD.min(trace.steps / 8 + 1)
        && let Some(raised) = trace.last_exception(*at, *vector)
    {
        return Ok(HangKind::ExceptionStorm { raised: Box::new(raised.clone()), count: Some(*count) });
    }
    let zeros = trace.instructions.iter().filter(|traced| traced.bytes.iter().all(|byte| *byte == 0)).count();
    if zeros > trace.instructions.len() / 2 {
        return Ok(HangKind::ExecutingZeros {
            real: !CpuState::from_vcpu(replayer.machine().vcpu())?.cr0().contains(Cr0::PE),
        });
    }
    // Instructions executed only once lie before the loop.
    let body: Vec<u64> =
        trace.execution_counts.iter().filter(|(_, count)| **count > 1).map(|(at, _)| *at).collect();
    let rounds: u64 = body.iter().filter_map(|at| trace.execution_counts.get(at)).sum();
    if body.is_empty() || body.len() > MAX_LOOP_INSTRUCTIONS || rounds < trace.steps / 2 {
        return Ok(HangKind::NoPattern { distinct: Some(trace.execution_counts.len()) });
    }
    let registers = CpuState::from_vcpu(replayer.machine().vcpu())?;
    if body.len() == 1 && trace.instructions.back().is_some_and(jumps_to_itself) {
        return Ok(HangKind::JumpToSelf);
    }
    Ok(HangKind::Loop(analyze_loop(replayer, &registers, &body)))
}

fn jumps_to_itself(traced: &TracedInstruction) -> bool {
    jumps_to(&traced.decode(), traced.linear)
}

/// Returns true for an unconditional near jump to `address`.
fn jumps_to(instruction: &Instruction, address: u64) -> bool {
    instruction.flow_control() == FlowControl::UnconditionalBranch
        && instruction.near_branch_target() == address
}

#[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
fn analyze_loop(replayer: &Replayer<'_>, registers: &CpuState, body: &[u64]) -> LoopAnalysis {
    let machine = replayer.machine();
    let mut found = LoopAnalysis {
        body: Vec::new(),
        reads_ports: Vec::new(),
        unanswered_ports: Vec::new(),
        writes_ports: Vec::new(),
        polled_memory: None,
        has_hlt: false,
        hypercall: None,
    };
    let (width, base) = (registers.width(), registers.linear_rip().wrapping_sub(registers.regs.rip));
    for linear in body {
        let mut registers_there = *registers;
        registers_there.regs.rip = linear.wrapping_sub(base);
        let guest = GuestState::from_machine(machine, &registers_there);
        let FetchResult::Instruction(instruction, bytes) = guest.fetch() else { continue };
        let port = || {
            let immediate = instruction.op_kinds().any(|kind| kind == OpKind::Immediate8);
            if immediate { instruction.immediate8().into() } else { (registers.regs.rdx & 0xffff) as u16 }
        };
        match instruction.mnemonic() {
            Mnemonic::In | Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => found.reads_ports.push(port()),
            Mnemonic::Out | Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
                found.writes_ports.push(port());
            }
            Mnemonic::Hlt => found.has_hlt = true,
            Mnemonic::Vmcall | Mnemonic::Vmmcall => found.hypercall = Some(found.body.len()),
            _ => {}
        }
        if found.polled_memory.is_none() {
            found.polled_memory = polled_memory(&guest, &instruction);
        }
        found.body.push(TracedInstruction {
            linear: *linear,
            width,
            bytes,
            regs: registers.regs,
            raised: None,
            repetitions: 1,
        });
    }
    for ports in [&mut found.reads_ports, &mut found.writes_ports] {
        ports.sort_unstable();
        ports.dedup();
    }
    let devices = installed(&machine.spec().devices);
    let is_answered = |port: &u16| devices.iter().any(|device| device.has_port(Port(*port)));
    found.unanswered_ports = found.reads_ports.iter().copied().filter(|port| !is_answered(port)).collect();
    found
}

/// Memory operand that the instruction polls: it is read, and its address has no index register.
fn polled_memory(guest: &GuestState<'_>, instruction: &Instruction) -> Option<PolledMemory> {
    let reads = matches!(
        instruction.mnemonic(),
        Mnemonic::Cmp
            | Mnemonic::Test
            | Mnemonic::Mov
            | Mnemonic::Movzx
            | Mnemonic::Bt
            // Locks.
            | Mnemonic::Bts
            | Mnemonic::Cmpxchg
            | Mnemonic::Xchg
    );
    if !reads
        || instruction.flow_control() != FlowControl::Next
        || instruction.memory_index() != Register::None
    {
        return None;
    }
    let number = (0..instruction.op_count()).find(|number| instruction.op_kind(*number) == OpKind::Memory)?;
    let written = number == 0 && instruction.mnemonic() == Mnemonic::Mov;
    // Local variables on the stack are not polled.
    let local =
        matches!(instruction.memory_base(), Register::RBP | Register::EBP | Register::RSP | Register::ESP);
    if written || local {
        return None;
    }
    let address = guest.operand_address(instruction, number)?;
    Some(PolledMemory {
        address,
        gpa: guest.walker().walk(guest.memory, Gva(address)).translation().map(|to| to.gpa),
        size: instruction.memory_size().size(),
        value: guest.operand_value(instruction, number)?,
        writer: None,
    })
}
