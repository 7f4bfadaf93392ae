//! Second run of a guest that was interrupted, on interrupt controllers in this process.
//!
//! The run that ended had its controllers in the kernel, where no interrupt is seen. Here each delivery is: the vector, its source, the
//! registers before it, and at the end what the controllers still hold. Only that is told: a guest that does not end in the same
//! way when it runs again is not explained by it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cpu::cpu_state::CpuState;
use crate::devices::virtio::unrepeatable;
use crate::devices::{InterruptSource, installed};
use crate::machine::Machine;
use crate::machine::end::{End, EndClass};
use crate::machine::error::Error;
use crate::machine::guest_state::GuestState;
use crate::machine::host::CpuTraits;
use crate::machine::observer::{InterruptView, Observer};
use crate::spec::{Interrupts, IrqchipPlace, LimitSpec, MachineSpec};

use super::exception::Exception;
use super::exception_chain::{ChainEnd, ExceptionChain};
use super::hang::HangKind;
use super::reexecute::before_hlt;
use super::{Autopsy, AutopsyNote, BuildCopy, Cause, StateSource};

/// Time limit of the second run of a guest that crashed.
const CRASH_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of the second run of a guest that did not end. What waits for ever does so soon.
const HANG_TIMEOUT: Duration = Duration::from_millis(300);
/// Maximum number of exits of that run: a storm of interrupts has many.
const MAX_HANG_EXITS: u64 = 10_000;

impl Autopsy {
    /// Runs the guest again on interrupt controllers in this process. Returns true if that explains its end.
    pub(super) fn examine_interrupts(
        &mut self,
        ended: &Machine,
        build: &BuildCopy<'_>,
        budget: Duration,
    ) -> Result<bool, Error> {
        let spec = ended.spec();
        let is_repeatable = ended.origin().is_none() && unrepeatable(&spec.devices.virtio).is_none();
        if spec.interrupts == Interrupts::None || !is_repeatable {
            return Ok(false);
        }
        let mut copy = build(IrqchipPlace::Userspace)?;
        let mut deliveries = Deliveries { cpu: copy.board.cpu, last: BTreeMap::new() };
        let (time, exits) = match self.end.class() {
            EndClass::Stopped => (HANG_TIMEOUT, Some(MAX_HANG_EXITS)),
            EndClass::Finished | EndClass::Failed => (CRASH_TIMEOUT, None),
        };
        let limits = LimitSpec { time: Some(budget.min(time)), exits };
        let end = copy.runner().limits(limits).observe(&mut [&mut deliveries]).run()?.end;
        match (&self.end, &end) {
            (End::Shutdown, End::Shutdown) => Ok(self.explain_delivery(&copy, deliveries)),
            (ended, End::Halt { interrupts: true })
                if ended.class() == EndClass::Stopped || *ended == end =>
            {
                self.explain_missing_end_of_interrupt(&copy)
            }
            _ => Ok(false),
        }
    }

    /// Explains a crash by the last interrupt, if its delivery had to end in a triple fault. Otherwise notes it if it was in service.
    fn explain_delivery(&mut self, copy: &Machine, mut deliveries: Deliveries) -> bool {
        let vcpu = copy.vcpu().id();
        let Some(DeliveredInterrupt { vector, source, state, chain }) = deliveries.last.remove(&vcpu) else {
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
        self.cause = Cause::Interrupt { vector, source };
        self.chain = Some(chain);
        true
    }

    /// Explains a machine that waits for ever by an interrupt in service that holds back another one.
    fn explain_missing_end_of_interrupt(&mut self, copy: &Machine) -> Result<bool, Error> {
        let vcpu = copy.stopped_vcpu;
        let Some(irqchip) = &copy.board.irqchip else { return Ok(false) };
        let Some((vector, waiting)) = irqchip.lock().held_back(vcpu) else { return Ok(false) };
        let source = irqchip.lock().source_of(vcpu, waiting).map(|source| source.describe(copy.spec()));
        let state = CpuState::from_vcpu(copy.vcpu())?;
        self.record_second_run(copy, &before_hlt(state));
        self.cause = Cause::Hang(Box::new(HangKind::NoEndOfInterrupt { vector, waiting, source }));
        Ok(true)
    }

    fn record_second_run(&mut self, copy: &Machine, state: &CpuState) {
        let guest = GuestState::from_machine(copy, state);
        self.record_state(&guest, &guest.fetch(), None);
        self.source = StateSource::SecondRun;
    }
}

/// Last interrupt of each vCPU that got one.
struct Deliveries {
    cpu: CpuTraits,
    last: BTreeMap<u64, DeliveredInterrupt>,
}

/// Interrupt with the state of the vCPU before its delivery.
struct DeliveredInterrupt {
    vector: u8,
    source: Option<InterruptSource>,
    state: CpuState,
    /// What the delivery leads to.
    chain: ExceptionChain,
}

impl Observer for Deliveries {
    fn on_interrupt(&mut self, view: &InterruptView<'_>) {
        let InterruptView { vector, source, vcpu, memory } = *view;
        let Ok(state) = CpuState::from_vcpu(vcpu) else {
            self.last.remove(&vcpu.id());
            return;
        };
        let CpuTraits { physical_bits, amd } = self.cpu;
        let guest = GuestState { registers: &state, memory, physical_bits, amd };
        let chain = guest.exception_chain(Exception::new(vector, None, "external interrupt"));
        self.last.insert(vcpu.id(), DeliveredInterrupt { vector, source, state, chain });
    }
}

impl InterruptSource {
    /// Returns the source in words, such as `the timer of the local APIC`.
    fn describe(self, spec: &MachineSpec) -> String {
        let device = |input: u32| {
            let devices = installed(&spec.devices);
            let device = devices.iter().find(|device| device.irqs.contains(&input));
            device.map_or_else(|| format!("interrupt input {input}"), |device| device.title.to_owned())
        };
        match self {
            Self::ApicTimer => "the timer of the local APIC".to_owned(),
            Self::Pit => "the 8254 timer".to_owned(),
            Self::Line(input) => device(input),
        }
    }
}
