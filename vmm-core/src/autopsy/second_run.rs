//! Second run of a guest that was interrupted, on interrupt controllers in this process.
//!
//! The run that ended had its controllers in the kernel, where no interrupt is seen. Here each delivery is: the vector, its source, the
//! registers before it, and at the end what the controllers still hold. Only that is told: a guest that does not end in the same
//! way when it runs again is not explained by it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvm_sys_wrap::{Gpa, GuestMemory};
use vm_memory::Bytes;

use crate::cpu::cpu_state::CpuState;
use crate::devices::InterruptSource;
use crate::devices::irqchip::SharedIrqchip;
use crate::devices::virtio::unrepeatable;
use crate::machine::Machine;
use crate::machine::end::{End, EndClass};
use crate::machine::error::Error;
use crate::machine::guest_state::GuestState;
use crate::machine::host::CpuTraits;
use crate::machine::host::is_pvm;
use crate::machine::observer::{ExitView, InterruptView, Observer};
use crate::machine::run_loop::RunOutcome;
use crate::record::Recording;
use crate::record::checkpoint::Checkpoint;
use crate::spec::{Interrupts, IrqchipPlace, LimitSpec, MachineSpec};

use super::exception::Exception;
use super::exception_chain::{ChainEnd, ExceptionChain};
use super::hang::{self, HangKind};
use super::interrupt_storm::{self, SAMPLES, storm_vector};
use super::last_interrupt::LastDelivery;
use super::reexecute::{before_hlt, in_user_mode};
use super::vcpu_report::{VcpuActivity, VcpuReport, read_vcpus};
use super::{Autopsy, AutopsyNote, BuildCopy, Cause, StateSource};

/// Time limit of the second run of a guest that crashed.
const CRASH_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of the second run of a guest that did not end. What waits for ever does so soon.
const HANG_TIMEOUT: Duration = Duration::from_millis(300);
/// Maximum number of exits of that run: a storm of interrupts has many.
const MAX_HANG_EXITS: u64 = 10_000;

/// Number of vCPUs whose instructions are sampled.
const MAX_SAMPLED_VCPUS: usize = 8;

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
        let is_repeatable = ended.origin().is_none() && unrepeatable(&spec.devices.virtio).is_none();
        let waits = is_wait(&self.end);
        if waits && ended.suspend_times.suspended {
            return Ok(SecondRun::NotRepeated);
        }
        if let Some(irqchip) = ended.board.irqchip.as_ref().filter(|_| waits) {
            // Before `build` takes the VM of the machine that ended.
            let (vcpus, checkpoint) = (self.read_wait(ended, irqchip)?, ended.checkpoint()?);
            let build_copy = || build(IrqchipPlace::Userspace);
            let storm = interrupt_storm::storm(ended, Some(&checkpoint), &build_copy, &self.end)?;
            let hang = self.sample_vcpus(vcpus, &checkpoint, build, budget)?;
            self.set_wait(storm.unwrap_or(hang), spec);
            return Ok(SecondRun::Explained);
        }
        if spec.interrupts == Interrupts::None || !is_repeatable {
            return Ok(SecondRun::NotRepeated);
        }
        let mut copy = build(IrqchipPlace::Userspace)?;
        // A guest that waits has no end to step into, and a checkpoint is of one vCPU at an interrupt.
        let mut last_delivery = LastDelivery::new(self.end == End::Shutdown && spec.vcpus == 1);
        let mut deliveries = Deliveries::new(copy.board.cpu, last_delivery.is_enabled());
        let (time, exits) = match self.end.class() {
            EndClass::Stopped => (HANG_TIMEOUT, Some(MAX_HANG_EXITS)),
            EndClass::Finished | EndClass::Failed => (CRASH_TIMEOUT, None),
        };
        let limits = LimitSpec { time: Some(budget.min(time)), exits };
        let (mut recording, started) = (Recording::new(), Instant::now());
        let mut observers: [&mut dyn Observer; 2] = [&mut deliveries, &mut recording];
        let mut outcome = copy.runner().limits(limits).observe(&mut observers).run()?;
        while let Some(vector) = deliveries.stopped_at.take() {
            last_delivery.take(&mut copy, vector)?;
            deliveries.pass(last_delivery.is_enabled());
            let mut observers: [&mut dyn Observer; 2] = [&mut deliveries, &mut recording];
            let time = Some(budget.min(time).saturating_sub(started.elapsed()));
            outcome = copy.runner().limits(LimitSpec { time, exits }).observe(&mut observers).run()?;
        }
        let RunOutcome { end, elapsed, .. } = outcome;
        let came = match deliveries.count {
            0 if end.name() == self.end.name() => SecondRun::Recorded(recording),
            0 => SecondRun::NotRepeated,
            _ => SecondRun::Interrupted,
        };
        if self.end == End::Shutdown && end == End::Shutdown {
            let notes = self.notes.len();
            if self.explain_delivery(&copy, &deliveries) {
                return Ok(SecondRun::Explained);
            }
            drop(copy);
            if let Some(point) = last_delivery.into_point()
                && self.follow_last_interrupt(&point, deliveries.last_source(spec), build, budget)?
            {
                // The steps show more.
                self.notes.drain(notes..self.notes.len() - 1);
                return Ok(SecondRun::Explained);
            }
            return Ok(came);
        }
        let waits_alike = waits && is_wait(&end);
        if let Some(irqchip) = copy.board.irqchip.clone().filter(|_| waits_alike) {
            let vcpus = self.read_wait(&copy, &irqchip)?;
            let checkpoint = copy.checkpoint()?;
            drop(copy);
            if deliveries.count >= u64::from(SAMPLES)
                && let Some(vector) = storm_vector(&checkpoint, &|| build(IrqchipPlace::Userspace))?
            {
                self.source = StateSource::SecondRun;
                let source = deliveries.source_of(vector, spec);
                let storm =
                    HangKind::InterruptStorm { count: deliveries.count, time: elapsed, vector, source };
                self.set_wait(storm, spec);
                return Ok(SecondRun::Explained);
            }
            let hang = self.sample_vcpus(vcpus, &checkpoint, build, budget)?;
            if self.vcpus.iter().zip(ended.processors.iter()).all(|(report, vcpu)| report.is_like(vcpu)) {
                self.source = StateSource::SecondRun;
                self.set_wait(hang, spec);
                return Ok(SecondRun::Explained);
            }
            self.vcpus.clear();
        }
        Ok(came)
    }

    /// Explains a crash by the last interrupt, if its delivery had to end in a triple fault. Otherwise notes it if it was in service.
    fn explain_delivery(&mut self, copy: &Machine, deliveries: &Deliveries) -> bool {
        let vcpu = copy.vcpu().id();
        let Some(DeliveredInterrupt { vector, source, state, chain }) = deliveries.last.get(&vcpu).cloned()
        else {
            return false;
        };
        let source = source.map(|source| source.describe(copy.spec()));
        if chain.end != ChainEnd::TripleFault {
            let irqchip = copy.board.irqchip.as_ref();
            if irqchip.and_then(|irqchip| irqchip.lock().in_service(copy.stopped_vcpu)) == Some(vector) {
                let at = state.linear_rip();
                self.notes.push(AutopsyNote::InterruptInService { vector, source, at });
            }
            return false;
        }
        self.record_second_run(copy, &state);
        self.vcpu = self.vcpu.map(|_| vcpu);
        self.cause = Cause::Interrupt { vector, source };
        self.chain = Some(chain);
        true
    }

    /// Reads the vCPUs of a machine that waits, and records the state of the first one.
    fn read_wait(&mut self, machine: &Machine, irqchip: &SharedIrqchip) -> Result<Vec<VcpuReport>, Error> {
        let vcpus = read_vcpus(machine, irqchip)?;
        if let Some(VcpuReport { registers, activity, .. }) = vcpus.first() {
            let state = match activity {
                VcpuActivity::Halted { .. } => before_hlt(*registers),
                VcpuActivity::Running(_) | VcpuActivity::WaitForInit | VcpuActivity::WaitForSipi => {
                    *registers
                }
            };
            let guest = GuestState::from_machine(machine, &state);
            self.record_state(&guest, &guest.fetch(), None);
        }
        Ok(vcpus)
    }

    /// Samples what the vCPUs that run do from a checkpoint on, and keeps their reports. Returns the kind of the first one's hang.
    fn sample_vcpus(
        &mut self,
        mut vcpus: Vec<VcpuReport>,
        checkpoint: &Checkpoint,
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<HangKind, Error> {
        let build_copy = || build(IrqchipPlace::Userspace);
        for (number, report) in vcpus.iter_mut().enumerate().take(MAX_SAMPLED_VCPUS) {
            let VcpuActivity::Running(hang) = &mut report.activity else { continue };
            if is_pvm() && in_user_mode(&report.registers) {
                continue;
            }
            let (kind, trace) = hang::sample(checkpoint, number, &build_copy, budget)?;
            if number == 0 {
                self.record_trace(&trace);
            }
            *hang = Some(kind);
        }
        see_again(&mut vcpus, build, budget)?;
        let hang = match vcpus.first().map(|first| &first.activity) {
            Some(VcpuActivity::Running(Some(hang))) => hang.clone(),
            Some(VcpuActivity::Halted { .. }) => HangKind::Halted,
            _ => HangKind::NoPattern { distinct: None },
        };
        self.vcpus = vcpus;
        Ok(hang)
    }

    fn set_wait(&mut self, hang: HangKind, spec: &MachineSpec) {
        self.cause = if let End::Halt { interrupts } = self.end {
            Cause::Halt { interrupts, controllers: spec.interrupts }
        } else {
            Cause::Hang(Box::new(hang))
        };
    }

    fn record_second_run(&mut self, copy: &Machine, state: &CpuState) {
        let guest = GuestState::from_machine(copy, state);
        self.record_state(&guest, &guest.fetch(), None);
        self.source = StateSource::SecondRun;
    }
}

/// Returns true for the end of a run whose guest waits, or goes round in a loop.
fn is_wait(end: &End) -> bool {
    end.class() == EndClass::Stopped || matches!(end, End::Halt { interrupts: true })
}

/// Runs the guest again to see how its vCPUs got where they wait: who wrote the memory that others poll, and where the interrupts in
/// service came. A vCPU wrote memory if it changed while that one ran; the others stood still then.
fn see_again(vcpus: &mut [VcpuReport], build: &BuildCopy<'_>, budget: Duration) -> Result<(), Error> {
    let mut writers = Writers::default();
    if vcpus.len() > 1 {
        for polled in vcpus.iter_mut().filter_map(VcpuReport::polled_memory) {
            writers
                .0
                .extend(polled.gpa.map(|gpa| (gpa, LastWrite { size: polled.size, value: 0, vcpu: None })));
        }
    }
    if writers.0.is_empty() && vcpus.iter().all(|vcpu| vcpu.in_service.is_none()) {
        return Ok(());
    }
    let mut copy = build(IrqchipPlace::Userspace)?;
    if copy.origin().is_some() || unrepeatable(&copy.spec().devices.virtio).is_some() {
        return Ok(());
    }
    writers.look(&copy.board.memory, None);
    let mut deliveries = Deliveries::new(copy.board.cpu, false);
    let limits = LimitSpec { time: Some(budget.min(HANG_TIMEOUT)), exits: Some(MAX_HANG_EXITS) };
    copy.runner().limits(limits).observe(&mut [&mut writers, &mut deliveries]).run()?;
    for polled in vcpus.iter_mut().filter_map(VcpuReport::polled_memory) {
        let last = polled.gpa.and_then(|gpa| writers.0.get(&gpa));
        polled.writer = last.filter(|last| last.value == polled.value).and_then(|last| last.vcpu);
    }
    for (report, processor) in vcpus.iter_mut().zip(copy.processors.iter()) {
        let Some(last) = deliveries.last.get(&report.id).filter(|_| report.is_like(processor)) else {
            continue;
        };
        let is_in_service = report.in_service.as_ref().is_some_and(|it| it.vector == Some(last.vector));
        report.in_service_since = is_in_service.then(|| last.state.linear_rip());
    }
    Ok(())
}

/// Memory by address, and the vCPU that changed it last.
#[derive(Default)]
struct Writers(BTreeMap<Gpa, LastWrite>);

struct LastWrite {
    size: usize,
    value: u64,
    vcpu: Option<u64>,
}

impl Writers {
    /// Reads the memory; what has changed was written by `vcpu`.
    fn look(&mut self, memory: &GuestMemory, vcpu: Option<u64>) {
        for (gpa, last) in &mut self.0 {
            let mut bytes = [0; 8];
            let Some(part) = bytes.get_mut(..last.size) else { continue };
            if memory.read_slice(part, (*gpa).into()).is_err() {
                continue;
            }
            let value = u64::from_le_bytes(bytes);
            if value != last.value {
                *last = LastWrite { size: last.size, value, vcpu };
            }
        }
    }
}

impl Observer for Writers {
    fn on_exit(&mut self, view: &ExitView<'_>) -> Option<End> {
        self.look(view.memory, Some(view.vcpu.id()));
        None
    }
}

/// Last interrupt of each vCPU that got one.
struct Deliveries {
    cpu: CpuTraits,
    /// The run ends before each delivery.
    stops: bool,
    /// Vector of the interrupt before which the run has ended.
    stopped_at: Option<u8>,
    /// The next delivery is the one before which the run has ended.
    passes: bool,
    /// Number of interrupts of all vCPUs.
    count: u64,
    last: BTreeMap<u64, DeliveredInterrupt>,
}

/// Interrupt with the state of the vCPU before its delivery.
#[derive(Clone)]
struct DeliveredInterrupt {
    vector: u8,
    source: Option<InterruptSource>,
    state: CpuState,
    /// What the delivery leads to.
    chain: ExceptionChain,
}

impl Deliveries {
    const fn new(cpu: CpuTraits, stops: bool) -> Self {
        Self { cpu, stops, stopped_at: None, passes: false, count: 0, last: BTreeMap::new() }
    }

    /// Lets the interrupt pass before which the run has ended. The run ends before the following ones if `stops`.
    const fn pass(&mut self, stops: bool) {
        (self.passes, self.stops) = (true, stops);
    }

    /// Returns the source of a vector in words if it was the last of a vCPU.
    fn source_of(&self, vector: u8, spec: &MachineSpec) -> Option<String> {
        let last = self.last.values().find(|last| last.vector == vector)?;
        last.source.map(|source| source.describe(spec))
    }

    /// Returns the source of the last interrupt of the first vCPU in words.
    fn last_source(&self, spec: &MachineSpec) -> Option<String> {
        self.last.get(&0)?.source.map(|source| source.describe(spec))
    }
}

impl Observer for Deliveries {
    fn on_interrupt(&mut self, view: &InterruptView<'_>) -> Option<End> {
        let InterruptView { vector, source, vcpu, memory } = *view;
        if self.stops && !std::mem::take(&mut self.passes) {
            self.stopped_at = Some(vector);
            return Some(End::Interrupted);
        }
        self.count += 1;
        let Ok(state) = CpuState::from_vcpu(vcpu) else {
            self.last.remove(&vcpu.id());
            return None;
        };
        let CpuTraits { physical_bits, amd } = self.cpu;
        let guest = GuestState { registers: &state, memory, physical_bits, amd };
        let chain = guest.exception_chain(Exception::new(vector, None, "external interrupt"));
        self.last.insert(vcpu.id(), DeliveredInterrupt { vector, source, state, chain });
        None
    }
}
