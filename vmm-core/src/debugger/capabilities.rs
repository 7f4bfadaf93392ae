//! What a debugger can use on this host, found out by trying it.
//!
//! Hosts differ more here than anywhere else, and none says so: breakpoints that never fire, single steps that go
//! astray. So a guest of a few instructions is run once for each means, in the mode and ring of the guest to be
//! debugged, and what came back is believed.

use std::fmt;
use std::io;
use std::time::Duration;

use kvm_sys_wrap::{Breakpoint, BreakpointCondition, GuestDebug, Kvm};
use vm_memory::Bytes;

use super::execution::{Execution, ExecutionEvent, RecordMode, RecordPosition};
use super::inserted_breakpoints::Opcode;
use super::linear_pc;
use crate::cpu::idt::Gate;
use crate::devices::console::Console;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::image::FlatImage;
use crate::machine::limits::Limits;
use crate::machine::run_loop::ExitOutcome;
use crate::record::Recording;
use crate::spec::mode::{Mode, Ring};
use crate::spec::{self, EntryPoint, MachineSpec};
use crate::{Gpa, Gva};

pub(super) const GUEST_ADDRESS: u64 = 0x8000;
const MEMORY: u64 = 2 << 20;
/// `nop; nop; push %rax; nop; hlt`: the same bytes, with the same meaning, in 16-, 32- and 64-bit code.
const GUEST: [u8; 5] = [0x90, 0x90, 0x50, 0x90, 0xf4];
const SECOND: u64 = GUEST_ADDRESS + 1;
const PUSH: u64 = GUEST_ADDRESS + 2;
const BEHIND: u64 = GUEST_ADDRESS + 3;

/// `ud2`, and a handler for it where the instruction could not be: `nop; nop; hlt`.
const FAULTING: [u8; 19] = [0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x90, 0x90, 0xf4];
const HANDLER: u16 = 0x8010;
const INVALID_OPCODE: u8 = 6;

/// What works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugCapabilities {
    /// A debug register stops the guest before an instruction.
    pub hardware_breakpoints: bool,
    /// A debug register stops the guest after a write.
    pub watchpoints: bool,
    /// One instruction can be executed alone.
    pub single_step: bool,
    /// What a single step over an instruction that faults does.
    pub handlers: StepIntoHandler,
}

/// How a single step ends before the first instruction of a fault's handler, if the fault has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepIntoHandler {
    /// By itself.
    Reached,
    /// By a HLT there.
    ByHlt,
    /// By an INT1 there: kvm-pvm.
    ByInt1,
    /// It does not: some or all of the handler is part of the step.
    Missed,
}

impl StepIntoHandler {
    /// What has to lie there.
    pub(super) const fn opcode(self) -> Option<Opcode> {
        match self {
            Self::ByHlt => Some(Opcode::Hlt),
            Self::ByInt1 => Some(Opcode::Int1),
            Self::Reached | Self::Missed => None,
        }
    }
}

impl DebugCapabilities {
    /// Tries everything with a small machine of the mode, ring and paging of `spec`.
    ///
    /// # Errors
    /// Where no such machine can be built on this host.
    pub fn probe(kvm: &Kvm, spec: &MachineSpec) -> Result<Self, Error> {
        let probe = Probe { kvm, spec: small(spec) };
        let single_step = probe.single_step()?;
        Ok(Self {
            hardware_breakpoints: probe.hardware_breakpoint()?,
            watchpoints: probe.watchpoint()?,
            single_step,
            handlers: if single_step { probe.handlers()? } else { StepIntoHandler::Missed },
        })
    }
}

/// One line.
impl fmt::Display for DebugCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.hardware_breakpoints {
            "breakpoints by debug registers, beyond four of them by HLT bytes"
        } else {
            "breakpoints by HLT bytes"
        })?;
        let means = if self.watchpoints { "debug registers" } else { "single steps" };
        write!(f, ", watchpoints by {means}")?;
        f.write_str(match (self.single_step, self.handlers) {
            (true, StepIntoHandler::Reached | StepIntoHandler::ByHlt | StepIntoHandler::ByInt1) => {
                ", single steps"
            }
            (true, StepIntoHandler::Missed) => ", single steps that miss handlers of faults",
            (false, _) => ", single steps by breakpoints",
        })
    }
}

/// The machine to try things on: that of `spec`, without what is particular to its guest.
pub(super) fn small(spec: &MachineSpec) -> MachineSpec {
    let mut small = MachineSpec::new(spec.boot.mode, MEMORY, EntryPoint::Address(Gva(GUEST_ADDRESS)));
    small.boot.ring = spec.boot.ring;
    small.interrupts = spec.interrupts;
    small.limits = spec::LimitSpec { time: Some(Duration::from_secs(1)), exits: Some(100) };
    small
}

struct Probe<'a> {
    kvm: &'a Kvm,
    spec: MachineSpec,
}

impl Probe<'_> {
    fn machine(&self) -> Result<Machine, Error> {
        self.machine_of(&GUEST)
    }

    fn machine_of(&self, code: &[u8]) -> Result<Machine, Error> {
        let guest = FlatImage { address: Gpa(GUEST_ADDRESS), bytes: code };
        Machine::build(self.kvm, self.spec.clone(), &guest, Console::to(io::sink()))
    }

    /// Runs up to the first debug event and gives the address where it left the guest.
    fn stop(&self, debug: impl FnOnce(&Machine) -> Result<GuestDebug, Error>) -> Result<Option<u64>, Error> {
        let mut machine = self.machine()?;
        let debug = debug(&machine)?;
        machine.processors.bsp().vcpu.set_guest_debug(&debug)?;
        let mut limits = Limits::start(self.spec.limits)?;
        loop {
            match machine.run_one_exit(&mut limits, &mut [])? {
                ExitOutcome::Served => {}
                ExitOutcome::Debug(_) => return linear_pc(&machine).map(Some),
                ExitOutcome::Ended(_) => return Ok(None),
            }
        }
    }

    fn register(address: u64, watch: BreakpointCondition) -> GuestDebug {
        let breakpoint = Some(Breakpoint { address: Gva(address), condition: watch });
        GuestDebug { breakpoints: [breakpoint, None, None, None], ..GuestDebug::default() }
    }

    fn hardware_breakpoint(&self) -> Result<bool, Error> {
        let stopped = self.stop(|_| Ok(Self::register(SECOND, BreakpointCondition::Execute)))?;
        Ok(stopped == Some(SECOND))
    }

    fn watchpoint(&self) -> Result<bool, Error> {
        let width = match self.spec.boot.mode {
            Mode::Real => 2,
            Mode::Protected | Mode::Paged | Mode::Pae => 4,
            Mode::Long => 8,
        };
        let stopped = self.stop(|machine| {
            let (regs, sregs) =
                (machine.processors.bsp().vcpu.regs()?, machine.processors.bsp().vcpu.sregs()?);
            let top = sregs.ss.base.wrapping_add(regs.rsp);
            Ok(Self::register(top.wrapping_sub(width.into()), BreakpointCondition::Write(width)))
        })?;
        Ok(stopped == Some(BEHIND))
    }

    /// Three steps must be three instructions.
    fn single_step(&self) -> Result<bool, Error> {
        let mut machine = self.machine()?;
        let mut limits = Limits::start(self.spec.limits)?;
        for expected in [SECOND, PUSH, BEHIND] {
            let end: Option<End> = machine.step(&mut limits, &mut [])?;
            if end.is_some() || linear_pc(&machine)? != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The first means by which a step over UD2 ends before the handler.
    fn handlers(&self) -> Result<StepIntoHandler, Error> {
        // Where the landing page has the handlers, to reach one is the end of the run.
        if self.spec.boot.ring == Ring::User {
            return Ok(StepIntoHandler::Reached);
        }
        for means in [StepIntoHandler::Reached, StepIntoHandler::ByHlt, StepIntoHandler::ByInt1] {
            let machine = self.machine_of(&FAULTING)?;
            let table = machine.processors.bsp().vcpu.sregs()?.idt.base;
            let vector = u64::from(INVALID_OPCODE);
            let gate = Gate::interrupt(HANDLER.into(), Ring::Kernel).entry();
            let (at, gate) = match self.spec.boot.mode {
                // A far pointer in the vector table, to segment 0.
                Mode::Real => (table + 4 * vector, HANDLER.into()),
                Mode::Protected | Mode::Paged | Mode::Pae => (table + 8 * vector, gate),
                Mode::Long => (table + 16 * vector, gate),
            };
            let wrote = |source| Error::Table { what: "a gate to try", source };
            machine.board.memory.write_obj(gate, Gpa(at).into()).map_err(wrote)?;
            let mut track = Execution::new(machine, RecordPosition::default());
            let mut recording = Recording::new();
            let event = track.step_alone(&mut RecordMode::First(&mut recording), means, &mut || false)?;
            let stopped = matches!(event, ExecutionEvent::Debug(_) | ExecutionEvent::Trap);
            if stopped && linear_pc(&track.machine)? == u64::from(HANDLER) {
                return Ok(means);
            }
        }
        Ok(StepIntoHandler::Missed)
    }
}
