//! Step 2: `KVM_CREATE_VM`. A VM starts with no memory and no vCPUs.
//!
//! [`Vm`] is a handle. What it points to (the descriptor, the slots' host memory, the map of who lies where) is shared
//! with each vCPU, since the kernel keeps a VM alive as long as one of its vCPU descriptors is open: while any vCPU
//! could run, the memory behind the slots must stay mapped. The type says so: a [`Vcpu`](crate::Vcpu) owns a share of
//! its VM, and the memory is unmapped when the last share is gone, after the descriptor was closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::call::Call;
use crate::dev_kvm::Kvm;
use crate::error::{Result, call_failed};
use crate::memory::Memory;
use crate::observe::Observed;

/// A virtual machine. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub struct Vm {
    shared: Arc<Shared>,
}

/// What the VM and all its vCPUs hold on to. Fields are dropped in this order: descriptor first, then memory.
#[derive(Debug)]
struct Shared {
    fd: kvm_ioctls::VmFd,
    kvm: Kvm,
    memory: Mutex<Memory>,
    /// Where collected writes are, in the area of a vCPU; 0 where none are collected (`collect.rs`).
    ring: AtomicU64,
}

impl Kvm {
    /// Makes a virtual machine (machine type 0, the default on x86).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call) where the kernel refuses, mostly for want of memory.
    pub fn create_vm(&self) -> Result<Vm> {
        let fd = self
            .observed()
            .call(Call::CreateVm, format_args!("type 0"), || {
                // A signal makes it fail with EINTR (it can take a while); then it is simply made again.
                loop {
                    match self.fd().create_vm() {
                        Err(error) if error.errno() == libc::EINTR => {}
                        result => return result,
                    }
                }
            })
            .map_err(call_failed(Call::CreateVm, "machine type 0"))?;
        let shared = Shared { fd, kvm: self.clone(), memory: Mutex::default(), ring: AtomicU64::new(0) };
        Ok(Vm { shared: Arc::new(shared) })
    }
}

impl Vm {
    /// The subsystem it was made on.
    #[must_use]
    pub fn kvm(&self) -> &Kvm {
        &self.shared.kvm
    }

    pub(crate) fn fd(&self) -> &kvm_ioctls::VmFd {
        &self.shared.fd
    }

    /// Whether any writes are collected.
    pub(crate) fn collects(&self) -> bool {
        self.ring().load(Ordering::Relaxed) != 0
    }

    pub(crate) fn ring(&self) -> &AtomicU64 {
        &self.shared.ring
    }

    pub(crate) fn observed(&self) -> &Observed {
        self.shared.kvm.observed()
    }

    /// The slots and who lies where. A panic elsewhere leaves it consistent, so poison is no reason to stop.
    pub(crate) fn lock_memory(&self) -> MutexGuard<'_, Memory> {
        self.shared.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
