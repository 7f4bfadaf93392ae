//! Resources of a suite that its worker threads share: KVM, the guests' files, and a handle to the run of each thread.

use std::sync::{Mutex, PoisonError};

use vmm_core::kvm_sys_wrap::{Kick, Kvm};
use vmm_core::machine::Machine;
use vmm_core::machine::error::Error;

use crate::prepare::FileCache;

/// Resources that all cases share.
#[derive(Debug)]
pub(super) struct Resources {
    kvm: Kvm,
    reader: FileCache,
    close_lock: Mutex<()>,
}

impl Resources {
    pub(super) fn new(kvm: Kvm) -> Self {
        Self { kvm, reader: FileCache::with_cache(), close_lock: Mutex::new(()) }
    }

    /// Drops a machine, one at a time. Closing a VM waits for a grace period of its memory map
    /// (`mmu_notifier_unregister`). The kernel expedites it for a single waiter. With two waiters each takes some clock
    /// ticks, which is longer than the rest of a case.
    pub(super) fn close(&self, machine: Machine) {
        let alone = self.close_lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(machine);
        drop(alone);
    }

    pub(super) const fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    pub(super) const fn reader(&self) -> &FileCache {
        &self.reader
    }
}

/// Handle to the machine that a thread is running, to stop it from outside.
#[derive(Debug, Default)]
pub(super) struct ActiveRun(Mutex<Option<Kick>>);

impl ActiveRun {
    /// Sets the machine that is about to run.
    pub(super) fn set(&self, machine: &Machine) -> Result<(), Error> {
        self.replace(Some(machine.vcpu().kicker()?));
        Ok(())
    }

    /// Clears the handle: the run is over.
    pub(super) fn clear(&self) {
        self.replace(None);
    }

    fn replace(&self, kick: Option<Kick>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = kick;
    }

    /// Stops the run, if there is one.
    pub(super) fn kick(&self) {
        if let Some(kick) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            kick.kick();
        }
    }
}
