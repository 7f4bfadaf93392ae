//! Applies the differences of a case: registers and entry.

use vmm_core::Gva;
use vmm_core::snapshot::Snapshot;
use vmm_core::spec::RegisterFile;
use vmm_core::spec::{EntryPoint, MachineSpec};

use crate::config::address_expr::AddressExpr;
use crate::config::{Config, TestCase};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::inspect::resolve;
use crate::prepare::Files;

/// Applies the case to the description of a machine that is not built yet.
pub(super) fn apply_to_spec(
    config: &Config,
    spec: &mut MachineSpec,
    files: &Files,
    test: Option<&TestCase>,
) -> Result<(), Diagnostics> {
    let Some(test) = test else { return Ok(()) };
    for (register, value) in &test.registers {
        spec.boot.registers.retain(|(other, _)| other != register);
        spec.boot.registers.push((*register, *value));
    }
    if let Some(place) = &test.jump {
        spec.boot.entry = EntryPoint::Address(Gva(resolve_address(config, files, place, "test.case")?));
    }
    Ok(())
}

/// Applies the case to a copy of the boot snapshot.
pub(super) fn apply_to_snapshot(
    config: &Config,
    snapshot: &Snapshot,
    files: &Files,
    test: Option<&TestCase>,
) -> Result<Snapshot, Diagnostics> {
    let Some(test) = test else { return Ok(snapshot.clone()) };
    let find = |place| resolve_address(config, files, place, "test.case");
    let target = test.jump.as_ref().map(find).transpose()?;
    let base = snapshot.state().vcpus().next().map_or(0, |vcpu| vcpu.sregs.cs.base);
    Ok(snapshot.with_registers(|regs| {
        for (register, value) in &test.registers {
            regs.set(*register, *value);
        }
        regs.rip = target.map_or(regs.rip, |target| target.wrapping_sub(base));
    }))
}

/// Resolves an address expression that the configuration has under `key`.
pub(super) fn resolve_address(
    config: &Config,
    files: &Files,
    place: &AddressExpr,
    key: &'static str,
) -> Result<u64, Diagnostics> {
    let unknown = |problem: Diagnostic| config.error_at(key, problem.message).with_help(problem.help);
    Ok(resolve(files, place).map_err(unknown)?.address)
}
