//! A machine: the KVM flow from `/dev/kvm` to a vCPU that is about to execute its first instruction.
//!
//! `build.rs` has this flow as one function. Each line is a step that kvm-sys-wrap has a file for. The arguments are computed
//! before the first call, without KVM ([`crate::layout`]), or by a pure function of the vCPU's reset state
//! ([`crate::initial_state`]). Other files of this folder run the machine: `turn.rs` one exit, `run_loop.rs` the loop,
//! `smp.rs` the vCPU threads, `runner.rs` the public interface.

pub(crate) mod board;
pub(crate) mod build;
pub(crate) mod coalesced_pio;
pub mod debug_capabilities;
pub mod end;
pub mod error;
pub mod guest_state;
pub(crate) mod host;
pub mod image;
pub(crate) mod limits;
pub(crate) mod memory_image;
pub mod observer;
mod overlay_promotion;
pub mod probe;
pub(crate) mod processor;
pub(crate) mod processors;
pub mod reserved_vms;
pub(crate) mod round_robin;
pub mod run_loop;
pub mod runner;
pub(crate) mod saved_machine;
pub(crate) mod shadow_pages;
pub(crate) mod smp;
pub mod sparse;
pub(crate) mod state;
pub mod stepper;
pub mod stop_point;
pub(crate) mod suspend;
pub mod turn;
mod vcpu_view;

use std::time::Duration;

use kvm_sys_wrap::bindings::{CpuId, kvm_sregs};
use kvm_sys_wrap::{GuestMemory, Kvm, MemoryAdvice, MpState, Slot, SlotBacking, SlotFlags, Vcpu, Vm};

use crate::cpu::cpuid;
use crate::cpu::exit_counts::ExitCounts;
use crate::devices::bus::Bus;
use crate::devices::console::Console;
use crate::devices::custom::CustomDevice;
use crate::devices::irqchip::SharedIrqchip;
use crate::devices::irqchip::processor::Activity;
use crate::layout::{self, Layout};
use crate::machine::board::Board;
use crate::machine::build::KvmSteps;
use crate::machine::end::{End, Verdict};
use crate::machine::error::Error;
use crate::machine::image::GuestImage;
pub use crate::machine::processor::{MsrUse, UnknownMsrs};
use crate::machine::processor::{Processor, ServedVcpu};
use crate::machine::processors::Processors;
use crate::machine::saved_machine::{MachineConfig, Snapshot};
use crate::machine::shadow_pages::ShadowPages;
use crate::machine::suspend::SuspendTimes;
use crate::paging::walk::Walker;
use crate::spec::{Interrupts, MachineSpec, MemoryBacking, MemoryRegion};

/// Virtual machine that is built and can be run.
#[derive(Debug)]
pub struct Machine {
    pub(crate) board: Board,
    pub(crate) processors: Processors,
    /// Number of the vCPU that ended the last run.
    pub(crate) stopped_vcpu: usize,
    pub(crate) suspend_times: SuspendTimes,
    /// CPUID of the vCPUs, if it was set.
    pub(crate) cpuid: Option<CpuId>,
    /// Snapshot that the machine was made from.
    pub(crate) origin: Option<Snapshot>,
    /// Page tables that KVM derived from the guest's.
    pub(crate) shadow_pages: ShadowPages,
}

/// Parts of [`Machine::assemble`].
pub(crate) struct MachineParts {
    pub(crate) vm: Vm,
    pub(crate) bsp: Vcpu,
    pub(crate) aps: Vec<Vcpu>,
    pub(crate) config: MachineConfig,
    pub(crate) console: Console,
    pub(crate) origin: Option<Snapshot>,
}

impl Machine {
    /// Builds the machine that `spec` describes, with `guest` in its memory, up to the first `KVM_RUN`.
    ///
    /// # Errors
    /// [`Error`]; its [`blame`](Error::blame) says whose fault it is. A host that cannot do the mode is found out here.
    pub fn build(
        kvm: &Kvm,
        spec: MachineSpec,
        guest: &dyn GuestImage,
        console: Console,
    ) -> Result<Self, Error> {
        Self::build_with_devices(kvm, spec, guest, console, Vec::new())
    }

    /// Builds the machine that `spec` describes, like [`Machine::build`], with additional devices from the caller. Their
    /// descriptions become `spec.devices.custom`; where there are descriptions and no devices, that is an error.
    ///
    /// # Errors
    /// As [`Machine::build`].
    pub fn build_with_devices(
        kvm: &Kvm,
        mut spec: MachineSpec,
        guest: &dyn GuestImage,
        console: Console,
        custom: Vec<CustomDevice>,
    ) -> Result<Self, Error> {
        if !custom.is_empty() {
            spec.devices.custom = custom.iter().map(|device| device.spec().clone()).collect();
        }
        let layout = layout::compute(&spec, &guest.occupied())?;
        let config = MachineConfig { spec, layout, trap_page: None, cpuid: None, custom };
        build::build(KvmSteps { kvm, guest, config, console })
    }

    /// Puts a machine together from a VM with memory, interrupt controllers and vCPUs: attaches the devices.
    pub(crate) fn assemble(parts: MachineParts) -> Result<Self, Error> {
        let MachineParts { vm, bsp, aps, config, console, origin } = parts;
        let MachineConfig { spec, layout, trap_page, cpuid, custom } = config;
        let cpu = host::CpuTraits::from_cpuid(cpuid.as_ref());
        let aps = aps.into_iter().map(Processor::new).collect();
        Ok(Self {
            board: Board::new(&vm, spec, layout, console, custom, trap_page, cpu)?,
            processors: Processors::new(Processor::new(bsp), aps),
            stopped_vcpu: 0,
            suspend_times: SuspendTimes::default(),
            cpuid,
            origin,
            shadow_pages: ShadowPages::default(),
        })
    }

    /// Returns the description that the machine was built from.
    #[must_use]
    pub fn spec(&self) -> &MachineSpec {
        &self.board.spec
    }

    /// Returns the snapshot that the machine was made from; `None` if it was built.
    #[must_use]
    pub const fn origin(&self) -> Option<&Snapshot> {
        self.origin.as_ref()
    }

    /// Returns the memory layout: the ranges in use and their owners.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.board.layout
    }

    /// Returns the memory of the guest.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.board.memory
    }

    /// Returns the buses of the devices: for ports, and for guest-physical addresses.
    #[must_use]
    pub fn buses(&self) -> (&Bus, &Bus) {
        (&self.board.ports, &self.board.mmio)
    }

    /// Returns the vCPU that ended the last run; before the first run, the bootstrap processor.
    #[must_use]
    pub fn vcpu(&self) -> &Vcpu {
        &self.processors.get(self.stopped_vcpu).unwrap_or_else(|| self.processors.bsp()).vcpu
    }

    /// Returns the vCPUs of the machine, by number; the bootstrap processor is the first.
    pub fn vcpus(&self) -> impl Iterator<Item = &Vcpu> {
        self.processors.iter().map(|processor| &processor.vcpu)
    }

    /// Returns the multiprocessing state of a vCPU of this machine: that of the kernel (`KVM_GET_MP_STATE`), or that of interrupt
    /// controllers in this process.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn mp_state(&self, vcpu: &Vcpu) -> Result<MpState, Error> {
        let own = self.board.irqchip.as_ref().map(SharedIrqchip::lock);
        let activity = own.and_then(|irqchip| Some(irqchip.processor(vcpu.number())?.activity()));
        Ok(match activity {
            None => vcpu.mp_state()?,
            Some(Activity::Active) => MpState::Runnable,
            Some(Activity::Halted { .. }) => MpState::Halted,
            Some(Activity::WaitForInit) => MpState::Uninitialized,
            Some(Activity::WaitForSipi) => MpState::InitReceived,
        })
    }

    /// Returns the number of exits so far, of all vCPUs.
    #[must_use]
    pub fn exits(&self) -> ExitCounts {
        let mut exits = self.processors.bsp().exits.clone();
        for ap in self.processors.aps() {
            exits.add(&ap.exits);
        }
        exits
    }

    /// Returns the time that the guest had the machine suspended, in all its runs.
    #[must_use]
    pub const fn time_suspended(&self) -> Duration {
        self.suspend_times.total
    }

    /// Returns the MSRs that the guest accessed and KVM does not have. They are reported on machines with interrupts only:
    /// guests without interrupts are seldom kernels that probe MSRs.
    #[must_use]
    pub fn unknown_msrs(&self) -> UnknownMsrs {
        let mut all = self.processors.bsp().unknown_msrs.clone();
        for (number, used) in self.processors.aps().iter().flat_map(|ap| &ap.unknown_msrs) {
            let sum = all.entry(*number).or_default();
            (sum.reads, sum.writes) = (sum.reads + used.reads, sum.writes + used.writes);
        }
        all
    }

    /// Returns the verdict on an end of a run of this machine.
    #[must_use]
    pub const fn verdict(&self, end: &End) -> Verdict {
        end.verdict(self.board.spec.halt, self.board.spec.reset)
    }

    /// Returns a page walker for the current control registers of the vCPU that ended the last run.
    ///
    /// # Errors
    /// [`Error::Kvm`].
    pub fn walker(&self) -> Result<Walker, Error> {
        Ok(self.walker_from_sregs(&self.vcpu().sregs()?))
    }

    /// Returns a page walker for a vCPU of this machine that has the given special registers.
    #[must_use]
    pub fn walker_from_sregs(&self, sregs: &kvm_sregs) -> Walker {
        let host::CpuTraits { physical_bits, amd } = self.board.cpu;
        Walker { physical_bits, amd, ..Walker::from_sregs(sregs) }
    }
}

/// Creates a vCPU with its CPUID. All but the first wait for INIT and SIPI.
pub(crate) fn create_vcpu(vm: &Vm, id: u32, config: &MachineConfig) -> Result<Vcpu, Error> {
    let vcpu = vm.create_vcpu(id.into())?;
    set_cpuid(&vcpu, config)?;
    Ok(vcpu)
}

/// Sets the CPUID of a vCPU (`KVM_SET_CPUID2`).
pub(crate) fn set_cpuid(vcpu: &Vcpu, config: &MachineConfig) -> Result<(), Error> {
    let id = u32::try_from(vcpu.id()).unwrap_or(u32::MAX);
    let set = |cpuid| vcpu.set_cpuid2(&cpuid::for_vcpu(cpuid, id, config.spec.vcpus));
    Ok(config.cpuid.as_ref().map_or(Ok(()), set)?)
}

/// Memory slot of a region.
pub(crate) fn slot(number: u32, region: &MemoryRegion) -> Slot {
    let MemoryRegion { address, size, read_only, huge_pages, mergeable, backing, overcommit } = *region;
    let mut slot = Slot::new(number, address, size);
    slot.flags = SlotFlags { read_only, log_dirty: false };
    slot.advice = MemoryAdvice { mergeable, huge_pages };
    slot.backing = self::backing(backing);
    slot.overcommit = overcommit;
    slot
}

/// Backing of a memory slot for a region's backing.
pub(crate) const fn backing(backing: MemoryBacking) -> SlotBacking {
    match backing {
        MemoryBacking::Anonymous => SlotBacking::Anonymous,
        MemoryBacking::Memfd => SlotBacking::Memfd,
        MemoryBacking::Hugetlb => SlotBacking::Hugetlb,
    }
}

/// Creates the interrupt controllers and the timer. This comes before the first vCPU, which gets its local APIC when it is
/// created.
pub(crate) fn interrupt_controllers(vm: &Vm, spec: &MachineSpec) -> Result<(), Error> {
    match spec.kernel_irqchip() {
        Interrupts::None if spec.has_userspace_irqchip() => return Ok(vm.enable_refused_msr_exits()?),
        Interrupts::None => return Ok(()),
        Interrupts::Split => vm.enable_split_irqchip()?,
        Interrupts::Pc => {
            vm.create_irqchip()?;
            vm.create_pit2()?;
        }
    }
    // A guest that programs interrupts is a kernel, and kernels probe MSRs.
    Ok(vm.enable_unknown_msr_exits()?)
}
