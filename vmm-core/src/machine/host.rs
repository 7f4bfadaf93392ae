//! Properties of this host that the set-up of a vCPU depends on: CPUID leaves that a mode needs, and quirks of its KVM.
//!
//! They are read only where a machine needs them, since each query takes time.

use std::path::Path;
use std::sync::OnceLock;

use kvm_sys_wrap::bindings::{CpuId, kvm_cpuid_entry2};
use kvm_sys_wrap::{Call, Capability, Error as KvmError, Kvm};

use crate::cpu::cpuid;
use crate::initial_state::{HostQuirks, RequiredFeature, TrType};
use crate::machine::error::Error;
use crate::spec::cpuid_feature::CpuidFeature;
use crate::spec::mode::Ring;
use crate::spec::{CpuidPolicy, Interrupts, MachineSpec, MemoryRegion};

/// The leaf that announces a feature, the register in it, and the bit (SDM vol. 2, CPUID).
const fn cpuid_bit(feature: RequiredFeature) -> (u32, Register, u32) {
    match feature {
        RequiredFeature::Nx => (0x8000_0001, Register::Edx, 1 << 20),
        RequiredFeature::Page1G => (0x8000_0001, Register::Edx, 1 << 26),
        RequiredFeature::La57 => (7, Register::Ecx, 1 << 16),
    }
}

/// CPUID leaf 1, EDX bit 9: the vCPU has a local APIC.
const APIC: u32 = 1 << 9;
/// CPUID leaf 1, ECX bit 21: the local APIC has x2APIC mode.
const X2APIC: u32 = 1 << 21;

#[derive(Clone, Copy)]
enum Register {
    Ecx,
    Edx,
}

/// Without a CPUID leaf that says otherwise, KVM takes a guest's physical addresses to have 36 bits.
const DEFAULT_ADDRESS_END: u64 = 1 << 36;

/// CPUID to set on the vCPUs, if any.
///
/// A machine whose description has none gets none, unless it uses a feature that KVM grants only to a guest whose CPUID
/// announces it. Then it gets the host's leaves for that feature. Page tables use some: a host without one is reported here, since
/// it would accept the page tables, and the guest would die at its first access. A local APIC has a periodic timer, a deadline
/// timer and x2APIC mode only with CPUID leaf 1. What needs local APICs in the kernel is not announced without them.
pub(crate) fn cpuid(
    kvm: &Kvm,
    spec: &MachineSpec,
    needs: &[RequiredFeature],
) -> Result<Option<CpuId>, Error> {
    if !sets_cpuid(spec, needs) {
        return Ok(None);
    }
    let supported = kvm.supported_cpuid()?;
    for feature in needs {
        let (leaf, register, bit) = cpuid_bit(*feature);
        let found = supported.as_slice().iter().any(|entry| {
            let value = match register {
                Register::Ecx => entry.ecx,
                Register::Edx => entry.edx,
            };
            entry.function == leaf && entry.index == 0 && value & bit != 0
        });
        if !found {
            return Err(Error::FeatureMissing { feature: feature.name() });
        }
    }
    let mut cpuid = match spec.cpuid {
        CpuidPolicy::Host => supported,
        CpuidPolicy::None => required_leaves(&supported, spec, needs)?,
    };
    cpuid::apply_changes(&mut cpuid, &[(CpuidFeature::TSC_DEADLINE, has_deadline_timer(kvm, spec))]);
    if spec.has_userspace_irqchip() {
        let features = CpuidFeature::OF_KERNEL_APICS.iter().filter_map(|name| CpuidFeature::from_name(name));
        cpuid::apply_changes(&mut cpuid, &features.map(|feature| (feature, false)).collect::<Vec<_>>());
    }
    if spec.cpuid == CpuidPolicy::Host {
        cpuid::apply_changes(&mut cpuid, &spec.cpuid_changes);
    }
    Ok(Some(cpuid))
}

/// Returns true if the timers of the local APICs support TSC-deadline mode. `KVM_GET_SUPPORTED_CPUID` leaves the bit out, since
/// it depends on whether the local APICs are in the kernel (api.rst 4.46).
fn has_deadline_timer(kvm: &Kvm, spec: &MachineSpec) -> bool {
    spec.kernel_irqchip() != Interrupts::None && kvm.capability(Capability::TscDeadlineTimer) > 0
}

/// Returns true if CPUID is set on the vCPUs of this machine.
pub(crate) fn sets_cpuid(spec: &MachineSpec, needs: &[RequiredFeature]) -> bool {
    let end = |region: &MemoryRegion| region.address.0.saturating_add(region.size);
    let far = spec.memory.iter().any(|region| end(region) > DEFAULT_ADDRESS_END);
    spec.cpuid != CpuidPolicy::None || !needs.is_empty() || far || spec.interrupts != Interrupts::None
}

/// Properties of a CPU that change the meaning of page table entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTraits {
    /// The width of a physical address: bits of an entry beyond it are reserved (SDM vol. 3, 4.1.4).
    pub(crate) physical_bits: u32,
    /// True for AMD and Hygon CPUs.
    pub(crate) amd: bool,
}

impl CpuTraits {
    /// Properties that KVM assumes for a guest with this CPUID.
    pub(crate) fn from_cpuid(cpuid: Option<&CpuId>) -> Self {
        let leaf = |number| cpuid?.as_slice().iter().find(|entry| entry.function == number);
        let width = leaf(0x8000_0008).map(|entry| (entry.eax & 0xff).min(52));
        // The first four letters of "AuthenticAMD" and "HygonGenuine" (CPUID 0, EBX).
        let amd = leaf(0).is_some_and(|entry| [*b"Auth", *b"Hygo"].contains(&entry.ebx.to_le_bytes()));
        Self { physical_bits: width.unwrap_or(DEFAULT_ADDRESS_END.trailing_zeros()), amd }
    }
}

/// The leaves that say how far leaves go and how wide addresses are, and those of the features, with their bits alone.
fn required_leaves(supported: &CpuId, spec: &MachineSpec, needs: &[RequiredFeature]) -> Result<CpuId, Error> {
    let has_apics = spec.interrupts != Interrupts::None;
    let keep = |entry: &kvm_cpuid_entry2| {
        let mut kept = *entry;
        if matches!(entry.function, 0 | 0x8000_0000 | 0x8000_0008) {
            return Some(kept);
        }
        (kept.eax, kept.ebx, kept.ecx, kept.edx) = (0, 0, 0, 0);
        for (leaf, register, bit) in needs.iter().map(|feature| cpuid_bit(*feature)) {
            if (entry.function, entry.index) == (leaf, 0) {
                match register {
                    Register::Ecx => kept.ecx |= entry.ecx & bit,
                    Register::Edx => kept.edx |= entry.edx & bit,
                }
            }
        }
        if has_apics && entry.function == 1 {
            kept.ecx |= entry.ecx & X2APIC;
            kept.edx |= APIC;
        }
        (kept.ecx | kept.edx != 0).then_some(kept)
    };
    let entries: Vec<_> = supported.as_slice().iter().filter_map(keep).collect();
    CpuId::from_entries(&entries).map_err(|_| {
        let source = std::io::Error::other("too many CPUID leaves");
        Error::Kvm(KvmError::Call { call: Call::SetCpuid2, detail: "the leaves needed".to_owned(), source })
    })
}

/// Quirks of the host's KVM where the manuals leave something open.
///
/// The TSS in the task register has to be marked busy on Intel (SDM vol. 3, 27.3.1.2). AMD does not care, and KVM marks
/// it busy by itself there; but QEMU's emulation of SVM takes only one that is not busy: with a busy one it stops when
/// 32-bit ring-3 code is left, and in long mode refuses the I/O bitmap (#GP at the first OUT). So: not busy where
/// kvm_amd is at work.
pub(crate) fn quirks(spec: &MachineSpec) -> HostQuirks {
    static AMD: OnceLock<bool> = OnceLock::new();
    let matters = spec.boot.ring == Ring::User;
    let amd = matters && *AMD.get_or_init(|| Path::new("/sys/module/kvm_amd").exists());
    HostQuirks { tr_type: if amd { TrType::Available } else { TrType::Busy } }
}

/// Returns true if KVM runs on page tables alone here (kvm-pvm), without VT-x or SVM.
pub(crate) fn is_pvm() -> bool {
    static PVM: OnceLock<bool> = OnceLock::new();
    *PVM.get_or_init(|| Path::new("/sys/module/kvm_pvm").exists())
}

/// Returns true if KVM shadows the guest's page tables: on kvm-pvm, and where VT-x or SVM run without two-dimensional paging.
pub(crate) fn shadows_page_tables() -> bool {
    static SHADOWS: OnceLock<bool> = OnceLock::new();
    let off = |parameter| {
        let value = std::fs::read_to_string(Path::new("/sys/module").join(parameter));
        value.is_ok_and(|value| matches!(value.trim(), "N" | "0"))
    };
    *SHADOWS.get_or_init(|| is_pvm() || off("kvm_intel/parameters/ept") || off("kvm_amd/parameters/npt"))
}

/// Reads the properties that a run and its replays need from files, so that they open none.
pub(crate) fn read_facts(spec: &MachineSpec) {
    is_pvm();
    quirks(spec);
}

/// The mode, with what is special about it.
pub(crate) fn feature_name(spec: &MachineSpec) -> String {
    let mut name = format!("mode {}", spec.boot.mode);
    if spec.boot.paging.five_level {
        name.push_str(" with five-level paging");
    }
    if spec.boot.ring == Ring::User {
        name.push_str(" in ring 3");
    }
    name
}
