//! What a machine holds beside its memory: gathered from the kernel and the devices, and put back.
//!
//! The order of putting back matters, and is that of the kernel's dependencies. Devices come first: one that raises its
//! interrupt as it wakes up does so before the controllers forget it. Then each vCPU: its special registers say whether its
//! APIC is on, so the APIC comes after them; the timer of the APIC says what the MSR of its deadline means, so MSRs come
//! after the APIC. What the vCPUs share comes last.

use kvm_sys_wrap::bindings::kvm_regs;
use kvm_sys_wrap::{IrqchipState, LapicState, VcpuState};
use serde::{Deserialize, Serialize};

use crate::cpu::exit_counts::ExitCounts;
use crate::initial_state::TrType;
use crate::machine::Machine;
use crate::machine::error::Error;
use crate::machine::host;
use crate::machine::processor::Processor;
use crate::machine::suspend::SHARED_WITH_KVM;
use crate::spec::mode::Ring;
use crate::spec::{Interrupts, MachineSpec};

/// The state of all vCPUs, interrupt controllers and devices of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineState {
    processors: Vec<ProcessorState>,
    /// Of machines with all of a PC's.
    controllers: Option<IrqchipState>,
    /// Of machines with interrupts, in nanoseconds.
    clock: Option<u64>,
    ports: Vec<Vec<u8>>,
    mmio: Vec<Vec<u8>>,
}

/// The state of one vCPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ProcessorState {
    vcpu: VcpuState,
    /// Of machines with interrupts.
    apic: Option<LapicState>,
    /// The guest can ask for them.
    exits: ExitCounts,
}

impl MachineState {
    /// Reads the state of a machine whose vCPUs all stand between two instructions. `msrs` are the MSRs to save; `None` for those
    /// that system calls use.
    pub(crate) fn from_machine(machine: &Machine, msrs: Option<&[u32]>) -> Result<Self, Error> {
        let interrupts = machine.board.spec.interrupts;
        let mut processors = Vec::new();
        for processor in machine.processors.iter() {
            let vcpu = match msrs {
                Some(msrs) => processor.vcpu.save_with(msrs)?,
                None => processor.vcpu.save()?,
            };
            let apic = (interrupts != Interrupts::None).then(|| processor.vcpu.save_lapic()).transpose()?;
            processors.push(ProcessorState { vcpu, apic, exits: processor.exits.clone() });
        }
        let vm = machine.processors.bsp().vcpu.vm();
        Ok(Self {
            processors,
            controllers: (interrupts == Interrupts::Pc).then(|| vm.save_irqchip()).transpose()?,
            clock: (interrupts != Interrupts::None).then(|| vm.clock()).transpose()?,
            ports: machine.board.ports.save()?,
            mmio: machine.board.mmio.save()?,
        })
    }

    /// Puts it back, into a machine with the same description: `again` if it has had it before.
    pub(crate) fn restore(&self, machine: &mut Machine, again: bool) -> Result<(), Error> {
        self.restore_devices(machine)?;
        // What KVM reports is always busy; what it wants to be given depends on the host.
        let tr =
            (machine.board.spec.boot.ring == Ring::User).then(|| host::quirks(&machine.board.spec).tr_type);
        for (processor, state) in machine.processors.iter_mut().zip(&self.processors) {
            state.restore(processor, tr.map(TrType::kind), again)?;
        }
        let vm = machine.processors.bsp().vcpu.vm();
        if let Some(controllers) = &self.controllers {
            vm.restore_irqchip(controllers)?;
        }
        if let Some(clock) = self.clock {
            vm.set_clock(clock)?;
        }
        Ok(())
    }

    fn restore_devices(&self, machine: &Machine) -> Result<(), Error> {
        machine.board.ports.restore(&self.ports)?;
        Ok(machine.board.mmio.restore(&self.mmio)?)
    }

    /// The registers of each vCPU; the one that starts is the first.
    pub fn vcpus(&self) -> impl Iterator<Item = &VcpuState> {
        self.processors.iter().map(|state| &state.vcpu)
    }

    pub(crate) fn change_registers(&mut self, change: impl FnOnce(&mut kvm_regs)) {
        if let Some(first) = self.processors.first_mut() {
            change(&mut first.vcpu.regs);
        }
    }

    /// Whether it can be that of a machine with this description.
    pub(crate) fn check(&self, spec: &MachineSpec) -> Result<(), Error> {
        let vcpus = u32::try_from(self.processors.len()).unwrap_or(u32::MAX);
        let apics = self.processors.iter().all(|p| p.apic.is_some() == (spec.interrupts != Interrupts::None));
        if vcpus != spec.vcpus || !apics || self.controllers.is_some() != (spec.interrupts == Interrupts::Pc)
        {
            return Err(Error::Snapshot {
                problem: "it has other vCPUs or interrupt controllers",
                source: None,
            });
        }
        Ok(())
    }
}

impl ProcessorState {
    fn restore(&self, processor: &mut Processor, tr: Option<u8>, again: bool) -> Result<(), Error> {
        let mut vcpu = self.vcpu.clone();
        vcpu.sregs.tr.type_ = tr.unwrap_or(vcpu.sregs.tr.type_);
        if let Some(apic) = &self.apic {
            processor.vcpu.set_sregs(&vcpu.sregs)?;
            processor.vcpu.restore_lapic(apic)?;
        }
        if again && self.apic.is_none() && !self.shares_memory_with_kvm() {
            processor.vcpu.restore_incremental(&vcpu)?;
        } else {
            processor.vcpu.restore(&vcpu)?;
        }
        processor.exits = self.exits.clone();
        Ok(())
    }

    /// Whether writing the MSRs would make KVM write to the guest's memory, even with the values that they have.
    fn shares_memory_with_kvm(&self) -> bool {
        self.vcpu.msrs.iter().any(|msr| SHARED_WITH_KVM.contains(&msr.index) && msr.data != 0)
    }
}
