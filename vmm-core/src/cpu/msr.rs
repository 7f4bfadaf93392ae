//! Names of MSRs that kernels access and that a KVM host may not have.
//!
//! Sources: SDM vol. 4, chapter 2; APM vol. 2, appendix A; Linux' arch/x86/include/asm/msr-index.h has the same names.

/// Number and name, sorted by number.
const NAMES: &[(u32, &str)] = &[
    (0x10, "TSC"),
    (0x17, "PLATFORM_ID"),
    (0x1b, "APIC_BASE"),
    (0x33, "TEST_CTRL"),
    (0x34, "SMI_COUNT"),
    (0x3a, "FEATURE_CONTROL"),
    (0x3b, "TSC_ADJUST"),
    (0x48, "SPEC_CTRL"),
    (0x49, "PRED_CMD"),
    (0x79, "BIOS_UPDT_TRIG"),
    (0x8b, "BIOS_SIGN_ID"),
    (0xc1, "PMC0"),
    (0xcd, "FSB_FREQ"),
    (0xce, "PLATFORM_INFO"),
    (0xcf, "CORE_CAPS"),
    (0xe2, "PKG_CST_CONFIG_CONTROL"),
    (0xe7, "MPERF"),
    (0xe8, "APERF"),
    (0xfe, "MTRRCAP"),
    (0x10a, "ARCH_CAPABILITIES"),
    (0x10b, "FLUSH_CMD"),
    (0x122, "TSX_CTRL"),
    (0x140, "MISC_FEATURES_ENABLES"),
    (0x174, "SYSENTER_CS"),
    (0x179, "MCG_CAP"),
    (0x17a, "MCG_STATUS"),
    (0x186, "PERFEVTSEL0"),
    (0x198, "PERF_STATUS"),
    (0x199, "PERF_CTL"),
    (0x19a, "CLOCK_MODULATION"),
    (0x19b, "THERM_INTERRUPT"),
    (0x19c, "THERM_STATUS"),
    (0x1a0, "MISC_ENABLE"),
    (0x1a2, "TEMPERATURE_TARGET"),
    (0x1ad, "TURBO_RATIO_LIMIT"),
    (0x1b0, "ENERGY_PERF_BIAS"),
    (0x1c9, "LBR_TOS"),
    (0x1d9, "DEBUGCTL"),
    (0x1fc, "POWER_CTL"),
    (0x277, "PAT"),
    (0x2ff, "MTRRdefType"),
    (0x345, "PERF_CAPABILITIES"),
    (0x38d, "FIXED_CTR_CTRL"),
    (0x38f, "PERF_GLOBAL_CTRL"),
    (0x480, "VMX_BASIC"),
    (0x606, "RAPL_POWER_UNIT"),
    (0x611, "PKG_ENERGY_STATUS"),
    (0x64e, "PPERF"),
    (0x6e0, "TSC_DEADLINE"),
    (0x770, "PM_ENABLE"),
    (0x771, "HWP_CAPABILITIES"),
    (0xc80, "DEBUG_INTERFACE"),
    (0xc90, "L3_QOS_MASK_0"),
    (0xda0, "XSS"),
    (0x4b56_4d00, "KVM_WALL_CLOCK_NEW"),
    (0x4b56_4d01, "KVM_SYSTEM_TIME_NEW"),
    (0xc000_0080, "EFER"),
    (0xc000_0081, "STAR"),
    (0xc000_0082, "LSTAR"),
    (0xc000_0103, "TSC_AUX"),
    (0xc000_0104, "AMD64_TSC_RATIO"),
    (0xc000_0410, "AMD64_MCA_INTR_CFG"),
    (0xc001_0010, "AMD64_SYSCFG"),
    (0xc001_0015, "K7_HWCR"),
    (0xc001_001f, "AMD64_NB_CFG"),
    (0xc001_0058, "FAM10H_MMIO_CONF_BASE"),
    (0xc001_0061, "AMD_PSTATE_LIMIT"),
    (0xc001_0064, "AMD_PSTATE_DEF_BASE"),
    (0xc001_0114, "VM_CR"),
    (0xc001_0117, "VM_HSAVE_PA"),
    (0xc001_011f, "AMD64_VIRT_SPEC_CTRL"),
    (0xc001_0131, "AMD64_SEV"),
    (0xc001_0140, "AMD64_OSVW_ID_LENGTH"),
    (0xc001_0299, "AMD_RAPL_POWER_UNIT"),
    (0xc001_1020, "AMD64_LS_CFG"),
    (0xc001_1022, "AMD64_DC_CFG"),
    (0xc001_1029, "AMD64_DE_CFG"),
    (0xc001_1030, "AMD64_IBSFETCHCTL"),
];

/// Returns the name of an MSR; `None` if it is not known.
#[must_use]
pub fn name(number: u32) -> Option<&'static str> {
    let at = NAMES.binary_search_by_key(&number, |(number, _)| *number).ok()?;
    NAMES.get(at).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(NAMES.is_sorted_by(|one, other| one.0 < other.0));
        assert_eq!(name(0xc000_0080), Some("EFER"));
        assert_eq!(name(0x1234), None);
    }
}
