//! Step 5: `KVM_CREATE_VCPU`, then the area it shares with us (step 6, `kvm_run.rs`).
//!
//! A vCPU comes in its reset state: real mode, CS:IP = f000:fff0, as after power-on (SDM vol. 3, table 10-1). Later steps
//! give it the mode that the guest wants.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::call::Call;
use crate::capability::Capability;
use crate::create_vm::Vm;
use crate::error::{Error, Result, call_failed};
use crate::exit::{Exit, Pending};
use crate::kick::{Kick, KickState};
use crate::kvm_run::RunArea;
use crate::observe::Observed;

/// A virtual CPU. It belongs to the thread that runs it; other threads hold a [`Kick`].
#[derive(Debug)]
pub struct Vcpu {
    // Dropped in this order: nothing is mapped from a closed descriptor, and the VM with its memory goes last.
    pub(crate) area: RunArea,
    pub(crate) fd: kvm_ioctls::VcpuFd,
    pub(crate) pending: Pending,
    /// An exit that is to be handed out after the writes which were collected before it (`collect.rs`).
    pub(crate) deferred: Option<(Exit, Pending)>,
    /// Registers for the next `KVM_RUN` are in the area (`staged.rs`).
    pub(crate) staged: AtomicBool,
    /// Whether the kernel has something of the last exit's instruction left to do.
    pub(crate) is_unfinished: bool,
    /// MSRs that cannot be written, as far as that is known.
    pub(crate) fixed_msrs: Vec<u32>,
    /// Whether the guest can change XCR0, which its CPUID decides.
    pub(crate) has_xsave: AtomicBool,
    pub(crate) kick: Arc<KickState>,
    /// Somebody looks at the special registers after each exit.
    pub(crate) sregs_wanted: AtomicBool,
    id: u64,
    vm: Vm,
}

impl Vm {
    /// Adds a vCPU with the number `id`, which is also its APIC ID. Number 0 is the boot processor.
    ///
    /// # Errors
    /// [`Error::VcpuId`] beyond the host's maximum, [`Error::Call`] where the number is taken or the kernel refuses.
    pub fn create_vcpu(&self, id: u64) -> Result<Vcpu> {
        if id > 0 {
            let limit = self.max_vcpu_ids();
            if usize::try_from(id).map_or(true, |id| id >= limit) {
                return Err(Error::VcpuId { id, limit });
            }
        }
        let observed = self.observed();
        let fd = observed
            .call(Call::CreateVcpu, format_args!("id {id}"), || self.fd().create_vcpu(id))
            .map_err(call_failed(Call::CreateVcpu, format!("vCPU {id}")))?;
        let size = observed
            .call(Call::GetVcpuMmapSize, format_args!(""), || self.kvm().fd().get_vcpu_mmap_size())
            .map_err(call_failed(Call::GetVcpuMmapSize, "the size of kvm_run"))?;
        let area = observed
            .call(Call::MmapRun, format_args!("{size:#x} bytes, shared"), || RunArea::map(&fd, size))
            .map_err(call_failed(Call::MmapRun, format!("{size:#x} bytes of vCPU {id}")))?;
        Ok(Vcpu {
            area,
            fd,
            pending: Pending::None,
            deferred: None,
            staged: AtomicBool::default(),
            is_unfinished: false,
            fixed_msrs: Vec::new(),
            has_xsave: AtomicBool::default(),
            kick: Arc::default(),
            sregs_wanted: AtomicBool::default(),
            id,
            vm: self.clone(),
        })
    }

    /// The first vCPU number that the host refuses: `KVM_CAP_MAX_VCPU_ID`, or what stands in for it (api.rst 4.7).
    fn max_vcpu_ids(&self) -> usize {
        [Capability::MaxVcpuId, Capability::MaxVcpus, Capability::NrVcpus]
            .into_iter()
            .find_map(|capability| usize::try_from(self.kvm().capability(capability)).ok().filter(|&n| n > 0))
            .unwrap_or(4)
    }
}

impl Vcpu {
    /// The vCPU's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The VM it belongs to.
    #[must_use]
    pub fn vm(&self) -> &Vm {
        &self.vm
    }

    /// A handle with which other threads make this vCPU's `KVM_RUN` return.
    ///
    /// # Errors
    /// [`Error::MissingCapability`] (`KVM_CAP_IMMEDIATE_EXIT`), or [`Error::Kick`] where the signal cannot be set up.
    pub fn kicker(&self) -> Result<Kick> {
        self.vm.kvm().require(Capability::ImmediateExit)?;
        Kick::new(Arc::clone(&self.kick))
    }

    pub(crate) fn observed(&self) -> &Observed {
        self.vm.observed()
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.kick.forget_thread();
    }
}
