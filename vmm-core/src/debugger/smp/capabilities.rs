//! What a debugger can use on this host for a machine with interrupts, found out by trying it.
//!
//! A machine of the same mode, ring and interrupt controllers runs a few instructions, once for each means. They end with a
//! write to a port and not with HLT, which would sleep for ever.

use std::fmt;
use std::io;
use std::time::Duration;

use kvm_sys_wrap::{Alarm, Breakpoint, BreakpointCondition, Exit, GuestDebug, Kvm};

use super::inserted_breakpoints::{Hit, SmpBreakpoints};
use crate::autopsy::moment::CpuState;
use crate::debugger::capabilities::{GUEST_ADDRESS, small};
use crate::debugger::linear_memory::LinearMemory;
use crate::devices::console::Console;
use crate::machine::Machine;
use crate::machine::error::Error;
use crate::machine::image::FlatImage;
use crate::spec::MachineSpec;
use crate::spec::mode::Mode;
use crate::{Gpa, Gva};

/// `nop; nop; push %rax; nop; out %al, $0x80`: the same bytes, with the same meaning, in 16-, 32- and 64-bit code.
const GUEST: [u8; 6] = [0x90, 0x90, 0x50, 0x90, 0xe6, 0x80];
const SECOND: u64 = GUEST_ADDRESS + 1;
const PUSH: u64 = GUEST_ADDRESS + 2;
const BEHIND: u64 = GUEST_ADDRESS + 3;
/// A guest that goes astray is stopped.
const PATIENCE: Duration = Duration::from_millis(300);

/// A byte that stops the vCPU which executes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrapByte {
    /// INT3, which KVM gives to us.
    Int3,
    /// IN.
    In,
}

/// What works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SmpDebugCapabilities {
    /// A debug register stops a vCPU before an instruction.
    pub hardware_breakpoints: bool,
    /// A debug register stops a vCPU after a write.
    pub watchpoints: bool,
    /// Which byte stops a vCPU.
    pub byte: Option<TrapByte>,
    /// One instruction can be executed alone.
    pub single_step: bool,
    /// Interrupts wait until it is done.
    pub block_interrupts: bool,
}

impl SmpDebugCapabilities {
    /// Tries everything with a small machine like that of `spec`.
    pub(super) fn probe(kvm: &Kvm, spec: &MachineSpec) -> Result<Self, Error> {
        let probe = Probe { kvm, spec: small(spec) };
        let block_interrupts = kvm.can_block_interrupts();
        let byte = if probe.byte(TrapByte::Int3)? {
            Some(TrapByte::Int3)
        } else {
            probe.byte(TrapByte::In)?.then_some(TrapByte::In)
        };
        Ok(Self {
            hardware_breakpoints: probe.hardware_breakpoint()?,
            watchpoints: probe.watchpoint()?,
            byte,
            single_step: probe.single_step(block_interrupts)?,
            block_interrupts,
        })
    }

    const NOTHING: Self = Self {
        hardware_breakpoints: false,
        watchpoints: false,
        byte: None,
        single_step: false,
        block_interrupts: false,
    };
}

/// One line.
impl fmt::Display for SmpDebugCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let byte = match self.byte {
            Some(TrapByte::Int3) => "INT3 bytes",
            Some(TrapByte::In) => "IN bytes",
            None => "nothing",
        };
        if self.hardware_breakpoints {
            write!(f, "breakpoints by debug registers, beyond four of them by {byte}")?;
        } else {
            write!(f, "breakpoints by {byte}")?;
        }
        f.write_str(if self.watchpoints { ", watchpoints by debug registers" } else { ", no watchpoints" })?;
        f.write_str(", single steps")?;
        f.write_str(if self.block_interrupts {
            " that hold interrupts back"
        } else {
            " that take interrupts"
        })
    }
}

struct Probe<'a> {
    kvm: &'a Kvm,
    spec: MachineSpec,
}

impl Probe<'_> {
    fn machine(&self) -> Result<Machine, Error> {
        let guest = FlatImage { address: Gpa(GUEST_ADDRESS), bytes: &GUEST };
        Machine::build(self.kvm, self.spec.clone(), &guest, Console::to(io::sink()))
    }

    fn stop(machine: &mut Machine, debug: &GuestDebug) -> Result<Option<Exit>, Error> {
        let alarm = Alarm::set(PATIENCE)?;
        machine.processors.bsp().vcpu.set_guest_debug(debug)?;
        let exit = machine.processors.bsp_mut().vcpu.run()?;
        drop(alarm);
        Ok(Some(exit).filter(|exit| !matches!(exit, Exit::Interrupted)))
    }

    /// Where the guest stands once one debug register has fired.
    fn fire(machine: &mut Machine, address: u64, watch: BreakpointCondition) -> Result<Option<u64>, Error> {
        let breakpoint = Some(Breakpoint { address: Gva(address), condition: watch });
        let debug = GuestDebug { breakpoints: [breakpoint, None, None, None], ..GuestDebug::default() };
        let exit = Self::stop(machine, &debug)?;
        if !matches!(exit, Some(Exit::Debug { .. })) {
            return Ok(None);
        }
        Ok(Some(CpuState::of(machine)?.linear_rip()))
    }

    fn hardware_breakpoint(&self) -> Result<bool, Error> {
        Ok(Self::fire(&mut self.machine()?, SECOND, BreakpointCondition::Execute)? == Some(SECOND))
    }

    fn watchpoint(&self) -> Result<bool, Error> {
        let width = match self.spec.boot.mode {
            Mode::Real => 2,
            Mode::Protected | Mode::Paged | Mode::Pae => 4,
            Mode::Long => 8,
        };
        let mut machine = self.machine()?;
        let below = CpuState::of(&machine)?.linear_stack().wrapping_sub(width.into());
        Ok(Self::fire(&mut machine, below, BreakpointCondition::Write(width))? == Some(BEHIND))
    }

    /// A byte must stop the vCPU where it lies, and leave its registers alone.
    fn byte(&self, byte: TrapByte) -> Result<bool, Error> {
        let mut machine = self.machine()?;
        let before = CpuState::of(&machine)?;
        let eyes = [LinearMemory::on(&machine.board, &before)];
        let means = SmpDebugCapabilities { byte: Some(byte), ..SmpDebugCapabilities::NOTHING };
        let at = [Gva(SECOND)].into_iter();
        let (traps, unplaced) = SmpBreakpoints::place(&machine.board, &eyes, means, at, &[])?;
        if !unplaced.is_empty() {
            return Ok(false);
        }
        let Some(exit) = Self::stop(&mut machine, &traps.debug)? else { return Ok(false) };
        if traps.hit(&machine.board, &mut machine.processors.bsp_mut().vcpu, &exit)? != Hit::Breakpoint {
            return Ok(false);
        }
        let after = CpuState::of(&machine)?;
        Ok(after.linear_rip() == SECOND && after.regs.rax == before.regs.rax)
    }

    /// Three steps must be three instructions.
    fn single_step(&self, block_interrupts: bool) -> Result<bool, Error> {
        let mut machine = self.machine()?;
        let debug = GuestDebug { single_step: true, block_interrupts, ..GuestDebug::default() };
        for expected in [SECOND, PUSH, BEHIND] {
            let exit = Self::stop(&mut machine, &debug)?;
            let is_step = matches!(exit, Some(Exit::Debug { .. }));
            if !is_step || CpuState::of(&machine)?.linear_rip() != expected {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
