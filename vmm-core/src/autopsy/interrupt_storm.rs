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
use crate::record::checkpoint::Checkpoint;
use crate::spec::LimitSpec;

/// Number of samples, and of interrupts in them, that decide whether interrupts leave the guest no time.
pub(super) const SAMPLES: u32 = 32;
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
    if let Some((count, time)) = possible_storm(ended, end)?
        && let Some(vector) = storm_vector(&ended.checkpoint()?, build)?
    {
        return Ok(HangKind::InterruptStorm { count, time, vector, source: None });
    }
    if ended.mp_state(ended.vcpu())? == MpState::Halted {
        return Ok(HangKind::Halted);
    }
    Ok(hang::classify_instruction(ended, registers))
}

/// Returns the number of interrupts and their time if they may have been a storm, which [`storm_vector`] decides.
///
/// # Errors
/// [`Error::Kvm`] where the state cannot be read.
pub(super) fn possible_storm(ended: &Machine, end: &End) -> Result<Option<(u64, Duration)>, Error> {
    let End::TimeLimit(time) = end else { return Ok(None) };
    let Some(count) = injected_interrupts(ended) else { return Ok(None) };
    // With controllers in this process each interrupt is counted when it is delivered.
    let is_in_service = || Ok::<_, Error>(ended.board.irqchip.is_none() && in_service(ended)?.is_some());
    let is_possible = count >= u64::from(SAMPLES) || is_in_service()?;
    let can_go_on = unrepeatable(&ended.spec().devices.virtio).is_none();
    Ok((is_possible && can_go_on).then_some((count, *time)))
}

/// Returns the source of an interrupt of the vCPU that ran last in words; `None` if the controllers are in the kernel or do not tell.
pub(super) fn source_of(machine: &Machine, vector: u8) -> Option<String> {
    let irqchip = machine.board.irqchip.as_ref()?.lock();
    let source = irqchip.source_of(machine.stopped_vcpu, vector).or_else(|| irqchip.pic_source(vector))?;
    Some(source.describe(machine.spec()))
}

/// Returns the interrupt in service of the vCPU that ran last, or the one that waits.
fn in_service(machine: &Machine) -> Result<Option<u8>, Error> {
    let Some(irqchip) = &machine.board.irqchip else { return Ok(machine.vcpu().interrupt_in_service()?) };
    let irqchip = irqchip.lock();
    Ok(irqchip.in_service(machine.stopped_vcpu).or(irqchip.requested(machine.stopped_vcpu)))
}

/// Runs a copy of the machine for [`SAMPLES`] intervals or more, until as many interrupts were injected. Returns the vector that was
/// last seen in service or requested if one was after seven of eight intervals: between the end of an interrupt and the next one
/// there may be none for a moment.
///
/// A rate of interrupts is no criterion, since it depends on the speed of the host.
pub(super) fn storm_vector(
    checkpoint: &Checkpoint,
    build: &dyn Fn() -> Result<Machine, Error>,
) -> Result<Option<u8>, Error> {
    let mut copy = build()?;
    copy.restore(checkpoint)?;
    let before = injected_interrupts(&copy).unwrap_or_default();
    let started = Instant::now();
    let (mut injected, mut last_injection) = (0, started);
    let (mut last, mut idle) = (None, 0);
    for sample in 1.. {
        let limits = LimitSpec { time: Some(SAMPLE_INTERVAL), exits: None };
        let outcome = copy.runner().limits(limits).run()?;
        let vector = in_service(&copy)?;
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
