//! A snapshot: a stopped machine as a value, from which machines are made that go on where it stood.
//!
//! Its memory is a file in memory ([`MemoryImage`]). A machine made from it maps that file copy-on-write: nothing is copied
//! before the guest writes, and what nobody writes is there once for all of them. The rest ([`MachineState`]) is a few
//! kilobytes for each vCPU, and can be written down with serde.
//!
//! | file | part |
//! |---|---|
//! | `state.rs` | what the vCPUs, interrupt controllers and devices hold: gather it, put it back |
//! | `host.rs` | which hosts it can be taken up on |
//! | `memory.rs` | the memory, pages of zeros left out |
//! | `reset.rs` | a machine that has run goes back to the snapshot it was made from |
//! | `shadows.rs` | and what KVM has derived from its page tables goes |
//!
//! Time goes on: the guest's TSC and its clocks continue from where they were, not from where they would be. What is outside
//! of the machine is not in a snapshot: what was printed, input that was not fetched, a disk that is written in place.

#[cfg(test)]
mod form;
mod host;
mod memory;
mod reset;
mod shadow_pages;
pub mod sparse;
mod state;

use std::sync::Arc;

use kvm_sys_wrap::Kvm;
use kvm_sys_wrap::bindings::{CpuId, kvm_cpuid_entry2, kvm_regs};

use crate::cpu::cpuid;
use crate::cpu::ring3_trap::TrapPage;
use crate::devices::console::Console;
use crate::layout::Layout;
use crate::machine::board::Board;
use crate::machine::error::Error;
use crate::machine::host::CpuTraits;
use crate::machine::processor::Processor;
use crate::machine::processors::Processors;
use crate::machine::suspend::SuspendTimes;
use crate::machine::{self, Machine};
use crate::spec::MachineSpec;

pub use host::HostIdentity;
pub use memory::MemoryImage;
pub use reset::ResetBy;
pub(crate) use shadow_pages::ShadowPages;
pub use state::MachineState;

/// Version of the saved form of [`MachineState`] and [`HostIdentity`]: of what serde writes for them, and of the bytes that devices
/// save. It is raised whenever one of these changes.
pub const STATE_VERSION: u32 = 1;

/// A machine, stopped between two instructions. Clones share the memory.
#[derive(Debug, Clone)]
pub struct Snapshot {
    shape: Arc<MachineConfig>,
    state: Arc<MachineState>,
    memory: MemoryImage,
}

/// What does not change while a machine runs.
#[derive(Debug)]
struct MachineConfig {
    spec: MachineSpec,
    layout: Layout,
    landing: Option<TrapPage>,
    cpuid: Option<CpuId>,
}

impl Snapshot {
    /// Puts a snapshot together from its parts, such as those that were saved in a file. `cpuid` is what
    /// [`Snapshot::cpuid`] gave.
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
        let landing = layout.landing();
        Ok(Self {
            shape: Arc::new(MachineConfig { spec, layout, landing, cpuid }),
            state: Arc::new(state),
            memory,
        })
    }

    /// The state without the memory.
    #[must_use]
    pub fn state(&self) -> &MachineState {
        &self.state
    }

    /// What the vCPUs were told by CPUID, if anything.
    #[must_use]
    pub fn cpuid(&self) -> Option<&[kvm_cpuid_entry2]> {
        self.shape.cpuid.as_ref().map(CpuId::as_slice)
    }

    /// The features that the guest was told of and this host does not have, by their names.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn missing_features(&self, kvm: &Kvm) -> Result<Vec<&'static str>, Error> {
        let Some(told) = &self.shape.cpuid else { return Ok(Vec::new()) };
        Ok(cpuid::missing_features(told, &kvm.supported_cpuid()?, &self.shape.spec.cpuid_changes))
    }

    /// The memory.
    #[must_use]
    pub const fn memory(&self) -> &MemoryImage {
        &self.memory
    }

    /// What the machine was built from.
    #[must_use]
    pub fn spec(&self) -> &MachineSpec {
        &self.shape.spec
    }

    /// The same with other registers in the vCPU that starts.
    #[must_use]
    pub fn with_registers(&self, change: impl FnOnce(&mut kvm_regs)) -> Self {
        let mut changed = self.clone();
        Arc::make_mut(&mut changed.state).change_registers(change);
        changed
    }

    /// Whether both have the same memory, of one machine at one moment.
    fn shares_origin(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shape, &other.shape)
    }

    /// Makes a machine that goes on where the snapshot was taken. Its memory is a copy of the snapshot's, made page by page
    /// as the guest writes.
    ///
    /// # Errors
    /// As [`Machine::build`], and where this host does not take the state.
    pub fn machine(&self, kvm: &Kvm, console: Console) -> Result<Machine, Error> {
        let MachineConfig { spec, layout, landing, cpuid } = &*self.shape;
        let vm = machine::vm_with_memory(kvm, spec, Some(&self.memory))?;
        machine::interrupt_controllers(&vm, spec)?;
        let bsp = vm.create_vcpu(0)?;
        machine::set_cpuid(&bsp, spec, cpuid.as_ref())?;
        let aps = machine::application_processors(&vm, spec, cpuid.as_ref())?;
        let cpu = CpuTraits::of(cpuid.as_ref());
        let board = Board::new(&vm, spec.clone(), layout.clone(), console, *landing, cpu)?;
        let mut machine = Machine {
            board,
            processors: Processors::new(Processor::new(bsp), aps),
            ended: 0,
            sleeps: SuspendTimes::default(),
            cpuid: cpuid.clone(),
            origin: Some(self.clone()),
            shadows: ShadowPages::default(),
        };
        self.state.restore(&mut machine, false)?;
        Ok(machine)
    }
}

impl MachineConfig {
    fn of(machine: &Machine) -> Self {
        let Board { spec, layout, .. } = &machine.board;
        let (spec, layout, landing) = (spec.clone(), layout.clone(), machine.board.landing);
        Self { spec, layout, landing, cpuid: machine.cpuid.clone() }
    }
}

impl Machine {
    /// Takes a snapshot. All vCPUs are stopped; the instruction that led to the last exit of each is finished first
    /// ([`Machine::settle`] does that where it can lead to another exit).
    ///
    /// # Errors
    /// [`Error::Kvm`] where the state cannot be read, [`Error::Snapshot`] where there is no memory left for it.
    pub fn snapshot(&mut self) -> Result<Snapshot, Error> {
        let state = MachineState::of(self)?;
        let memory = MemoryImage::of(&self.board.memory, &self.board.spec)?;
        Ok(Snapshot { shape: Arc::new(MachineConfig::of(self)), state: Arc::new(state), memory })
    }

    /// A machine like this one, that goes on by itself: a snapshot, and a machine made from it.
    ///
    /// # Errors
    /// As [`Machine::snapshot`] and [`Snapshot::machine`].
    pub fn fork(&mut self, console: Console) -> Result<Self, Error> {
        let kvm = self.processors.bsp().vcpu.vm().kvm().clone();
        self.snapshot()?.machine(&kvm, console)
    }
}
