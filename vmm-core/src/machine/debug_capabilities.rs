//! Probe of the debug features of KVM that work on this host.
//!
//! Hosts differ more here than anywhere else, and no capability says so: breakpoints that never fire, single steps that
//! execute more than one instruction. So a guest of a few instructions is run once for each ability, in the mode and ring of
//! the guest to be debugged and with the same interrupt controllers.

use std::fmt;
use std::io;
use std::time::Duration;

use kvm_sys_wrap::{Breakpoint, BreakpointCondition, Exit, GuestDebug, Kvm};
use vm_memory::Bytes;

use crate::cpu::idt::Gate;
use crate::devices::console::Console;
use crate::machine::Machine;
use crate::machine::board::Board;
use crate::machine::error::Error;
use crate::machine::image::FlatImage;
use crate::machine::processor::Processor;
use crate::machine::run_loop::RunControl;
use crate::machine::stepper::{HLT, SingleStep, StepOutcome};
use crate::machine::turn::{ExitHooks, ExitOutcome};
use crate::spec::mode::{OperandWidth, Ring};
use crate::spec::{EntryPoint, Interrupts, LimitSpec, MachineSpec};
use crate::{Gpa, Gva};

const GUEST_ADDRESS: u64 = 0x8000;
const MEMORY: u64 = 2 << 20;
/// `nop; nop; push %rax; nop; out %al, $0xf4; hlt`: the same bytes, with the same meaning, in 16-, 32- and 64-bit code.
const GUEST: [u8; 7] = [0x90, 0x90, 0x50, 0x90, 0xe6, 0xf4, HLT];
const SECOND: u64 = GUEST_ADDRESS + 1;
const PUSH: u64 = GUEST_ADDRESS + 2;
const AFTER_PUSH: u64 = GUEST_ADDRESS + 3;

/// `ud2`, and at [`HANDLER`] its handler: `nop; nop; hlt`.
const FAULTING_GUEST: [u8; 19] = [0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x90, 0x90, HLT];
const HANDLER: u16 = 0x8010;
/// Vector of #UD.
const INVALID_OPCODE: u8 = 6;
/// Vector of #BP in a debug exit.
const BREAKPOINT_VECTOR: u32 = 3;

/// Limits of a probe: a host that loses the guest must not hang us.
const LIMITS: LimitSpec = LimitSpec { time: Some(Duration::from_secs(1)), exits: Some(100) };

/// Debug features of KVM that work on a host, for guests of one mode, ring and kind of interrupt controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugCapabilities {
    /// True if the machine has interrupt controllers, which decides what is probed: with them, [`Self::handlers`] is not, and
    /// without them [`Self::trap_byte`] is not.
    pub has_interrupts: bool,
    /// True if a debug register stops the vCPU before an instruction.
    pub hardware_breakpoints: bool,
    /// True if a debug register stops the vCPU after a write.
    pub watchpoints: bool,
    /// True if one instruction can be executed alone.
    pub single_step: bool,
    /// True if no interrupt is delivered during a single step.
    pub block_interrupts: bool,
    /// Way to end a single step over an instruction that raises an exception.
    pub handlers: StepIntoHandler,
    /// Instruction byte that stops a vCPU which executes it.
    pub trap_byte: Option<TrapByte>,
}

/// Way to end a single step over an instruction that raises an exception, before the first instruction of the handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepIntoHandler {
    /// The step ends by itself before the first instruction of the handler.
    Reached,
    /// A HLT at the start of the handler ends the step.
    ByHlt,
    /// An INT1 at the start of the handler ends the step, as on kvm-pvm.
    ByInt1,
    /// Nothing ends the step before the handler: some or all of the handler is part of it.
    Missed,
}

/// Instruction byte that stops a vCPU on a machine with interrupt controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrapByte {
    /// INT3 instruction, which stops with `KVM_GUESTDBG_USE_SW_BP`.
    Int3,
    /// IN instruction, which exits as an access to a port.
    In,
}

/// One-byte instruction that stops the vCPU when it is executed in ring 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TrapOpcode {
    /// HLT: an exit, with RIP after it.
    #[default]
    Hlt,
    /// INT1: only for kvm-pvm, which reports an emulation failure with RIP at it.
    Int1,
}

impl TrapOpcode {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::Hlt => HLT,
            Self::Int1 => 0xf1,
        }
    }
}

impl StepIntoHandler {
    /// Opcode to put at the handler for the time of the step.
    pub(crate) const fn opcode(self) -> Option<TrapOpcode> {
        match self {
            Self::ByHlt => Some(TrapOpcode::Hlt),
            Self::ByInt1 => Some(TrapOpcode::Int1),
            Self::Reached | Self::Missed => None,
        }
    }
}

impl TrapByte {
    /// INT3.
    pub(crate) const INT3: u8 = 0xcc;
    /// `IN AL, imm8`.
    pub(crate) const IN_AL_IMM8: u8 = 0xe4;
}

impl DebugCapabilities {
    /// Probes the debug features with small machines of the mode, ring and interrupt controllers of `spec`.
    ///
    /// # Errors
    /// [`Error`] where no such machine can be built on this host.
    pub fn probe(kvm: &Kvm, spec: &MachineSpec) -> Result<Self, Error> {
        let probe = DebugProbe::new(kvm, spec);
        let has_interrupts = spec.interrupts != Interrupts::None;
        let block_interrupts = has_interrupts && kvm.can_block_interrupts();
        let single_step = probe.single_step(block_interrupts)?;
        Ok(Self {
            has_interrupts,
            hardware_breakpoints: probe.hardware_breakpoint()?,
            watchpoints: probe.watchpoint()?,
            single_step,
            block_interrupts,
            handlers: if single_step && !has_interrupts {
                probe.handlers()?
            } else {
                StepIntoHandler::Missed
            },
            trap_byte: if has_interrupts { probe.trap_byte()? } else { None },
        })
    }
}

/// One line.
impl fmt::Display for DebugCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let byte = match (self.has_interrupts, self.trap_byte) {
            (false, _) => "HLT bytes",
            (true, Some(TrapByte::Int3)) => "INT3 bytes",
            (true, Some(TrapByte::In)) => "IN bytes",
            (true, None) => "nothing",
        };
        if self.hardware_breakpoints {
            write!(f, "breakpoints by debug registers, beyond four of them by {byte}")?;
        } else {
            write!(f, "breakpoints by {byte}")?;
        }
        f.write_str(match (self.watchpoints, self.has_interrupts) {
            (true, _) => ", watchpoints by debug registers",
            (false, false) => ", watchpoints by single steps",
            (false, true) => ", no watchpoints",
        })?;
        f.write_str(", single steps")?;
        f.write_str(match (self.has_interrupts, self.single_step, self.handlers) {
            (true, _, _) if self.block_interrupts => " that hold interrupts back",
            (true, _, _) => " that take interrupts",
            (false, false, _) => " by breakpoints",
            (false, true, StepIntoHandler::Missed) => " that miss handlers of faults",
            (false, true, StepIntoHandler::Reached | StepIntoHandler::ByHlt | StepIntoHandler::ByInt1) => "",
        })
    }
}

/// Probe of single abilities, each with a machine of its own.
pub(crate) struct DebugProbe<'a> {
    kvm: &'a Kvm,
    spec: MachineSpec,
}

impl<'a> DebugProbe<'a> {
    /// Prepares machines like that of `spec`, without what is particular to its guest.
    pub(crate) fn new(kvm: &'a Kvm, spec: &MachineSpec) -> Self {
        let mut small = MachineSpec::new(spec.boot.mode, MEMORY, EntryPoint::Address(Gva(GUEST_ADDRESS)));
        small.boot.ring = spec.boot.ring;
        small.interrupts = spec.interrupts;
        small.limits = LIMITS;
        Self { kvm, spec: small }
    }

    /// Returns true if a debug register stops the vCPU before an instruction.
    pub(crate) fn hardware_breakpoint(&self) -> Result<bool, Error> {
        let mut machine = self.machine(&GUEST)?;
        Ok(Self::stop(&mut machine, SECOND, BreakpointCondition::Execute)? == Some(SECOND))
    }

    fn watchpoint(&self) -> Result<bool, Error> {
        let width = u8::try_from(self.spec.boot.mode.bits() / 8).unwrap_or(8);
        let mut machine = self.machine(&GUEST)?;
        let below = machine.processors.bsp().cpu_state()?.linear_stack().wrapping_sub(width.into());
        Ok(Self::stop(&mut machine, below, BreakpointCondition::Write(width))? == Some(AFTER_PUSH))
    }

    /// Three steps must be three instructions.
    fn single_step(&self, block_interrupts: bool) -> Result<bool, Error> {
        let mut machine = self.machine(&GUEST)?;
        let (board, bsp) = (&machine.board, machine.processors.bsp_mut());
        let mut control = RunControl::with_limits(LIMITS)?;
        let mut step = SingleStep::new(None);
        step.debug.block_interrupts = block_interrupts;
        for expected in [SECOND, PUSH, AFTER_PUSH] {
            let outcome = bsp.step(board, &step, &mut control)?;
            if !matches!(outcome, StepOutcome::Reported(_)) || bsp.linear_rip()? != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// First means that works by which a step over UD2 ends before the handler.
    fn handlers(&self) -> Result<StepIntoHandler, Error> {
        // Where the trap page has the handlers, to reach one is the end of the run.
        if self.spec.boot.ring == Ring::User {
            return Ok(StepIntoHandler::Reached);
        }
        for means in [StepIntoHandler::Reached, StepIntoHandler::ByHlt, StepIntoHandler::ByInt1] {
            let mut machine = self.machine(&FAULTING_GUEST)?;
            let table = machine.processors.bsp().vcpu.sregs()?.idt.base;
            let vector = u64::from(INVALID_OPCODE);
            let gate = Gate::interrupt(HANDLER.into(), Ring::Kernel).entry();
            let (at, gate) = match self.spec.boot.mode.operand_width() {
                // A far pointer in the vector table, to segment 0.
                OperandWidth::Bits16 => (table + 4 * vector, HANDLER.into()),
                OperandWidth::Bits32 => (table + 8 * vector, gate),
                OperandWidth::Bits64 => (table + 16 * vector, gate),
            };
            let failed = |source| Error::Table { what: "a gate to try", source };
            let (board, bsp) = (&machine.board, machine.processors.bsp_mut());
            board.memory.write_obj(gate, Gpa(at).into()).map_err(failed)?;
            if let Some(opcode) = means.opcode() {
                board.memory.write_obj(opcode.byte(), Gpa(HANDLER.into()).into()).map_err(failed)?;
            }
            let mut hooks = ProbeHooks::new(means.opcode().map(ProbedTrap::Opcode))?;
            let is_reached = match bsp.step(board, &SingleStep::new(None), &mut hooks)? {
                StepOutcome::Reported(_) | StepOutcome::Finished => bsp.linear_rip()? == u64::from(HANDLER),
                StepOutcome::Intercepted(TrapReached) => true,
                StepOutcome::Ended(_) => false,
            };
            if is_reached {
                return Ok(means);
            }
        }
        Ok(StepIntoHandler::Missed)
    }

    /// First byte that stops the vCPU at its address and leaves its registers alone.
    fn trap_byte(&self) -> Result<Option<TrapByte>, Error> {
        for trap in [TrapByte::Int3, TrapByte::In] {
            let mut machine = self.machine(&GUEST)?;
            let before = machine.processors.bsp().cpu_state()?;
            let failed = |source| Error::Table { what: "a breakpoint", source };
            let (board, bsp) = (&machine.board, machine.processors.bsp_mut());
            let byte = match trap {
                TrapByte::Int3 => TrapByte::INT3,
                TrapByte::In => TrapByte::IN_AL_IMM8,
            };
            board.memory.write_obj(byte, Gpa(SECOND).into()).map_err(failed)?;
            bsp.vcpu.set_guest_debug(&GuestDebug {
                software_breakpoints: trap == TrapByte::Int3,
                ..GuestDebug::default()
            })?;
            let outcome = bsp.turn(board, &mut ProbeHooks::new(Some(ProbedTrap::Byte(trap)))?)?;
            let after = bsp.cpu_state()?;
            if outcome == ExitOutcome::Intercepted(TrapReached)
                && after.linear_rip() == SECOND
                && after.regs.rax == before.regs.rax
            {
                return Ok(Some(trap));
            }
        }
        Ok(None)
    }

    fn machine(&self, code: &[u8]) -> Result<Machine, Error> {
        let guest = FlatImage { address: Gpa(GUEST_ADDRESS), bytes: code };
        Machine::build(self.kvm, self.spec.clone(), &guest, Console::with_output(io::sink()))
    }

    /// Runs with one debug register up to the first debug event; returns the address of the next instruction then, and `None`
    /// if there was no such event.
    fn stop(
        machine: &mut Machine,
        address: u64,
        condition: BreakpointCondition,
    ) -> Result<Option<u64>, Error> {
        let (board, bsp) = (&machine.board, machine.processors.bsp_mut());
        let breakpoint = Some(Breakpoint { address: Gva(address), condition });
        bsp.vcpu.set_guest_debug(&GuestDebug {
            breakpoints: [breakpoint, None, None, None],
            ..GuestDebug::default()
        })?;
        let mut control = RunControl::with_limits(LIMITS)?;
        loop {
            match bsp.turn(board, &mut control)? {
                ExitOutcome::Served | ExitOutcome::Ignored => {}
                ExitOutcome::Debug(_) => return bsp.linear_rip().map(Some),
                ExitOutcome::Ended(_) => return Ok(None),
            }
        }
    }
}

/// Trap that a probe put into the guest.
#[derive(Debug, Clone, Copy)]
enum ProbedTrap {
    /// At [`HANDLER`].
    Opcode(TrapOpcode),
    /// At [`SECOND`].
    Byte(TrapByte),
}

/// The trap of a probe was executed where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TrapReached;

/// Limits of a probe, and its trap.
struct ProbeHooks {
    control: RunControl<'static, 'static>,
    trap: Option<ProbedTrap>,
}

impl ProbeHooks {
    fn new(trap: Option<ProbedTrap>) -> Result<Self, Error> {
        Ok(Self { control: RunControl::with_limits(LIMITS)?, trap })
    }
}

impl ExitHooks for ProbeHooks {
    type Interception = TrapReached;

    fn intercept(
        &mut self,
        processor: &mut Processor,
        _: &Board,
        exit: &Exit,
    ) -> Result<Option<ExitOutcome<TrapReached>>, Error> {
        let Some(trap) = self.trap else { return Ok(None) };
        let handler = u64::from(HANDLER);
        let expected = match (trap, exit) {
            (ProbedTrap::Opcode(TrapOpcode::Hlt), Exit::Hlt) => handler + 1,
            (ProbedTrap::Opcode(TrapOpcode::Int1), Exit::InternalError { suberror: 1, .. }) => handler,
            (ProbedTrap::Byte(TrapByte::Int3), Exit::Debug { exception: BREAKPOINT_VECTOR, .. }) => SECOND,
            (ProbedTrap::Byte(TrapByte::In), Exit::PioIn { .. }) => SECOND,
            (ProbedTrap::Opcode(_) | ProbedTrap::Byte(_), _) => return Ok(None),
        };
        if processor.linear_rip()? != expected {
            return Ok(None);
        }
        if let Exit::PioIn { .. } = exit {
            processor.vcpu.cancel_pio_in()?;
        }
        Ok(Some(ExitOutcome::Intercepted(TrapReached)))
    }

    fn before_serve(
        &mut self,
        view: &crate::machine::observer::ExitView<'_>,
    ) -> Result<Option<crate::machine::end::End>, Error> {
        self.control.before_serve(view)
    }
}
