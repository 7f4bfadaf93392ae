//! Part of a report: the other vCPUs, and MSRs that KVM does not implement.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;
use vmm_core::cpu::msr;
use vmm_core::kvm_sys_wrap::MpState;
use vmm_core::machine::Machine;

use crate::prepare::Files;

/// Other vCPUs and unknown MSRs.
#[derive(Debug, Serialize)]
pub(super) struct OtherVcpus {
    /// All vCPUs of a machine with several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vcpus: Vec<VcpuRow>,
    /// MSRs that the guest accessed and KVM does not implement. Each access raised #GP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown_msrs: Vec<UnknownMsr>,
}

#[derive(Debug, Serialize)]
struct VcpuRow {
    id: u64,
    /// MP state: `runs`, `halted`, `waits for INIT`, `waits for SIPI`.
    state: &'static str,
    rip: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol: Option<String>,
    /// True if this vCPU ended the run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
}

#[derive(Debug, Serialize)]
struct UnknownMsr {
    number: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    reads: u64,
    writes: u64,
}

impl OtherVcpus {
    pub(super) fn new(machine: &Machine, files: &Files) -> Self {
        let several = machine.spec().vcpus > 1;
        let vcpus = machine.vcpus().filter(|_| several).filter_map(|vcpu| {
            let regs = vcpu.regs().ok()?;
            let state = match machine.mp_state(vcpu).ok()? {
                MpState::Runnable | MpState::SipiReceived | MpState::Other(_) => "runs",
                MpState::Halted => "halted",
                MpState::Uninitialized => "waits for INIT",
                MpState::InitReceived => "waits for SIPI",
            };
            let ended = vcpu.id() == machine.vcpu().id();
            Some(VcpuRow { id: vcpu.id(), state, rip: regs.rip, symbol: files.symbol_at(regs.rip), ended })
        });
        let unknown_msrs = machine.unknown_msrs().into_iter().map(|(number, used)| UnknownMsr {
            number,
            name: msr::name(number),
            reads: used.reads,
            writes: used.writes,
        });
        Self { vcpus: vcpus.collect(), unknown_msrs: unknown_msrs.collect() }
    }
}

impl Display for OtherVcpus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if !self.vcpus.is_empty() {
            writeln!(f, "  vCPUs:")?;
        }
        for VcpuRow { id, state, rip, symbol, ended } in &self.vcpus {
            let symbol = symbol.as_ref().map(|name| format!(" <{name}>")).unwrap_or_default();
            let ended = if *ended { ", ended the run" } else { "" };
            writeln!(f, "    {id:3}  {state} at {rip:#x}{symbol}{ended}")?;
        }
        if !self.unknown_msrs.is_empty() {
            writeln!(
                f,
                "  MSRs that the guest asked for and this host's KVM does not have (each raised #GP):"
            )?;
        }
        for UnknownMsr { number, name, reads, writes } in &self.unknown_msrs {
            let name = name.map(|name| format!(" {name}")).unwrap_or_default();
            writeln!(f, "    {number:#x}{name}: {reads} reads, {writes} writes")?;
        }
        Ok(())
    }
}
