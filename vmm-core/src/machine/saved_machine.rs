//! A saved machine: the values that a machine can be made from without being built.
//!
//! A machine that was made from a [`Snapshot`] keeps it. Taking snapshots, making machines of them and going back to them is
//! in [`crate::snapshot`].

use std::sync::Arc;

use kvm_sys_wrap::bindings::CpuId;

use crate::cpu::ring3_trap::TrapPage;
use crate::devices::custom::CustomDevice;
use crate::layout::Layout;
use crate::machine::Machine;
use crate::machine::memory_image::MemoryImage;
use crate::machine::state::MachineState;
use crate::spec::MachineSpec;

/// State and memory of a machine that is stopped between two instructions, to make further machines from. Clones share the
/// memory.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub(crate) config: Arc<MachineConfig>,
    pub(crate) state: Arc<MachineState>,
    pub(crate) memory: MemoryImage,
}

/// Parts of a machine that do not change while it runs.
#[derive(Debug, Clone)]
pub(crate) struct MachineConfig {
    pub(crate) spec: MachineSpec,
    pub(crate) layout: Layout,
    pub(crate) trap_page: Option<TrapPage>,
    /// CPUID of the vCPUs, if it was set.
    pub(crate) cpuid: Option<CpuId>,
    /// Devices of the library's user.
    pub(crate) custom: Vec<CustomDevice>,
}

impl MachineConfig {
    pub(crate) fn from_machine(machine: &Machine) -> Self {
        let board = &machine.board;
        Self {
            spec: board.spec.clone(),
            layout: board.layout.clone(),
            trap_page: board.trap_page,
            cpuid: machine.cpuid.clone(),
            custom: board.custom.clone(),
        }
    }
}
