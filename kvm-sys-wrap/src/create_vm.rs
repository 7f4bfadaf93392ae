//! Step 2: `KVM_CREATE_VM` (api.rst 4.2). A VM starts with no memory and no vCPUs.
//!
//! [`Vm`] is a handle. The kernel's VM, the slots with their host memory, and the map of guest-physical addresses are shared with
//! each vCPU, because the kernel keeps a VM alive as long as one of its vCPU descriptors is open: while any vCPU could run,
//! the memory behind the slots must stay mapped. Therefore a [`Vcpu`](crate::Vcpu) owns a share of its VM, and the memory is
//! unmapped when the last share is gone, after the slots were deleted or the descriptor was closed (`vm_pool.rs`).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::VmFd;

use crate::address::Port;
use crate::call::Call;
use crate::dev_kvm::Kvm;
use crate::error::{Error, Result, call_failed};
use crate::host_memory::SlotTable;
use crate::observe::Dispatcher;
use crate::vm_pool::{KernelVm, VmReservation, VmSetup, clear};

/// Virtual machine of KVM: memory slots, vCPUs and in-kernel interrupt controllers. Clones are handles to the same one.
///
/// The methods are in the files of their calls: `create_vm.rs`, `create_vcpu.rs` (vCPUs), `memory.rs` with
/// `memory/{cow_reset,file_mapping,overlay_promotion}.rs` (slots), `tss.rs`, `irqchip.rs` and `interrupt_state.rs`
/// (interrupts, timer, clock), `msr.rs`, `coalesced_pio.rs`, `stats.rs`.
#[derive(Debug, Clone)]
pub struct Vm {
    inner: Arc<VmInner>,
}

/// State shared by a VM and its vCPUs. Fields are dropped in this order: the kernel's VM before the memory.
#[derive(Debug)]
struct VmInner {
    kernel: Arc<KernelVm>,
    kvm: Kvm,
    slots: Mutex<SlotTable>,
    /// Offset of the ring of coalesced writes in the area of each vCPU; 0 if no port is registered (`coalesced_pio.rs`).
    coalesced_ring: AtomicU64,
    /// Ports whose writes the kernel coalesces.
    coalesced_ports: Mutex<Vec<Port>>,
    /// True if the kernel's VM came from the pool.
    is_pooled: bool,
    /// Steps of the set-up and numbers of vCPUs, for a VM from the pool: the kernel's are those of all its users.
    pooled: Mutex<PooledUse>,
    is_released: AtomicBool,
}

/// Use of a VM from the pool.
#[derive(Debug, Default)]
struct PooledUse {
    setup: Vec<VmSetup>,
    vcpu_ids: Vec<u64>,
}

impl Kvm {
    /// Creates a virtual machine of type 0, the default on x86 (`KVM_CREATE_VM`, api.rst 4.2). Makes no call if this thread has a
    /// [`VmReservation`] whose VM is idle.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), mostly for lack of memory.
    pub fn create_vm(&self) -> Result<Vm> {
        self.create_vm_from(self.pool().take(None))
    }

    /// Creates a virtual machine like [`Kvm::create_vm`]. Of several reserved VMs it takes one that has local APICs in the kernel if
    /// `local_apics` is true, one that has none if it is false, or one that no machine used yet.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), mostly for lack of memory.
    pub fn create_vm_for(&self, local_apics: bool) -> Result<Vm> {
        self.create_vm_from(self.pool().take(Some(local_apics)))
    }

    fn create_vm_from(&self, idle: Option<Arc<KernelVm>>) -> Result<Vm> {
        let is_pooled = idle.is_some();
        let kernel = idle.map_or_else(|| self.create_kernel_vm(), Ok)?;
        let inner = VmInner {
            kernel,
            kvm: self.clone(),
            slots: Mutex::default(),
            coalesced_ring: AtomicU64::new(0),
            coalesced_ports: Mutex::default(),
            is_pooled,
            pooled: Mutex::default(),
            is_released: AtomicBool::new(false),
        };
        Ok(Vm { inner: Arc::new(inner) })
    }

    /// Creates a VM (`KVM_CREATE_VM`, api.rst 4.2) for the machines that this thread builds later.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), mostly for lack of memory.
    pub fn reserve_vm(&self) -> Result<VmReservation> {
        let kernel = self.create_kernel_vm()?;
        let reservation = self.pool().reserve(&kernel);
        self.pool().put(kernel);
        Ok(reservation)
    }

    fn create_kernel_vm(&self) -> Result<Arc<KernelVm>> {
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
        Ok(Arc::new(KernelVm::new(fd)))
    }
}

impl Vm {
    /// Returns the subsystem that the VM was created on.
    #[must_use]
    pub fn kvm(&self) -> &Kvm {
        &self.inner.kvm
    }

    /// Gives the kernel's VM to the next machine that this thread builds, while the returned reservation exists. Deletes all slots
    /// (`KVM_SET_USER_MEMORY_REGION`, api.rst 4.35).
    ///
    /// From then on the vCPUs of this VM cannot run, and calls on this VM fail with EBADF: they would reach the next machine. The
    /// registers of the vCPUs and all [`GuestMemory`](crate::GuestMemory) stay as they are. No vCPU may be running on another
    /// thread meanwhile: it would go on in the memory of the next machine.
    ///
    /// Returns `None`, and does nothing, where the VM has local APICs in the kernel: the numbers of its vCPUs, which are in use, are
    /// taken. Returns `None` also if the VM was released before.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call): the VM is as before, but may lack slots.
    pub fn release(&self) -> Result<Option<VmReservation>> {
        let inner = &self.inner;
        let table = self.lock_slots();
        if self.is_released() || inner.kernel.lock().has_local_apics() {
            return Ok(None);
        }
        clear(inner.kernel.fd(), self.dispatcher(), &table, &inner.take_coalesced_ports())
            .map_err(|(call, source)| call_failed(call, "the VM to be released")(source))?;
        inner.is_released.store(true, Ordering::Release);
        drop(table);
        let reservation = inner.kvm.pool().reserve(&inner.kernel);
        inner.kvm.pool().put(Arc::clone(&inner.kernel));
        Ok(Some(reservation))
    }

    /// Returns true if the VM was released ([`Vm::release`]).
    #[must_use]
    pub fn is_released(&self) -> bool {
        self.inner.is_released.load(Ordering::Acquire)
    }

    /// Returns true if the kernel's VM came from the pool.
    pub(crate) fn is_pooled(&self) -> bool {
        self.inner.is_pooled
    }

    /// Descriptor of the VM; EBADF after it was released.
    pub(crate) fn fd(&self) -> Result<&VmFd, kvm_ioctls::Error> {
        if self.is_released() { Err(kvm_ioctls::Error::new(libc::EBADF)) } else { Ok(self.inner.kernel.fd()) }
    }

    pub(crate) fn kernel(&self) -> &KernelVm {
        &self.inner.kernel
    }

    /// Notes a step of the set-up. Returns false if the kernel's VM has it already, from a user before.
    pub(crate) fn add_setup(&self, step: VmSetup) -> bool {
        if self.is_pooled() {
            self.lock_pooled().setup.push(step);
        }
        self.kernel().lock().add_setup(step)
    }

    /// Notes the creation of a vCPU of a VM from the pool. Fails where the number is taken, or where the kernel's VM has a step of
    /// the set-up that this VM does not have.
    pub(crate) fn add_pooled_vcpu(&self, id: u64) -> Result<()> {
        let refused = |errno| {
            let detail = format!("vCPU {id} on a VM that was used before");
            Err::<(), Error>(call_failed(Call::CreateVcpu, detail)(io::Error::from_raw_os_error(errno)))
        };
        let mut pooled = self.lock_pooled();
        if pooled.vcpu_ids.contains(&id) {
            return refused(libc::EEXIST);
        }
        if self.kernel().lock().setup.iter().any(|step| !pooled.setup.contains(step)) {
            return refused(libc::EINVAL);
        }
        pooled.vcpu_ids.push(id);
        Ok(())
    }

    /// Returns true if a port was registered for coalesced writes.
    pub(crate) fn has_coalesced_pio(&self) -> bool {
        self.coalesced_ring_offset().load(Ordering::Relaxed) != 0
    }

    pub(crate) fn coalesced_ring_offset(&self) -> &AtomicU64 {
        &self.inner.coalesced_ring
    }

    /// Locks the list of ports whose writes the kernel coalesces.
    pub(crate) fn lock_coalesced_ports(&self) -> MutexGuard<'_, Vec<Port>> {
        self.inner.coalesced_ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        self.inner.kvm.dispatcher()
    }

    /// Locks the slots and the address map. Each method leaves them consistent even if it panics, so poison is ignored.
    pub(crate) fn lock_slots(&self) -> MutexGuard<'_, SlotTable> {
        self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_pooled(&self) -> MutexGuard<'_, PooledUse> {
        self.inner.pooled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VmInner {
    fn take_coalesced_ports(&self) -> Vec<Port> {
        std::mem::take(&mut *self.coalesced_ports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for VmInner {
    fn drop(&mut self) {
        let ports = self.take_coalesced_ports();
        let table = self.slots.get_mut().unwrap_or_else(PoisonError::into_inner);
        if self.is_released.load(Ordering::Acquire) {
            // Its slots were deleted.
            return;
        }
        if Arc::get_mut(&mut self.kernel).is_some() {
            // Nobody else holds the descriptor: it is closed before the memory is unmapped, by the order of the fields.
            return;
        }
        match clear(self.kernel.fd(), self.kvm.dispatcher(), table, &ports) {
            Ok(()) => self.kvm.pool().put(Arc::clone(&self.kernel)),
            // The kernel may still use the memory, so it must stay mapped.
            Err(_) => std::mem::forget(std::mem::take(table)),
        }
    }
}
