//! Single-steps a replay and records the last instructions, writes and exceptions.
//!
//! Before each step the instruction is decoded and its exception, if any, is predicted. This way the trace follows
//! exceptions into the guest's handlers, and the state before the step that ends the run is available. Writes to memory are
//! recorded to find the writer of a faulty page table entry or gate.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic};
use kvm_sys_wrap::bindings::kvm_regs;
use kvm_sys_wrap::{Gpa, KickTimer};
use vm_memory::Bytes;

use crate::cpu::cpu_state::OperandWidth;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::record::replay::{HandlerTrap, ReplayStep, Replayer};

use super::delivery::{ExceptionHandler, IdtEntry};
use super::exception::Exception;
use super::exception_chain::{ChainEnd, ChainLink};
use super::fetch::FetchResult;
use super::last_interrupt::InterruptedProgram;
use super::page_fault::{AccessKind, PageAccess};
use super::predict::nondeterministic_source;
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

/// Maximum number of instructions in a trace.
pub const MAX_TRACED_INSTRUCTIONS: usize = 32;
/// Maximum number of recorded writes.
const MAX_WRITES: usize = 4096;
/// Time after which a step counts as an instruction that does not complete.
const STEP_TIMEOUT: Duration = Duration::from_millis(200);

/// Instruction of a trace, with the registers before it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TracedInstruction {
    /// Linear address of the instruction.
    pub linear: u64,
    /// Operand width of the code that the instruction is in.
    pub width: OperandWidth,
    /// Bytes of the instruction.
    pub bytes: Vec<u8>,
    /// General-purpose registers before the instruction.
    pub regs: kvm_regs,
    /// Exception that the instruction raised and that reached a handler.
    pub raised: Option<DeliveredException>,
    /// Number of times that the instruction was executed in succession. More than 1 only for string instructions with REP.
    pub repetitions: u64,
}

impl TracedInstruction {
    /// Decodes the bytes.
    pub(super) fn decode(&self) -> Instruction {
        Decoder::with_ip(self.width.bits(), &self.bytes, self.linear, DecoderOptions::NONE).decode()
    }
}

/// Exception that was delivered to a handler.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeliveredException {
    /// Exception that the instruction raised.
    pub fault: Exception,
    /// Exception that reached the handler: the one that was raised, or a later one of its chain, such as #DF.
    pub handled: Exception,
    /// Linear address of the handler.
    pub handler: u64,
    /// Gate of the IDT that led to the handler.
    pub gate: Option<IdtEntry>,
    /// Linear address of the instruction that raised the exception.
    pub address: u64,
    /// Bytes of the instruction that raised the exception.
    pub bytes: Vec<u8>,
    /// Operand width of the instruction that raised the exception.
    pub width: OperandWidth,
}

/// Recorded write to memory.
#[derive(Debug, Clone, Copy)]
struct TracedWrite {
    gpa: Gpa,
    size: u64,
    step: u64,
}

/// Trace of single steps.
#[derive(Debug, Default)]
pub(super) struct InstructionTrace {
    pub(super) steps: u64,
    pub(super) instructions: VecDeque<TracedInstruction>,
    /// Number of executions by linear address.
    pub(super) execution_counts: BTreeMap<u64, u64>,
    /// Exceptions whose handlers have not returned yet, outermost first.
    pub(super) active_exceptions: Vec<DeliveredException>,
    /// Number of delivered exceptions by address of the instruction and vector.
    pub(super) exception_counts: BTreeMap<(u64, u8), u64>,
    /// First source of nondeterminism, and the address of its instruction.
    pub(super) nondeterministic: Option<(&'static str, u64)>,
    /// Last instruction that was not followed by the next one in memory, and its step number.
    pub(super) last_jump: Option<(TracedInstruction, u64)>,
    /// Program that an interrupt interrupted before the first step.
    pub(super) interrupted: Option<InterruptedProgram>,
    /// Step that ended the run.
    unfinished_step: Option<PreparedStep>,
    writes: VecDeque<TracedWrite>,
    writers: BTreeMap<u64, TracedInstruction>,
}

/// Reason why recording stopped.
pub(super) enum StepResult {
    /// The run ended. `last_state`: registers before the last instruction.
    Ended { end: End, last_state: Box<CpuState> },
    /// The instruction raises an exception whose handler is the instruction itself.
    RecursiveFault(Box<DeliveredException>),
    /// An instruction does not complete.
    Stuck(Box<CpuState>),
    /// The number of steps or the time of this call is used up.
    StepLimit,
    /// The replay diverged from the recorded run.
    Diverged,
    /// The time budget of the replay is used up.
    OutOfTime,
}

impl InstructionTrace {
    /// Single-steps the replay for at most `steps` instructions and about `time`.
    pub(super) fn record(
        &mut self,
        replayer: &mut Replayer<'_>,
        steps: u64,
        time: Duration,
    ) -> Result<StepResult, Error> {
        let started = Instant::now();
        let mut step_timer = KickTimer::new(STEP_TIMEOUT)?;
        // A kick of an earlier timer may arrive late, so only two kicks without a step between them count.
        let mut last_kick = None;
        let until = self.steps.saturating_add(steps);
        while self.steps < until {
            let registers = CpuState::from_vcpu(replayer.machine().vcpu())?;
            if let Some(program) = &mut self.interrupted {
                program.watch(&registers);
            }
            let step = self.prepare_step(replayer, &registers);
            if let Some(size) =
                step.iret_size.filter(|_| self.active_exceptions.is_empty() && step.links.is_empty())
                && let Some(program) = &mut self.interrupted
            {
                program.watch_iret(&GuestState::from_machine(replayer.machine(), &registers), size);
            }
            if let Some(raised) =
                step.delivered_exception(&registers).filter(|raised| raised.handler == raised.address)
            {
                return Ok(StepResult::RecursiveFault(Box::new(raised)));
            }
            match replayer.step(step.rip_after_hlt, step.handler_trap)? {
                ReplayStep::Done => {
                    self.complete_step(&step, &registers, false);
                    if step.pushes_flags {
                        clear_step_flag(replayer, &registers, None)?;
                    }
                }
                ReplayStep::AtHandler => {
                    self.complete_step(&step, &registers, true);
                    clear_step_flag(replayer, &registers, step.handler)?;
                }
                ReplayStep::Interrupted => {
                    if last_kick == Some(self.steps) {
                        return Ok(StepResult::Stuck(Box::new(registers)));
                    }
                    last_kick = Some(self.steps);
                    step_timer = KickTimer::new(STEP_TIMEOUT)?;
                }
                ReplayStep::Ended(end) => {
                    self.unfinished_step = Some(step);
                    return Ok(StepResult::Ended { end, last_state: Box::new(registers) });
                }
                ReplayStep::Diverged => return Ok(StepResult::Diverged),
                ReplayStep::OutOfTime => return Ok(StepResult::OutOfTime),
            }
            if replayer.is_out_of_time() {
                return Ok(StepResult::OutOfTime);
            }
            if started.elapsed() >= time {
                break;
            }
        }
        drop(step_timer);
        Ok(StepResult::StepLimit)
    }

    /// Decodes the next instruction and predicts its exception.
    fn prepare_step(&mut self, replayer: &Replayer<'_>, registers: &CpuState) -> PreparedStep {
        let machine = replayer.machine();
        let guest = GuestState::from_machine(machine, registers);
        let fetched = guest.fetch();
        let fault = guest.predict_fault(&fetched);
        let linear = registers.linear_rip();
        let mut step = PreparedStep {
            bytes: Vec::new(),
            rip_after_hlt: None,
            handler_trap: None,
            handler: None,
            links: Vec::new(),
            iret_size: None,
            pushes_flags: false,
        };
        if let Some(fault) = fault {
            let trap_page = machine.board.trap_page.map(|trap_page| trap_page.address);
            let chain = guest.exception_chain(fault);
            // The CPU does not use an invalid gate, but the emulator of some hosts does.
            let handler = match chain.end {
                ChainEnd::Handler(handler) | ChainEnd::RecursiveFault(handler) => Some(handler),
                ChainEnd::TripleFault | ChainEnd::Unknown => chain
                    .links
                    .first()
                    .and_then(|link| link.delivery.gate)
                    .and_then(|gate| guest.gate_target(gate)),
            };
            if let Some(handler) = handler {
                // The trap page consists of HLT and ends the run by itself.
                let in_trap_page = trap_page.is_some_and(|page| handler.linear & !0xfff == page.0);
                let access = PageAccess {
                    linear: handler.linear,
                    size: 1,
                    kind: AccessKind::Fetch,
                    user: false,
                    implicit: true,
                };
                let gpa = guest.physical_ranges(&access).ok().and_then(|pieces| Some(pieces.first()?.0));
                step.handler_trap =
                    gpa.filter(|_| !in_trap_page).map(|gpa| HandlerTrap { gpa, linear: handler.linear });
                step.handler = Some(handler);
            }
            step.links = chain.links;
        }
        match fetched {
            FetchResult::Instruction(instruction, bytes) => {
                self.record_writes(&guest, &instruction, !step.links.is_empty());
                self.record_nondeterminism(&instruction, linear);
                step.rip_after_hlt =
                    (instruction.mnemonic() == Mnemonic::Hlt).then(|| linear.wrapping_add(1));
                step.iret_size = iret_size(instruction.mnemonic());
                step.pushes_flags =
                    matches!(instruction.mnemonic(), Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq);
                step.bytes = bytes;
            }
            FetchResult::Invalid(bytes) => step.bytes = bytes,
            FetchResult::Fault(_) | FetchResult::Unmapped => {}
        }
        step
    }

    fn complete_step(&mut self, step: &PreparedStep, registers: &CpuState, handler_reached: bool) {
        let (linear, width, bytes) = (registers.linear_rip(), registers.width(), step.bytes.clone());
        let raised = step.delivered_exception(registers).filter(|_| handler_reached);
        if let Some(raised) = &raised {
            let count = self.exception_counts.entry((linear, raised.fault.vector)).or_default();
            *count = count.saturating_add(1);
            self.active_exceptions.push(raised.clone());
            // Bounds the memory of nested exceptions.
            if self.active_exceptions.len() > MAX_TRACED_INSTRUCTIONS {
                self.active_exceptions.remove(0);
            }
        }
        if step.iret_size.is_some() {
            self.active_exceptions.pop();
        }
        let count = self.execution_counts.entry(linear).or_default();
        *count = count.saturating_add(1);
        let traced = TracedInstruction { linear, width, bytes, regs: registers.regs, raised, repetitions: 1 };
        if self.writes.back().is_some_and(|write| write.step == self.steps) {
            self.writers.insert(self.steps, traced.clone());
        }
        if let Some(last) = self.instructions.back()
            && last.linear.wrapping_add(last.bytes.len() as u64) != linear
            && !is_rep_string(last)
        {
            self.last_jump = Some((last.clone(), self.steps.saturating_sub(1)));
        }
        match self.instructions.back_mut() {
            Some(last) if last.linear == linear && is_rep_string(&traced) => {
                last.repetitions = last.repetitions.saturating_add(1);
            }
            Some(_) | None => self.instructions.push_back(traced),
        }
        if self.instructions.len() > MAX_TRACED_INSTRUCTIONS {
            self.instructions.pop_front();
        }
        self.steps = self.steps.saturating_add(1);
    }

    fn record_nondeterminism(&mut self, instruction: &Instruction, linear: u64) {
        if let Some(what) = nondeterministic_source(instruction) {
            self.nondeterministic.get_or_insert((what, linear));
        }
    }

    fn record_writes(&mut self, guest: &GuestState<'_>, instruction: &Instruction, faults: bool) {
        if faults {
            return;
        }
        let user = guest.registers.cpl() == 3;
        for written in guest.memory_writes(instruction) {
            let access = PageAccess {
                linear: written.linear,
                size: written.size,
                kind: AccessKind::Write,
                user,
                implicit: false,
            };
            for (gpa, size) in guest.physical_ranges(&access).unwrap_or_default() {
                self.writes.push_back(TracedWrite { gpa, size, step: self.steps });
            }
        }
        while self.writes.len() > MAX_WRITES {
            if let Some(old) = self.writes.pop_front() {
                self.writers.remove(&old.step);
            }
        }
    }

    /// Last instruction that wrote to a range of memory, and the number of instructions since.
    pub(super) fn last_writer(&self, gpa: Gpa, size: u64) -> Option<(&TracedInstruction, u64)> {
        let overlaps = |write: &&TracedWrite| {
            write.gpa.0 < gpa.0.saturating_add(size) && gpa.0 < write.gpa.0.saturating_add(write.size)
        };
        let write = self.writes.iter().rev().find(overlaps)?;
        Some((self.writers.get(&write.step)?, self.steps.saturating_sub(write.step)))
    }
}

/// Decoded next instruction and its predicted exceptions.
#[derive(Debug)]
struct PreparedStep {
    bytes: Vec<u8>,
    rip_after_hlt: Option<u64>,
    handler_trap: Option<HandlerTrap>,
    handler: Option<ExceptionHandler>,
    /// Predicted exceptions, in order.
    links: Vec<ChainLink>,
    /// Number of bytes of each word that an IRET takes from the stack; `None` for other instructions.
    iret_size: Option<u64>,
    pushes_flags: bool,
}

impl PreparedStep {
    /// Predicted exception together with its handler.
    fn delivered_exception(&self, registers: &CpuState) -> Option<DeliveredException> {
        let (first, last, handler) = (self.links.first()?, self.links.last()?, self.handler?);
        Some(DeliveredException {
            fault: first.fault.clone(),
            handled: last.fault.clone(),
            handler: handler.linear,
            gate: last.delivery.gate,
            address: registers.linear_rip(),
            bytes: self.bytes.clone(),
            width: registers.width(),
        })
    }
}

/// Clears the trap flag of single-stepping in flags that the CPU pushed for a handler or by PUSHF. A flag that the guest set
/// itself stays.
pub(super) fn clear_step_flag(
    replayer: &Replayer<'_>,
    before: &CpuState,
    handler: Option<ExceptionHandler>,
) -> Result<(), Error> {
    const TRAP_FLAG: u64 = 1 << 8;
    if before.regs.rflags & TRAP_FLAG != 0 {
        return Ok(());
    }
    let machine = replayer.machine();
    let now = CpuState::from_vcpu(machine.vcpu())?;
    let guest = GuestState::from_machine(machine, &now);
    let flags_at = handler.map_or(now.linear_stack(), |handler| handler.flags_address);
    let access =
        PageAccess { linear: flags_at, size: 2, kind: AccessKind::Read, user: false, implicit: true };
    let Some((gpa, _)) = guest.physical_ranges(&access).ok().and_then(|pieces| pieces.first().copied())
    else {
        return Ok(());
    };
    if let Ok(flags) = machine.board.memory.read_obj::<u16>(gpa.into())
        && u64::from(flags) & TRAP_FLAG != 0
    {
        // Ignored: the same address was just read.
        let _ = machine.board.memory.write_obj(flags & !0x100, gpa.into());
    }
    Ok(())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "iced's enums have a thousand names")]
const fn iret_size(mnemonic: Mnemonic) -> Option<u64> {
    match mnemonic {
        Mnemonic::Iret => Some(2),
        Mnemonic::Iretd => Some(4),
        Mnemonic::Iretq => Some(8),
        _ => None,
    }
}

/// Returns true for a string instruction with REP, which takes one step per iteration.
fn is_rep_string(traced: &TracedInstruction) -> bool {
    let decoded = traced.decode();
    decoded.is_string_instruction() && (decoded.has_rep_prefix() || decoded.has_repne_prefix())
}

impl InstructionTrace {
    /// Records the last step as delivered if the run ended at the first instruction of its handler.
    pub(super) fn complete_unfinished_step(&mut self, before: &CpuState, stopped_at: u64) {
        if let Some(step) = self
            .unfinished_step
            .take_if(|step| step.handler.is_some_and(|handler| handler.linear == stopped_at))
        {
            self.complete_step(&step, before, true);
        }
    }

    /// Removes the last instruction if it is the one that ended the run.
    pub(super) fn remove_final_instruction(&mut self, state: &CpuState) {
        let linear = state.linear_rip();
        if self
            .instructions
            .back()
            .is_some_and(|traced| traced.linear == linear && traced.regs.rsp == state.regs.rsp)
        {
            self.instructions.pop_back();
            self.active_exceptions.pop_if(|raised| raised.address == linear);
        }
    }

    /// Last recorded exception with this address and vector.
    pub(super) fn last_exception(&self, at: u64, vector: u8) -> Option<&DeliveredException> {
        let traced = self.instructions.iter().filter_map(|traced| traced.raised.as_ref());
        traced
            .chain(&self.active_exceptions)
            .rfind(|raised| raised.address == at && raised.fault.vector == vector)
    }
}
