//! While a guest runs, the kernel collects what it writes to the debug console, if the configuration says so.
//!
//! Only in the plain run loop. Whoever stops a guest at an exit, to look at it or to go on from there, wants to find it at that
//! exit, and not where the kernel handed over what it had collected: replays, steps and debuggers run without.

use std::time::Duration;

use kvm_sys_wrap::{KickTimer, Port, Vm};

use crate::machine::error::Error;
use crate::spec::{BusAddress, DebugConsoleSpec, MachineSpec};

/// What the guest prints is shown after so much time at the latest, even if nothing else happens.
const MAX_DELAY: Duration = Duration::from_millis(20);

/// A time in which writes are collected.
pub(crate) struct CoalescedPio {
    vm: Vm,
    port: Port,
    _alarm: KickTimer,
}

/// The port whose writes are to be collected.
pub(crate) fn port(spec: &MachineSpec) -> Option<Port> {
    match spec.devices.debug_console {
        Some(DebugConsoleSpec { at: BusAddress::Port(port), collect: true }) => Some(port),
        Some(_) | None => None,
    }
}

impl CoalescedPio {
    /// Begins, on the thread that runs the vCPU. `None` where nothing is to be collected, or this kernel cannot.
    pub(crate) fn start(vm: &Vm, spec: &MachineSpec) -> Result<Option<Self>, Error> {
        let Some(port) = port(spec) else { return Ok(None) };
        let _alarm = KickTimer::with_interval(MAX_DELAY)?;
        Ok(vm.register_coalesced_pio(port)?.then(|| Self { vm: vm.clone(), port, _alarm }))
    }
}

impl Drop for CoalescedPio {
    fn drop(&mut self) {
        // It was there; and the run is over either way.
        let _ = self.vm.unregister_coalesced_pio(self.port);
    }
}
