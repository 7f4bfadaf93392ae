//! CPU features by name: the bits of CPUID that a machine can hide from its guest or set.
//!
//! The names are those of Linux' /proc/cpuinfo. Where each bit stands: SDM vol. 2, CPUID; APM vol. 3, appendix E.

/// Register that CPUID returns the bit in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CpuidRegister {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// CPU feature that CPUID announces with one bit, such as `sse2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidFeature {
    name: &'static str,
    pub(crate) leaf: u32,
    pub(crate) index: u32,
    pub(crate) register: CpuidRegister,
    pub(crate) bit: u8,
}

macro_rules! features {
    ($($leaf:literal . $index:literal $register:ident { $($name:literal = $bit:literal),* $(,)? })*) => {
        const FEATURES: &[CpuidFeature] = &[$($(CpuidFeature {
            name: $name, leaf: $leaf, index: $index, register: CpuidRegister::$register, bit: $bit,
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

impl CpuidFeature {
    /// Every feature that has a name here, in the order of the leaves.
    pub(crate) const ALL: &[Self] = FEATURES;

    /// TSC-deadline mode of the local APIC timer.
    pub(crate) const TSC_DEADLINE: Self =
        Self { name: "tsc_deadline_timer", leaf: 1, index: 0, register: CpuidRegister::Ecx, bit: 24 };

    /// Paravirtual features of KVM that need local APICs in the kernel (cpuid.rst of KVM), by name.
    pub(crate) const OF_KERNEL_APICS: [&str; 6] = [
        "kvm_asyncpf",
        "kvm_pv_eoi",
        "kvm_pv_unhalt",
        "kvm_pv_ipi",
        "kvm_poll_control",
        "kvm_pv_sched_yield",
    ];

    /// Returns the feature with a name as in /proc/cpuinfo; `None` if it is not known.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        FEATURES.iter().find(|feature| feature.name == name).copied()
    }

    /// Returns the names of all features, in the order of the leaves.
    pub fn names() -> impl Iterator<Item = &'static str> {
        FEATURES.iter().map(|feature| feature.name)
    }

    /// Returns the name of the feature in /proc/cpuinfo.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constant_is_the_one_in_the_table() {
        assert_eq!(CpuidFeature::from_name("tsc_deadline_timer"), Some(CpuidFeature::TSC_DEADLINE));
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
}
