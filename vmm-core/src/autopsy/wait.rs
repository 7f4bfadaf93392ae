//! Guests that wait or go round in a loop, on interrupt controllers in this process: what each vCPU does, and how it got there.

use std::collections::BTreeMap;
use std::time::Duration;

use kvm_sys_wrap::{Gpa, GuestMemory};
use vm_memory::Bytes;

use crate::devices::InterruptObstacle;
use crate::devices::irqchip::SharedIrqchip;
use crate::devices::virtio::unrepeatable;
use crate::machine::Machine;
use crate::machine::end::{End, EndClass};
use crate::machine::error::Error;
use crate::machine::guest_state::GuestState;
use crate::machine::host::is_pvm;
use crate::machine::observer::{ExitView, Observer};
use crate::record::checkpoint::Checkpoint;
use crate::spec::{IrqchipPlace, LimitSpec, MachineSpec};

use super::deliveries::Deliveries;
use super::hang::{self, HangKind};
use super::interrupt_storm::{possible_storm, source_of, storm_vector};
use super::last_interrupt::find_lost_interrupt_flag;
use super::reexecute::{before_hlt, in_user_mode};
use super::second_run::Repeated;
use super::vcpu_report::{VcpuActivity, VcpuReport, read_vcpus};
use super::{Autopsy, BuildCopy, Cause};

/// Limits of a run that repeats a guest that did not end. What waits for ever does so soon; a storm of interrupts has many exits.
pub(super) const REPEAT_LIMITS: LimitSpec =
    LimitSpec { time: Some(Duration::from_millis(300)), exits: Some(10_000) };
/// Number of vCPUs whose instructions are sampled.
const MAX_SAMPLED_VCPUS: usize = 8;

impl Autopsy {
    /// Examines a machine that waits, whose controllers are in this process.
    pub(super) fn examine_wait(
        &mut self,
        ended: &Machine,
        irqchip: &SharedIrqchip,
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<(), Error> {
        // Before `build` takes the VM of the machine that ended.
        let (vcpus, checkpoint) = (self.read_wait(ended, irqchip)?, ended.checkpoint()?);
        let build_copy = || build(IrqchipPlace::Userspace);
        let hang = if let Some((count, time)) = possible_storm(ended, &self.end)?
            && let Some(vector) = storm_vector(&checkpoint, &build_copy)?
        {
            HangKind::InterruptStorm { count, time, vector, source: source_of(ended, vector) }
        } else {
            self.sample_vcpus(vcpus, &checkpoint, is_repeatable(ended), build, budget)?
        };
        self.set_wait(hang, ended.spec());
        Ok(())
    }

    /// Reads the vCPUs of a machine that waits, and records the state of the first one.
    pub(super) fn read_wait(
        &mut self,
        machine: &Machine,
        irqchip: &SharedIrqchip,
    ) -> Result<Vec<VcpuReport>, Error> {
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

    /// Samples what the vCPUs that run do from a checkpoint on, and keeps their reports. The guest is run again if that `may_repeat`.
    /// Returns the kind of the first vCPU's hang.
    pub(super) fn sample_vcpus(
        &mut self,
        mut vcpus: Vec<VcpuReport>,
        checkpoint: &Checkpoint,
        may_repeat: bool,
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
        if may_repeat {
            see_again(&mut vcpus, build, budget)?;
            self.find_lost_interrupt_flag(&mut vcpus, build, budget)?;
        }
        let hang = match vcpus.first().map(|first| &first.activity) {
            Some(VcpuActivity::Running(Some(hang))) => hang.clone(),
            Some(VcpuActivity::Halted { .. }) => HangKind::Halted,
            _ => HangKind::NoPattern { distinct: None },
        };
        self.vcpus = vcpus;
        Ok(hang)
    }

    /// Looks for a handler that returned with interrupts off to the only vCPU, which waits for an interrupt.
    fn find_lost_interrupt_flag(
        &self,
        vcpus: &mut [VcpuReport],
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<(), Error> {
        let [report] = vcpus else { return Ok(()) };
        if report.in_service.is_some() || !report.obstacles.contains(&InterruptObstacle::InterruptsDisabled) {
            return Ok(());
        }
        let again = Repeated::run(&self.end, true, build, budget)?;
        if !again.is_like(report) {
            return Ok(());
        }
        if let Some(point) = again.into_last_delivery() {
            report.lost_interrupt_flag = find_lost_interrupt_flag(&point, build, budget)?;
        }
        Ok(())
    }

    /// Sets the cause of a run whose guest waits.
    pub(super) fn set_wait(&mut self, hang: HangKind, spec: &MachineSpec) {
        self.cause = if let End::Halt { interrupts } = self.end {
            Cause::Halt { interrupts, controllers: spec.interrupts }
        } else {
            Cause::Hang(Box::new(hang))
        };
    }
}

/// Returns true if a copy of the machine does the same from its first instruction on, as far as devices go.
pub(super) fn is_repeatable(machine: &Machine) -> bool {
    machine.origin().is_none() && unrepeatable(&machine.spec().devices.virtio).is_none()
}

/// Returns true for the end of a run whose guest waits, or goes round in a loop.
pub(super) fn is_wait(end: &End) -> bool {
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
    writers.look(&copy.board.memory, None);
    let mut deliveries = Deliveries::new(copy.board.cpu, false);
    let limits = LimitSpec { time: REPEAT_LIMITS.time.min(Some(budget)), ..REPEAT_LIMITS };
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
