//! State of a machine without its memory: read from KVM and the devices, and restored.
//!
//! The order of restoring follows the kernel's dependencies. Devices come first: one that raises its interrupt when it is
//! restored does so before the interrupt controllers get their state. Then each vCPU: its special registers enable its APIC,
//! so the APIC comes after them; the mode of the APIC's timer gives the deadline MSR its meaning, so MSRs come after the APIC.
//! State that the vCPUs share comes last.

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

/// State of all vCPUs, interrupt controllers and devices of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineState {
    processors: Vec<ProcessorState>,
    /// State of PICs and I/O APIC; on machines with all of a PC's interrupt controllers.
    controllers: Option<IrqchipState>,
    /// KVM clock in nanoseconds; on machines with interrupts.
    clock: Option<u64>,
    ports: Vec<Vec<u8>>,
    mmio: Vec<Vec<u8>>,
}

/// State of one vCPU.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ProcessorState {
    vcpu: VcpuState,
    /// Local APIC; on machines with interrupts.
    apic: Option<LapicState>,
    /// Exit counts, which the guest can read.
    exits: ExitCounts,
}

impl MachineState {
    /// Reads the state of a machine whose vCPUs all stand between two instructions. `msrs` are the MSRs to save; `None` for those
    /// that system calls use.
    pub(crate) fn from_machine(machine: &Machine, msrs: Option<&[u32]>) -> Result<Self, Error> {
        let irqchip = machine.board.spec.kernel_irqchip();
        let mut processors = Vec::new();
        for processor in machine.processors.iter() {
            let vcpu = match msrs {
                Some(msrs) => processor.vcpu.save_with(msrs)?,
                None => processor.vcpu.save()?,
            };
            let apic = (irqchip != Interrupts::None).then(|| processor.vcpu.save_lapic()).transpose()?;
            processors.push(ProcessorState { vcpu, apic, exits: processor.exits.clone() });
        }
        let vm = machine.processors.bsp().vcpu.vm();
        Ok(Self {
            processors,
            controllers: (irqchip == Interrupts::Pc).then(|| vm.save_irqchip()).transpose()?,
            clock: (machine.board.spec.interrupts != Interrupts::None).then(|| vm.clock()).transpose()?,
            ports: machine.board.ports.save()?,
            mmio: machine.board.mmio.save()?,
        })
    }

    /// Restores the state into a machine with the same description. `incremental` is true if the machine had this state before.
    pub(crate) fn restore(&self, machine: &mut Machine, incremental: bool) -> Result<(), Error> {
        self.restore_devices(machine)?;
        // KVM reports a busy TSS always; the type that it accepts depends on the host.
        let tr =
            (machine.board.spec.boot.ring == Ring::User).then(|| host::quirks(&machine.board.spec).tr_type);
        for (processor, state) in machine.processors.iter_mut().zip(&self.processors) {
            state.restore(processor, tr.map(TrType::kind), incremental)?;
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

    /// States of the vCPUs, by number.
    pub fn vcpus(&self) -> impl Iterator<Item = &VcpuState> {
        self.processors.iter().map(|state| &state.vcpu)
    }

    pub(crate) fn change_registers(&mut self, change: impl FnOnce(&mut kvm_regs)) {
        if let Some(first) = self.processors.first_mut() {
            change(&mut first.vcpu.regs);
        }
    }

    /// Checks that this can be the state of a machine with this description.
    pub(crate) fn check(&self, spec: &MachineSpec) -> Result<(), Error> {
        let vcpus = u32::try_from(self.processors.len()).unwrap_or(u32::MAX);
        let irqchip = spec.kernel_irqchip();
        let apics = self.processors.iter().all(|p| p.apic.is_some() == (irqchip != Interrupts::None));
        if vcpus != spec.vcpus || !apics || self.controllers.is_some() != (irqchip == Interrupts::Pc) {
            return Err(Error::Snapshot {
                problem: "it has other vCPUs or interrupt controllers",
                source: None,
            });
        }
        Ok(())
    }
}

impl ProcessorState {
    fn restore(&self, processor: &mut Processor, tr: Option<u8>, incremental: bool) -> Result<(), Error> {
        let mut vcpu = self.vcpu.clone();
        vcpu.sregs.tr.type_ = tr.unwrap_or(vcpu.sregs.tr.type_);
        if let Some(apic) = &self.apic {
            processor.vcpu.set_sregs(&vcpu.sregs)?;
            processor.vcpu.restore_lapic(apic)?;
        }
        if incremental && self.apic.is_none() && !self.shares_memory_with_kvm() {
            processor.vcpu.restore_incremental(&vcpu)?;
        } else {
            processor.vcpu.restore(&vcpu)?;
        }
        processor.exits = self.exits.clone();
        Ok(())
    }

    /// Returns true if writing the MSRs makes KVM write to guest memory, even with unchanged values.
    fn shares_memory_with_kvm(&self) -> bool {
        self.vcpu.msrs.iter().any(|msr| SHARED_WITH_KVM.contains(&msr.index) && msr.data != 0)
    }
}
