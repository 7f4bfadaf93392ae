//! A debugger for machines with interrupts, with one vCPU or several.
//!
//! When an interrupt comes is nobody's to say, so such a run cannot be had again: nothing is recorded, and there is no way
//! back. Otherwise [`SmpDebugger`] does for all vCPUs what [`Debugger`](super::Debugger) does for one. They run together and stop
//! together: each resumption is one or more rounds (`round.rs`), with a thread for each vCPU that has an [`ResumeAction`]
//! (`worker.rs`), and with breakpoints in place (`traps.rs`) by the means that work here (`abilities.rs`).
//!
//! While all stand, the clocks do not: timers go on, and what they raised comes with the next step.

mod inserted_breakpoints;
mod resume;
mod worker;

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use kvm_sys_wrap::{Breakpoint, MpState, Vcpu, VcpuState};

use inserted_breakpoints::SmpBreakpoints;
pub use resume::ResumeAction;
use resume::RoundEnd;

use super::linear_memory::LinearMemory;
use super::soft_watchpoints::fit_registers;
use super::{DebugStop, EditError, Finished, InterruptHandle};
use crate::Gva;
use crate::cpu::cpu_state::CpuState;
use crate::machine::Machine;
use crate::machine::debug_capabilities::DebugCapabilities;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::run_loop::RunOutcome;
use crate::record::Recording;

/// A run under a debugger's control, on a machine with interrupts. vCPUs are numbered from 0.
#[derive(Debug)]
pub struct SmpDebugger {
    machine: Machine,
    capabilities: DebugCapabilities,
    breakpoints: BTreeSet<Gva>,
    watchpoints: Vec<Breakpoint>,
    /// For each vCPU the address at which it stood when it was said to have stopped there.
    told: Vec<Option<u64>>,
    /// What happened at the same time as what was told.
    pending: VecDeque<RoundEnd>,
    /// How the run ended, if it has.
    end: Option<End>,
    interrupt_handle: InterruptHandle,
    started: Instant,
}

impl SmpDebugger {
    /// Takes a machine that stands before its first instruction.
    ///
    /// # Errors
    /// [`Error::NoDebugging`] where this host has no way to stop such a machine; where it cannot run small ones to find out.
    pub fn new(machine: Machine) -> Result<Self, Error> {
        let capabilities =
            DebugCapabilities::probe(machine.processors.bsp().vcpu.vm().kvm(), &machine.board.spec)?;
        let can_stop = capabilities.hardware_breakpoints || capabilities.trap_byte.is_some();
        if !can_stop || !capabilities.single_step {
            return Err(Error::NoDebugging { mode: machine.board.spec.boot.mode });
        }
        let stopper = InterruptHandle::new(&machine)?;
        let told = vec![None; machine.vcpus().count()];
        Ok(Self {
            machine,
            capabilities,
            breakpoints: BTreeSet::new(),
            watchpoints: Vec::new(),
            told,
            pending: VecDeque::new(),
            end: None,
            interrupt_handle: stopper,
            started: Instant::now(),
        })
    }

    /// What works on this host.
    #[must_use]
    pub const fn capabilities(&self) -> DebugCapabilities {
        self.capabilities
    }

    /// The machine. Its [`vcpu`](Machine::vcpu) is the one that stopped last.
    #[must_use]
    pub const fn machine(&self) -> &Machine {
        &self.machine
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

    /// One vCPU; the first one where there is none of that number.
    #[must_use]
    pub fn vcpu(&self, number: usize) -> &Vcpu {
        self.machine.vcpus().nth(number).unwrap_or(&self.machine.processors.bsp().vcpu)
    }

    /// Whether a vCPU runs, sleeps, or waits for its start.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn condition(&self, number: usize) -> Result<MpState, Error> {
        Ok(self.vcpu(number).mp_state()?)
    }

    /// The registers of a vCPU.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn registers(&self, number: usize) -> Result<CpuState, Error> {
        let vcpu = self.vcpu(number);
        Ok(CpuState::from_vcpu(vcpu)?)
    }

    /// Changes the state of a vCPU.
    ///
    /// # Errors
    /// [`EditError`].
    pub fn change(&self, number: usize, change: impl FnOnce(&mut VcpuState)) -> Result<(), EditError> {
        self.may_edit()?;
        let vcpu = self.vcpu(number);
        let mut state = vcpu.save().map_err(Error::from)?;
        change(&mut state);
        Ok(vcpu.restore(&state).map_err(Error::from)?)
    }

    /// Reads memory at a linear address, as a vCPU sees it and as far as it is there; the number of bytes read.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn read(&self, number: usize, address: Gva, data: &mut [u8]) -> Result<usize, Error> {
        Ok(self.linear_memory(number)?.read(address, data))
    }

    /// Writes memory at a linear address, as a vCPU sees it.
    ///
    /// # Errors
    /// [`EditError`]; what was before a byte that is not there has been written.
    pub fn write(&self, number: usize, address: Gva, data: &[u8]) -> Result<(), EditError> {
        self.may_edit()?;
        let written = self.linear_memory(number)?.write(address, data);
        if written == data.len() {
            return Ok(());
        }
        let missing = u64::try_from(written).unwrap_or(u64::MAX);
        Err(EditError::NotMapped(Gva(address.0.saturating_add(missing))))
    }

    /// Sets a breakpoint at a linear address, for all vCPUs; whether that can be done. Beyond the debug registers there has
    /// to be memory.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn add_breakpoint(&mut self, address: Gva) -> Result<bool, Error> {
        let is_new = self.breakpoints.insert(address);
        let (traps, unplaced) = self.place(None)?;
        traps.remove(&self.machine.board)?;
        if unplaced.is_empty() {
            return Ok(true);
        }
        if is_new {
            self.breakpoints.remove(&address);
        }
        Ok(false)
    }

    /// Takes it away; whether there was one.
    pub fn remove_breakpoint(&mut self, address: Gva) -> bool {
        self.breakpoints.remove(&address)
    }

    /// Watches memory, with a debug register; whether that can be done.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn add_watchpoint(&mut self, wanted: Breakpoint) -> Result<bool, Error> {
        self.watchpoints.push(wanted);
        let fits = self.capabilities.watchpoints && fit_registers(&self.watchpoints);
        let can = fits && {
            let (traps, unplaced) = self.place(None)?;
            traps.remove(&self.machine.board)?;
            unplaced.is_empty()
        };
        if !can {
            self.watchpoints.pop();
        }
        Ok(can)
    }

    /// Takes it away; whether there was one.
    pub fn remove_watchpoint(&mut self, watchpoint: Breakpoint) -> bool {
        let found = self.watchpoints.iter().position(|known| *known == watchpoint);
        found.map(|index| self.watchpoints.remove(index)).is_some()
    }

    /// Has the vCPUs do what they are told, one order for each, until one of them has a reason to stop; then all stop.
    /// `wants_stop` is asked after every wake-up.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn resume(
        &mut self,
        orders: &[ResumeAction],
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<RoundEnd, Error> {
        if let Some(end) = &self.end {
            return Ok((self.machine.ended, DebugStop::Ended(end.clone())));
        }
        let reason = match self.pending.pop_front() {
            Some(reason) => reason,
            None => self.go(orders, wants_stop)?,
        };
        let (number, stop) = &reason;
        self.machine.ended = *number;
        if let DebugStop::Ended(end) = stop {
            self.end = Some(end.clone());
        }
        let pc = self.registers(*number)?.linear_rip();
        if let Some(told) = self.told.get_mut(*number) {
            *told = Some(pc);
        }
        self.machine.board.output.sync().map_err(Error::Console)?;
        Ok(reason)
    }

    /// Lets the guest run to its end, without breakpoints, and gives the machine back.
    ///
    /// # Errors
    /// Where the host fails.
    pub fn finish(mut self) -> Result<Finished, Error> {
        self.breakpoints.clear();
        self.watchpoints.clear();
        let orders = vec![ResumeAction::Run; self.told.len()];
        loop {
            if let (_, DebugStop::Ended(end)) = self.resume(&orders, &mut || false)? {
                return self.conclude(end);
            }
        }
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
        self.machine.board.output.sync().map_err(Error::Console)?;
        let outcome = RunOutcome { end, exits: self.machine.exits(), elapsed };
        // What cannot be run again is as good as changed by hand.
        Ok(Finished { machine: self.machine, outcome, recording: Recording::new(), changed: true })
    }

    const fn may_edit(&self) -> Result<(), EditError> {
        if self.end.is_some() { Err(EditError::Ended) } else { Ok(()) }
    }

    /// First those who stand on a breakpoint step off it, one by one, while the others hold and the byte is away. Then all.
    fn go(
        &mut self,
        orders: &[ResumeAction],
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<RoundEnd, Error> {
        for (number, order) in orders.iter().enumerate() {
            let Some(pc) = self.steps_off(number, *order)? else { continue };
            let mut alone = vec![ResumeAction::Hold; orders.len()];
            if let Some(own) = alone.get_mut(number) {
                *own = ResumeAction::Step;
            }
            let reason = self.round(&alone, Some(Gva(pc)), wants_stop)?;
            let is_done = reason.1 == DebugStop::Step
                && match order {
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
        self.round(orders, None, wants_stop)
    }

    /// The breakpoint that a vCPU has to leave behind first. One that runs into it later than it was told of, or wakes up
    /// there, is to be stopped by it.
    fn steps_off(&self, number: usize, order: ResumeAction) -> Result<Option<u64>, Error> {
        if order == ResumeAction::Hold {
            return Ok(None);
        }
        let pc = self.registers(number)?.linear_rip();
        let was_told = self.told.get(number).copied().flatten() == Some(pc);
        let stands = self.breakpoints.contains(&Gva(pc)) && (was_told || order != ResumeAction::Run);
        let sleeps = stands && order == ResumeAction::Run && self.condition(number)? != MpState::Runnable;
        Ok((stands && !sleeps).then_some(pc))
    }

    /// One round, with all breakpoints in place but this one.
    fn round(
        &mut self,
        orders: &[ResumeAction],
        without: Option<Gva>,
        wants_stop: &mut dyn FnMut() -> bool,
    ) -> Result<RoundEnd, Error> {
        let leader = orders.iter().position(|order| *order != ResumeAction::Hold);
        let Some(leader) = leader else { return Ok((self.machine.ended, DebugStop::Asked)) };
        self.interrupt_handle.watch_vcpu(self.vcpu(leader))?;
        // Whoever asked just before that has kicked another vCPU.
        if wants_stop() {
            return Ok((leader, DebugStop::Asked));
        }
        for (told, order) in self.told.iter_mut().zip(orders) {
            if *order != ResumeAction::Hold {
                *told = None;
            }
        }
        let (traps, _) = self.place(without)?;
        let reasons = resume::run(&mut self.machine, orders, &traps, self.capabilities, wants_stop);
        traps.remove(&self.machine.board)?;
        let mut reasons = reasons?.into_iter();
        let first = reasons.next().unwrap_or((leader, DebugStop::Asked));
        // A breakpoint is run into again, and who has asked asks again; these would be lost.
        self.pending.extend(reasons.filter(|(_, stop)| {
            matches!(stop, DebugStop::Watchpoint(_) | DebugStop::OwnInt3 | DebugStop::Ended(_))
        }));
        Ok(first)
    }

    fn place(&self, without: Option<Gva>) -> Result<(SmpBreakpoints, Vec<Gva>), Error> {
        let mut views = Vec::new();
        for number in 0..self.told.len() {
            views.push(self.linear_memory(number)?);
        }
        let wanted = self.breakpoints.iter().copied().filter(|address| Some(*address) != without);
        SmpBreakpoints::place(&self.machine.board, &views, self.capabilities, wanted, &self.watchpoints)
    }

    /// The memory as a vCPU sees it.
    fn linear_memory(&self, number: usize) -> Result<LinearMemory<'_>, Error> {
        Ok(LinearMemory::on(&self.machine.board, &self.registers(number)?))
    }
}
