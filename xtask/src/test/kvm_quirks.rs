//! Configurations that a kind of KVM is known not to support. Any other refusal is a failure.

use std::path::Path;

use super::config::ConfigTest;

/// Kinds of KVM with different features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KvmKind {
    /// KVM on VT-x.
    Vmx,
    /// KVM on SVM. A vCPU that shuts down is reset.
    Svm,
    /// kvm-pvm: without hardware virtualization; ring 0 is interpreted.
    Pvm,
}

/// Configurations that kvm-pvm does not refuse but runs to a different end, by name, each with the reason.
const DIFFERENT_ON_PVM: &[(&str, &str)] = &[
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

/// Configurations whose crash cannot be explained on SVM, each with the reason.
const UNEXPLAINED_ON_SVM: &[(&str, &str)] = &[("crash/ap-page-fault", RESET)];

const INT_N: &str = "kvm-pvm takes `int n` in ring 3 for an invalid opcode";
const GATE: &str = "kvm-pvm checks neither a 32-bit gate's type nor its segment: the guest's handler runs";
const IDT_LIMIT: &str = "kvm-pvm ignores the limit of the IDT in real mode: the guest hangs";
const FAR_JUMP: &str = "kvm-pvm cannot interpret a far jump that faults: the guest ends with INTERNAL_ERROR";
const CR3: &str = "kvm-pvm takes page tables outside memory for a triple fault: the guest ends with SHUTDOWN";
const STORM: &str =
    "kvm-pvm lets interrupts in only now and then between the instructions that it interprets: no storm";
const RESET: &str =
    "SVM resets a vCPU that shuts down, and a run of several vCPUs cannot be repeated: no registers";

impl KvmKind {
    /// Returns the kind of this host's KVM.
    pub(super) fn detect() -> Self {
        let is_loaded = |module: &str| Path::new("/sys/module").join(module).exists();
        if is_loaded("kvm_pvm") {
            Self::Pvm
        } else if is_loaded("kvm_amd") {
            Self::Svm
        } else {
            Self::Vmx
        }
    }

    /// Returns the reason why a configuration cannot pass on this KVM; `None` if it can.
    pub(super) fn cannot_run(self, test: &ConfigTest) -> Option<&'static str> {
        let list = match self {
            Self::Vmx => &[],
            Self::Svm => UNEXPLAINED_ON_SVM,
            Self::Pvm => DIFFERENT_ON_PVM,
        };
        list.iter().find(|(name, _)| *name == test.name).map(|(_, reason)| *reason)
    }

    /// Returns true if this KVM may lack a feature that the configuration needs.
    pub(super) fn may_refuse(self, test: &ConfigTest) -> bool {
        // Only newer CPUs support these.
        let is_rare = test.five_level || test.page_size == "1GiB";
        match self {
            Self::Vmx | Self::Svm => is_rare,
            // kvm-pvm supports only the page tables of long mode.
            Self::Pvm => is_rare || matches!(test.mode.as_str(), "paged" | "pae"),
        }
    }
}
