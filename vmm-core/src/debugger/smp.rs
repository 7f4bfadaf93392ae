//! Debugger for machines with interrupt controllers, with one vCPU or several.
//!
//! The times of interrupts cannot be repeated, so nothing is recorded and the debugger cannot go back. Otherwise
//! [`SmpDebugger`] does for all vCPUs what [`Debugger`](super::Debugger) does for one. All vCPUs run and stop together: each
//! resumption is one or more rounds (`resume.rs`), with a thread for each vCPU that has a [`ResumeAction`] (`worker.rs`), and
//! with breakpoints in place (`inserted_breakpoints.rs`).
//!
//! Timers go on while all vCPUs are stopped. Their interrupts are delivered with the next step.

mod inserted_breakpoints;
mod resume;
mod worker;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use kvm_sys_wrap::{Breakpoint, MpState};

use inserted_breakpoints::SmpBreakpoints;
use resume::RoundEnd;

use super::debug_target::{DebugStop, DebugTarget, Finished, ResumeAction, ResumeRequest};
use super::interrupt_handle::{InterruptHandle, StopCheck};
use super::linear_memory::LinearMemory;
use super::soft_watchpoints::{fit_registers, remove};
use crate::Gva;
use crate::machine::Machine;
use crate::machine::debug_capabilities::DebugCapabilities;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::run_loop::RunOutcome;
use crate::record::Recording;

/// Debugger of a machine with interrupt controllers, which has one vCPU or several. It cannot go back.
#[derive(Debug)]
pub struct SmpDebugger {
    machine: Machine,
    capabilities: DebugCapabilities,
    breakpoints: BTreeSet<Gva>,
    watchpoints: Vec<Breakpoint>,
    /// Address of the last stop that was reported for each vCPU.
    reported: Vec<Option<u64>>,
    /// Stops that happened at the same time as the reported one.
    pending: VecDeque<RoundEnd>,
    /// End of the run, if it has ended.
    end: Option<End>,
    interrupt_handle: InterruptHandle,
    stop_check: StopCheck,
    started: Instant,
}

impl SmpDebugger {
    /// Starts to debug a machine that stands before its first instruction.
    ///
    /// # Errors
    /// [`Error::NoDebugging`] where this host cannot stop such a machine; other errors where the machines of the probe cannot run.
    pub fn new(machine: Machine) -> Result<Self, Error> {
        let capabilities =
            DebugCapabilities::probe(machine.processors.bsp().vcpu.vm().kvm(), &machine.board.spec)?;
        let can_stop = capabilities.hardware_breakpoints || capabilities.trap_byte.is_some();
        if !can_stop || !capabilities.single_step {
            return Err(Error::NoDebugging { mode: machine.board.spec.boot.mode });
        }
        let interrupt_handle = InterruptHandle::new(&machine)?;
        let reported = vec![None; machine.vcpus().count()];
        Ok(Self {
            machine,
            capabilities,
            breakpoints: BTreeSet::new(),
            watchpoints: Vec::new(),
            reported,
            pending: VecDeque::new(),
            end: None,
            interrupt_handle,
            stop_check: StopCheck::default(),
            started: Instant::now(),
        })
    }

    fn conclude(self, end: End) -> Result<Finished, Error> {
        let elapsed = self.started.elapsed();
        self.machine.board.output.sync().map_err(Error::Console)?;
        let outcome = RunOutcome { end, exits: self.machine.exits(), elapsed };
        // A run that cannot be repeated counts as changed by the user.
        Ok(Finished { machine: self.machine, outcome, recording: Recording::new(), changed: true })
    }

    /// Steps vCPUs that stand on a breakpoint off it, one by one and without its byte, while the others hold. Then resumes all.
    fn step_off_and_resume(&mut self, actions: &[ResumeAction]) -> Result<RoundEnd, Error> {
        for (number, action) in actions.iter().enumerate() {
            let Some(pc) = self.breakpoint_to_step_off(number, *action)? else { continue };
            let mut alone = vec![ResumeAction::Hold; actions.len()];
            if let Some(own) = alone.get_mut(number) {
                *own = ResumeAction::Step;
            }
            let reason = self.round(&alone, Some(Gva(pc)))?;
            let is_done = reason.1 == DebugStop::Step
                && match action {
                    ResumeAction::Run => true,
                    ResumeAction::Range(start, end) => {
                        (*start..*end).contains(&self.registers(number)?.linear_rip())
                    }
                    ResumeAction::Hold | ResumeAction::Step => false,
                };
            if !is_done {
                return Ok(reason);
            }
        }
        self.round(actions, None)
    }

    /// Breakpoint that a vCPU has to step off first: one that was reported to the user. A vCPU that reaches it later, or wakes
    /// up there, is stopped by it.
    fn breakpoint_to_step_off(&self, number: usize, action: ResumeAction) -> Result<Option<u64>, Error> {
        if action == ResumeAction::Hold {
            return Ok(None);
        }
        let pc = self.registers(number)?.linear_rip();
        let was_reported = self.reported.get(number).copied().flatten() == Some(pc);
        let is_at_breakpoint =
            self.breakpoints.contains(&Gva(pc)) && (was_reported || action != ResumeAction::Run);
        let is_halted = is_at_breakpoint
            && action == ResumeAction::Run
            && self.vcpu(number).mp_state()? != MpState::Runnable;
        Ok((is_at_breakpoint && !is_halted).then_some(pc))
    }

    /// Runs one round, with all breakpoints in place but `without`.
    fn round(&mut self, actions: &[ResumeAction], without: Option<Gva>) -> Result<RoundEnd, Error> {
        let first = actions.iter().position(|action| *action != ResumeAction::Hold);
        let Some(first) = first else { return Ok((self.machine.stopped_vcpu, DebugStop::Interrupted)) };
        self.interrupt_handle.watch_vcpu(self.vcpu(first))?;
        // An interrupt just before this has kicked another vCPU.
        if let Some(stop) = self.stop_check.stop() {
            return Ok((first, stop));
        }
        for (reported, action) in self.reported.iter_mut().zip(actions) {
            if *action != ResumeAction::Hold {
                *reported = None;
            }
        }
        let (breakpoints, _) = self.place(without)?;
        let reasons =
            resume::run(&mut self.machine, actions, &breakpoints, self.capabilities, &self.stop_check);
        breakpoints.remove(&self.machine.board)?;
        let mut reasons = reasons?.into_iter();
        let reason = reasons.next().unwrap_or((first, DebugStop::Interrupted));
        // A breakpoint is reached again, and an interrupt is repeated; these stops would be lost.
        self.pending.extend(reasons.filter(|(_, stop)| {
            matches!(stop, DebugStop::Watchpoint(_) | DebugStop::GuestInt3 | DebugStop::Ended(_))
        }));
        Ok(reason)
    }

    fn place(&self, without: Option<Gva>) -> Result<(SmpBreakpoints, Vec<Gva>), Error> {
        let mut views = Vec::new();
        for number in 0..self.reported.len() {
            views.push(self.linear_memory(number)?);
        }
        let wanted = self.breakpoints.iter().copied().filter(|address| Some(*address) != without);
        SmpBreakpoints::place(&self.machine.board, &views, self.capabilities, wanted, &self.watchpoints)
    }

    /// Memory with the page tables of a vCPU.
    fn linear_memory(&self, number: usize) -> Result<LinearMemory<'_>, Error> {
        Ok(LinearMemory::from_board(&self.machine.board, &self.registers(number)?))
    }
}

impl DebugTarget for SmpDebugger {
    fn machine(&self) -> &Machine {
        &self.machine
    }

    fn capabilities(&self) -> DebugCapabilities {
        self.capabilities
    }

    fn interrupt_handle(&self) -> InterruptHandle {
        self.interrupt_handle.clone()
    }

    fn stop_if(&mut self, wants_stop: Box<dyn Fn() -> bool + Send + Sync>) {
        self.stop_check = StopCheck::new(wants_stop);
    }

    fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn is_recorded(&self) -> bool {
        false
    }

    /// Sets a breakpoint. Where no debug register is free, memory must be mapped at the address.
    fn add_breakpoint(&mut self, address: Gva) -> Result<bool, Error> {
        let is_new = self.breakpoints.insert(address);
        let (breakpoints, unplaced) = self.place(None)?;
        breakpoints.remove(&self.machine.board)?;
        if unplaced.is_empty() {
            return Ok(true);
        }
        if is_new {
            self.breakpoints.remove(&address);
        }
        Ok(false)
    }

    fn remove_breakpoint(&mut self, address: Gva) -> bool {
        self.breakpoints.remove(&address)
    }

    /// Sets a watchpoint in a debug register.
    fn add_watchpoint(&mut self, watchpoint: Breakpoint) -> Result<bool, Error> {
        self.watchpoints.push(watchpoint);
        let fits = self.capabilities.watchpoints && fit_registers(&self.watchpoints);
        let can = fits && {
            let (breakpoints, unplaced) = self.place(None)?;
            breakpoints.remove(&self.machine.board)?;
            unplaced.is_empty()
        };
        if !can {
            self.watchpoints.pop();
        }
        Ok(can)
    }

    fn remove_watchpoint(&mut self, watchpoint: Breakpoint) -> bool {
        remove(&mut self.watchpoints, watchpoint)
    }

    /// Resumes the vCPUs until one of them has a reason to stop; then all stop.
    fn resume(&mut self, request: &ResumeRequest) -> Result<RoundEnd, Error> {
        let ResumeRequest::Forward(actions) = request else {
            return Ok((self.machine.stopped_vcpu, DebugStop::HistoryStart));
        };
        if let Some(end) = &self.end {
            return Ok((self.machine.stopped_vcpu, DebugStop::Ended(end.clone())));
        }
        let reason = match self.pending.pop_front() {
            Some(reason) => reason,
            None => self.step_off_and_resume(actions)?,
        };
        let (number, stop) = &reason;
        self.machine.stopped_vcpu = *number;
        if let DebugStop::Ended(end) = stop {
            self.end = Some(end.clone());
        }
        let pc = self.registers(*number)?.linear_rip();
        if let Some(reported) = self.reported.get_mut(*number) {
            *reported = Some(pc);
        }
        self.machine.board.output.sync().map_err(Error::Console)?;
        Ok(reason)
    }

    fn finish(mut self: Box<Self>) -> Result<Finished, Error> {
        self.stop_check = StopCheck::default();
        self.breakpoints.clear();
        self.watchpoints.clear();
        let request = ResumeRequest::Forward(vec![ResumeAction::Run; self.reported.len()]);
        loop {
            if let (_, DebugStop::Ended(end)) = self.resume(&request)? {
                return self.conclude(end);
            }
        }
    }

    fn abandon(self: Box<Self>) -> Result<Finished, Error> {
        let end = self.end.clone().unwrap_or(End::Interrupted);
        self.conclude(end)
    }
}
