//! Step 5: `KVM_CREATE_VCPU` (api.rst 4.7), then the mapping of its `kvm_run` area (step 6, `kvm_run.rs`).
//!
//! A new vCPU is in its reset state: real mode, CS:IP = f000:fff0, as after power-on (SDM vol. 3, table 10-1).

use std::mem::ManuallyDrop;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use crate::call::Call;
use crate::capability::Capability;
use crate::create_vm::Vm;
use crate::error::{Error, Result, call_failed};
use crate::exit::{Exit, PendingReply};
use crate::kick::{Kick, KickState};
use crate::kvm_run::RunArea;
use crate::observe::Dispatcher;
use crate::vm_pool::{ResetState, SetCpuid};

/// Virtual CPU (vCPU) of a [`Vm`]. The thread that runs it owns it; other threads hold a [`Kick`].
///
/// The methods are in the files of their calls: `create_vcpu.rs`, `sregs.rs`, `regs.rs`, `run.rs`, `cpuid.rs`, `msr.rs`,
/// `translate.rs`, `debug.rs`, `emulate.rs`, `stats.rs`, `irqchip.rs` (local APIC), `vcpu_state.rs` and `interrupt_state.rs` (save and
/// restore); private ones in `sync_regs.rs`, `coalesced_pio.rs` and `pooled_vcpu.rs`.
#[derive(Debug)]
pub struct Vcpu {
    // Dropped in this order (`pooled_vcpu.rs`): the area before the descriptor that it is mapped from, the VM with its memory
    // last.
    pub(crate) area: ManuallyDrop<RunArea>,
    pub(crate) fd: ManuallyDrop<kvm_ioctls::VcpuFd>,
    /// Destination of the input that the last exit asked for.
    pub(crate) pending_reply: PendingReply,
    /// Exit to return after the writes that were coalesced before it (`coalesced_pio.rs`).
    pub(crate) deferred: Option<(Exit, PendingReply)>,
    /// True if registers for the next `KVM_RUN` are in the area (`sync_regs.rs`).
    pub(crate) has_dirty_regs: AtomicBool,
    /// True if the kernel may have to complete the last exit's instruction.
    pub(crate) completion_pending: bool,
    /// MSRs that were found to be read-only.
    pub(crate) read_only_msrs: Vec<u32>,
    /// True if the guest can change XCR0: its CPUID has XSAVE.
    pub(crate) has_xsave: AtomicBool,
    pub(crate) kick: Arc<KickState>,
    /// True if `KVM_RUN` is to store the special registers too.
    pub(crate) wants_sregs: AtomicBool,
    /// State before the first run, if another machine can use the vCPU when this one is dropped.
    pub(crate) reset: Option<Box<ResetState>>,
    /// CPUID of a vCPU that has `reset`, if it was set.
    pub(crate) cpuid: OnceLock<SetCpuid>,
    /// Number in the kernel: `id`, except on a VM that was used before.
    pub(crate) kernel_id: u64,
    id: u64,
    vm: Vm,
}

/// vCPU of the kernel with its area.
pub(crate) struct KernelVcpu {
    pub(crate) area: RunArea,
    pub(crate) fd: kvm_ioctls::VcpuFd,
    /// Number in the kernel.
    pub(crate) id: u64,
}

impl Vm {
    /// Adds a vCPU (`KVM_CREATE_VCPU`, api.rst 4.7; `KVM_GET_VCPU_MMAP_SIZE`, 4.5; `mmap`). `id` is also its APIC ID; number 0 is the
    /// bootstrap processor.
    ///
    /// # Errors
    /// [`Error::VcpuId`] beyond the host's maximum, [`Error::Call`] where the number is taken or the kernel refuses.
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu> {
        if self.is_pooled() {
            return self.create_pooled_vcpu(id);
        }
        Ok(Vcpu::from_kernel(self.create_kernel_vcpu(id)?, id, self))
    }

    /// Creates a vCPU with this number in the kernel.
    pub(crate) fn create_kernel_vcpu(&self, id: u64) -> Result<KernelVcpu> {
        if id > 0 {
            let limit = self.max_vcpu_ids();
            if usize::try_from(id).map_or(true, |id| id >= limit) {
                return Err(Error::VcpuId { id, limit });
            }
        }
        let dispatcher = self.dispatcher();
        let fd = dispatcher
            .call(Call::CreateVcpu, format_args!("id {id}"), || self.fd()?.create_vcpu(id))
            .map_err(call_failed(Call::CreateVcpu, format!("vCPU {id}")))?;
        self.kernel().lock().vcpu_ids.push(id);
        let size = dispatcher
            .call(Call::GetVcpuMmapSize, format_args!(""), || self.kvm().fd().get_vcpu_mmap_size())
            .map_err(call_failed(Call::GetVcpuMmapSize, "the size of kvm_run"))?;
        let area = dispatcher
            .call(Call::MmapRun, format_args!("{size:#x} bytes, shared"), || RunArea::map(&fd, size))
            .map_err(call_failed(Call::MmapRun, format!("{size:#x} bytes of vCPU {id}")))?;
        Ok(KernelVcpu { area, fd, id })
    }

    /// First vCPU number that the host refuses: `KVM_CAP_MAX_VCPU_ID`, or its substitutes (api.rst 4.7).
    fn max_vcpu_ids(&self) -> usize {
        [Capability::MaxVcpuId, Capability::MaxVcpus, Capability::NrVcpus]
            .into_iter()
            .find_map(|capability| usize::try_from(self.kvm().capability(capability)).ok().filter(|&n| n > 0))
            .unwrap_or(4)
    }
}

impl Vcpu {
    /// Makes vCPU number `id` of a machine.
    pub(crate) fn from_kernel(kernel: KernelVcpu, id: u64, vm: &Vm) -> Self {
        Self {
            area: ManuallyDrop::new(kernel.area),
            fd: ManuallyDrop::new(kernel.fd),
            pending_reply: PendingReply::None,
            deferred: None,
            has_dirty_regs: AtomicBool::default(),
            completion_pending: false,
            read_only_msrs: Vec::new(),
            has_xsave: AtomicBool::default(),
            kick: Arc::default(),
            wants_sregs: AtomicBool::default(),
            reset: None,
            cpuid: OnceLock::new(),
            kernel_id: kernel.id,
            id,
            vm: vm.clone(),
        }
    }

    /// Returns the number of the vCPU, as it was given to [`Vm::create_vcpu`].
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the VM that the vCPU belongs to.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Returns a handle with which other threads make this vCPU's `KVM_RUN` return. Installs the process's SIGRTMIN handler (see
    /// the crate's documentation). Needs `KVM_CAP_IMMEDIATE_EXIT` (Linux 4.13).
    ///
    /// # Errors
    /// [`Error::MissingCapability`] (`KVM_CAP_IMMEDIATE_EXIT`), or [`Error::Kick`] where the signal cannot be set up.
    pub fn kicker(&self) -> Result<Kick> {
        self.vm.kvm().require(Capability::ImmediateExit)?;
        Kick::new(Arc::clone(&self.kick))
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        self.vm.dispatcher()
    }
}
