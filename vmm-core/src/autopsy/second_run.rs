//! Second run of a guest that was interrupted, on interrupt controllers in this process.
//!
//! The run that ended had its controllers in the kernel, where no interrupt is seen. Here each delivery is: the vector, its source, the
//! registers before it, and at the end what the controllers still hold. Only that is told: a guest that does not end in the same
//! way when it runs again is not explained by it.

use std::time::{Duration, Instant};

use crate::cpu::cpu_state::CpuState;
use crate::machine::Machine;
use crate::machine::end::{End, EndClass};
use crate::machine::error::Error;
use crate::machine::guest_state::GuestState;
use crate::machine::observer::Observer;
use crate::machine::run_loop::RunOutcome;
use crate::record::Recording;
use crate::spec::{Interrupts, IrqchipPlace, LimitSpec};

use super::deliveries::{DeliveredInterrupt, Deliveries};
use super::exception_chain::ChainEnd;
use super::hang::HangKind;
use super::interrupt_storm::{SAMPLES, storm_vector};
use super::last_interrupt::{DeliveryPoint, LastDelivery};
use super::vcpu_report::VcpuReport;
use super::wait::{REPEAT_LIMITS, is_repeatable, is_wait};
use super::{Autopsy, AutopsyNote, BuildCopy, Cause, StateSource};

/// Time limit of the second run of a guest that crashed.
const CRASH_TIMEOUT: Duration = Duration::from_secs(2);

/// Result of the examination on interrupt controllers in this process.
pub(super) enum SecondRun {
    /// The end of the run is explained.
    Explained,
    /// Interrupts came, so a replay of the exits alone would go another way.
    Interrupted,
    /// No interrupt came, and the end was of the same kind: the exits can be replayed on the same controllers.
    Recorded(Recording),
    /// The run was not repeated, or it came to another end.
    NotRepeated,
}

/// Copy of a machine that ran again on controllers in this process.
pub(super) struct Repeated {
    copy: Machine,
    outcome: RunOutcome,
    recording: Recording,
    deliveries: Deliveries,
    last_delivery: LastDelivery,
}

impl Repeated {
    /// Builds a copy and runs it. `ended` is the end of the run that is repeated. A checkpoint before the last delivery is kept if
    /// `keeps_last`, of a machine with one vCPU.
    pub(super) fn run(
        ended: &End,
        keeps_last: bool,
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<Self, Error> {
        let mut copy = build(IrqchipPlace::Userspace)?;
        let mut last_delivery = LastDelivery::new(keeps_last && copy.spec().vcpus == 1);
        let mut deliveries = Deliveries::new(copy.board.cpu, last_delivery.is_enabled());
        let limits = match ended.class() {
            EndClass::Stopped => REPEAT_LIMITS,
            EndClass::Finished | EndClass::Failed => LimitSpec { time: Some(CRASH_TIMEOUT), exits: None },
        };
        let (mut recording, started) = (Recording::new(), Instant::now());
        let outcome = loop {
            let time = limits.time.min(Some(budget)).map(|time| time.saturating_sub(started.elapsed()));
            let mut observers: [&mut dyn Observer; 2] = [&mut deliveries, &mut recording];
            let outcome = copy.runner().limits(LimitSpec { time, ..limits }).observe(&mut observers).run()?;
            let Some(vector) = deliveries.stopped_at.take() else { break outcome };
            last_delivery.take(&mut copy, vector)?;
            deliveries.pass(last_delivery.is_enabled());
        };
        Ok(Self { copy, outcome, recording, deliveries, last_delivery })
    }

    /// Returns true if the first vCPU stands where another one waits.
    pub(super) fn is_like(&self, report: &VcpuReport) -> bool {
        report.is_like(self.copy.processors.bsp())
    }

    /// Drops the copy, and returns the machine before its last delivery.
    pub(super) fn into_last_delivery(self) -> Option<DeliveryPoint> {
        self.last_delivery.into_point()
    }
}

impl Autopsy {
    /// Examines a machine with interrupts: reads its controllers where they are in this process, otherwise runs the guest again on
    /// such controllers.
    pub(super) fn examine_interrupts(
        &mut self,
        ended: &Machine,
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<SecondRun, Error> {
        let spec = ended.spec();
        let waits = is_wait(&self.end);
        if waits && ended.suspend_times.suspended {
            return Ok(SecondRun::NotRepeated);
        }
        if let Some(irqchip) = ended.board.irqchip.as_ref().filter(|_| waits) {
            self.examine_wait(ended, irqchip, build, budget)?;
            return Ok(SecondRun::Explained);
        }
        if spec.interrupts == Interrupts::None || !is_repeatable(ended) {
            return Ok(SecondRun::NotRepeated);
        }
        // A guest that waits has no end to step into.
        let mut again = Repeated::run(&self.end, self.end == End::Shutdown, build, budget)?;
        let came = match again.deliveries.count {
            0 if again.outcome.end.name() == self.end.name() => {
                SecondRun::Recorded(std::mem::take(&mut again.recording))
            }
            0 => SecondRun::NotRepeated,
            _ => SecondRun::Interrupted,
        };
        let is_explained = if self.end == End::Shutdown && again.outcome.end == End::Shutdown {
            self.explain_crash(ended, again, build, budget)?
        } else if waits && is_wait(&again.outcome.end) {
            self.explain_wait(ended, again, build, budget)?
        } else {
            false
        };
        Ok(if is_explained { SecondRun::Explained } else { came })
    }

    /// Explains a guest that waits by what the controllers of its second run hold, if that waits at the same places.
    fn explain_wait(
        &mut self,
        ended: &Machine,
        again: Repeated,
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<bool, Error> {
        let Repeated { copy, outcome: RunOutcome { elapsed, .. }, deliveries, .. } = again;
        let Some(irqchip) = copy.board.irqchip.clone() else { return Ok(false) };
        let vcpus = self.read_wait(&copy, &irqchip)?;
        let checkpoint = copy.checkpoint()?;
        drop(copy);
        let count = deliveries.count;
        if count >= u64::from(SAMPLES)
            && let Some(vector) = storm_vector(&checkpoint, &|| build(IrqchipPlace::Userspace))?
        {
            let source = deliveries.source_of(vector, ended.spec());
            let time = Duration::from_millis(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            let storm = HangKind::InterruptStorm { count, time, vector, source };
            self.source = StateSource::SecondRun;
            self.set_wait(storm, ended.spec());
            return Ok(true);
        }
        let hang = self.sample_vcpus(vcpus, &checkpoint, true, build, budget)?;
        if !self.vcpus.iter().zip(ended.processors.iter()).all(|(report, vcpu)| report.is_like(vcpu)) {
            self.vcpus.clear();
            return Ok(false);
        }
        self.source = StateSource::SecondRun;
        self.set_wait(hang, ended.spec());
        Ok(true)
    }

    /// Explains a crash by the last interrupt, or by the instructions after it.
    fn explain_crash(
        &mut self,
        ended: &Machine,
        again: Repeated,
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<bool, Error> {
        let Repeated { copy, deliveries, last_delivery, .. } = again;
        if self.explain_delivery(&copy, &deliveries) {
            return Ok(true);
        }
        let vcpu = copy.stopped_vcpu;
        let in_service = copy.board.irqchip.as_ref().and_then(|irqchip| irqchip.lock().in_service(vcpu));
        drop(copy);
        let spec = ended.spec();
        if let Some(point) = last_delivery.into_point()
            && self.follow_last_interrupt(&point, deliveries.last_source(spec), ended, build, budget)?
        {
            return Ok(true);
        }
        let last = u64::try_from(vcpu).ok().and_then(|vcpu| deliveries.last.get(&vcpu));
        if let Some(last) = last.filter(|last| in_service == Some(last.vector)) {
            let source = last.source.map(|source| source.describe(spec));
            let at = last.state.linear_rip();
            self.notes.push(AutopsyNote::InterruptInService { vector: last.vector, source, at });
        }
        Ok(false)
    }

    /// Explains a crash by the last interrupt, if its delivery had to end in a triple fault.
    fn explain_delivery(&mut self, copy: &Machine, deliveries: &Deliveries) -> bool {
        let vcpu = copy.vcpu().id();
        let last = deliveries.last.get(&vcpu).filter(|last| last.chain.end == ChainEnd::TripleFault);
        let Some(DeliveredInterrupt { vector, source, state, chain }) = last else { return false };
        self.record_second_run(copy, state);
        self.vcpu = self.vcpu.map(|_| vcpu);
        let source = source.map(|source| source.describe(copy.spec()));
        self.cause = Cause::Interrupt { vector: *vector, source };
        self.chain = Some(chain.clone());
        true
    }

    fn record_second_run(&mut self, copy: &Machine, state: &CpuState) {
        let guest = GuestState::from_machine(copy, state);
        self.record_state(&guest, &guest.fetch(), None);
        self.source = StateSource::SecondRun;
    }
}
