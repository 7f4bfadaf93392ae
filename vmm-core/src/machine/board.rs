//! Board of a machine: what its vCPUs share. Memory, the two buses with their devices, the console.
//!
//! The thread of a vCPU has a reference to it and shares nothing else with the others. Each device has a lock of its own
//! ([`crate::devices::bus`]); the rest does not change while the machine runs.
//!
//! | file | part |
//! |---|---|
//! | `builder.rs` | creates the devices and puts them on the buses |
//! | `irq.rs` | lines of devices to the kernel's interrupt controllers |
//! | `pc.rs` | state that a BIOS leaves in the kernel's interrupt controllers |

mod builder;
mod irq;
mod pc;

use kvm_sys_wrap::{GuestMemory, Vm};

use crate::cpu::ring3_trap::TrapPage;
use crate::devices::bus::{Bus, SharedDevice};
use crate::devices::console::{Console, Output};
use crate::devices::custom::CustomDevice;
use crate::devices::irqchip::{Irqchip, SharedIrqchip};
use crate::layout::Layout;
use crate::machine::error::Error;
use crate::machine::host::CpuTraits;
use crate::spec::gpa_range::GpaRange;
use crate::spec::{Interrupts, MachineSpec};
use builder::Buses;

pub(crate) use builder::lines;
pub(crate) use pc::needs_bios_pics;

/// Memory, devices and console of a machine.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) spec: MachineSpec,
    pub(crate) layout: Layout,
    pub(crate) memory: GuestMemory,
    /// Memory that the guest cannot write, so its devices must not write it either.
    pub(crate) read_only: Vec<GpaRange>,
    pub(crate) ports: Bus,
    pub(crate) mmio: Bus,
    pub(crate) output: Output,
    /// Devices that wait for input or a point in time, on a machine with interrupts.
    pub(crate) input_sources: Vec<InputSource>,
    /// Interrupt controllers in this process, on a machine that has them here.
    pub(crate) irqchip: Option<SharedIrqchip>,
    pub(crate) trap_page: Option<TrapPage>,
    /// CPU features that the guest sees.
    pub(crate) cpu: CpuTraits,
    /// Devices of the library's user, for copies of the machine.
    pub(crate) custom: Vec<CustomDevice>,
}

/// A device that waits for input or a point in time, and the descriptor that is readable then.
pub(crate) struct InputSource {
    pub(crate) device: SharedDevice,
    pub(crate) fd: std::os::fd::OwnedFd,
}

impl std::fmt::Debug for InputSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InputSource").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Board {
    /// Puts the devices of `spec` on the buses of a VM that has its memory and its interrupt controllers.
    pub(crate) fn new(
        vm: &Vm,
        spec: MachineSpec,
        layout: Layout,
        console: Console,
        custom: Vec<CustomDevice>,
        trap_page: Option<TrapPage>,
        cpu: CpuTraits,
    ) -> Result<Self, Error> {
        let read_only: Vec<GpaRange> =
            layout.memory().iter().filter(|region| region.read_only).map(|region| region.range).collect();
        let output = console.output.clone();
        let memory = vm.memory();
        let has_pc = spec.interrupts == Interrupts::Pc;
        let irqchip =
            spec.has_userspace_irqchip().then(|| SharedIrqchip::new(Irqchip::new(spec.vcpus, has_pc)));
        if needs_bios_pics(&spec) {
            pc::init_pics(vm, irqchip.as_ref())?;
        }
        let Buses { ports, mmio, input_sources } =
            Buses::new(vm, &spec, irqchip.as_ref(), &read_only, console, &custom)?;
        Ok(Self {
            spec,
            layout,
            memory,
            read_only,
            ports,
            mmio,
            output,
            input_sources,
            irqchip,
            trap_page,
            cpu,
            custom,
        })
    }
}
