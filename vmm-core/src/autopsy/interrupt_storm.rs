//! Classification of a hang of a machine with interrupts.
//!
//! Such a run cannot be replayed, and single-stepping holds interrupts off. The classification uses the number of injected
//! interrupts (`KVM_GET_STATS_FD`, [`kvm_sys_wrap::Stats`]), the in-service register of the local APIC and the MP state.

use kvm_sys_wrap::MpState;

use super::hang::{self, HangKind};
use crate::cpu::cpu_state::CpuState;
use crate::machine::Machine;
use crate::machine::end::End;

/// Least number of interrupts per second of an interrupt storm.
///
/// The timer of a kernel has 100 to 1000 Hz, and an emulated host delivers no more than a few thousand interrupts per second.
const MIN_STORM_RATE: u128 = 2_000;

/// Name of the KVM statistic that counts interrupts injected into a vCPU.
const INJECTIONS_STAT: &str = "irq_injections";

/// Classifies the hang as an interrupt storm, a suspended or halted machine, or by the current instruction.
pub(super) fn classify(ended: &Machine, end: &End, registers: &CpuState) -> HangKind {
    if let (End::TimeLimit(time), Some(count)) = (end, injected_interrupts(ended))
        && u128::from(count) * 1000 > MIN_STORM_RATE * time.as_millis().max(1)
        && let Ok(Some(vector)) = ended.vcpu().interrupt_in_service()
    {
        return HangKind::InterruptStorm { count, time: *time, vector };
    }
    if ended.sleeps.now {
        return HangKind::Suspended;
    }
    match ended.vcpu().mp_state() {
        Ok(MpState::Halted) => HangKind::Halted,
        Ok(_) | Err(_) => hang::classify_instruction(ended, registers),
    }
}

fn injected_interrupts(ended: &Machine) -> Option<u64> {
    let stats = ended.vcpu().stats().ok()?.read().ok()?;
    stats.iter().find(|stat| stat.name == INJECTIONS_STAT)?.values.first().copied()
}
