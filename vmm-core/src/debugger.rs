//! A debugger's view of a run: stop at an address, step, look and change, and go back.
//!
//! [`Debugger`] holds a machine and does to it what a front-end asks for; it speaks no protocol. Breakpoints and
//! watchpoints are there only while the guest runs (`traps.rs`, `watched.rs`, `running.rs`), by the means that work on this
//! host ([`Abilities`]). One step is the matter of `track.rs`, with the corrections of `trap_flag.rs` and `detours.rs`.
//! Going back is running again: a second machine follows the record of the first (`history.rs`), which waits where it
//! was. While the second one is looked at, nothing can be changed: what has happened has happened.
//! A machine with interrupts does something else each time it runs: see [`live`].

mod execution;
mod guest_int3;
mod handler_breakpoints;
mod history;
mod inserted_breakpoints;
mod interrupt_handle;
mod linear_memory;
mod next_pc;
mod replay;
mod resume;
pub mod run_until;
pub mod smp;
mod soft_watchpoints;
mod state;
mod trap_flag;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;

use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use kvm_sys_wrap::{Breakpoint, VcpuState};

pub use crate::machine::debug_capabilities::{DebugCapabilities, StepIntoHandler, TrapByte};
use execution::{Execution, RecordMode};
use history::Base;
pub use interrupt_handle::InterruptHandle;
use linear_memory::LinearMemory;
use resume::{ResumeSession, after_step};
use soft_watchpoints::{SoftWatchpoints, can_be_compared, fit_registers};

use crate::Gva;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::run_loop::RunOutcome;
use crate::record::Recording;
use crate::record::position::RecordPosition;

/// A run under a debugger's control.
pub struct Debugger<'a> {
    build: Box<dyn Fn() -> Result<Machine, Error> + 'a>,
    capabilities: DebugCapabilities,
    breakpoints: BTreeSet<Gva>,
    watchpoints: Vec<Breakpoint>,
    /// The run itself, at the furthest point that it has come to.
    present: Execution,
    recording: Recording,
    /// How it ended, if it has.
    end: Option<End>,
    /// Where the record begins to be of use.
    base: Base,
    /// An earlier point of the run that is being looked at.
    past: Option<history::Past>,
    interrupt_handle: InterruptHandle,
    started: Instant,
}

/// Why the guest stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebugStop {
    /// The step is done.
    Step,
    /// It is about to execute an instruction with a breakpoint.
    Breakpoint,
    /// A watchpoint's memory was written or read.
    Watchpoint(Breakpoint),
    /// It executed an `int3` of its own.
    OwnInt3,
    /// Somebody asked it to stop.
    Asked,
    /// This host cannot step the vCPU in the state that it is in; nothing was executed.
    NoSteps,
    /// Going back: there is nothing before this.
    HistoryStart,
    /// The run went another way when it was run again, so there is no way back to where it was.
    HistoryLost,
    /// The run is over.
    Ended(End),
}

/// Which way to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecDirection {
    /// As the guest does.
    Forward,
    /// Back over what was recorded.
    Back,
}

/// A run that is over.
#[derive(Debug)]
pub struct Finished {
    /// The machine at the end.
    pub machine: Machine,
    /// What the run came to.
    pub outcome: RunOutcome,
    /// What it read, to run it again.
    pub recording: Recording,
    /// Whether something was changed by hand; then the run cannot be had again from its start.
    pub changed: bool,
}

/// Something cannot be done to the guest now.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// An earlier point of the run is being looked at.
    #[error("the past cannot be changed; `continue` to the present first")]
    Past,
    /// The run is over.
    #[error("the run is over")]
    Ended,
    /// No memory is there.
    #[error("no memory is mapped at {0}")]
    NotMapped(Gva),
    /// The host failed.
    #[error(transparent)]
    Host(#[from] Error),
}

impl<'a> Debugger<'a> {
    /// Takes a machine that stands before its first instruction.
    ///
    /// `build` gives the same machine in its initial state, on every call, with a console that goes nowhere.
    ///
    /// # Errors
    /// Where the host has no way to stop a vCPU, or cannot run the small machines of [`Abilities::probe`].
    pub fn new(machine: Machine, build: impl Fn() -> Result<Machine, Error> + 'a) -> Result<Self, Error> {
        let capabilities =
            DebugCapabilities::probe(machine.processors.bsp().vcpu.vm().kvm(), &machine.board.spec)?;
        let stopper = InterruptHandle::new(&machine)?;
        Ok(Self {
            build: Box::new(build),
            capabilities,
            breakpoints: BTreeSet::new(),
            watchpoints: Vec::new(),
            present: Execution::new(machine, RecordPosition::default()),
            recording: Recording::new(),
            end: None,
            base: Base::default(),
            past: None,
            interrupt_handle: stopper,
            started: Instant::now(),
        })
    }

    /// What works on this host.
    #[must_use]
    pub const fn capabilities(&self) -> DebugCapabilities {
        self.capabilities
    }

    /// The machine that is looked at: that of the run, or one at an earlier point of it.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        self.past.as_ref().map_or(&self.present.machine, |past| &past.track.machine)
    }

    /// Whether an earlier point is looked at.
    #[must_use]
    pub const fn is_in_past(&self) -> bool {
        self.past.is_some()
    }

    /// How the run ended, if it has.
    #[must_use]
    pub const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Wakes this debugger from another thread.
    #[must_use]
    pub fn stopper(&self) -> InterruptHandle {
        self.interrupt_handle.clone()
    }

    /// Exits of the guest up to the point that is looked at.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.past.as_ref().map_or(self.present.position, |past| past.track.position).exits
    }

    /// The linear address of the next instruction.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn pc(&self) -> Result<Gva, Error> {
        linear_pc(self.machine()).map(Gva)
    }

    /// Sets a breakpoint at a linear address. As many as one likes.
    pub fn add_breakpoint(&mut self, address: Gva) {
        self.breakpoints.insert(address);
    }

    /// Takes it away; whether there was one.
    pub fn remove_breakpoint(&mut self, address: Gva) -> bool {
        self.breakpoints.remove(&address)
    }

    /// Watches memory; whether that can be done. In debug registers there is room for four pieces of 1, 2, 4 or 8 bytes, each
    /// at a multiple of its size, where the host has them. Otherwise the guest is single-stepped and its memory compared:
    /// then up to 16 pieces of up to 64 bytes are watched, and only for writes that change them.
    pub fn add_watchpoint(&mut self, wanted: Breakpoint) -> bool {
        self.watchpoints.push(wanted);
        let in_registers = self.capabilities.watchpoints && fit_registers(&self.watchpoints);
        let can = in_registers || can_be_compared(&self.watchpoints);
        if !can {
            self.watchpoints.pop();
        }
        can
    }

    /// Takes it away; whether there was one.
    pub fn remove_watchpoint(&mut self, watchpoint: Breakpoint) -> bool {
        let found = self.watchpoints.iter().position(|known| *known == watchpoint);
        found.map(|index| self.watchpoints.remove(index)).is_some()
    }

    /// Runs until something stops the guest. `wants_stop` is asked at every exit and after every wake-up.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn run(
        &mut self,
        direction: ExecDirection,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        let stop = match direction {
            ExecDirection::Back => self.run_back(wants_stop),
            ExecDirection::Forward if self.past.is_some() => self.run_to_present(wants_stop),
            ExecDirection::Forward => self.run_on(wants_stop),
        };
        self.interrupt_handle.watch(self.machine())?;
        stop
    }

    /// Executes one instruction, or takes one back.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn step(
        &mut self,
        direction: ExecDirection,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<DebugStop, Error> {
        let stop = match direction {
            ExecDirection::Back => self.step_back(wants_stop),
            ExecDirection::Forward if self.past.is_some() => self.step_to_present(wants_stop),
            ExecDirection::Forward => self.step_on(wants_stop),
        };
        self.interrupt_handle.watch(self.machine())?;
        stop
    }

    /// The vCPU's state, to be looked at.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn registers(&self) -> Result<(kvm_regs, kvm_sregs), Error> {
        let vcpu = &self.machine().processors.bsp().vcpu;
        Ok((vcpu.regs()?, vcpu.sregs()?))
    }

    /// Changes the vCPU's state.
    ///
    /// # Errors
    /// [`EditError`].
    pub fn change(&mut self, change: impl FnOnce(&mut VcpuState)) -> Result<(), EditError> {
        self.may_edit()?;
        let vcpu = &self.present.machine.processors.bsp().vcpu;
        let mut state = vcpu.save().map_err(Error::from)?;
        change(&mut state);
        vcpu.restore(&state).map_err(Error::from)?;
        Ok(self.begin_history_here()?)
    }

    /// Reads memory at a linear address, as far as it is there; the number of bytes read.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn read(&self, address: Gva, data: &mut [u8]) -> Result<usize, Error> {
        Ok(LinearMemory::of(self.machine())?.read(address, data))
    }

    /// Writes memory at a linear address.
    ///
    /// # Errors
    /// [`EditError`]; what was before a byte that is not there has been written.
    pub fn write(&mut self, address: Gva, data: &[u8]) -> Result<(), EditError> {
        self.may_edit()?;
        let written = LinearMemory::of(&self.present.machine)?.write(address, data);
        self.begin_history_here()?;
        if written == data.len() {
            return Ok(());
        }
        let missing = u64::try_from(written).unwrap_or(u64::MAX);
        Err(EditError::NotMapped(Gva(address.0.saturating_add(missing))))
    }

    /// Lets the guest run to its end, without breakpoints, and gives the machine back.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn finish(mut self) -> Result<Finished, Error> {
        self.past = None;
        self.breakpoints.clear();
        self.watchpoints.clear();
        let end = loop {
            if let DebugStop::Ended(end) = self.run_on(&mut || false)? {
                break end;
            }
        };
        self.conclude(end)
    }

    /// Ends the run where it is, and gives the machine back.
    ///
    /// # Errors
    /// [`Error::VirtioConsole`].
    pub fn abandon(self) -> Result<Finished, Error> {
        let end = self.end.clone().unwrap_or(End::Interrupted);
        self.conclude(end)
    }

    fn conclude(self, end: End) -> Result<Finished, Error> {
        let elapsed = self.started.elapsed();
        let machine = self.present.machine;
        machine.board.output.sync().map_err(Error::Console)?;
        let outcome = RunOutcome { end, exits: machine.processors.bsp().exits.clone(), elapsed };
        Ok(Finished { machine, outcome, recording: self.recording, changed: self.base.is_change() })
    }

    const fn may_edit(&self) -> Result<(), EditError> {
        match (&self.past, &self.end) {
            (Some(_), _) => Err(EditError::Past),
            (None, Some(_)) => Err(EditError::Ended),
            (None, None) => Ok(()),
        }
    }

    fn run_on(&mut self, wants_stop: &mut dyn FnMut() -> bool) -> Result<DebugStop, Error> {
        if let Some(end) = &self.end {
            return Ok(DebugStop::Ended(end.clone()));
        }
        // A breakpoint here has been reached already: off it first.
        if self.breakpoints.contains(&Gva(linear_pc(&self.present.machine)?)) {
            let stop = self.step_on(wants_stop)?;
            if stop != DebugStop::Step {
                return Ok(stop);
            }
        }
        let mut trail = RecordMode::Record(&mut self.recording);
        let around = ResumeSession {
            capabilities: self.capabilities,
            breakpoints: &self.breakpoints,
            watchpoints: &self.watchpoints,
            until: None,
        };
        let stop = around.run(&mut self.present, &mut trail, wants_stop)?;
        self.note_end(stop)
    }

    fn step_on(&mut self, wants_stop: &mut dyn FnMut() -> bool) -> Result<DebugStop, Error> {
        if let Some(end) = &self.end {
            return Ok(DebugStop::Ended(end.clone()));
        }
        let watched = SoftWatchpoints::of(&self.present.machine, &self.watchpoints)?;
        let mut trail = RecordMode::Record(&mut self.recording);
        let event = self.present.step(&mut trail, self.capabilities, wants_stop)?;
        let stop = self.note_end(after_step(event))?;
        watched.instead_of(stop, &self.present.machine)
    }

    /// Keeps how the run ended, and passes on what it printed.
    fn note_end(&mut self, stop: DebugStop) -> Result<DebugStop, Error> {
        if let DebugStop::Ended(end) = &stop {
            self.end = Some(end.clone());
        }
        self.present.machine.board.output.sync().map_err(Error::Console)?;
        Ok(stop)
    }
}

impl fmt::Debug for Debugger<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debugger").field("present", &self.present.position).finish_non_exhaustive()
    }
}

/// Linear address of the next instruction.
fn linear_pc(machine: &Machine) -> Result<u64, Error> {
    machine.processors.bsp().linear_rip()
}
