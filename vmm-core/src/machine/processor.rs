//! A vCPU with its counters, and serving of its exits.
//!
//! [`Processor::serve`] is one exhaustive match over the exits. Accesses go to the bus and their answers back to the vCPU; HLT
//! and crashes end the run. Limits, observers and debuggers are hooks around it ([`crate::machine::turn`]) and have no arm
//! here.
//!
//! A processor shares only the [`Board`] with the others of its machine, so each can have a thread of its own.

use std::collections::BTreeMap;

use kvm_sys_wrap::bindings::{KVM_MSR_EXIT_REASON_UNKNOWN, kvm_regs, kvm_segment, kvm_sregs};
use kvm_sys_wrap::{Exit, Gpa, Gva, Port, Vcpu};
use vm_memory::Bytes;

use crate::cpu::cpu_state::CpuState;
use crate::cpu::exit_counts::{ExitCounts, ExitKind};
use crate::cpu::reset_state;
use crate::cpu::ring3_trap::{EXIT_VECTOR, ExceptionFrame};
use crate::devices::bus::Bus;
use crate::devices::irqchip::SharedIrqchip;
use crate::devices::irqchip::local_apic::x2apic::X2APIC_MSRS;
use crate::machine::board::Board;
use crate::machine::end::{End, UnmappedAccess};
use crate::machine::error::Error;
use crate::machine::host;
use crate::machine::observer::ExitView;
use crate::machine::vcpu_view::VcpuView;
use crate::spec::{BusAddress, UnmappedPolicy};

/// RFLAGS.IF (SDM vol. 1, 3.4.3.3).
const INTERRUPT_FLAG: u64 = 1 << 9;

/// Part of a vCPU that serving an exit needs. A trait, so that tests serve exits without KVM.
pub(crate) trait ServedVcpu {
    /// General registers at the exit.
    fn regs_at_exit(&self) -> Result<kvm_regs, kvm_sys_wrap::Error>;

    /// Guest-physical address of a guest-virtual one (`KVM_TRANSLATE`); `None` where nothing is mapped.
    fn translate(&self, address: Gva) -> Result<Option<Gpa>, kvm_sys_wrap::Error>;

    /// Number of the vCPU in its machine, from 0.
    fn number(&self) -> usize;

    /// Answers an exit for the read of an MSR with a value.
    fn complete_msr(&mut self, value: u64) -> Result<(), kvm_sys_wrap::Error>;

    /// Answers an MSR exit with #GP.
    fn inject_msr_fault(&mut self) -> Result<(), kvm_sys_wrap::Error>;
}

impl ServedVcpu for Vcpu {
    fn regs_at_exit(&self) -> Result<kvm_regs, kvm_sys_wrap::Error> {
        self.regs_at_exit()
    }

    fn translate(&self, address: Gva) -> Result<Option<Gpa>, kvm_sys_wrap::Error> {
        self.translate(address)
    }

    fn number(&self) -> usize {
        usize::try_from(self.id()).unwrap_or(usize::MAX)
    }

    fn complete_msr(&mut self, value: u64) -> Result<(), kvm_sys_wrap::Error> {
        self.complete_msr(value)
    }

    fn inject_msr_fault(&mut self) -> Result<(), kvm_sys_wrap::Error> {
        self.inject_msr_fault()
    }
}

/// vCPU, its counters and its answer buffer.
#[derive(Debug)]
pub(crate) struct Processor<V = Vcpu> {
    pub(crate) vcpu: V,
    pub(crate) exits: ExitCounts,
    /// Bytes that the guest reads next: one buffer for all exits.
    pub(crate) answer: Vec<u8>,
    /// MSRs that the guest accessed and KVM does not have.
    pub(crate) unknown_msrs: UnknownMsrs,
}

/// Numbers of reads and writes of the MSRs that KVM does not have, by MSR.
pub type UnknownMsrs = BTreeMap<u32, MsrUse>;

/// Numbers of a guest's reads and writes of one MSR. Each raised #GP in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsrUse {
    /// Number of RDMSR instructions.
    pub reads: u64,
    /// Number of WRMSR instructions.
    pub writes: u64,
}

impl Processor {
    /// View of an exit for observers.
    pub(crate) fn view<'a>(&'a self, exit: &'a Exit, board: &'a Board) -> ExitView<'a> {
        ExitView { exit, vcpu: &self.vcpu, memory: &board.memory, exits: &self.exits }
    }

    /// Counts an exit.
    pub(crate) fn count(&mut self, exit: &Exit) {
        self.exits.record(ExitKind::from(exit));
    }

    /// Reads the registers of the vCPU, stopped.
    pub(crate) fn cpu_state(&self) -> Result<CpuState, Error> {
        Ok(CpuState::from_vcpu(&self.vcpu)?)
    }

    /// Linear address of the next instruction.
    pub(crate) fn linear_rip(&self) -> Result<u64, Error> {
        Ok(self.cpu_state()?.linear_rip())
    }

    /// Resets the registers to the state after INIT (SDM vol. 3, 9.1.1). The first instruction is at CS and IP of `entry`, or at the
    /// reset vector.
    pub(crate) fn reset_registers(&self, entry: Option<(u16, u64)>) -> Result<(), Error> {
        let apic_base = self.vcpu.sregs()?.apic_base;
        let mut sregs = kvm_sregs { apic_base, ..reset_state::sregs() };
        let mut regs = kvm_regs { rip: 0xfff0, rflags: 2, ..kvm_regs::default() };
        if let Some((segment, offset)) = entry {
            (sregs.cs.selector, sregs.cs.base) = (segment, u64::from(segment) << 4);
            regs.rip = offset;
        }
        self.vcpu.set_sregs(&sregs)?;
        Ok(self.vcpu.set_regs(&regs)?)
    }

    /// Undoes the delivery of an exception from ring 3 to the trap page: `cs` and `ss` are those of ring 3.
    pub(crate) fn return_to_ring_3(
        &self,
        board: &Board,
        frame: &ExceptionFrame,
        cs: kvm_segment,
        ss: kvm_segment,
    ) -> Result<(), Error> {
        let mut sregs = self.vcpu.sregs()?;
        (sregs.cs, sregs.ss) = (cs, ss);
        // KVM reports a busy TSS always; the type that it accepts depends on the host.
        sregs.tr.type_ = host::quirks(&board.spec).tr_type.kind();
        self.vcpu.set_sregs(&sregs)?;
        let mut regs = self.vcpu.regs()?;
        (regs.rip, regs.rflags, regs.rsp) = (frame.rip, frame.rflags, frame.rsp);
        Ok(self.vcpu.set_regs(&regs)?)
    }
}

impl<V: ServedVcpu> Processor<V> {
    pub(crate) fn new(vcpu: V) -> Self {
        Self { vcpu, exits: ExitCounts::default(), answer: Vec::new(), unknown_msrs: UnknownMsrs::new() }
    }

    /// Serves one exit; returns the end of the run if this is it. What the guest reads is left in `self.answer`.
    #[inline]
    pub(crate) fn serve(&mut self, board: &Board, exit: &Exit) -> Result<Option<End>, Error> {
        self.answer.clear();
        let end = match exit {
            Exit::PioOut { port, width, data, .. } => {
                self.write(board, BusAddress::Port(*port), usize::from(*width), data)?
            }
            Exit::PioIn { port, width, count } => {
                let length =
                    usize::from(*width).saturating_mul(usize::try_from(*count).unwrap_or(usize::MAX));
                self.read(board, BusAddress::Port(*port), usize::from(*width), length)?
            }
            Exit::MmioWrite { address, data } => {
                self.write(board, BusAddress::Mmio(*address), data.len(), data)?
            }
            Exit::MmioRead { address, width } => {
                let width = usize::from(*width);
                self.read(board, BusAddress::Mmio(*address), width, width)?
            }
            Exit::Hlt => Some(self.halted(board, &self.vcpu.regs_at_exit()?)),
            Exit::Shutdown => Some(End::Shutdown),
            Exit::InternalError { suberror, data } => {
                Some(End::InternalError { suberror: *suberror, data: data.clone() })
            }
            Exit::FailEntry { reason, cpu } => Some(End::FailEntry { reason: *reason, cpu: *cpu }),
            Exit::SystemEvent { kind, .. } => Some(End::SystemEvent { kind: *kind }),
            // A signal that no limit asked for, a vCPU that is not to run yet, or a debug event: nothing to serve.
            Exit::Interrupted | Exit::Retry | Exit::Debug { .. } => None,
            // The interrupt controllers of this process look at the vCPU after each exit.
            Exit::IrqWindowOpen | Exit::SetTpr => None,
            Exit::ReadMsr { index, reason } => {
                let value = apic_msr(board, *index)
                    .and_then(|irqchip| irqchip.lock().read_apic_msr(self.vcpu.number(), *index));
                if let Some(value) = value {
                    self.vcpu.complete_msr(value)?;
                } else {
                    if *reason == KVM_MSR_EXIT_REASON_UNKNOWN {
                        self.unknown_msrs.entry(*index).or_default().reads += 1;
                    }
                    self.vcpu.inject_msr_fault()?;
                }
                None
            }
            Exit::WriteMsr { index, data, reason } => {
                let done = apic_msr(board, *index)
                    .and_then(|irqchip| irqchip.lock().write_apic_msr(self.vcpu.number(), *index, *data));
                if done.is_none() {
                    if *reason == KVM_MSR_EXIT_REASON_UNKNOWN {
                        self.unknown_msrs.entry(*index).or_default().writes += 1;
                    }
                    self.vcpu.inject_msr_fault()?;
                }
                None
            }
            // Nothing here switches these on.
            Exit::Hypercall { .. }
            | Exit::IoapicEoi { .. }
            | Exit::TprAccess { .. }
            | Exit::MemoryFault { .. }
            | Exit::BusLock
            | Exit::Notify { .. }
            | Exit::DirtyRingFull
            | Exit::Unknown { .. }
            | Exit::Other(_) => Some(End::Unserved(exit.clone())),
        };
        Ok(end)
    }

    /// Passes a write to the device at this address, item by item.
    fn write(&self, board: &Board, at: BusAddress, width: usize, data: &[u8]) -> Result<Option<End>, Error> {
        let guest = self.guest(board);
        let (bus, address) = bus(board, at);
        for item in data.chunks(width.max(1)) {
            match bus.write(address, item, &guest) {
                Some(action) => {
                    if let Some(end) = End::from_action(action.map_err(Error::Console)?) {
                        return Ok(Some(end));
                    }
                }
                None => match board.spec.unmapped {
                    UnmappedPolicy::ReadOnes => {}
                    UnmappedPolicy::Stop => {
                        return self.unmapped(at, item.len(), Some(number(item))).map(Some);
                    }
                },
            }
        }
        Ok(None)
    }

    /// Reads `length` bytes from the device at this address in items of `width`, and leaves them as the answer.
    fn read(
        &mut self,
        board: &Board,
        at: BusAddress,
        width: usize,
        length: usize,
    ) -> Result<Option<End>, Error> {
        let mut answer = std::mem::take(&mut self.answer);
        // A PIO exit transfers at most a page, so this is small. Bytes that no device fills read as ones.
        answer.resize(length, 0xff);
        let guest = self.guest(board);
        let (bus, address) = bus(board, at);
        for item in answer.chunks_mut(width.max(1)) {
            match bus.read(address, item, &guest) {
                Some(action) => {
                    if let Some(end) = End::from_action(action.map_err(Error::Console)?) {
                        return Ok(Some(end));
                    }
                }
                None => match board.spec.unmapped {
                    UnmappedPolicy::ReadOnes => {}
                    UnmappedPolicy::Stop => return self.unmapped(at, width, None).map(Some),
                },
            }
        }
        self.answer = answer;
        Ok(None)
    }

    fn unmapped(&self, at: BusAddress, width: usize, written: Option<u64>) -> Result<End, Error> {
        let rip = self.vcpu.regs_at_exit()?.rip;
        Ok(End::Unmapped(UnmappedAccess { at, width, written, rip }))
    }

    /// End of the run after a HLT: the guest's own, or that of a stub on the ring-3 trap page.
    pub(crate) fn halted(&self, board: &Board, regs: &kvm_regs) -> End {
        match board.trap_page.and_then(|trap_page| trap_page.vector(Gva(regs.rip))) {
            Some(EXIT_VECTOR) => End::Ring3Exit,
            Some(vector) => End::Exception { vector, frame: frame(board, vector, regs) },
            None => End::Halt { interrupts: has_interrupts_on(regs) },
        }
    }

    fn guest<'a>(&'a self, board: &'a Board) -> VcpuView<'a, V> {
        VcpuView { vcpu: &self.vcpu, memory: &board.memory, read_only: &board.read_only, exits: &self.exits }
    }
}

/// Returns the interrupt controllers of this process if an MSR is a register of a local APIC in x2APIC mode.
fn apic_msr(board: &Board, index: u32) -> Option<&SharedIrqchip> {
    board.irqchip.as_ref().filter(|_| X2APIC_MSRS.contains(&index))
}

/// Returns true if RFLAGS.IF is set.
pub(crate) const fn has_interrupts_on(regs: &kvm_regs) -> bool {
    regs.rflags & INTERRUPT_FLAG != 0
}

fn bus(board: &Board, at: BusAddress) -> (&Bus, u64) {
    match at {
        BusAddress::Port(Port(port)) => (&board.ports, port.into()),
        BusAddress::Mmio(Gpa(address)) => (&board.mmio, address),
    }
}

/// Reads what the CPU pushed on the ring-0 stack, which lies at the same physical and virtual address.
fn frame(board: &Board, vector: u8, regs: &kvm_regs) -> Option<ExceptionFrame> {
    let mut stack = [0; 6 * 8];
    let length = board.memory.read(&mut stack, Gpa(regs.rsp).into()).ok()?;
    ExceptionFrame::decode(vector, stack.get(..length)?, board.spec.boot.mode.is_long())
}

/// Up to 8 bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests;
