//! A machine whose entry is not resolved yet: all that the configuration says of it, for a known protocol and mode.

use vmm_core::Gpa;
use vmm_core::spec::cpuid_feature::CpuidFeature;
use vmm_core::spec::mode::{Mode, Ring};
use vmm_core::spec::{
    BootSpec, CpuidPolicy, DeviceSpecs, EntryPoint, GdtLayout, HaltPolicy, Interrupts, LimitSpec,
    MachineSpec, MemoryRegion, PagingSpec, PinnedAddresses, Register, ResetPolicy, UnmappedPolicy,
};

use super::FwCfgSource;

/// Machine without its entry, which only the guest's file can resolve. [`MachineTemplate::with_entry`] completes it.
#[expect(missing_docs, reason = "the fields are those of `MachineSpec` and `BootSpec` with the same names")]
#[derive(Debug, Clone, PartialEq)]
pub struct MachineTemplate {
    pub mode: Mode,
    pub ring: Ring,
    pub memory: Vec<MemoryRegion>,
    pub tss_address: Gpa,
    pub vcpus: u32,
    pub interrupts: Interrupts,
    pub paging: PagingSpec,
    pub sse: Option<bool>,
    pub registers: Vec<(Register, u64)>,
    pub gdt_layout: GdtLayout,
    pub pinned: PinnedAddresses,
    pub devices: DeviceSpecs,
    pub unmapped: UnmappedPolicy,
    pub halt: HaltPolicy,
    pub reset: ResetPolicy,
    pub limits: LimitSpec,
    pub cpuid: CpuidPolicy,
    pub cpuid_changes: Vec<(CpuidFeature, bool)>,
    pub arguments: Vec<String>,
    /// Files of the configuration device that are still to be read.
    pub fw_cfg: Vec<FwCfgSource>,
}

impl MachineTemplate {
    /// Returns the machine that starts at `entry`.
    #[must_use]
    pub fn with_entry(&self, entry: EntryPoint) -> MachineSpec {
        let Self { mode, ring, sse, gdt_layout, .. } = *self;
        let (paging, registers) = (self.paging.clone(), self.registers.clone());
        MachineSpec {
            memory: self.memory.clone(),
            tss_address: self.tss_address,
            vcpus: self.vcpus,
            interrupts: self.interrupts,
            boot: BootSpec { mode, ring, entry, paging, sse, registers, gdt_layout },
            pinned: self.pinned.clone(),
            devices: self.devices.clone(),
            unmapped: self.unmapped,
            halt: self.halt,
            reset: self.reset,
            limits: self.limits,
            cpuid: self.cpuid,
            cpuid_changes: self.cpuid_changes.clone(),
            arguments: self.arguments.clone(),
        }
    }
}
