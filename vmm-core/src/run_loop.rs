//! The run loop: run, count, show to the observers, serve. Then again, until something ends it.
//!
//! Serving is one exhaustive match over the exits. Accesses go to the bus and their answers back to the vCPU; HLT and the
//! deaths end the run. Limits, traces, statistics and debuggers are observers and have no arm here.

use std::time::{Duration, Instant};

use kvm_sys_wrap::bindings::kvm_regs;
use kvm_sys_wrap::{Exit, Gpa, Gva, Port};
use vm_memory::Bytes;

use crate::bus::Bus;
use crate::device::Action;
use crate::end::{Access, AccessAddress, End};
use crate::error::Error;
use crate::exit_counts::{ExitCounts, ExitKind};
use crate::landing::{Frame, WAY_BACK};
use crate::limits::Limits;
use crate::machine::Machine;
use crate::mode::Mode;
use crate::observer::{Observer, View};
use crate::spec::Unmapped;
use crate::vcpu_view::VcpuView;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The exits it took.
    pub exits: ExitCounts,
    /// Wall-clock time from the first `KVM_RUN` to the end.
    pub elapsed: Duration,
}

/// What one turn of the loop came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// An exit was served; the guest can go on.
    Served,
    /// A debug event that somebody asked for with `KVM_SET_GUEST_DEBUG`; the guest can go on.
    Debug(DebugEvent),
    /// The run is over.
    Ended(End),
}

/// A debug event ([`Exit::Debug`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugEvent {
    /// The linear address of the next instruction.
    pub pc: u64,
    /// Which condition: bits 0 to 3 a breakpoint, bit 14 a single step (SDM vol. 3, 17.2.3).
    pub dr6: u64,
}

/// RFLAGS.IF (SDM vol. 1, 3.4.3.3).
const INTERRUPT_FLAG: u64 = 1 << 9;

impl Machine {
    /// Runs the guest until it ends, dies, or is stopped by a limit.
    ///
    /// # Errors
    /// Only where the host fails: a call to KVM, or the console. What the guest does is in the outcome.
    pub fn run(&mut self) -> Result<Outcome, Error> {
        self.run_observed(&mut [])
    }

    /// The same, with observers, who see each exit before and after it is served.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run_observed(&mut self, observers: &mut [&mut dyn Observer]) -> Result<Outcome, Error> {
        let mut limits = Limits::start(self.spec.limits)?;
        let started = Instant::now();
        let end = loop {
            match self.turn(&mut limits, observers)? {
                Turn::Served | Turn::Debug(_) => {}
                Turn::Ended(end) => break end,
            }
        };
        let elapsed = started.elapsed();
        self.output.sync().map_err(Error::Console)?;
        Ok(Outcome { end, exits: self.exits.clone(), elapsed })
    }

    /// One turn: runs the guest up to its next exit, and serves that.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn turn(&mut self, limits: &mut Limits, observers: &mut [&mut dyn Observer]) -> Result<Turn, Error> {
        let exit = self.vcpu.run()?;
        self.take(&exit, limits, observers)
    }

    /// The rest of a turn: counts an exit, shows it, serves it.
    pub(crate) fn take(
        &mut self,
        exit: &Exit,
        limits: &mut Limits,
        observers: &mut [&mut dyn Observer],
    ) -> Result<Turn, Error> {
        self.exits.record(ExitKind::from(exit));
        let view = View { exit, vcpu: &self.vcpu, memory: &self.memory, exits: &self.exits };
        if let Some(end) = limits.on_exit(&view) {
            return Ok(Turn::Ended(end));
        }
        if let Some(end) = observers.iter_mut().find_map(|observer| observer.on_exit(&view)) {
            return Ok(Turn::Ended(end));
        }
        self.answer.clear();
        let turn = self.serve(exit)?;
        let view = View { exit, vcpu: &self.vcpu, memory: &self.memory, exits: &self.exits };
        for observer in observers {
            observer.on_served(&view, &self.answer);
        }
        if !self.answer.is_empty() {
            self.vcpu.reply(&self.answer)?;
        }
        Ok(turn)
    }

    /// Serves one exit. What the guest is to read is left in `self.answer`.
    pub(crate) fn serve(&mut self, exit: &Exit) -> Result<Turn, Error> {
        let end = match exit {
            Exit::PioOut { port, width, data, .. } => {
                self.write(AccessAddress::Port(*port), usize::from(*width), data)?
            }
            Exit::PioIn { port, width, count } => {
                let length =
                    usize::from(*width).saturating_mul(usize::try_from(*count).unwrap_or(usize::MAX));
                self.read(AccessAddress::Port(*port), usize::from(*width), length)?
            }
            Exit::MmioWrite { address, data } => {
                self.write(AccessAddress::Mmio(*address), data.len(), data)?
            }
            Exit::MmioRead { address, width } => {
                self.read(AccessAddress::Mmio(*address), usize::from(*width), usize::from(*width))?
            }
            Exit::Debug { pc, dr6, .. } => return Ok(Turn::Debug(DebugEvent { pc: *pc, dr6: *dr6 })),
            Exit::Hlt => Some(self.halted()?),
            Exit::Shutdown => Some(End::Shutdown),
            Exit::InternalError { suberror, data } => {
                Some(End::InternalError { suberror: *suberror, data: data.clone() })
            }
            Exit::FailEntry { reason, cpu } => Some(End::FailEntry { reason: *reason, cpu: *cpu }),
            Exit::SystemEvent { kind, .. } => Some(End::SystemEvent { kind: *kind }),
            // A signal that no limit asked for, or a vCPU that is not to run yet: once more.
            Exit::Interrupted | Exit::Again => None,
            // Nothing here switches these on.
            Exit::IrqWindowOpen
            | Exit::Hypercall { .. }
            | Exit::ReadMsr { .. }
            | Exit::WriteMsr { .. }
            | Exit::IoapicEoi { .. }
            | Exit::SetTpr
            | Exit::TprAccess { .. }
            | Exit::MemoryFault { .. }
            | Exit::BusLock
            | Exit::Notify { .. }
            | Exit::DirtyRingFull
            | Exit::Unknown { .. }
            | Exit::Other(_) => Some(End::Unserved(exit.clone())),
        };
        Ok(end.map_or(Turn::Served, Turn::Ended))
    }

    /// Hands the items of a write to the device there.
    fn write(&self, at: AccessAddress, width: usize, data: &[u8]) -> Result<Option<End>, Error> {
        let guest = self.view();
        let (bus, address) = self.bus(at);
        for item in data.chunks(width.max(1)) {
            match bus.write(address, item, &guest) {
                Some(result) => match result.map_err(Error::Console)? {
                    Action::Continue => {}
                    Action::Exit(code) => return Ok(Some(End::Exit { code })),
                },
                None => match self.spec.unmapped {
                    Unmapped::Ones => {}
                    Unmapped::Stop => return self.stray(at, item.len(), Some(number(item))).map(Some),
                },
            }
        }
        Ok(None)
    }

    /// Asks the device there for `length` bytes in items of `width`, and leaves them as the answer.
    fn read(&mut self, at: AccessAddress, width: usize, length: usize) -> Result<Option<End>, Error> {
        let mut answer = std::mem::take(&mut self.answer);
        // A PIO exit brings at most a page, so this is small. What nobody fills reads as ones.
        answer.resize(length, 0xff);
        let guest = self.view();
        let (bus, address) = self.bus(at);
        for item in answer.chunks_mut(width.max(1)) {
            match bus.read(address, item, &guest) {
                Some(result) => match result.map_err(Error::Console)? {
                    Action::Continue => {}
                    Action::Exit(code) => return Ok(Some(End::Exit { code })),
                },
                None => match self.spec.unmapped {
                    Unmapped::Ones => {}
                    Unmapped::Stop => return self.stray(at, width, None).map(Some),
                },
            }
        }
        self.answer = answer;
        Ok(None)
    }

    fn bus(&self, at: AccessAddress) -> (&Bus, u64) {
        match at {
            AccessAddress::Port(Port(port)) => (&self.ports, port.into()),
            AccessAddress::Mmio(Gpa(address)) => (&self.mmio, address),
        }
    }

    fn stray(&self, at: AccessAddress, width: usize, written: Option<u64>) -> Result<End, Error> {
        let rip = self.vcpu.regs()?.rip;
        Ok(End::Unmapped(Access { at, width, written, rip }))
    }

    /// What a HLT was: the guest's own, or one of the stubs that catch what leaves ring 3.
    pub(crate) fn halted(&self) -> Result<End, Error> {
        let regs = self.vcpu.regs()?;
        Ok(match self.landing.and_then(|landing| landing.vector(Gva(regs.rip))) {
            Some(WAY_BACK) => End::WayBack,
            Some(vector) => End::Exception { vector, frame: self.frame(vector, &regs) },
            None => End::Halt { interrupts: regs.rflags & INTERRUPT_FLAG != 0 },
        })
    }

    /// Reads what the CPU pushed on the ring-0 stack, which lies at the same physical and virtual address.
    fn frame(&self, vector: u8, regs: &kvm_regs) -> Option<Frame> {
        let mut stack = [0; 6 * 8];
        let length = self.memory.read(&mut stack, Gpa(regs.rsp).into()).ok()?;
        Frame::decode(vector, stack.get(..length)?, self.spec.boot.mode == Mode::Long)
    }

    fn view(&self) -> VcpuView<'_> {
        VcpuView { vcpu: &self.vcpu, memory: &self.memory, read_only: &self.read_only, exits: &self.exits }
    }
}

/// Up to 8 bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
