//! The last steps: a machine is led on one instruction at a time, and what it does is remembered.
//!
//! Before each step the instruction is decoded and its fault, if it will raise one, worked out; so that exceptions which
//! the guest handles are followed into the handler, and the state before the step that ends the run is at hand. Writes
//! to memory are remembered too: a page table or gate that turns out to be wrong can then name its writer.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use iced_x86::{Instruction, Mnemonic};
use kvm_sys_wrap::bindings::kvm_regs;
use kvm_sys_wrap::{Gpa, KickTimer};
use vm_memory::Bytes;

use crate::cpu::cpu_state::OperandWidth;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::record::replay::{HandlerTrap, ReplayStep, Replayer};

use super::delivery::{GateFound, Handler};
use super::exception::Exception;
use super::exception_chain::{ChainEnd, ChainLink};
use super::fetch::Fetched;
use super::page_fault::{AccessKind, PageAccess};
use super::predict::is_unrepeatable;
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

/// How many instructions are remembered.
pub const MAX_INSTRUCTIONS: usize = 32;
/// How many writes are remembered.
const MAX_WRITES: usize = 4096;
/// After this time without a step the guest is taken to sit in an instruction that never ends.
const TRACE_TIMEOUT: Duration = Duration::from_millis(200);

/// An instruction that was executed.
#[derive(Debug, Clone)]
pub struct TracedInstruction {
    /// Its linear address.
    pub linear: u64,
    /// The width of the code.
    pub width: OperandWidth,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The general registers before it.
    pub regs: kvm_regs,
    /// The exception that it raised, if a handler took it.
    pub raised: Option<DeliveredException>,
    /// How often it was executed in a row: more than once for string instructions with REP.
    pub times: u64,
}

/// An exception that was delivered.
#[derive(Debug, Clone)]
pub struct DeliveredException {
    /// The exception that it raised.
    pub fault: Exception,
    /// The one that a handler took: the same, or a double fault that came of it.
    pub delivered: Exception,
    /// Where its handler begins.
    pub handler: u64,
    /// The gate that led there.
    pub gate: Option<GateFound>,
    /// The instruction that raised it: linear address, bytes, width.
    pub at: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The width of its code.
    pub width: OperandWidth,
}

/// A remembered write.
#[derive(Debug, Clone, Copy)]
struct Write {
    gpa: Gpa,
    size: u64,
    step: u64,
}

/// A memory of the last steps.
#[derive(Debug, Default)]
pub(super) struct InstructionTrace {
    pub(super) steps: u64,
    pub(super) past: VecDeque<TracedInstruction>,
    /// How often each address was executed.
    pub(super) visits: BTreeMap<u64, u64>,
    /// Exceptions whose handlers have not returned yet, outermost first.
    pub(super) open: Vec<DeliveredException>,
    /// All exceptions that were delivered, by address of the instruction and vector.
    pub(super) raised: BTreeMap<(u64, u8), u64>,
    /// Why another run might come out differently, and where that was.
    pub(super) unrepeatable: Option<(&'static str, u64)>,
    /// The last instruction that did not lead to the one behind it, and its number.
    pub(super) last_jump: Option<(TracedInstruction, u64)>,
    /// What was known of the step that ended the run.
    last: Option<Plan>,
    writes: VecDeque<Write>,
    writers: BTreeMap<u64, TracedInstruction>,
}

/// Where a stretch of single steps ended.
pub(super) enum StepResult {
    /// The run ended in the instruction before which the registers were these.
    Ended { end: End, before: Box<CpuState> },
    /// The instruction raises an exception whose handler is the instruction itself.
    Circle(Box<DeliveredException>),
    /// An instruction does not come to an end.
    Stuck(Box<CpuState>),
    /// The number of steps is used up.
    Enough,
    /// The replay left the recorded run.
    Diverged,
    /// Time is up.
    OutOfTime,
}

impl InstructionTrace {
    /// Leads the machine on for at most `steps` instructions.
    ///
    /// And for at most about `time`.
    pub(super) fn follow(
        &mut self,
        replayer: &mut Replayer<'_>,
        steps: u64,
        time: Duration,
    ) -> Result<StepResult, Error> {
        let started = Instant::now();
        let mut patience = KickTimer::new(TRACE_TIMEOUT)?;
        // A kick from before may come late, so two of them with nothing in between are wanted.
        let mut last_kick = None;
        let until = self.steps.saturating_add(steps);
        while self.steps < until {
            let registers = CpuState::from_vcpu(replayer.machine().vcpu())?;
            let plan = self.look(replayer, &registers);
            if let Some(raised) = plan.raised(&registers).filter(|raised| raised.handler == raised.at) {
                return Ok(StepResult::Circle(Box::new(raised)));
            }
            match replayer.step(plan.halt, plan.catch)? {
                ReplayStep::Done => {
                    self.finish(&plan, &registers, false);
                    if plan.pushes_flags {
                        clear_step_flag(replayer, &registers, None)?;
                    }
                }
                ReplayStep::AtHandler => {
                    self.finish(&plan, &registers, true);
                    clear_step_flag(replayer, &registers, plan.handler)?;
                }
                ReplayStep::Interrupted => {
                    if last_kick == Some(self.steps) {
                        return Ok(StepResult::Stuck(Box::new(registers)));
                    }
                    last_kick = Some(self.steps);
                    patience = KickTimer::new(TRACE_TIMEOUT)?;
                }
                ReplayStep::Ended(end) => {
                    self.last = Some(plan);
                    return Ok(StepResult::Ended { end, before: Box::new(registers) });
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
        drop(patience);
        Ok(StepResult::Enough)
    }

    /// Looks at the instruction before it is executed.
    fn look(&mut self, replayer: &Replayer<'_>, registers: &CpuState) -> Plan {
        let machine = replayer.machine();
        let moment = GuestState::from_machine(machine, registers);
        let fetched = moment.fetch();
        let fault = moment.fault_of(&fetched);
        let linear = registers.linear_rip();
        let mut plan = Plan {
            bytes: Vec::new(),
            halt: None,
            catch: None,
            handler: None,
            links: Vec::new(),
            returns: false,
            pushes_flags: false,
        };
        if let Some(fault) = fault {
            let landing = machine.board.landing.map(|landing| landing.address);
            let chain = moment.chain(fault);
            // Where a gate is not fit for use the CPU does not go there. Some hosts do.
            let handler = match chain.end {
                ChainEnd::Handler(handler) | ChainEnd::Recursion(handler) => Some(handler),
                ChainEnd::TripleFault | ChainEnd::Unknown => chain
                    .links
                    .first()
                    .and_then(|link| link.delivery.gate)
                    .and_then(|gate| moment.beyond(gate)),
            };
            if let Some(handler) = handler {
                // The trap page consists of HLT already, and ends the run by itself.
                let lands = landing.is_some_and(|page| handler.linear & !0xfff == page.0);
                let access = PageAccess {
                    linear: handler.linear,
                    size: 1,
                    kind: AccessKind::Fetch,
                    user: false,
                    implicit: true,
                };
                let gpa = moment.pieces(&access).ok().and_then(|pieces| Some(pieces.first()?.0));
                plan.catch = gpa.filter(|_| !lands).map(|gpa| HandlerTrap { gpa, linear: handler.linear });
                plan.handler = Some(handler);
            }
            plan.links = chain.links;
        }
        match fetched {
            Fetched::Instruction(instruction, bytes) => {
                self.remember_writes(&moment, &instruction, !plan.links.is_empty());
                self.remember_clock(&instruction, linear);
                plan.halt = (instruction.mnemonic() == Mnemonic::Hlt).then(|| linear.wrapping_add(1));
                plan.returns =
                    matches!(instruction.mnemonic(), Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq);
                plan.pushes_flags =
                    matches!(instruction.mnemonic(), Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq);
                plan.bytes = bytes;
            }
            Fetched::Invalid(bytes) => plan.bytes = bytes,
            Fetched::Fault(_) | Fetched::NoMemory => {}
        }
        plan
    }

    fn finish(&mut self, plan: &Plan, registers: &CpuState, caught: bool) {
        let (linear, width, bytes) = (registers.linear_rip(), registers.width(), plan.bytes.clone());
        let raised = plan.raised(registers).filter(|_| caught);
        if let Some(raised) = &raised {
            let count = self.raised.entry((linear, raised.fault.vector)).or_default();
            *count = count.saturating_add(1);
            self.open.push(raised.clone());
            // Deeper than that nobody looks.
            if self.open.len() > MAX_INSTRUCTIONS {
                self.open.remove(0);
            }
        }
        if plan.returns {
            self.open.pop();
        }
        let count = self.visits.entry(linear).or_default();
        *count = count.saturating_add(1);
        let past = TracedInstruction { linear, width, bytes, regs: registers.regs, raised, times: 1 };
        if self.writes.back().is_some_and(|write| write.step == self.steps) {
            self.writers.insert(self.steps, past.clone());
        }
        if let Some(last) = self.past.back()
            && last.linear.wrapping_add(last.bytes.len() as u64) != linear
            && !is_repeated(last)
        {
            self.last_jump = Some((last.clone(), self.steps.saturating_sub(1)));
        }
        match self.past.back_mut() {
            Some(last) if last.linear == linear && is_repeated(&past) => {
                last.times = last.times.saturating_add(1);
            }
            Some(_) | None => self.past.push_back(past),
        }
        if self.past.len() > MAX_INSTRUCTIONS {
            self.past.pop_front();
        }
        self.steps = self.steps.saturating_add(1);
    }

    fn remember_clock(&mut self, instruction: &Instruction, linear: u64) {
        if let Some(what) = is_unrepeatable(instruction) {
            self.unrepeatable.get_or_insert((what, linear));
        }
    }

    fn remember_writes(&mut self, moment: &GuestState<'_>, instruction: &Instruction, faults: bool) {
        if faults {
            return;
        }
        let user = moment.registers.cpl() == 3;
        for written in moment.writes(instruction) {
            let access = PageAccess {
                linear: written.linear,
                size: written.size,
                kind: AccessKind::Write,
                user,
                implicit: false,
            };
            for (gpa, size) in moment.pieces(&access).unwrap_or_default() {
                self.writes.push_back(Write { gpa, size, step: self.steps });
            }
        }
        while self.writes.len() > MAX_WRITES {
            if let Some(old) = self.writes.pop_front() {
                self.writers.remove(&old.step);
            }
        }
    }

    /// The instruction that wrote to a range of memory last, and how many instructions ago.
    pub(super) fn writer(&self, gpa: Gpa, size: u64) -> Option<(&TracedInstruction, u64)> {
        let overlaps = |write: &&Write| {
            write.gpa.0 < gpa.0.saturating_add(size) && gpa.0 < write.gpa.0.saturating_add(write.size)
        };
        let write = self.writes.iter().rev().find(overlaps)?;
        Some((self.writers.get(&write.step)?, self.steps.saturating_sub(write.step)))
    }
}

/// What is known of the next step.
#[derive(Debug)]
struct Plan {
    bytes: Vec<u8>,
    halt: Option<u64>,
    catch: Option<HandlerTrap>,
    handler: Option<Handler>,
    /// The exceptions that it raises.
    links: Vec<ChainLink>,
    returns: bool,
    pushes_flags: bool,
}

impl Plan {
    /// The exception, with the handler that takes it.
    fn raised(&self, registers: &CpuState) -> Option<DeliveredException> {
        let (first, last, handler) = (self.links.first()?, self.links.last()?, self.handler?);
        Some(DeliveredException {
            fault: first.fault.clone(),
            delivered: last.fault.clone(),
            handler: handler.linear,
            gate: last.delivery.gate,
            at: registers.linear_rip(),
            bytes: self.bytes.clone(),
            width: registers.width(),
        })
    }
}

/// Takes the trap flag of single-stepping out of flags that were pushed, for a handler or by PUSHF: the guest's own flags
/// had none.
fn clear_step_flag(
    replayer: &Replayer<'_>,
    before: &CpuState,
    handler: Option<Handler>,
) -> Result<(), Error> {
    const TRAP_FLAG: u64 = 1 << 8;
    if before.regs.rflags & TRAP_FLAG != 0 {
        return Ok(());
    }
    let machine = replayer.machine();
    let now = CpuState::from_vcpu(machine.vcpu())?;
    let moment = GuestState::from_machine(machine, &now);
    let flags_at = handler.map_or(now.linear_stack(), |handler| handler.flags_at);
    let access =
        PageAccess { linear: flags_at, size: 2, kind: AccessKind::Read, user: false, implicit: true };
    let Some((gpa, _)) = moment.pieces(&access).ok().and_then(|pieces| pieces.first().copied()) else {
        return Ok(());
    };
    if let Ok(flags) = machine.board.memory.read_obj::<u16>(gpa.into())
        && u64::from(flags) & TRAP_FLAG != 0
    {
        // It was just read, so it can be written.
        let _ = machine.board.memory.write_obj(flags & !0x100, gpa.into());
    }
    Ok(())
}

/// A string instruction with REP, which is stepped round by round.
fn is_repeated(past: &TracedInstruction) -> bool {
    let decoded = iced_x86::Decoder::with_ip(past.width.bits(), &past.bytes, past.linear, 0).decode();
    decoded.is_string_instruction() && (decoded.has_rep_prefix() || decoded.has_repne_prefix())
}

impl InstructionTrace {
    /// The run ended in a handler whose first instruction could not be watched: its exception counts as delivered.
    pub(super) fn count_last_as_delivered(&mut self, before: &CpuState, stopped_at: u64) {
        if let Some(plan) =
            self.last.take_if(|plan| plan.handler.is_some_and(|handler| handler.linear == stopped_at))
        {
            self.finish(&plan, before, true);
        }
    }

    /// What was executed from this state on belongs to the end, and not to what came before it.
    pub(super) fn end_before(&mut self, state: &CpuState) {
        let linear = state.linear_rip();
        if self.past.back().is_some_and(|past| past.linear == linear && past.regs.rsp == state.regs.rsp) {
            self.past.pop_back();
            self.open.pop_if(|raised| raised.at == linear);
        }
    }

    /// An exception of this kind that is still remembered.
    pub(super) fn last_raised(&self, at: u64, vector: u8) -> Option<&DeliveredException> {
        let past = self.past.iter().filter_map(|past| past.raised.as_ref());
        past.chain(&self.open).rfind(|raised| raised.at == at && raised.fault.vector == vector)
    }
}
