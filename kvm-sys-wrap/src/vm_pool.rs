//! VMs and vCPUs of the kernel that are used again, so that a machine can be built without `KVM_CREATE_VM`.
//!
//! A program that gives up the right to create VMs before its guest runs still needs second machines later, for example to
//! repeat a run. [`Kvm::reserve_vm`] creates a VM for them ahead; [`Vm::release`] takes that of a machine that will not run again.
//! Both return a [`VmReservation`]. While it exists, the VM goes back to the pool whenever the machine that uses it is dropped, and
//! [`Kvm::create_vm`] takes it from there, on the thread that made the reservation. Other threads never get it: the machines of
//! one reservation must agree in what a VM cannot change, and these are the copies that one thread makes of one machine.
//!
//! The kernel cannot delete a vCPU, so vCPUs are used again too (`pooled_vcpu.rs`). Memory slots are deleted when a VM goes back.
//!
//! # Invariant
//!
//! Memory behind slots stays mapped while the kernel may use it. A kernel's VM may now outlive the [`Vm`] that added the slots,
//! because the pool, a reservation or the vCPUs of a released machine hold its descriptor. So the memory of a [`Vm`] is unmapped
//! only after its slots were deleted, or after the last descriptor of the kernel's VM was closed. If the kernel refuses to delete
//! a slot, the memory stays mapped until the process ends.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use kvm_bindings::{kvm_cpuid_entry2, kvm_msr_entry, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, VcpuFd, VmFd};

use crate::address::{Gpa, Port};
use crate::call::Call;
use crate::host_memory::SlotTable;
use crate::kvm_run::RunArea;
use crate::observe::Dispatcher;
use crate::saved_state::{IrqchipState, LapicState, VcpuState};

/// Size of a coalesced port in bytes (`coalesced_pio.rs`).
pub(crate) const COALESCED_WIDTH: u32 = 1;

/// Step of the set-up of a VM that the kernel cannot undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VmSetup {
    /// `KVM_CREATE_IRQCHIP`.
    Irqchip,
    /// `KVM_CREATE_PIT2`.
    Pit2,
    /// `KVM_CAP_SPLIT_IRQCHIP`.
    SplitIrqchip,
    /// `KVM_CAP_X86_USER_SPACE_MSR` for unknown MSRs.
    UnknownMsrExits,
    /// `KVM_CAP_X86_USER_SPACE_MSR` for unknown MSRs and refused accesses.
    RefusedMsrExits,
}

impl VmSetup {
    /// Returns true for a step that gives each vCPU a local APIC.
    const fn has_local_apics(self) -> bool {
        matches!(self, Self::Irqchip | Self::SplitIrqchip)
    }
}

/// VM of the kernel, which one [`Vm`](crate::Vm) after the other uses.
#[derive(Debug)]
pub(crate) struct KernelVm {
    state: Mutex<KernelVmState>,
    fd: VmFd,
}

/// State of a VM of the kernel that outlives the [`Vm`](crate::Vm) that uses it.
#[derive(Debug, Default)]
pub(crate) struct KernelVmState {
    // Dropped before the descriptor of the VM.
    idle_vcpus: Vec<IdleVcpu>,
    /// Thread that reserved the VM. `None` closes the VM with its last user.
    owner: Option<ThreadId>,
    /// Address of `KVM_SET_TSS_ADDR`, if it was called: Intel hosts refuse a second call with EEXIST.
    pub(crate) tss_address: Option<Gpa>,
    /// Steps that were carried out.
    pub(crate) setup: Vec<VmSetup>,
    /// State of the interrupt controllers before the first vCPU ran.
    pub(crate) reset_irqchip: Option<IrqchipState>,
    /// Numbers of all vCPUs that were created.
    pub(crate) vcpu_ids: Vec<u64>,
    /// Offset of the ring of coalesced writes in the area of each vCPU; 0 if no port was ever registered.
    pub(crate) coalesced_ring: u64,
}

/// vCPU of the kernel that nobody uses at present.
#[derive(Debug)]
pub(crate) struct IdleVcpu {
    // Dropped in this order: the area before the descriptor that it is mapped from.
    pub(crate) area: RunArea,
    pub(crate) fd: VcpuFd,
    /// Number in the kernel.
    pub(crate) kernel_id: u64,
    pub(crate) reset: Box<ResetState>,
    pub(crate) cpuid: Option<SetCpuid>,
}

/// CPUID of a vCPU, which cannot change once it has run.
#[derive(Debug)]
pub(crate) struct SetCpuid {
    pub(crate) leaves: Vec<kvm_cpuid_entry2>,
    /// MSRs after CPUID was set: some depend on it, and cannot be written.
    pub(crate) msrs: Vec<kvm_msr_entry>,
}

/// State of a vCPU before its first run.
#[derive(Debug)]
pub(crate) struct ResetState {
    pub(crate) vcpu: VcpuState,
    /// `None` without a local APIC.
    pub(crate) lapic: Option<LapicState>,
}

/// Idle VMs of a [`Kvm`](crate::Kvm) and its clones.
#[derive(Debug, Default)]
pub(crate) struct VmPool(Mutex<Vec<Arc<KernelVm>>>);

/// Reservation of a VM of the kernel for the machines that a thread builds one after the other. While it exists,
/// [`Kvm::create_vm`](crate::Kvm::create_vm) on that thread takes the VM instead of creating one, if no other machine uses it, and
/// the VM is kept when that machine is dropped.
///
/// These machines must have the same TSS address, interrupt controllers and CPUID. A VM that had vCPUs cannot get interrupt
/// controllers that it does not have.
#[derive(Debug)]
#[must_use = "dropping it closes the VM"]
pub struct VmReservation {
    pool: Arc<VmPool>,
    /// `None` if the VM belonged to another reservation already.
    kernel: Option<Arc<KernelVm>>,
}

impl KernelVm {
    pub(crate) fn new(fd: VmFd) -> Self {
        Self { state: Mutex::default(), fd }
    }

    pub(crate) const fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Locks the state. Each method leaves it consistent even if it panics, so poison is ignored.
    pub(crate) fn lock(&self) -> MutexGuard<'_, KernelVmState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns true while a reservation of the VM exists.
    pub(crate) fn is_reserved(&self) -> bool {
        self.lock().owner.is_some()
    }
}

impl KernelVmState {
    /// Returns true if each vCPU has a local APIC in the kernel.
    pub(crate) fn has_local_apics(&self) -> bool {
        self.setup.iter().any(|step| step.has_local_apics())
    }

    /// Returns true if no machine used the VM yet.
    const fn is_new(&self) -> bool {
        self.setup.is_empty() && self.vcpu_ids.is_empty()
    }

    /// Adds a step; returns false if it was carried out before.
    pub(crate) fn add_setup(&mut self, step: VmSetup) -> bool {
        let is_new = !self.setup.contains(&step);
        if is_new {
            self.setup.push(step);
        }
        is_new
    }

    /// Takes an idle vCPU that can become number `id` of a machine. With a local APIC the number is that in the kernel.
    pub(crate) fn take_idle(&mut self, id: u64) -> Option<IdleVcpu> {
        let has_apics = self.has_local_apics();
        let index = self.idle_vcpus.iter().position(|idle| !has_apics || idle.kernel_id == id)?;
        Some(self.idle_vcpus.swap_remove(index))
    }

    /// Keeps a vCPU for the next machine. The caller drops it if the VM is not reserved.
    pub(crate) fn keep_vcpu(&mut self, idle: IdleVcpu) -> Option<IdleVcpu> {
        if self.owner.is_none() {
            return Some(idle);
        }
        self.idle_vcpus.push(idle);
        None
    }

    /// Number in the kernel for a new vCPU with number `id` in its machine: the same, or the lowest free one.
    pub(crate) fn free_vcpu_id(&self, id: u64) -> u64 {
        if self.has_local_apics() || !self.vcpu_ids.contains(&id) {
            return id;
        }
        (0..).find(|free| !self.vcpu_ids.contains(free)).unwrap_or(id)
    }

    /// Returns true if a machine can use the VM. A local APIC has the number of its vCPU, so all vCPUs must be idle.
    fn is_usable(&self) -> bool {
        !self.has_local_apics() || self.idle_vcpus.len() == self.vcpu_ids.len()
    }
}

impl VmPool {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<KernelVm>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an idle VM that this thread reserved: one with or without local APICs in the kernel as `local_apics` says, or one that no
    /// machine used. `None` takes any.
    pub(crate) fn take(&self, local_apics: Option<bool>) -> Option<Arc<KernelVm>> {
        let mut idle = self.lock();
        // The usual case: the number of the thread is not asked for.
        if idle.is_empty() {
            return None;
        }
        let this = thread::current().id();
        let is_ours = |kernel: &Arc<KernelVm>| {
            let state = kernel.lock();
            let fits = local_apics.is_none_or(|wanted| state.is_new() || state.has_local_apics() == wanted);
            state.owner == Some(this) && state.is_usable() && fits
        };
        // The last one first: the VM of a machine that was just released has what a copy of that machine needs.
        let index = idle.iter().rposition(is_ours)?;
        Some(idle.remove(index))
    }

    /// Puts a VM without slots into the pool, unless its reservation is gone.
    pub(crate) fn put(&self, kernel: Arc<KernelVm>) {
        let mut idle = self.lock();
        if kernel.is_reserved() {
            idle.push(kernel);
        }
    }

    /// Reserves a VM for this thread. The reservation does nothing if there is one already.
    pub(crate) fn reserve(self: &Arc<Self>, kernel: &Arc<KernelVm>) -> VmReservation {
        let mut state = kernel.lock();
        let is_new = state.owner.is_none();
        if is_new {
            state.owner = Some(thread::current().id());
        }
        VmReservation { pool: Arc::clone(self), kernel: is_new.then(|| Arc::clone(kernel)) }
    }
}

impl Drop for VmReservation {
    fn drop(&mut self) {
        let Some(kernel) = self.kernel.take() else { return };
        let mut idle = self.pool.lock();
        let vcpus = {
            let mut state = kernel.lock();
            state.owner = None;
            std::mem::take(&mut state.idle_vcpus)
        };
        idle.retain(|other| !Arc::ptr_eq(other, &kernel));
        // Closing takes a while: without the lock.
        drop(idle);
        drop(vcpus);
    }
}

/// Deletes all slots in the kernel (`KVM_SET_USER_MEMORY_REGION` with size 0) and stops the coalescing of `ports`. After an error
/// some slots may exist.
pub(crate) fn clear(
    fd: &VmFd,
    dispatcher: &Dispatcher,
    table: &SlotTable,
    ports: &[Port],
) -> Result<(), (Call, io::Error)> {
    for mapped in table.slots.values() {
        let argument = kvm_userspace_memory_region {
            slot: mapped.slot.number,
            flags: mapped.slot.flags.bits(),
            guest_phys_addr: mapped.slot.address.0,
            memory_size: 0,
            userspace_addr: mapped.region.get_mmap().as_ptr() as u64,
        };
        dispatcher
            .call(Call::SetUserMemoryRegion, &argument, || {
                // SAFETY: size 0 deletes a slot: the kernel gets no memory.
                unsafe { fd.set_user_memory_region(argument) }
            })
            .map_err(|source| (Call::SetUserMemoryRegion, source))?;
    }
    for port in ports {
        dispatcher
            .call(Call::UnregisterCoalescedMmio, format_args!("port {port}, {COALESCED_WIDTH} bytes"), || {
                fd.unregister_coalesced_mmio(IoEventAddress::Pio(port.0.into()), COALESCED_WIDTH)
            })
            .map_err(|source| (Call::UnregisterCoalescedMmio, source))?;
    }
    Ok(())
}
