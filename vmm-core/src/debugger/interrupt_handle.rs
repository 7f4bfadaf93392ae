//! Interruption of a debugger whose guest is running: [`InterruptHandle`] ends the present `KVM_RUN` from another thread, and
//! `StopCheck` then decides if the guest stops.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use kvm_sys_wrap::{Kick, Vcpu, termination_requested};

use super::debug_target::DebugStop;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;

/// Handle with which another thread stops the guest of a debugger. The debugger then calls the function that was set with
/// [`stop_if`](super::DebugTarget::stop_if).
#[derive(Debug, Clone)]
pub struct InterruptHandle(Arc<Mutex<Kick>>);

impl InterruptHandle {
    pub(super) fn new(machine: &Machine) -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(machine.processors.bsp().vcpu.kicker()?))))
    }

    /// Ends the present `KVM_RUN` of the debugger, so that it can stop the guest.
    pub fn interrupt(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).kick();
    }

    /// Switches to the first vCPU of this machine.
    pub(super) fn watch(&self, machine: &Machine) -> Result<(), Error> {
        self.watch_vcpu(&machine.processors.bsp().vcpu)
    }

    /// Switches to this vCPU, which runs on the debugger's thread.
    pub(super) fn watch_vcpu(&self, vcpu: &Vcpu) -> Result<(), Error> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = vcpu.kicker()?;
        Ok(())
    }
}

/// Request of the front-end or of the user to stop the guest.
#[derive(Clone)]
pub(super) struct StopCheck(Arc<dyn Fn() -> bool + Send + Sync>);

impl StopCheck {
    pub(super) fn new(wants_stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(wants_stop))
    }

    /// Returns the stop if one is requested: the end of the run after a termination signal, [`DebugStop::Interrupted`] for the
    /// front-end.
    pub(super) fn stop(&self) -> Option<DebugStop> {
        if termination_requested() {
            return Some(DebugStop::Ended(End::Interrupted));
        }
        (self.0)().then_some(DebugStop::Interrupted)
    }
}

/// No request of a front-end.
impl Default for StopCheck {
    fn default() -> Self {
        Self::new(|| false)
    }
}

impl fmt::Debug for StopCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StopCheck")
    }
}
