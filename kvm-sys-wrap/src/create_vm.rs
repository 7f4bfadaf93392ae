//! Step 2: `KVM_CREATE_VM` (api.rst 4.2). A VM starts with no memory and no vCPUs.
//!
//! [`Vm`] is a handle. The descriptor, the slots with their host memory, and the map of guest-physical addresses are shared with
//! each vCPU, because the kernel keeps a VM alive as long as one of its vCPU descriptors is open: while any vCPU could run,
//! the memory behind the slots must stay mapped. Therefore a [`Vcpu`](crate::Vcpu) owns a share of its VM, and the memory is
//! unmapped when the last share is gone, after the descriptor was closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::call::Call;
use crate::dev_kvm::Kvm;
use crate::error::{Result, call_failed};
use crate::host_memory::SlotTable;
use crate::observe::Dispatcher;

/// Virtual machine of KVM: memory slots, vCPUs and in-kernel interrupt controllers. Clones are handles to the same one.
///
/// The methods are in the files of their calls: `create_vm.rs`, `create_vcpu.rs` (vCPUs), `memory.rs` with
/// `memory/{cow_reset,file_mapping,overlay_promotion}.rs` (slots), `tss.rs`, `irqchip.rs` and `interrupt_state.rs`
/// (interrupts, timer, clock), `msr.rs`, `coalesced_pio.rs`, `stats.rs`.
#[derive(Debug, Clone)]
pub struct Vm {
    inner: Arc<VmInner>,
}

/// State shared by a VM and its vCPUs. Fields are dropped in this order: the descriptor before the memory.
#[derive(Debug)]
struct VmInner {
    fd: kvm_ioctls::VmFd,
    kvm: Kvm,
    slots: Mutex<SlotTable>,
    /// Offset of the ring of coalesced writes in the area of each vCPU; 0 if no port is registered (`coalesced_pio.rs`).
    coalesced_ring: AtomicU64,
}

impl Kvm {
    /// Creates a virtual machine of type 0, the default on x86 (`KVM_CREATE_VM`, api.rst 4.2).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), mostly for lack of memory.
    pub fn create_vm(&self) -> Result<Vm> {
        let fd = self
            .dispatcher()
            .call(Call::CreateVm, format_args!("type 0"), || {
                // The call can take a while, and a signal makes it fail with EINTR without effect.
                loop {
                    match self.fd().create_vm() {
                        Err(error) if error.errno() == libc::EINTR => {}
                        result => return result,
                    }
                }
            })
            .map_err(call_failed(Call::CreateVm, "machine type 0"))?;
        let inner =
            VmInner { fd, kvm: self.clone(), slots: Mutex::default(), coalesced_ring: AtomicU64::new(0) };
        Ok(Vm { inner: Arc::new(inner) })
    }
}

impl Vm {
    /// Returns the subsystem that the VM was created on.
    #[must_use]
    pub fn kvm(&self) -> &Kvm {
        &self.inner.kvm
    }

    pub(crate) fn fd(&self) -> &kvm_ioctls::VmFd {
        &self.inner.fd
    }

    /// Returns true if a port was registered for coalesced writes.
    pub(crate) fn has_coalesced_pio(&self) -> bool {
        self.coalesced_ring_offset().load(Ordering::Relaxed) != 0
    }

    pub(crate) fn coalesced_ring_offset(&self) -> &AtomicU64 {
        &self.inner.coalesced_ring
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        self.inner.kvm.dispatcher()
    }

    /// Locks the slots and the address map. Each method leaves them consistent even if it panics, so poison is ignored.
    pub(crate) fn lock_slots(&self) -> MutexGuard<'_, SlotTable> {
        self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
