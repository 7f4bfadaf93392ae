//! A machine with interrupts that did not end: whether interrupts are why.
//!
//! Its run cannot be had again, and single steps would keep interrupts out. But the kernel counts the interrupts that it
//! gave to each vCPU ([`kvm_sys_wrap::Stats`]), and the local APIC knows which one is being served.

use kvm_sys_wrap::MpState;

use super::hang::{self, Hang};
use crate::cpu::cpu_state::CpuState;
use crate::machine::Machine;
use crate::machine::end::End;

/// A timer of a kernel comes 100 to 1000 times a second. More than this, with the next one due already when the run is
/// stopped, is a storm; an emulated host manages no more than some thousand.
const STORM_PER_SECOND: u128 = 2_000;

/// The kernel's name for the number of interrupts that it gave to a vCPU.
const INJECTIONS: &str = "irq_injections";

/// A storm, a sleep, or what the instruction says that the vCPU stood at.
pub(super) fn or_at_rest(ended: &Machine, end: &End, registers: &CpuState) -> Hang {
    if let (End::TimeLimit(time), Some(count)) = (end, injections(ended))
        && u128::from(count) * 1000 > STORM_PER_SECOND * time.as_millis().max(1)
        && let Ok(Some(vector)) = ended.vcpu().interrupt_in_service()
    {
        return Hang::Interrupts { count, time: *time, vector };
    }
    if ended.sleeps.now {
        return Hang::Suspended;
    }
    match ended.vcpu().mp_state() {
        Ok(MpState::Halted) => Hang::Asleep,
        Ok(_) | Err(_) => hang::at_rest(ended, registers),
    }
}

fn injections(ended: &Machine) -> Option<u64> {
    let stats = ended.vcpu().stats().ok()?.read().ok()?;
    stats.iter().find(|stat| stat.name == INJECTIONS)?.values.first().copied()
}
