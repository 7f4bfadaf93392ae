//! Resources that the worker processes of a suite have in common: `/dev/kvm`, and the order in which they close machines.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FlockOperation, MemfdFlags, fcntl_lock, memfd_create};
use vmm_core::kvm_sys_wrap::Kvm;
use vmm_core::machine::Machine;

/// Resources that all workers share.
#[derive(Debug)]
pub(super) struct Resources {
    kvm: Kvm,
    /// File whose lock a process holds while it closes a machine. The kernel releases it when the process ends.
    close_lock: File,
}

impl Resources {
    /// Creates the resources, before any worker is started.
    ///
    /// # Errors
    /// There is no memory for the lock's file.
    pub(super) fn new(kvm: Kvm) -> io::Result<Self> {
        Ok(Self { kvm, close_lock: memfd_create("close lock", MemfdFlags::CLOEXEC)?.into() })
    }

    /// Drops a machine, one at a time on this host. Closing a VM waits for a grace period of its memory map
    /// (`mmu_notifier_unregister`). The kernel expedites it for a single waiter. With two waiters each takes some clock ticks, which
    /// is longer than the rest of a case.
    pub(super) fn close(&self, machine: Machine) {
        // Optional: without the lock, closing only takes longer.
        let locked = fcntl_lock(&self.close_lock, FlockOperation::LockExclusive).is_ok();
        drop(machine);
        if locked {
            let _ = fcntl_lock(&self.close_lock, FlockOperation::Unlock);
        }
    }

    pub(super) const fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// Returns the descriptors that a worker needs.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.kvm.as_fd(), self.close_lock.as_fd()]
    }
}
