//! Classification of a hang of a machine with interrupts.
//!
//! Such a run cannot be replayed, and single-stepping holds interrupts off. The classification uses the number of injected
//! interrupts (`KVM_GET_STATS_FD`, [`kvm_sys_wrap::Stats`]), the in-service and request registers of the local APIC (ISR and IRR,
//! SDM vol. 3, 12.8.4) in a copy of the machine that runs on for some milliseconds, and the MP state.

use std::time::{Duration, Instant};

use kvm_sys_wrap::MpState;

use super::hang::{self, HangKind};
use crate::cpu::cpu_state::CpuState;
use crate::devices::virtio::unrepeatable;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::spec::LimitSpec;

/// Number of samples, and of interrupts in them, that decide whether interrupts leave the guest no time.
const SAMPLES: u32 = 32;
/// Time without an interrupt after which there is no storm. A busy host runs the guest for a fraction of an interval only.
const QUIET_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which fewer interrupts are no storm.
const SAMPLING_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that the guest runs between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(1);

/// Name of the KVM statistic that counts interrupts injected into a vCPU.
const INJECTIONS_STAT: &str = "irq_injections";

/// Classifies the hang as an interrupt storm, a suspended or halted machine, or by the current instruction.
///
/// # Errors
/// [`Error::Kvm`] where the state cannot be read.
pub(super) fn classify(
    ended: &Machine,
    build: &dyn Fn() -> Result<Machine, Error>,
    end: &End,
    registers: &CpuState,
) -> Result<HangKind, Error> {
    if ended.suspend_times.suspended {
        return Ok(HangKind::Suspended);
    }
    if ended.spec().has_userspace_irqchip() {
        let is_halted = ended.mp_state(ended.vcpu())? == MpState::Halted;
        return Ok(if is_halted { HangKind::Halted } else { hang::classify_instruction(ended, registers) });
    }
    if let End::TimeLimit(time) = end
        && let Some(count) = injected_interrupts(ended)
        && (count >= u64::from(SAMPLES) || ended.vcpu().interrupt_in_service()?.is_some())
        && unrepeatable(&ended.spec().devices.virtio).is_none()
        && let Some(vector) = storm_vector(ended, build)?
    {
        return Ok(HangKind::InterruptStorm { count, time: *time, vector });
    }
    if ended.vcpu().mp_state()? == MpState::Halted {
        return Ok(HangKind::Halted);
    }
    Ok(hang::classify_instruction(ended, registers))
}

/// Runs a copy of the machine for [`SAMPLES`] intervals or more, until as many interrupts were injected. Returns the vector that was
/// last seen in service or requested if one was after seven of eight intervals: between the end of an interrupt and the next one
/// there may be none for a moment.
///
/// A rate of interrupts is no criterion, since it depends on the speed of the host.
fn storm_vector(ended: &Machine, build: &dyn Fn() -> Result<Machine, Error>) -> Result<Option<u8>, Error> {
    let mut copy = build()?;
    copy.restore(&ended.checkpoint()?)?;
    let before = injected_interrupts(&copy).unwrap_or_default();
    let started = Instant::now();
    let (mut injected, mut last_injection) = (0, started);
    let (mut last, mut idle) = (None, 0);
    for sample in 1.. {
        let limits = LimitSpec { time: Some(SAMPLE_INTERVAL), exits: None };
        let outcome = copy.runner().limits(limits).run()?;
        let vector = copy.vcpu().interrupt_in_service()?;
        idle += u32::from(vector.is_none());
        last = vector.or(last);
        if !matches!(outcome.end, End::TimeLimit(_)) || idle > sample / 8 + 1 {
            return Ok(None);
        }
        let now = injected_interrupts(&copy).unwrap_or_default().saturating_sub(before);
        if now > injected {
            (injected, last_injection) = (now, Instant::now());
        }
        if sample >= SAMPLES && injected >= u64::from(SAMPLES) {
            return Ok(last.filter(|_| idle <= sample / 8));
        }
        if last_injection.elapsed() > QUIET_TIMEOUT || started.elapsed() > SAMPLING_TIMEOUT {
            break;
        }
    }
    Ok(None)
}

fn injected_interrupts(ended: &Machine) -> Option<u64> {
    let stats = ended.vcpu().stats().ok()?.read().ok()?;
    stats.iter().find(|stat| stat.name == INJECTIONS_STAT)?.values.first().copied()
}
