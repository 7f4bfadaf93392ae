//! The two kinds of debuggers as one type: [`Debugger`] records and can run backwards, [`SmpDebugger`] has vCPUs and
//! interrupts.
//!
//! vCPUs are numbered from 0. The recording debugger has one vCPU and ignores the number.

use vmm_core::Gva;
use vmm_core::cpu::cpu_state::CpuState;
use vmm_core::debugger::smp::{ResumeAction, SmpDebugger};
use vmm_core::debugger::{DebugStop, Debugger, EditError, ExecDirection, Finished, InterruptHandle};
use vmm_core::kvm_sys_wrap::{Breakpoint, MpState, VcpuState};
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::error::Error;
use vmm_core::spec::Interrupts;

use crate::stderr;

/// Guest under the control of a debugger.
pub(super) enum Debuggee<'a> {
    /// Machine without interrupts: its run is recorded and can be replayed.
    Recorded(Box<Debugger<'a>>),
    /// Machine with interrupts.
    Smp(Box<SmpDebugger>),
}

/// Request of gdb to resume the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ResumeRequest {
    /// Forward, with an action for each vCPU.
    Forward(Vec<ResumeAction>),
    /// One instruction back.
    StepBack,
    /// Back to the previous breakpoint.
    RunBack,
}

impl<'a> Debuggee<'a> {
    pub(super) fn new(
        machine: Machine,
        build: impl Fn() -> Result<Machine, Error> + 'a,
    ) -> Result<Self, Error> {
        Ok(match machine.spec().interrupts {
            Interrupts::None => Self::Recorded(Box::new(Debugger::new(machine, build)?)),
            Interrupts::Split | Interrupts::Pc => Self::Smp(Box::new(SmpDebugger::new(machine)?)),
        })
    }

    pub(super) fn machine(&self) -> &Machine {
        match self {
            Self::Recorded(debugger) => debugger.machine(),
            Self::Smp(debugger) => debugger.machine(),
        }
    }

    pub(super) fn vcpus(&self) -> usize {
        self.machine().vcpus().count()
    }

    /// Returns the vCPU that stopped last.
    pub(super) fn current(&self) -> usize {
        usize::try_from(self.machine().vcpu().id()).unwrap_or(0)
    }

    /// Describes the debug capabilities of this host, in one line.
    pub(super) fn capabilities(&self) -> String {
        match self {
            Self::Recorded(debugger) => debugger.capabilities().to_string(),
            Self::Smp(debugger) => debugger.capabilities().to_string(),
        }
    }

    /// Returns true if debug registers report accesses.
    pub(super) fn reports_accesses(&self) -> bool {
        match self {
            Self::Recorded(debugger) => debugger.capabilities().watchpoints,
            Self::Smp(debugger) => debugger.capabilities().watchpoints,
        }
    }

    pub(super) fn interrupt_handle(&self) -> InterruptHandle {
        match self {
            Self::Recorded(debugger) => debugger.interrupt_handle(),
            Self::Smp(debugger) => debugger.interrupt_handle(),
        }
    }

    /// Sets the function that decides if the guest stops.
    pub(super) fn stop_if(&mut self, wants_stop: impl Fn() -> bool + Send + Sync + 'static) {
        match self {
            Self::Recorded(debugger) => debugger.stop_if(wants_stop),
            Self::Smp(debugger) => debugger.stop_if(wants_stop),
        }
    }

    pub(super) fn end(&self) -> Option<&End> {
        match self {
            Self::Recorded(debugger) => debugger.end(),
            Self::Smp(debugger) => debugger.end(),
        }
    }

    /// Returns the number of exits up to the current position.
    pub(super) fn exits(&self) -> u64 {
        match self {
            Self::Recorded(debugger) => debugger.exits(),
            Self::Smp(debugger) => debugger.machine().exits().total(),
        }
    }

    pub(super) fn is_in_past(&self) -> bool {
        match self {
            Self::Recorded(debugger) => debugger.is_in_past(),
            Self::Smp(_) => false,
        }
    }

    /// Returns the MP state of a vCPU; `None` for a machine without interrupt controllers.
    pub(super) fn mp_state(&self, vcpu: usize) -> Result<Option<MpState>, Error> {
        match self {
            Self::Recorded(_) => Ok(None),
            Self::Smp(debugger) => debugger.condition(vcpu).map(Some),
        }
    }

    pub(super) fn registers(&self, vcpu: usize) -> Result<CpuState, Error> {
        match self {
            Self::Recorded(debugger) => {
                let (regs, sregs) = debugger.registers()?;
                Ok(CpuState { regs, sregs })
            }
            Self::Smp(debugger) => debugger.registers(vcpu),
        }
    }

    /// Returns the linear address of the next instruction.
    pub(super) fn pc(&self, vcpu: usize) -> Result<u64, Error> {
        Ok(self.registers(vcpu)?.linear_rip())
    }

    pub(super) fn state(&self, vcpu: usize) -> Result<VcpuState, Error> {
        Ok(match self {
            Self::Recorded(debugger) => debugger.machine().vcpu().save()?,
            Self::Smp(debugger) => debugger.vcpu(vcpu).save()?,
        })
    }

    pub(super) fn change(
        &mut self,
        vcpu: usize,
        change: impl FnOnce(&mut VcpuState),
    ) -> Result<(), EditError> {
        match self {
            Self::Recorded(debugger) => debugger.change(change),
            Self::Smp(debugger) => debugger.change(vcpu, change),
        }
    }

    pub(super) fn read(&self, vcpu: usize, address: Gva, data: &mut [u8]) -> Result<usize, Error> {
        match self {
            Self::Recorded(debugger) => debugger.read(address, data),
            Self::Smp(debugger) => debugger.read(vcpu, address, data),
        }
    }

    pub(super) fn write(&mut self, vcpu: usize, address: Gva, data: &[u8]) -> Result<(), EditError> {
        match self {
            Self::Recorded(debugger) => debugger.write(address, data),
            Self::Smp(debugger) => debugger.write(vcpu, address, data),
        }
    }

    /// Sets a breakpoint. Returns false if that is not possible.
    pub(super) fn add_breakpoint(&mut self, address: Gva) -> Result<bool, Error> {
        match self {
            Self::Recorded(debugger) => {
                debugger.add_breakpoint(address);
                Ok(true)
            }
            Self::Smp(debugger) => debugger.add_breakpoint(address),
        }
    }

    pub(super) fn remove_breakpoint(&mut self, address: Gva) {
        match self {
            Self::Recorded(debugger) => debugger.remove_breakpoint(address),
            Self::Smp(debugger) => debugger.remove_breakpoint(address),
        };
    }

    /// Sets a watchpoint. Returns false if that is not possible.
    pub(super) fn add_watchpoint(&mut self, watchpoint: Breakpoint) -> Result<bool, Error> {
        match self {
            Self::Recorded(debugger) => Ok(debugger.add_watchpoint(watchpoint)),
            Self::Smp(debugger) => debugger.add_watchpoint(watchpoint),
        }
    }

    pub(super) fn remove_watchpoint(&mut self, watchpoint: Breakpoint) -> bool {
        match self {
            Self::Recorded(debugger) => debugger.remove_watchpoint(watchpoint),
            Self::Smp(debugger) => debugger.remove_watchpoint(watchpoint),
        }
    }

    /// Resumes the guest until it stops. Returns the vCPU that stopped and the reason.
    pub(super) fn resume(&mut self, wish: &ResumeRequest) -> Result<(usize, DebugStop), Error> {
        let current = self.current();
        let debugger = match self {
            Self::Recorded(debugger) => debugger,
            Self::Smp(debugger) => {
                return match wish {
                    ResumeRequest::Forward(orders) => debugger.resume(orders),
                    ResumeRequest::StepBack | ResumeRequest::RunBack => {
                        stderr::print_line(format_args!(
                            "gdb: a machine with interrupts cannot be run again exactly"
                        ));
                        Ok((current, DebugStop::HistoryStart))
                    }
                };
            }
        };
        let stop = match wish {
            ResumeRequest::StepBack => debugger.step(ExecDirection::Back),
            ResumeRequest::RunBack => debugger.run(ExecDirection::Back),
            ResumeRequest::Forward(orders) => match orders.first().copied().unwrap_or(ResumeAction::Run) {
                ResumeAction::Hold | ResumeAction::Run => debugger.run(ExecDirection::Forward),
                ResumeAction::Step => debugger.step(ExecDirection::Forward),
                ResumeAction::Range(start, end) => debugger.step_range(start, end),
            },
        };
        Ok((current, stop?))
    }

    /// Goes back before the instruction that a guest died in. Returns false if that is not possible.
    pub(super) fn go_before_end(&mut self) -> Result<bool, Error> {
        match self {
            Self::Recorded(debugger) => debugger.go_before_end(),
            Self::Smp(_) => Ok(false),
        }
    }

    pub(super) fn finish(self) -> Result<Finished, Error> {
        match self {
            Self::Recorded(debugger) => debugger.finish(),
            Self::Smp(debugger) => debugger.finish(),
        }
    }

    pub(super) fn abandon(self) -> Result<Finished, Error> {
        match self {
            Self::Recorded(debugger) => debugger.abandon(),
            Self::Smp(debugger) => debugger.abandon(),
        }
    }
}
