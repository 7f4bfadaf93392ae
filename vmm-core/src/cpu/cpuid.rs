//! CPUID: features by name, to hide or to set, and what differs between the vCPUs of one machine.
//!
//! The names are those of Linux' /proc/cpuinfo, which most people know. Where a feature stands: SDM vol. 2, CPUID; APM
//! vol. 3, appendix E.

use kvm_sys_wrap::bindings::CpuId;

/// A register of CPUID's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// A feature that CPUID announces with one bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feature {
    name: &'static str,
    leaf: u32,
    index: u32,
    register: Register,
    bit: u8,
}

macro_rules! features {
    ($($leaf:literal . $index:literal $register:ident { $($name:literal = $bit:literal),* $(,)? })*) => {
        /// All that have a name here.
        const FEATURES: &[Feature] = &[$($(Feature {
            name: $name, leaf: $leaf, index: $index, register: Register::$register, bit: $bit,
        }),*),*];
    };
}

features! {
    1 . 0 Ecx {
        "sse3" = 0, "pclmulqdq" = 1, "monitor" = 3, "ssse3" = 9, "fma" = 12, "cx16" = 13, "pcid" = 17, "sse4_1" = 19,
        "sse4_2" = 20, "x2apic" = 21, "movbe" = 22, "popcnt" = 23, "tsc_deadline_timer" = 24, "aes" = 25, "xsave" = 26,
        "avx" = 28, "f16c" = 29, "rdrand" = 30, "hypervisor" = 31,
    }
    1 . 0 Edx {
        "fpu" = 0, "vme" = 1, "de" = 2, "pse" = 3, "tsc" = 4, "msr" = 5, "pae" = 6, "mce" = 7, "cx8" = 8, "apic" = 9,
        "sep" = 11, "mtrr" = 12, "pge" = 13, "mca" = 14, "cmov" = 15, "pat" = 16, "pse36" = 17, "clflush" = 19,
        "mmx" = 23, "fxsr" = 24, "sse" = 25, "sse2" = 26,
    }
    6 . 0 Eax { "arat" = 2 }
    7 . 0 Ebx {
        "fsgsbase" = 0, "tsc_adjust" = 1, "bmi1" = 3, "avx2" = 5, "smep" = 7, "bmi2" = 8, "erms" = 9, "invpcid" = 10,
        "rtm" = 11, "avx512f" = 16, "rdseed" = 18, "adx" = 19, "smap" = 20, "clflushopt" = 23, "clwb" = 24, "sha_ni" = 29,
    }
    7 . 0 Ecx { "umip" = 2, "pku" = 3, "la57" = 16, "rdpid" = 22 }
    7 . 0 Edx { "fsrm" = 4, "spec_ctrl" = 26, "arch_capabilities" = 29 }
    0xd . 1 Eax { "xsaveopt" = 0, "xsavec" = 1, "xgetbv1" = 2, "xsaves" = 3 }
    0x8000_0001 . 0 Ecx { "lahf_lm" = 0, "svm" = 2, "abm" = 5, "sse4a" = 6, "topoext" = 22 }
    0x8000_0001 . 0 Edx {
        "syscall" = 11, "nx" = 20, "fxsr_opt" = 25, "pdpe1gb" = 26, "rdtscp" = 27, "lm" = 29,
    }
    0x8000_0007 . 0 Edx { "constant_tsc" = 8 }
    0x8000_0008 . 0 Ebx { "clzero" = 0, "wbnoinvd" = 9, "ibpb" = 12, "ssbd" = 24 }
    0x4000_0001 . 0 Eax {
        "kvmclock" = 3, "kvm_asyncpf" = 4, "kvm_steal_time" = 5, "kvm_pv_eoi" = 6, "kvm_pv_unhalt" = 7,
        "kvm_pv_tlb_flush" = 9, "kvm_pv_ipi" = 11, "kvm_poll_control" = 12, "kvm_pv_sched_yield" = 13,
    }
}

impl Feature {
    /// The timer of the local APIC can wait for a value of the TSC.
    pub(crate) const TSC_DEADLINE: Self =
        Self { name: "tsc_deadline_timer", leaf: 1, index: 0, register: Register::Ecx, bit: 24 };

    /// The feature with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        FEATURES.iter().find(|feature| feature.name == name).copied()
    }

    /// Every name, in the order of the leaves.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FEATURES.iter().map(|feature| feature.name)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Whether it is announced.
    fn is_in(self, cpuid: &CpuId) -> bool {
        let entry = cpuid.as_slice().iter().find(|e| e.function == self.leaf && e.index == self.index);
        let value = entry.map_or(0, |entry| match self.register {
            Register::Eax => entry.eax,
            Register::Ebx => entry.ebx,
            Register::Ecx => entry.ecx,
            Register::Edx => entry.edx,
        });
        value & 1 << self.bit != 0
    }

    /// Sets or clears its bit. A leaf that the host does not have is left out: nothing can be announced there.
    fn apply(self, cpuid: &mut CpuId, present: bool) {
        let leaf = |entry: &&mut kvm_sys_wrap::bindings::kvm_cpuid_entry2| {
            entry.function == self.leaf && entry.index == self.index
        };
        let Some(entry) = cpuid.as_mut_slice().iter_mut().find(leaf) else { return };
        let value = match self.register {
            Register::Eax => &mut entry.eax,
            Register::Ebx => &mut entry.ebx,
            Register::Ecx => &mut entry.ecx,
            Register::Edx => &mut entry.edx,
        };
        let bit = 1 << self.bit;
        *value = if present { *value | bit } else { *value & !bit };
    }
}

/// Hides and sets features in what the host has.
pub(crate) fn change(cpuid: &mut CpuId, changes: &[(Feature, bool)]) {
    for (feature, present) in changes {
        feature.apply(cpuid, *present);
    }
}

/// The features that `told` announces and `host` does not have, but for those that were set by hand.
pub(crate) fn missing(told: &CpuId, host: &CpuId, changes: &[(Feature, bool)]) -> Vec<&'static str> {
    // KVM has the timer of the TSC's deadline, and does not announce it.
    let by_us = |feature: &Feature| {
        *feature == Feature::TSC_DEADLINE || changes.iter().any(|(changed, _)| changed == feature)
    };
    let is_missing = |feature: &&Feature| feature.is_in(told) && !feature.is_in(host) && !by_us(feature);
    FEATURES.iter().filter(is_missing).map(|feature| feature.name).collect()
}

/// The CPUID of one vCPU: the common one with its APIC ID and the number of vCPUs (SDM vol. 2, CPUID leaves 1, 0xb, 0x1f;
/// APM vol. 3, E.4.7).
pub(crate) fn of_vcpu(common: &CpuId, id: u32, vcpus: u32) -> CpuId {
    let mut cpuid = common.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => {
                entry.ebx = entry.ebx & 0x0000_ffff | vcpus.min(0xff) << 16 | id << 24;
                // HTT: the count in EBX counts.
                entry.edx = if vcpus > 1 { entry.edx | 1 << 28 } else { entry.edx & !(1 << 28) };
            }
            0xb | 0x1f => {
                entry.edx = id;
                // One thread to a core, all cores in one package.
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
        let feature = |name| Feature::named(name).unwrap();
        change(&mut cpuid, &[(feature("cx16"), false), (feature("smep"), true), (feature("lm"), true)]);
        let [one, seven] = cpuid.as_slice() else { panic!() };
        assert_eq!((one.ecx, one.edx), (!(1 << 13), 0));
        assert_eq!((seven.ebx, seven.ecx), (1 << 7, !0));
    }

    #[test]
    fn the_constant_is_the_one_in_the_table() {
        assert_eq!(Feature::named("tsc_deadline_timer"), Some(Feature::TSC_DEADLINE));
    }

    #[test]
    fn no_two_features_share_a_name_or_a_bit() {
        for (index, one) in FEATURES.iter().enumerate() {
            for other in &FEATURES[index + 1..] {
                assert_ne!(one.name, other.name);
                assert_ne!(
                    (one.leaf, one.index, one.register, one.bit),
                    (other.leaf, other.index, other.register, other.bit)
                );
            }
        }
    }

    #[test]
    fn each_vcpu_has_its_own_number() {
        let common = leaves(&[(1, 0), (0xb, 0), (0xb, 1)]);
        let third = of_vcpu(&common, 2, 3);
        let [one, thread, core] = third.as_slice() else { panic!() };
        assert_eq!((one.ebx >> 24, one.ebx >> 16 & 0xff), (2, 3));
        assert_eq!((thread.eax, thread.ebx, thread.ecx, thread.edx), (0, 1, 0x100, 2));
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 2));
    }
}
