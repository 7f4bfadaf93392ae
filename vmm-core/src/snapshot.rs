//! Snapshots: a stopped machine as a value, from which machines are made that go on where it stood.
//!
//! Memory is in a memfd ([`MemoryImage`]). A machine made from a snapshot maps it copy-on-write: nothing is copied before the
//! guest writes, and pages that no machine writes exist once. The rest ([`MachineState`]) is a few kilobytes for each vCPU, and
//! can be serialized with serde.
//!
//! | file | part |
//! |---|---|
//! | `machine/state.rs` | state of the vCPUs, interrupt controllers and devices, and the order in which it is restored |
//! | `machine/memory_image.rs` | memory, without pages of zeros |
//! | `machine/shadow_pages.rs` | page tables that KVM derived from the guest's |
//! | `snapshot/host.rs` | hosts that a snapshot can be restored on |
//! | `snapshot/reset.rs` | a machine that has run goes back to the snapshot that it was made from |
//!
//! The guest's TSC and clocks continue from their values at the snapshot. A snapshot does not contain what is outside of the
//! machine: printed output, input that was not read yet, a disk that is written in place.

#[cfg(test)]
mod form;
mod host;
mod reset;

use std::fs::File;
use std::sync::Arc;

use kvm_sys_wrap::bindings::{CpuId, kvm_cpuid_entry2, kvm_regs};
use kvm_sys_wrap::{Kvm, TssAddress};

use crate::cpu::cpuid;
use crate::devices::console::Console;
use crate::layout::Layout;
use crate::machine::error::Error;
use crate::machine::saved_machine::MachineConfig;
use crate::machine::turn::ExitOutcome;
use crate::machine::{self, Machine, MachineParts};
use crate::spec::MachineSpec;

pub use crate::machine::memory_image::MemoryImage;
pub use crate::machine::saved_machine::Snapshot;
pub use crate::machine::state::MachineState;
pub use host::HostIdentity;

/// Version of the saved form of [`MachineState`] and [`HostIdentity`]: of what serde writes for them, and of the bytes that devices
/// save. It is raised whenever one of these changes. A new device does not change the form of machines without it.
pub const STATE_VERSION: u32 = 1;

impl Snapshot {
    /// Makes a snapshot from its parts, such as those that were saved in a file. `cpuid` is a value of [`Snapshot::cpuid`].
    ///
    /// # Errors
    /// [`Error::Snapshot`] where they cannot be those of one machine.
    pub fn new(
        spec: MachineSpec,
        layout: Layout,
        cpuid: Option<&[kvm_cpuid_entry2]>,
        state: MachineState,
        memory: MemoryImage,
    ) -> Result<Self, Error> {
        state.check(&spec)?;
        memory.check(&spec)?;
        let problem = "it has more CPUID leaves than there can be";
        let cpuid = cpuid.map(CpuId::from_entries).transpose();
        let cpuid = cpuid.map_err(|_| Error::Snapshot { problem, source: None })?;
        let trap_page = layout.trap_page();
        Ok(Self {
            config: Arc::new(MachineConfig { spec, layout, trap_page, cpuid, custom: Vec::new() }),
            state: Arc::new(state),
            memory,
        })
    }

    /// Returns the state of vCPUs, interrupt controllers and devices.
    #[must_use]
    pub fn state(&self) -> &MachineState {
        &self.state
    }

    /// Returns the CPUID of the vCPUs, if it was set.
    #[must_use]
    pub fn cpuid(&self) -> Option<&[kvm_cpuid_entry2]> {
        self.config.cpuid.as_ref().map(CpuId::as_slice)
    }

    /// Returns the names of features in the guest's CPUID that this host does not have.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn missing_features(&self, kvm: &Kvm) -> Result<Vec<&'static str>, Error> {
        let Some(told) = &self.config.cpuid else { return Ok(Vec::new()) };
        Ok(cpuid::missing_features(told, &kvm.supported_cpuid()?, &self.config.spec.cpuid_changes))
    }

    /// Returns the contents of the machine's memory.
    #[must_use]
    pub const fn memory(&self) -> &MemoryImage {
        &self.memory
    }

    /// Returns the description that the machine was built from.
    #[must_use]
    pub fn spec(&self) -> &MachineSpec {
        &self.config.spec
    }

    /// Returns a copy of the snapshot with changed registers of the first vCPU.
    #[must_use]
    pub fn with_registers(&self, change: impl FnOnce(&mut kvm_regs)) -> Self {
        let mut changed = self.clone();
        Arc::make_mut(&mut changed.state).change_registers(change);
        changed
    }

    /// Returns true if both are copies of one snapshot.
    fn shares_origin(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.config, &other.config)
    }

    /// Makes a machine that goes on where the snapshot was taken. Its memory is a copy-on-write mapping of the snapshot's.
    ///
    /// # Errors
    /// As [`Machine::build`], and where this host does not take the state.
    pub fn machine(&self, kvm: &Kvm, console: Console) -> Result<Machine, Error> {
        let config = MachineConfig::clone(&self.config);
        let vm = kvm.create_vm()?;
        vm.set_tss_addr(TssAddress::new(config.spec.tss_address)?)?;
        for (number, region) in (0..).zip(&config.spec.memory) {
            let mut slot = machine::slot(number, region);
            if let Some(copy) = self.memory.backing(number) {
                slot.backing = copy;
            }
            vm.add_slot(slot)?;
        }
        machine::interrupt_controllers(&vm, &config.spec)?;
        let bsp = machine::create_vcpu(&vm, 0, &config)?;
        let aps = (1..config.spec.vcpus).map(|id| machine::create_vcpu(&vm, id, &config));
        let aps = aps.collect::<Result<_, _>>()?;
        let origin = Some(self.clone());
        let mut machine = Machine::assemble(MachineParts { vm, bsp, aps, config, console, origin })?;
        self.state.restore(&mut machine, false)?;
        Ok(machine)
    }
}

impl Machine {
    /// Takes a snapshot of the machine in its present state. The instruction of the last exit of each vCPU is finished first.
    ///
    /// # Errors
    /// [`Error::Kvm`] where the state cannot be read, [`Error::Snapshot`] where there is no memory left for it.
    pub fn snapshot(&mut self) -> Result<Snapshot, Error> {
        self.try_snapshot(None)
    }

    /// Takes a snapshot as [`Machine::snapshot`] does, with the memory in a file of [`MemoryFile::reserve`](kvm_sys_wrap::MemoryFile::reserve).
    /// Another process can take it from there ([`MemoryImage::from_file`]); nobody can change it.
    ///
    /// # Errors
    /// As [`Machine::snapshot`].
    pub fn snapshot_to(&mut self, memory: File) -> Result<Snapshot, Error> {
        self.try_snapshot(Some(memory))
    }

    fn try_snapshot(&mut self, file: Option<File>) -> Result<Snapshot, Error> {
        for processor in self.processors.iter_mut() {
            let is_end = |outcome: &_| matches!(outcome, ExitOutcome::Ended(_));
            if processor.finish_instruction(&self.board, &mut (), is_end)?.is_some() {
                let problem = "the guest ends with the instruction that it is at";
                return Err(Error::Snapshot { problem, source: None });
            }
        }
        let msrs = self.processors.bsp().vcpu.vm().kvm().msr_index_list()?;
        let state = MachineState::from_machine(self, Some(&msrs))?;
        let memory = MemoryImage::from_memory(&self.board.memory, &self.board.spec, file)?;
        Ok(Snapshot { config: Arc::new(MachineConfig::from_machine(self)), state: Arc::new(state), memory })
    }

    /// Copies the machine: takes a snapshot and makes a machine from it.
    ///
    /// # Errors
    /// As [`Machine::snapshot`] and [`Snapshot::machine`].
    pub fn fork(&mut self, console: Console) -> Result<Self, Error> {
        let kvm = self.processors.bsp().vcpu.vm().kvm().clone();
        self.snapshot()?.machine(&kvm, console)
    }
}
