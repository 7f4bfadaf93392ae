//! The board: what all vCPUs of a machine share. Memory, the two buses with their devices, the console.
//!
//! Every vCPU's thread has a reference to it and nothing else of the others. A device sits behind a lock of its own
//! ([`crate::bus`]); the rest does not change while the machine runs.

mod attach;

use kvm_sys_wrap::{GuestMemory, Vm};

use crate::bus::{Bus, SharedDevice};
use crate::console::{Console, Output};
use crate::error::Error;
use crate::host::CpuTraits;
use crate::landing::Landing;
use crate::layout::Layout;
use crate::span::Span;
use crate::spec::MachineSpec;

pub(crate) use attach::{Attach, lines};

/// What all vCPUs share.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) spec: MachineSpec,
    pub(crate) layout: Layout,
    pub(crate) memory: GuestMemory,
    /// Memory that the guest cannot write, so that devices do not write it on its behalf.
    pub(crate) read_only: Vec<Span>,
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) output: Output,
    /// The devices that want to be told when something comes from outside; on a machine with interrupts.
    pub(crate) receivers: Vec<Receiver>,
    pub(crate) landing: Option<Landing>,
    /// What the CPUs are in the guest's eyes.
    pub(crate) cpu: CpuTraits,
}

/// A device for which something comes from outside, input or a time, and what is readable then.
pub(crate) struct Receiver {
    pub(crate) device: SharedDevice,
    pub(crate) source: std::os::fd::OwnedFd,
}

impl std::fmt::Debug for Receiver {
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
        landing: Option<Landing>,
        cpu: CpuTraits,
    ) -> Result<Self, Error> {
        let read_only: Vec<Span> =
            layout.memory().iter().filter(|region| region.read_only).map(|region| region.range).collect();
        let output = console.output.clone();
        let memory = vm.memory();
        let mut attach = Attach::new(vm, &spec, &read_only);
        attach.all(console)?;
        let Attach { ports, mmio, receivers, .. } = attach;
        Ok(Self { spec, layout, memory, read_only, ports, mmio, output, receivers, landing, cpu })
    }
}
