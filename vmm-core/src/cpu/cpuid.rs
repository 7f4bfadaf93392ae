//! CPUID as the guest sees it: features hidden and set, and what differs between the vCPUs of one machine.
//!
//! The features and their bits are in [`crate::spec::cpuid_feature`].

use kvm_sys_wrap::bindings::CpuId;

use crate::spec::cpuid_feature::{CpuidFeature, CpuidRegister};

/// Returns true if `cpuid` announces `feature`.
fn is_announced(feature: CpuidFeature, cpuid: &CpuId) -> bool {
    let entry = cpuid.as_slice().iter().find(|e| e.function == feature.leaf && e.index == feature.index);
    let value = entry.map_or(0, |entry| match feature.register {
        CpuidRegister::Eax => entry.eax,
        CpuidRegister::Ebx => entry.ebx,
        CpuidRegister::Ecx => entry.ecx,
        CpuidRegister::Edx => entry.edx,
    });
    value & 1 << feature.bit != 0
}

/// Sets or clears the bit of `feature`. A leaf that the host does not have is left out: nothing can be announced there.
fn set_feature(feature: CpuidFeature, cpuid: &mut CpuId, present: bool) {
    let leaf = |entry: &&mut kvm_sys_wrap::bindings::kvm_cpuid_entry2| {
        entry.function == feature.leaf && entry.index == feature.index
    };
    let Some(entry) = cpuid.as_mut_slice().iter_mut().find(leaf) else { return };
    let value = match feature.register {
        CpuidRegister::Eax => &mut entry.eax,
        CpuidRegister::Ebx => &mut entry.ebx,
        CpuidRegister::Ecx => &mut entry.ecx,
        CpuidRegister::Edx => &mut entry.edx,
    };
    let bit = 1 << feature.bit;
    *value = if present { *value | bit } else { *value & !bit };
}

/// Hides and sets features in the host's CPUID.
pub(crate) fn apply_changes(cpuid: &mut CpuId, changes: &[(CpuidFeature, bool)]) {
    for (feature, present) in changes {
        set_feature(*feature, cpuid, *present);
    }
}

/// Returns the features that `guest` announces and `host` does not have, except those in `changes`.
pub(crate) fn missing_features(
    guest: &CpuId,
    host: &CpuId,
    changes: &[(CpuidFeature, bool)],
) -> Vec<&'static str> {
    // KVM supports the TSC-deadline timer, but does not announce it.
    let by_us = |feature: &CpuidFeature| {
        *feature == CpuidFeature::TSC_DEADLINE || changes.iter().any(|(changed, _)| changed == feature)
    };
    let is_missing = |feature: &&CpuidFeature| {
        is_announced(**feature, guest) && !is_announced(**feature, host) && !by_us(feature)
    };
    CpuidFeature::ALL.iter().filter(is_missing).map(|feature| feature.name()).collect()
}

/// Returns the CPUID of one vCPU: `common` with its APIC ID and the number of vCPUs (SDM vol. 2, CPUID leaves 1, 0xb, 0x1f;
/// APM vol. 3, E.4.7).
pub(crate) fn for_vcpu(common: &CpuId, id: u32, vcpus: u32) -> CpuId {
    let mut cpuid = common.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x0000_ffff | vcpus.min(0xff) << 16 | id << 24;
                // HTT: the number of vCPUs in EBX is valid.
                entry.edx = if vcpus > 1 { entry.edx | 1 << 28 } else { entry.edx & !(1 << 28) };
            }
            0xb | 0x1f => {
                entry.edx = id;
                // One thread per core, all cores in one package.
                let (shift, count, level) = match entry.index {
                    0 => (0, 1, 1),
                    1 => (vcpus.next_power_of_two().trailing_zeros(), vcpus, 2),
                    _ => (0, 0, 0),
                };
                (entry.eax, entry.ebx, entry.ecx) = (shift, count, entry.index | level << 8);
            }
            0x8000_0008 => entry.ecx = entry.ecx & !0xf0ff | vcpus.saturating_sub(1).min(0xff),
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (id, id.min(0xff), 0),
            _ => {}
        }
    }
    cpuid
}

#[cfg(test)]
mod tests {
    use kvm_sys_wrap::bindings::kvm_cpuid_entry2;

    use super::*;

    fn leaves(numbers: &[(u32, u32)]) -> CpuId {
        let entry = |(function, index)| kvm_cpuid_entry2 { function, index, ecx: !0, ..Default::default() };
        CpuId::from_entries(&numbers.iter().copied().map(entry).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_feature_is_hidden_and_set_by_its_name_alone() {
        let mut cpuid = leaves(&[(1, 0), (7, 0)]);
        let feature = |name| CpuidFeature::from_name(name).unwrap();
        apply_changes(
            &mut cpuid,
            &[(feature("cx16"), false), (feature("smep"), true), (feature("lm"), true)],
        );
        let [one, seven] = cpuid.as_slice() else { panic!() };
        assert_eq!((one.ecx, one.edx), (!(1 << 13), 0));
        assert_eq!((seven.ebx, seven.ecx), (1 << 7, !0));
    }

    #[test]
    fn each_vcpu_has_its_own_number() {
        let common = leaves(&[(1, 0), (0xb, 0), (0xb, 1)]);
        let third = for_vcpu(&common, 2, 3);
        let [one, thread, core] = third.as_slice() else { panic!() };
        assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff), (2, 3));
        assert_eq!((thread.eax, thread.ebx, thread.ecx, thread.edx), (0, 1, 0x100, 2));
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 2));
    }
}
