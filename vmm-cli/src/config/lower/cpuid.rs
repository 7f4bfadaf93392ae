//! `cpuid`: the CPUID that the guest sees.

use vmm_core::spec::CpuidPolicy;
use vmm_core::spec::cpuid_feature::CpuidFeature;

use super::super::problem::ConfigProblem;
use super::super::schema::{CpuidChoice, Spanned};
use super::super::values::nearest;
use super::Context;

/// Returns the policy, and the features to hide (`false`) or to set (`true`).
pub(super) fn lower(cx: &mut Context<'_>) -> (CpuidPolicy, Vec<(CpuidFeature, bool)>) {
    let raw = cx.document;
    let table = match raw.cpuid.as_ref().map(|at| &at.value) {
        None if cx.is_pc() => return (CpuidPolicy::Host, Vec::new()),
        None => return (CpuidPolicy::None, Vec::new()),
        Some(CpuidChoice::Word(policy)) => return (*policy, Vec::new()),
        Some(CpuidChoice::Table(table)) => table,
    };
    let mut changes: Vec<(CpuidFeature, bool)> = Vec::new();
    for (names, present) in [(&table.hide, false), (&table.set, true)] {
        for Spanned { value: name, span } in names.iter().flatten() {
            let Some(feature) = CpuidFeature::from_name(name) else {
                let problem = ConfigProblem::new(span, format!("no CPU feature is called `{name}` here"));
                let help = nearest(name, CpuidFeature::names()).map_or_else(
                    || "names are those of /proc/cpuinfo, such as cx16, xsave, smep".to_owned(),
                    |near| format!("did you mean `{near}`?"),
                );
                cx.problem(problem.help(help));
                continue;
            };
            if changes.iter().any(|(other, _)| *other == feature) {
                cx.problem(
                    ConfigProblem::new(span, format!("the feature `{name}` is named twice"))
                        .help("name it once"),
                );
                continue;
            }
            changes.push((feature, present));
        }
    }
    (CpuidPolicy::Host, changes)
}
