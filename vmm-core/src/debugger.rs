//! Debugger: stops a guest at an address, steps it, reads and changes its state, and goes back.
//!
//! A front-end uses [`DebugTarget`], whatever protocol it speaks; [`attach`] starts the debugger for a machine. Breakpoints and
//! watchpoints are in place only while the guest runs (`inserted_breakpoints.rs`, `soft_watchpoints.rs`, `resume.rs`), by the
//! means that work on this host ([`DebugCapabilities`]). `execution.rs` does one step, with the corrections of `trap_flag.rs` and
//! `handler_breakpoints.rs`. To go back, a second machine repeats the record of the first up to an earlier point (`history.rs`).
//! While the debugger shows the second machine, nothing can be changed. A run with interrupts cannot be repeated: see [`smp`].

mod debug_target;
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

use kvm_sys_wrap::Breakpoint;

pub use crate::machine::debug_capabilities::{DebugCapabilities, StepIntoHandler, TrapByte};
pub use debug_target::{
    DebugStop, DebugTarget, EditError, ExecDirection, Finished, ResumeAction, ResumeRequest,
};
use execution::{Execution, RecordMode};
use history::HistoryBase;
pub use interrupt_handle::InterruptHandle;
use interrupt_handle::StopCheck;
use resume::{ResumeSession, after_step};
use smp::SmpDebugger;
use soft_watchpoints::{SoftWatchpoints, can_be_compared, fit_registers, remove};

use crate::Gva;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::run_loop::RunOutcome;
use crate::record::Recording;
use crate::record::position::RecordPosition;
use crate::spec::Interrupts;

/// Debugger of a machine without interrupt controllers. It records the run, and repeats it to go back.
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

/// Returns a debugger for a machine that stands before its first instruction: a [`SmpDebugger`] if the machine has interrupt
/// controllers, else a [`Debugger`].
///
/// Every call of `build` makes the same machine in its initial state, with a console that discards output.
///
/// # Errors
/// As [`Debugger::new`] and [`SmpDebugger::new`].
pub fn attach<'a>(
    machine: Machine,
    build: impl Fn() -> Result<Machine, Error> + 'a,
) -> Result<Box<dyn DebugTarget + 'a>, Error> {
    if machine.spec().has_userspace_irqchip() {
        return Err(Error::NoInterruptDebugging);
    }
    Ok(match machine.spec().interrupts {
        Interrupts::None => Box::new(Debugger::new(machine, build)?),
        Interrupts::Split | Interrupts::Pc => Box::new(SmpDebugger::new(machine)?),
    })
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

    /// Runs the guest until there is a reason to stop.
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

    /// Executes one instruction of the guest, or goes back by one.
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

    fn conclude(self, end: End) -> Result<Finished, Error> {
        let elapsed = self.started.elapsed();
        let machine = self.present.machine;
        machine.board.output.sync().map_err(Error::Console)?;
        let outcome = RunOutcome { end, exits: machine.processors.bsp().exits.clone(), elapsed };
        Ok(Finished { machine, outcome, recording: self.recording, changed: self.base.is_after_change() })
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
        let watched = SoftWatchpoints::new(&self.present.machine, &self.watchpoints)?;
        let mut mode = RecordMode::Record(&mut self.recording);
        let event = self.present.step(&mut mode)?;
        let stop = self.note_end(after_step(event))?;
        watched.check_step(stop, &self.present.machine)
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

impl DebugTarget for Debugger<'_> {
    fn machine(&self) -> &Machine {
        self.past.as_ref().map_or(&self.present.machine, |past| &past.execution.machine)
    }

    fn capabilities(&self) -> DebugCapabilities {
        self.present.capabilities
    }

    fn interrupt_handle(&self) -> InterruptHandle {
        self.interrupt_handle.clone()
    }

    fn stop_if(&mut self, wants_stop: Box<dyn Fn() -> bool + Send + Sync>) {
        let stop_check = StopCheck::new(wants_stop);
        if let Some(past) = &mut self.past {
            past.execution.stop_check = stop_check.clone();
        }
        self.present.stop_check = stop_check;
    }

    fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn exits(&self) -> u64 {
        self.past.as_ref().map_or(self.present.position, |past| past.execution.position).exits
    }

    fn is_recorded(&self) -> bool {
        true
    }

    fn is_in_past(&self) -> bool {
        self.past.is_some()
    }

    fn restart_history(&mut self) -> Result<(), Error> {
        let Execution { machine, position, .. } = &self.present;
        self.base = HistoryBase { position: *position, checkpoint: Some(machine.checkpoint()?) };
        Ok(())
    }

    /// Sets a breakpoint; there may be any number of them.
    fn add_breakpoint(&mut self, address: Gva) -> Result<bool, Error> {
        self.breakpoints.insert(address);
        Ok(true)
    }

    fn remove_breakpoint(&mut self, address: Gva) -> bool {
        self.breakpoints.remove(&address)
    }

    /// Sets a watchpoint. Debug registers watch up to four ranges of 1, 2, 4 or 8 bytes, each at a multiple of its size. Where
    /// they do not work or do not suffice, the guest is single-stepped and its memory compared: then up to 16 ranges of up to 64
    /// bytes are watched, and only for writes that change them.
    fn add_watchpoint(&mut self, watchpoint: Breakpoint) -> Result<bool, Error> {
        self.watchpoints.push(watchpoint);
        let in_registers = self.present.capabilities.watchpoints && fit_registers(&self.watchpoints);
        let can = in_registers || can_be_compared(&self.watchpoints);
        if !can {
            self.watchpoints.pop();
        }
        Ok(can)
    }

    fn remove_watchpoint(&mut self, watchpoint: Breakpoint) -> bool {
        remove(&mut self.watchpoints, watchpoint)
    }

    fn resume(&mut self, request: &ResumeRequest) -> Result<(usize, DebugStop), Error> {
        let stop = match request {
            ResumeRequest::StepBack => self.step(ExecDirection::Back),
            ResumeRequest::RunBack => self.run(ExecDirection::Back),
            ResumeRequest::Forward(actions) => match actions.first().copied().unwrap_or(ResumeAction::Run) {
                ResumeAction::Hold | ResumeAction::Run => self.run(ExecDirection::Forward),
                ResumeAction::Step => self.step(ExecDirection::Forward),
                ResumeAction::Range(start, end) => self.step_range(start, end),
            },
        };
        Ok((0, stop?))
    }

    fn go_before_end(&mut self) -> Result<bool, Error> {
        self.step_before_end()
    }

    fn finish(mut self: Box<Self>) -> Result<Finished, Error> {
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

    fn abandon(self: Box<Self>) -> Result<Finished, Error> {
        let end = self.end.clone().unwrap_or(End::Interrupted);
        self.conclude(end)
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
