//! The board: what all vCPUs of a machine share. Memory, the two buses with their devices, the console.
//!
//! Every vCPU's thread has a reference to it and nothing else of the others. A device sits behind a lock of its own
//! ([`crate::devices::bus`]); the rest does not change while the machine runs.

mod builder;

use kvm_sys_wrap::{GuestMemory, Vm};

use crate::cpu::ring3_trap::TrapPage;
use crate::devices::bus::{Bus, SharedDevice};
use crate::devices::console::{Console, Output};
use crate::layout::Layout;
use crate::machine::error::Error;
use crate::machine::host::CpuTraits;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;

pub(crate) use builder::{BoardBuilder, lines};

/// What all vCPUs share.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) spec: MachineSpec,
    pub(crate) layout: Layout,
    pub(crate) memory: GuestMemory,
    /// Memory that the guest cannot write, so that devices do not write it on its behalf.
    pub(crate) read_only: Vec<GpaRange>,
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) output: Output,
    /// The devices that want to be told when something comes from outside; on a machine with interrupts.
    pub(crate) receivers: Vec<InputSource>,
    pub(crate) landing: Option<TrapPage>,
    /// What the CPUs are in the guest's eyes.
    pub(crate) cpu: CpuTraits,
}

/// A device for which something comes from outside, input or a time, and what is readable then.
pub(crate) struct InputSource {
    pub(crate) device: SharedDevice,
    pub(crate) source: std::os::fd::OwnedFd,
}

impl std::fmt::Debug for InputSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Board {
    /// Puts the devices of `spec` on the buses of a VM that has its memory and its interrupt controllers.
    pub(crate) fn new(
        vm: &Vm,
        spec: MachineSpec,
        layout: Layout,
        console: Console,
        landing: Option<TrapPage>,
        cpu: CpuTraits,
    ) -> Result<Self, Error> {
        let read_only: Vec<GpaRange> =
            layout.memory().iter().filter(|region| region.read_only).map(|region| region.range).collect();
        let output = console.output.clone();
        let memory = vm.memory();
        let mut attach = BoardBuilder::new(vm, &spec, &read_only);
        attach.all(console)?;
        let BoardBuilder { ports, mmio, receivers, .. } = attach;
        Ok(Self { spec, layout, memory, read_only, ports, mmio, output, receivers, landing, cpu })
    }
}
