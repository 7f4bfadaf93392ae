//! Debugger: stops a guest at an address, steps it, reads and changes its state, and goes back.
//!
//! [`Debugger`] holds a machine and does what a front-end asks for; it speaks no protocol. Breakpoints and
//! watchpoints are in place only while the guest runs (`breakpoints.rs`, `watched.rs`, `running.rs`), by the means that work on this
//! host ([`DebugCapabilities`]). One step is the matter of `execution.rs`, with the corrections of `trap_flag.rs` and `detours.rs`.
//! To go back, a second machine repeats the record of the first up to an earlier point (`history.rs`). While the debugger shows
//! the second machine, nothing can be changed. A run with interrupts cannot be repeated: see [`smp`].

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
use history::HistoryBase;
pub use interrupt_handle::InterruptHandle;
use interrupt_handle::StopCheck;
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
    breakpoints: BTreeSet<Gva>,
    watchpoints: Vec<Breakpoint>,
    /// The run, at the furthest point that it has reached.
    present: Execution,
    recording: Recording,
    /// End of the run, if it has ended.
    end: Option<End>,
    /// Point from which the run can be repeated.
    base: HistoryBase,
    /// Second machine at an earlier point of the run, if the debugger shows one.
    past: Option<history::PastExecution>,
    interrupt_handle: InterruptHandle,
    started: Instant,
}

/// Reason for a stop of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebugStop {
    /// The step is done.
    Step,
    /// The next instruction has a breakpoint.
    Breakpoint,
    /// Memory of this watchpoint was written or read.
    Watchpoint(Breakpoint),
    /// The guest executed an `int3` of its own.
    GuestInt3,
    /// The front-end asked for a stop.
    Interrupted,
    /// The host cannot step the vCPU in its present state; nothing was executed.
    CannotStep,
    /// Start of the recorded history, reached while going back.
    HistoryStart,
    /// The repeated run differs from the record, so earlier points cannot be reached.
    HistoryLost,
    /// The run is over.
    Ended(End),
}

/// Direction of execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecDirection {
    /// Forward, as the guest runs.
    Forward,
    /// Backward over the recorded run.
    Back,
}

/// Result of a debugged run.
#[derive(Debug)]
pub struct Finished {
    /// Machine at the end of the run.
    pub machine: Machine,
    /// Outcome of the run.
    pub outcome: RunOutcome,
    /// Record of the run, for a replay.
    pub recording: Recording,
    /// True if the user changed something; then the run cannot be repeated from its start.
    pub changed: bool,
}

/// Error of a change to the guest.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The debugger shows an earlier point of the run.
    #[error("the past cannot be changed; `continue` to the present first")]
    Past,
    /// The run is over.
    #[error("the run is over")]
    Ended,
    /// No memory is mapped at the address.
    #[error("no memory is mapped at {0}")]
    NotMapped(Gva),
    /// The host failed.
    #[error(transparent)]
    Host(#[from] Error),
}

impl<'a> Debugger<'a> {
    /// Starts to debug a machine that stands before its first instruction.
    ///
    /// Every call of `build` makes the same machine in its initial state, with a console that discards output.
    ///
    /// # Errors
    /// Where the host has no way to stop a vCPU, or cannot run the small machines of [`DebugCapabilities::probe`].
    pub fn new(machine: Machine, build: impl Fn() -> Result<Machine, Error> + 'a) -> Result<Self, Error> {
        let capabilities =
            DebugCapabilities::probe(machine.processors.bsp().vcpu.vm().kvm(), &machine.board.spec)?;
        let interrupt_handle = InterruptHandle::new(&machine)?;
        Ok(Self {
            build: Box::new(build),
            breakpoints: BTreeSet::new(),
            watchpoints: Vec::new(),
            present: Execution {
                machine,
                position: RecordPosition::default(),
                capabilities,
                stop_check: StopCheck::default(),
            },
            recording: Recording::new(),
            end: None,
            base: HistoryBase::default(),
            past: None,
            interrupt_handle,
            started: Instant::now(),
        })
    }

    /// Debug capabilities of this host.
    #[must_use]
    pub const fn capabilities(&self) -> DebugCapabilities {
        self.present.capabilities
    }

    /// Machine that the debugger shows: that of the run, or one at an earlier point of it.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        self.past.as_ref().map_or(&self.present.machine, |past| &past.execution.machine)
    }

    /// Returns true if the debugger shows an earlier point.
    #[must_use]
    pub const fn is_in_past(&self) -> bool {
        self.past.is_some()
    }

    /// End of the run, if it has ended.
    #[must_use]
    pub const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Handle that interrupts this debugger from another thread.
    #[must_use]
    pub fn interrupt_handle(&self) -> InterruptHandle {
        self.interrupt_handle.clone()
    }

    /// Sets the function that decides if the guest stops. It is called at every exit and after every interrupt of this debugger;
    /// the guest stops with [`DebugStop::Interrupted`] if it returns true.
    pub fn stop_if(&mut self, wants_stop: impl Fn() -> bool + Send + Sync + 'static) {
        let stop_check = StopCheck::new(wants_stop);
        if let Some(past) = &mut self.past {
            past.execution.stop_check = stop_check.clone();
        }
        self.present.stop_check = stop_check;
    }

    /// Number of exits of the guest up to the point that the debugger shows.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.past.as_ref().map_or(self.present.position, |past| past.execution.position).exits
    }

    /// Linear address of the next instruction.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn pc(&self) -> Result<Gva, Error> {
        linear_pc(self.machine()).map(Gva)
    }

    /// Sets a breakpoint at a linear address. There may be any number of breakpoints.
    pub fn add_breakpoint(&mut self, address: Gva) {
        self.breakpoints.insert(address);
    }

    /// Removes a breakpoint; returns true if there was one.
    pub fn remove_breakpoint(&mut self, address: Gva) -> bool {
        self.breakpoints.remove(&address)
    }

    /// Sets a watchpoint; returns false if that is not possible. Debug registers watch up to four ranges of 1, 2, 4 or 8 bytes,
    /// each at a multiple of its size. Where they do not work or do not suffice, the guest is single-stepped and its memory
    /// compared: then up to 16 ranges of up to 64 bytes are watched, and only for writes that change them.
    pub fn add_watchpoint(&mut self, wanted: Breakpoint) -> bool {
        self.watchpoints.push(wanted);
        let in_registers = self.present.capabilities.watchpoints && fit_registers(&self.watchpoints);
        let can = in_registers || can_be_compared(&self.watchpoints);
        if !can {
            self.watchpoints.pop();
        }
        can
    }

    /// Removes a watchpoint; returns true if there was one.
    pub fn remove_watchpoint(&mut self, watchpoint: Breakpoint) -> bool {
        let found = self.watchpoints.iter().position(|known| *known == watchpoint);
        found.map(|index| self.watchpoints.remove(index)).is_some()
    }

    /// Runs until something stops the guest.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn run(&mut self, direction: ExecDirection) -> Result<DebugStop, Error> {
        let stop = match direction {
            ExecDirection::Back => self.run_back(),
            ExecDirection::Forward if self.past.is_some() => self.run_to_present(),
            ExecDirection::Forward => self.run_on(),
        };
        self.interrupt_handle.watch(self.machine())?;
        stop
    }

    /// Executes one instruction, or goes back by one.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn step(&mut self, direction: ExecDirection) -> Result<DebugStop, Error> {
        let stop = match direction {
            ExecDirection::Back => self.step_back(),
            ExecDirection::Forward if self.past.is_some() => self.step_to_present(),
            ExecDirection::Forward => self.step_on(),
        };
        self.interrupt_handle.watch(self.machine())?;
        stop
    }

    /// Reads the registers of the vCPU.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn registers(&self) -> Result<(kvm_regs, kvm_sregs), Error> {
        let vcpu = &self.machine().processors.bsp().vcpu;
        Ok((vcpu.regs()?, vcpu.sregs()?))
    }

    /// Changes the state of the vCPU.
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

    /// Reads memory at a linear address, up to the first byte that is not mapped; returns the number of bytes read.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn read(&self, address: Gva, data: &mut [u8]) -> Result<usize, Error> {
        Ok(LinearMemory::of(self.machine())?.read(address, data))
    }

    /// Writes memory at a linear address.
    ///
    /// # Errors
    /// [`EditError`]; bytes before the first one that is not mapped have been written.
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

    /// Runs the guest to its end, without breakpoints, and returns the machine.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn finish(mut self) -> Result<Finished, Error> {
        self.past = None;
        self.present.stop_check = StopCheck::default();
        self.breakpoints.clear();
        self.watchpoints.clear();
        let end = loop {
            if let DebugStop::Ended(end) = self.run_on()? {
                break end;
            }
        };
        self.conclude(end)
    }

    /// Ends the run at its present point, and returns the machine.
    ///
    /// # Errors
    /// [`Error::Console`].
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

    fn run_on(&mut self) -> Result<DebugStop, Error> {
        if let Some(end) = &self.end {
            return Ok(DebugStop::Ended(end.clone()));
        }
        // A breakpoint here has been reported already: step off it first.
        if self.breakpoints.contains(&Gva(linear_pc(&self.present.machine)?)) {
            let stop = self.step_on()?;
            if stop != DebugStop::Step {
                return Ok(stop);
            }
        }
        let mut mode = RecordMode::Record(&mut self.recording);
        let session =
            ResumeSession { breakpoints: &self.breakpoints, watchpoints: &self.watchpoints, until: None };
        let stop = session.run(&mut self.present, &mut mode)?;
        self.note_end(stop)
    }

    fn step_on(&mut self) -> Result<DebugStop, Error> {
        if let Some(end) = &self.end {
            return Ok(DebugStop::Ended(end.clone()));
        }
        let watched = SoftWatchpoints::of(&self.present.machine, &self.watchpoints)?;
        let mut mode = RecordMode::Record(&mut self.recording);
        let event = self.present.step(&mut mode)?;
        let stop = self.note_end(after_step(event))?;
        watched.instead_of(stop, &self.present.machine)
    }

    /// Stores the end of the run, and flushes its output.
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
