//! `vcpus` and `interrupts`: number of vCPUs, and the interrupt controllers.

use vmm_core::spec::Interrupts;

use super::super::problem::ConfigProblem;
use super::{Context, or};

/// Maximum number of vCPUs: APIC IDs in MADT and MP table have 8 bits, and 0xff is the broadcast.
const MAX_VCPUS: u64 = 255;

/// Returns the interrupt controllers.
pub(super) fn interrupts(cx: &Context<'_>) -> Interrupts {
    or(&cx.document.interrupts, if cx.is_pc() { Interrupts::Pc } else { Interrupts::None })
}

/// Returns the number of vCPUs and the interrupt controllers.
pub(super) fn lower(cx: &mut Context<'_>) -> (u32, Interrupts) {
    let interrupts = interrupts(cx);
    let Some(vcpus) = &cx.document.vcpus else { return (1, interrupts) };
    let number = vcpus.value.0;
    if number == 0 || number > MAX_VCPUS {
        let problem =
            ConfigProblem::new(&vcpus.span, format!("a machine has 1 to {MAX_VCPUS} vCPUs, not {number}"));
        cx.problem(problem.help("use as many as the host has, at most"));
        return (1, interrupts);
    }
    // Until the guest's file has decided the protocol, the default is not known: it is checked when that is lowered.
    let is_decided = cx.protocol.is_some() || cx.document.interrupts.is_some();
    if number > 1 && is_decided && interrupts == Interrupts::None {
        let problem = ConfigProblem::new(
            &vcpus.span,
            format!("{number} vCPUs need interrupts: the others wait for an IPI"),
        );
        cx.problem(problem.help("add `interrupts = \"pc\"`, or \"split\" for local APICs alone"));
    }
    (u32::try_from(number).unwrap_or(1), interrupts)
}
