//! The operations that a front-end needs from a debugger, and their results.
//!
//! [`DebugTarget`] has two implementations: [`Debugger`](super::Debugger) records the run of one vCPU and can go back,
//! [`SmpDebugger`](super::smp::SmpDebugger) has any number of vCPUs and interrupts.

use kvm_sys_wrap::{Breakpoint, MpState, Vcpu, VcpuState};

use super::interrupt_handle::InterruptHandle;
use super::linear_memory::LinearMemory;
use crate::Gva;
use crate::cpu::cpu_state::CpuState;
use crate::machine::Machine;
use crate::machine::debug_capabilities::DebugCapabilities;
use crate::machine::end::{End, Verdict};
use crate::machine::error::Error;
use crate::machine::run_loop::RunOutcome;
use crate::record::Recording;
use crate::spec::Interrupts;

/// Guest under the control of a debugger, whose vCPUs are numbered from 0.
pub trait DebugTarget {
    /// Returns the machine that the debugger shows: that of the run, or one at an earlier point of it. Its
    /// [`vcpu`](Machine::vcpu) is the one that stopped last.
    fn machine(&self) -> &Machine;

    /// Returns the debug capabilities of this host.
    fn capabilities(&self) -> DebugCapabilities;

    /// Returns a handle that interrupts this debugger from another thread.
    fn interrupt_handle(&self) -> InterruptHandle;

    /// Sets the function that decides if the guest stops. It is called after every interrupt of this debugger, and at exits; the
    /// guest stops with [`DebugStop::Interrupted`] if it returns true.
    fn stop_if(&mut self, wants_stop: Box<dyn Fn() -> bool + Send + Sync>);

    /// Returns the end of the run, if it has ended.
    fn end(&self) -> Option<&End>;

    /// Returns the verdict on an end of the run.
    fn verdict(&self, end: &End) -> Verdict {
        self.machine().verdict(end)
    }

    /// Returns the number of exits of the guest up to the point that the debugger shows.
    fn exits(&self) -> u64 {
        self.machine().exits().total()
    }

    /// Returns true if the run is recorded, so that the debugger can go back.
    fn is_recorded(&self) -> bool;

    /// Returns true if the debugger shows an earlier point of the run.
    fn is_in_past(&self) -> bool {
        false
    }

    /// Returns the number of vCPUs of the guest.
    fn vcpu_count(&self) -> usize {
        self.machine().vcpus().count()
    }

    /// Returns the number of the vCPU that stopped last.
    fn current_vcpu(&self) -> usize {
        usize::try_from(self.machine().vcpu().id()).unwrap_or(0)
    }

    /// Returns the vCPU with a number, or the one that stopped last if no vCPU has the number.
    fn vcpu(&self, number: usize) -> &Vcpu {
        let machine = self.machine();
        machine.vcpus().nth(number).unwrap_or_else(|| machine.vcpu())
    }

    /// Returns the multiprocessing state of a vCPU: runnable, halted, or waiting for its start (`KVM_GET_MP_STATE`). `None`
    /// without interrupt controllers.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn mp_state(&self, vcpu: usize) -> Result<Option<MpState>, Error> {
        if self.machine().spec().interrupts == Interrupts::None {
            return Ok(None);
        }
        Ok(Some(self.vcpu(vcpu).mp_state()?))
    }

    /// Reads the whole state of a vCPU.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn vcpu_state(&self, vcpu: usize) -> Result<VcpuState, Error> {
        Ok(self.vcpu(vcpu).save()?)
    }

    /// Reads the registers of a vCPU.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn registers(&self, vcpu: usize) -> Result<CpuState, Error> {
        Ok(CpuState::from_vcpu(self.vcpu(vcpu))?)
    }

    /// Returns the linear address of the next instruction of a vCPU.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn pc(&self, vcpu: usize) -> Result<Gva, Error> {
        Ok(Gva(self.registers(vcpu)?.linear_rip()))
    }

    /// Changes the registers and other state of a vCPU by a function.
    ///
    /// # Errors
    /// [`EditError`].
    fn change(&mut self, vcpu: usize, change: &mut dyn FnMut(&mut VcpuState)) -> Result<(), EditError> {
        self.check_editable()?;
        let vcpu = self.vcpu(vcpu);
        let mut state = vcpu.save().map_err(Error::from)?;
        change(&mut state);
        vcpu.restore(&state).map_err(Error::from)?;
        Ok(self.restart_history()?)
    }

    /// Reads memory at a linear address with the page tables of a vCPU, up to the first byte that is not mapped. Returns the
    /// number of bytes read.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    fn read(&self, vcpu: usize, address: Gva, data: &mut [u8]) -> Result<usize, Error> {
        Ok(LinearMemory::from_board(&self.machine().board, &self.registers(vcpu)?).read(address, data))
    }

    /// Writes memory at a linear address with the page tables of a vCPU.
    ///
    /// # Errors
    /// [`EditError`]; bytes before the first one that is not mapped have been written.
    fn write(&mut self, vcpu: usize, address: Gva, data: &[u8]) -> Result<(), EditError> {
        self.check_editable()?;
        let written =
            LinearMemory::from_board(&self.machine().board, &self.registers(vcpu)?).write(address, data);
        self.restart_history()?;
        if written == data.len() {
            return Ok(());
        }
        let missing = u64::try_from(written).unwrap_or(u64::MAX);
        Err(EditError::NotMapped(Gva(address.0.saturating_add(missing))))
    }

    /// Checks that the guest can be changed now.
    ///
    /// # Errors
    /// [`EditError::Past`] and [`EditError::Ended`].
    fn check_editable(&self) -> Result<(), EditError> {
        if self.is_in_past() {
            return Err(EditError::Past);
        }
        if self.end().is_some() { Err(EditError::Ended) } else { Ok(()) }
    }

    /// Makes the present point the start of the history, after a change that a replay cannot repeat. Does nothing if the run is
    /// not recorded.
    ///
    /// # Errors
    /// Where the host fails.
    fn restart_history(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Sets a breakpoint at a linear address, for all vCPUs. Returns false if that is not possible.
    ///
    /// # Errors
    /// Where the host fails.
    fn add_breakpoint(&mut self, address: Gva) -> Result<bool, Error>;

    /// Removes the breakpoint at a linear address. Returns true if there was one.
    fn remove_breakpoint(&mut self, address: Gva) -> bool;

    /// Sets a watchpoint: the guest stops after an access to its memory. Returns false if that is not possible.
    ///
    /// # Errors
    /// Where the host fails.
    fn add_watchpoint(&mut self, watchpoint: Breakpoint) -> Result<bool, Error>;

    /// Removes a watchpoint that was set before. Returns true if there was one.
    fn remove_watchpoint(&mut self, watchpoint: Breakpoint) -> bool;

    /// Resumes the guest until it stops. Returns the number of the vCPU that stopped and the reason.
    ///
    /// # Errors
    /// Where the host fails.
    fn resume(&mut self, request: &ResumeRequest) -> Result<(usize, DebugStop), Error>;

    /// Goes to the point before the instruction that ended the run: a vCPU that shut down may have lost its registers, and there
    /// they can still be read. Returns false if that is not possible.
    ///
    /// # Errors
    /// Where the host fails.
    fn go_before_end(&mut self) -> Result<bool, Error> {
        Ok(false)
    }

    /// Runs the guest to its end, without breakpoints, and returns the machine.
    ///
    /// # Errors
    /// Where the host fails.
    fn finish(self: Box<Self>) -> Result<Finished, Error>;

    /// Ends the run at its present point, and returns the machine.
    ///
    /// # Errors
    /// [`Error::Console`].
    fn abandon(self: Box<Self>) -> Result<Finished, Error>;
}

/// Request of a front-end to resume the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumeRequest {
    /// Go on, with an action for each vCPU.
    Forward(Vec<ResumeAction>),
    /// Go back by one instruction of the guest.
    StepBack,
    /// Go back to the previous breakpoint or write to watched memory.
    RunBack,
}

/// Action of one vCPU when the guest is resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumeAction {
    /// Stay stopped while other vCPUs run.
    Hold,
    /// Run until there is a reason to stop.
    Run,
    /// Execute one instruction and stop.
    Step,
    /// Execute instructions as long as the next one is at or after the first address and before the second.
    Range(u64, u64),
}

/// Reason for a stop of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebugStop {
    /// The vCPU completed its single step.
    Step,
    /// The next instruction has a breakpoint.
    Breakpoint,
    /// Memory of this watchpoint was written or read.
    Watchpoint(Breakpoint),
    /// The guest executed an `int3` instruction that is its own, and no breakpoint.
    GuestInt3,
    /// The front-end asked for a stop.
    Interrupted,
    /// The host cannot step the vCPU in its present state; nothing was executed.
    CannotStep,
    /// Start of the recorded history, reached while going back. A run that is not recorded has no other point.
    HistoryStart,
    /// The repeated run differs from the record, so earlier points cannot be reached.
    HistoryLost,
    /// The run of the guest has ended.
    Ended(End),
}

/// Direction of execution: forward, or back over the recorded run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecDirection {
    /// Forward, in the order in which the guest executes.
    Forward,
    /// Backward over the run that was recorded.
    Back,
}

/// Result of a debugged run: its outcome, its record and the machine.
#[derive(Debug)]
pub struct Finished {
    /// Machine at the end of the run.
    pub machine: Machine,
    /// Outcome of the run: its end, its exits and its duration.
    pub outcome: RunOutcome,
    /// Record of the run, for a replay.
    pub recording: Recording,
    /// True if the user changed something; then the run cannot be repeated from its start.
    pub changed: bool,
}

/// Reason why a debugger cannot change the guest.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The debugger shows an earlier point of the run.
    #[error("the past cannot be changed; `continue` to the present first")]
    Past,
    /// The run of the guest has ended.
    #[error("the run is over")]
    Ended,
    /// No memory is mapped at the address.
    #[error("no memory is mapped at {0}")]
    NotMapped(Gva),
    /// The host failed to make the change.
    #[error(transparent)]
    Host(#[from] Error),
}
