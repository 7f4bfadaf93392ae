//! Last interrupt before a crash: the guest is run again up to the last interrupt that it got, and single-stepped from there to its end.
//!
//! Interrupts come at any instruction, so a replay of the exits cannot bring them back. Instead the second run stops before each
//! delivery, with the machine's clock, and keeps a checkpoint of the last one.

use std::time::{Duration, Instant};

use kvm_sys_wrap::bindings::kvm_regs;

use crate::Gva;
use crate::cpu::cpu_state::{CpuState, OperandWidth};
use crate::devices::irqchip::processor::NMI;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::guest_state::GuestState;
use crate::machine::processor::has_interrupts_on;
use crate::record::Recording;
use crate::record::checkpoint::Checkpoint;
use crate::record::replay::{HandlerTrap, ReplayStep, Replayer};
use crate::spec::IrqchipPlace;
use crate::spec::register::{Register, RegisterFile};

use super::exception::Exception;
use super::exception_chain::ChainEnd;
use super::instruction_trace::{InstructionTrace, StepResult, clear_step_flag};
use super::{Autopsy, AutopsyNote, BuildCopy, StateSource};

/// Time limit of the single steps after the last interrupt.
const STEPS_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of instructions of a handler that is followed.
const MAX_HANDLER_STEPS: u64 = 20_000;
/// Number of signals that may come before an interrupt is delivered.
const MAX_INTERRUPTED_STEPS: u32 = 8;
/// Time for all checkpoints of a run. A machine with more memory or more interrupts is not followed.
const CHECKPOINTS_TIMEOUT: Duration = Duration::from_secs(3);

/// Way in which a handler returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReturnKind {
    /// By IRET.
    Iret,
    /// Without IRET, as by RET.
    WithoutIret,
}

/// Machine before the delivery of an interrupt.
pub(super) struct DeliveryPoint {
    checkpoint: Checkpoint,
    pub(super) vector: u8,
}

impl DeliveryPoint {
    /// Restores the machine, and delivers the interrupt. Returns the machine before the first instruction of the handler, an empty
    /// trace that watches the interrupted program, and the linear address of that. `None` if the handler was not reached.
    fn deliver<'a>(
        &self,
        nothing: &'a Recording,
        build: &'a BuildCopy<'_>,
        budget: Duration,
    ) -> Result<Option<(Replayer<'a>, InstructionTrace, u64)>, Error> {
        let mut replayer = Replayer::new(|| build(IrqchipPlace::Userspace), nothing)?;
        replayer.machine_mut().restore(&self.checkpoint)?;
        replayer.set_budget(budget.min(STEPS_TIMEOUT))?;
        let state = CpuState::from_vcpu(replayer.machine().vcpu())?;
        let Some(program) = deliver(&mut replayer, &state, self.vector)? else { return Ok(None) };
        let mut trace = InstructionTrace::default();
        trace.interrupted = Some(program);
        Ok(Some((replayer, trace, program.at)))
    }
}

/// Machine before its last delivery.
pub(super) struct LastDelivery {
    point: Option<DeliveryPoint>,
    /// Time spent on checkpoints; `None` if they are not taken, or no longer.
    spent: Option<Duration>,
}

impl LastDelivery {
    /// Creates an empty one. Without `enabled` no checkpoint is taken.
    pub(super) fn new(enabled: bool) -> Self {
        Self { point: None, spent: enabled.then_some(Duration::ZERO) }
    }

    /// Returns true if a checkpoint is to be taken before each delivery.
    pub(super) const fn is_enabled(&self) -> bool {
        self.spent.is_some()
    }

    /// Takes a checkpoint of a machine that stands before a delivery.
    pub(super) fn take(&mut self, machine: &mut Machine, vector: u8) -> Result<(), Error> {
        let Some(spent) = self.spent else { return Ok(()) };
        let started = Instant::now();
        let Machine { board, processors, .. } = machine;
        processors.bsp_mut().finish_instruction(board, &mut (), |_| false)?;
        self.point = Some(DeliveryPoint { checkpoint: machine.checkpoint()?, vector });
        self.spent = spent.checked_add(started.elapsed()).filter(|spent| *spent < CHECKPOINTS_TIMEOUT);
        if self.spent.is_none() {
            self.point = None;
        }
        Ok(())
    }

    /// Returns the machine before its last delivery.
    pub(super) fn into_point(self) -> Option<DeliveryPoint> {
        self.point
    }
}

/// Program that was interrupted, and its state after the handler's IRET: watched for while the guest is single-stepped.
#[derive(Debug, Clone, Copy)]
pub(super) struct InterruptedProgram {
    /// Linear address of the instruction before which the interrupt came.
    pub(super) at: u64,
    /// General registers before the delivery.
    pub(super) regs: kvm_regs,
    /// RSP before the handler's first instruction.
    pub(super) handler_rsp: u64,
    /// Linear address and general registers after the handler has returned.
    pub(super) returned: Option<(u64, kvm_regs)>,
    /// True if the handler returned without IRET, as RET does: part of its frame is still on the stack.
    pub(super) without_iret: bool,
}

impl InterruptedProgram {
    /// Looks at the registers before an instruction, for a return without IRET.
    pub(super) fn watch(&mut self, registers: &CpuState) {
        let at = registers.linear_rip();
        // The handler may execute the code that it interrupted, but not with its frame removed.
        if self.returned.is_none() && at == self.at && registers.regs.rsp > self.handler_rsp {
            (self.returned, self.without_iret) = (Some((at, registers.regs)), true);
        }
    }

    /// Looks at the handler's IRET before it is executed: not all hosts stop after it. IRET changes no other registers than those that
    /// it takes from the stack.
    pub(super) fn watch_iret(&mut self, guest: &GuestState<'_>, size: u64) {
        if self.returned.is_none() {
            self.returned = return_state(guest, size);
        }
    }

    /// Returns how the handler switched interrupts off in the program to which it returned; `None` if it did not.
    fn left_interrupts_off(&self) -> Option<ReturnKind> {
        let (_, after) = self.returned.filter(|(at, _)| *at == self.at)?;
        let were_on = has_interrupts_on(&self.regs);
        let kind = if self.without_iret { ReturnKind::WithoutIret } else { ReturnKind::Iret };
        (were_on && !has_interrupts_on(&after)).then_some(kind)
    }

    /// Returns the registers that the handler did not preserve: name, value before, value after.
    fn changed(&self) -> Vec<(&'static str, u64, u64)> {
        let Some((_, after)) = self.returned.filter(|(at, _)| *at == self.at) else { return Vec::new() };
        let registers = Register::ALL.iter().filter(|it| !matches!(it, Register::Rip | Register::Rflags));
        registers
            .map(|register| (register.name(), self.regs.get(*register), after.get(*register)))
            .filter(|(_, before, after)| before != after)
            .collect()
    }
}

impl Autopsy {
    /// Single-steps a crash from the last interrupt on. Returns true if the end was reached. `ended` is the machine that crashed.
    pub(super) fn follow_last_interrupt(
        &mut self,
        point: &DeliveryPoint,
        source: Option<String>,
        ended: &Machine,
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<bool, Error> {
        let nothing = Recording::new();
        let Some((mut replayer, mut trace, at)) = point.deliver(&nothing, build, budget)? else {
            return Ok(false);
        };
        let StepResult::Ended { end, last_state } = trace.record(&mut replayer, u64::MAX, STEPS_TIMEOUT)?
        else {
            return Ok(false);
        };
        if end != End::Shutdown {
            return Ok(false);
        }
        // Some hosts keep the registers of a shutdown.
        let kept = CpuState::from_vcpu(ended.vcpu())?;
        self.compare_registers(Some(&kept).filter(|kept| !kept.is_reset()), &last_state);
        self.source = StateSource::LastInterrupt { steps: trace.steps };
        trace.remove_final_instruction(&last_state);
        self.diagnose(replayer.machine(), &last_state, Some(&trace));
        let program = trace.interrupted.as_ref();
        self.notes.push(AutopsyNote::LastInterrupt {
            vector: point.vector,
            source,
            at,
            returned: program.and_then(|program| program.returned).map(|(at, _)| at),
            changed: program.map(InterruptedProgram::changed).unwrap_or_default(),
        });
        Ok(true)
    }
}

/// Returns the linear address and the general registers after an IRET that takes words of `size` bytes from the stack. `None` if the
/// stack cannot be read, or the segment of the address is not known.
fn return_state(guest: &GuestState<'_>, size: u64) -> Option<(u64, kvm_regs)> {
    let CpuState { regs, sregs, .. } = guest.registers;
    let stack = guest.registers.linear_stack();
    let word =
        |number: u64| guest.read_word(stack.wrapping_add(number * size), usize::try_from(size).ok()?).ok();
    let (rip, cs, rflags) = (word(0)?, word(1)?, word(2)?);
    let base = if guest.registers.width() == OperandWidth::Bits64 {
        0
    } else if cs & 0xffff == u64::from(sregs.cs.selector) {
        sregs.cs.base
    } else {
        return None;
    };
    // In 64-bit mode the stack pointer is always taken.
    let rsp = if size == 8 { word(3)? } else { regs.rsp.wrapping_add(3 * size) };
    Some((base.wrapping_add(rip), kvm_regs { rip, rflags, rsp, ..*regs }))
}

/// Single-steps the last interrupt of a guest that waits with interrupts off. Returns the linear address before which it came and the
/// way in which its handler returned there, if that switched interrupts off.
pub(super) fn find_lost_interrupt_flag(
    point: &DeliveryPoint,
    build: &BuildCopy<'_>,
    budget: Duration,
) -> Result<Option<(u64, ReturnKind)>, Error> {
    let nothing = Recording::new();
    let Some((mut replayer, mut trace, at)) = point.deliver(&nothing, build, budget)? else {
        return Ok(None);
    };
    while trace.steps < MAX_HANDLER_STEPS
        && trace.interrupted.is_some_and(|program| program.returned.is_none())
        && let StepResult::StepLimit = trace.record(&mut replayer, 1, STEPS_TIMEOUT)?
    {}
    let kind = trace.interrupted.and_then(|program| program.left_interrupts_off());
    Ok(kind.map(|kind| (at, kind)))
}

/// Delivers an interrupt to a vCPU in this state. Returns the interrupted program if the vCPU stands before the first instruction of the
/// handler.
fn deliver(
    replayer: &mut Replayer<'_>,
    state: &CpuState,
    vector: u8,
) -> Result<Option<InterruptedProgram>, Error> {
    let machine = replayer.machine_mut();
    let guest = GuestState::from_machine(machine, state);
    let chain = guest.exception_chain(Exception::new(vector, None, "external interrupt"));
    let ChainEnd::Handler(handler) = chain.end else { return Ok(None) };
    let Some(to) = guest.walker().walk(guest.memory, Gva(handler.linear)).translation() else {
        return Ok(None);
    };
    let trap = HandlerTrap { gpa: to.gpa, linear: handler.linear };
    if let Some(irqchip) = machine.board.irqchip.clone() {
        let mut irqchip = irqchip.lock();
        if vector == NMI {
            irqchip.acknowledge_nmi(0);
        } else if irqchip.acknowledge(0).map(|interrupt| interrupt.vector) != Some(vector) {
            return Ok(None);
        }
        if let Some(processor) = irqchip.processor_mut(0) {
            processor.wake();
        }
    }
    let vcpu = &mut machine.processors.bsp_mut().vcpu;
    if vector == NMI {
        vcpu.inject_nmi()?;
    } else {
        vcpu.inject_interrupt(vector)?;
    }
    let mut step = replayer.step(None, Some(trap))?;
    for _ in 0..MAX_INTERRUPTED_STEPS {
        // A kick of an earlier timer.
        if step == ReplayStep::Interrupted {
            step = replayer.step(None, Some(trap))?;
        }
    }
    let is_delivered = step == ReplayStep::AtHandler;
    clear_step_flag(replayer, state, Some(handler))?;
    let handler_rsp = CpuState::from_vcpu(replayer.machine().vcpu())?.regs.rsp;
    Ok(is_delivered.then(|| InterruptedProgram {
        at: state.linear_rip(),
        regs: state.regs,
        handler_rsp,
        returned: None,
        without_iret: false,
    }))
}
