//! Handle by which another thread interrupts a debugger whose guest is running.

use std::sync::{Arc, Mutex, PoisonError};

use kvm_sys_wrap::{Kick, Vcpu};

use crate::machine::Machine;
use crate::machine::error::Error;

/// Ends the present `KVM_RUN` of a debugger from another thread. The debugger then calls its `wants_stop`.
#[derive(Debug, Clone)]
pub struct InterruptHandle(Arc<Mutex<Kick>>);

impl InterruptHandle {
    pub(super) fn new(machine: &Machine) -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(machine.processors.bsp().vcpu.kicker()?))))
    }

    /// Ends the present `KVM_RUN` of the debugger.
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
