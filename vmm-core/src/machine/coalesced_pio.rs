//! Coalesced PIO: the kernel buffers what the guest writes to the debug console, if the configuration says so
//! (`KVM_REGISTER_COALESCED_MMIO`).
//!
//! It is used in the plain run loop only. Replays, single steps and debuggers stop at exits, and need the guest to be at the
//! exit that they are shown.

use std::time::Duration;

use kvm_sys_wrap::{KickTimer, Port, Vm};

use crate::machine::error::Error;
use crate::spec::{BusAddress, DebugConsoleSpec, MachineSpec};

/// Longest time between a write of the guest and its output.
const MAX_DELAY: Duration = Duration::from_millis(20);

/// Registration of a coalesced port, until it is dropped.
pub(crate) struct CoalescedPio {
    vm: Vm,
    port: Port,
    _alarm: KickTimer,
}

/// Port whose writes are to be coalesced.
pub(crate) fn port(spec: &MachineSpec) -> Option<Port> {
    match spec.devices.debug_console {
        Some(DebugConsoleSpec { at: BusAddress::Port(port), collect: true }) => Some(port),
        Some(_) | None => None,
    }
}

impl CoalescedPio {
    /// Registers the port, on the thread that runs the vCPU. `None` where nothing is to be coalesced, or the kernel cannot.
    pub(crate) fn start(vm: &Vm, spec: &MachineSpec) -> Result<Option<Self>, Error> {
        let Some(port) = port(spec) else { return Ok(None) };
        let _alarm = KickTimer::with_interval(MAX_DELAY)?;
        Ok(vm.register_coalesced_pio(port)?.then(|| Self { vm: vm.clone(), port, _alarm }))
    }
}

impl Drop for CoalescedPio {
    fn drop(&mut self) {
        // The port was registered, and the run is over either way.
        let _ = self.vm.unregister_coalesced_pio(self.port);
    }
}
