//! What some hosts are known not to do, so that their refusal is no failure, and any other refusal is one.

use std::path::Path;

use super::config::ConfigTest;

/// The kinds of KVM that differ in what they can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Host {
    /// KVM on VT-x or SVM.
    Ordinary,
    /// kvm-pvm: no hardware virtualization; ring 0 is interpreted.
    Pvm,
}

/// Configurations, by name, that kvm-pvm runs without refusing them, but to another end.
const NOT_ON_PVM: &[(&str, &str)] = &[
    ("int80-long", INT_N),
    ("int80-protected", INT_N),
    ("crash/gate-type", GATE),
    ("crash/gate-segment", GATE),
    ("crash/real-idt-limit", IDT_LIMIT),
    ("crash/far-jump-empty", FAR_JUMP),
    ("crash/protected-without-gdt", FAR_JUMP),
    ("crash/cr3-outside", CR3),
    ("crash/interrupt-storm", STORM),
];

const INT_N: &str = "kvm-pvm takes `int n` in ring 3 for an invalid opcode";
const GATE: &str = "kvm-pvm checks neither a 32-bit gate's type nor its segment: the guest's handler runs";
const IDT_LIMIT: &str = "kvm-pvm ignores the limit of the IDT in real mode: the guest hangs";
const FAR_JUMP: &str = "kvm-pvm cannot interpret a far jump that faults: the guest ends with INTERNAL_ERROR";
const CR3: &str = "kvm-pvm takes page tables outside memory for a triple fault: the guest ends with SHUTDOWN";
const STORM: &str =
    "kvm-pvm lets interrupts in only now and then between the instructions that it interprets: no storm";

impl Host {
    /// The kind of host we run on.
    pub(super) fn detect() -> Self {
        if Path::new("/sys/module/kvm_pvm").exists() { Self::Pvm } else { Self::Ordinary }
    }

    /// Why a configuration cannot end here as it should; `None` if it can.
    pub(super) fn cannot_run(self, test: &ConfigTest) -> Option<&'static str> {
        match self {
            Self::Ordinary => None,
            Self::Pvm => NOT_ON_PVM.iter().find(|(name, _)| *name == test.name).map(|(_, reason)| *reason),
        }
    }

    /// Whether vmm-cli may say that this host's KVM cannot do what the configuration asks for.
    pub(super) fn may_refuse(self, test: &ConfigTest) -> bool {
        // Only newer CPUs have these.
        let rare = test.five_level || test.page_size == "1GiB";
        match self {
            Self::Ordinary => rare,
            // It knows the page tables of long mode only.
            Self::Pvm => rare || matches!(test.mode.as_str(), "paged" | "pae"),
        }
    }
}
