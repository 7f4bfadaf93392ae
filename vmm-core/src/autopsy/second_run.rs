//! Second run of a guest that was interrupted, on interrupt controllers in this process.
//!
//! The run that ended had its controllers in the kernel, where no interrupt is seen. Here each delivery is: the vector, its source, the
//! registers before it, and at the end what the controllers still hold. Only that is told: a guest that does not end in the same
//! way when it runs again is not explained by it.

use std::time::Duration;

use crate::cpu::cpu_state::CpuState;
use crate::devices::installed;
use crate::devices::irqchip::InterruptSource;
use crate::devices::virtio::unrepeatable;
use crate::machine::Machine;
use crate::machine::end::{End, EndClass};
use crate::machine::error::Error;
use crate::machine::guest_state::GuestState;
use crate::spec::{Interrupts, IrqchipPlace, LimitSpec, MachineSpec};

use super::exception::Exception;
use super::exception_chain::ChainEnd;
use super::hang::HangKind;
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
        copy.deliveries.is_on = true;
        let (time, exits) = match self.end.class() {
            EndClass::Stopped => (HANG_TIMEOUT, Some(MAX_HANG_EXITS)),
            EndClass::Finished | EndClass::Failed => (CRASH_TIMEOUT, None),
        };
        let limits = LimitSpec { time: Some(budget.min(time)), exits };
        let end = copy.runner().limits(limits).run()?.end;
        match (&self.end, &end) {
            (End::Shutdown, End::Shutdown) => Ok(self.explain_delivery(&copy)),
            (ended, End::Halt { interrupts: true })
                if ended.class() == EndClass::Stopped || *ended == end =>
            {
                self.explain_missing_end_of_interrupt(&copy)
            }
            _ => Ok(false),
        }
    }

    /// Explains a crash by the last interrupt, if its delivery from the state before it ends in a triple fault.
    fn explain_delivery(&mut self, copy: &Machine) -> bool {
        let Some(last) = copy.deliveries.last(copy.stopped_vcpu) else { return false };
        let guest = GuestState::from_machine(copy, &last.state);
        let source = last.source.map(|source| source.describe(copy.spec()));
        let chain = guest.exception_chain(Exception::new(last.vector, None, "external interrupt"));
        if chain.end != ChainEnd::TripleFault {
            let in_service =
                copy.board.irqchip.as_ref().map(|irqchip| irqchip.lock().held_back(copy.stopped_vcpu).0);
            if in_service == Some(Some(last.vector)) {
                let at = last.state.linear_rip();
                self.notes.push(AutopsyNote::InterruptInService { vector: last.vector, source, at });
            }
            return false;
        }
        self.record_state(&guest, &guest.fetch(), None);
        self.cause = Cause::Interrupt { vector: last.vector, source };
        self.chain = Some(chain);
        self.source = StateSource::SecondRun;
        true
    }

    /// Explains a machine that waits for ever by an interrupt in service, if there is one and another waits behind it.
    fn explain_missing_end_of_interrupt(&mut self, copy: &Machine) -> Result<bool, Error> {
        let Some(irqchip) = &copy.board.irqchip else { return Ok(false) };
        let vcpu = copy.stopped_vcpu;
        let (in_service, waiting) = irqchip.lock().held_back(vcpu);
        let (Some(vector), Some(waiting)) = (in_service, waiting) else { return Ok(false) };
        let source = irqchip.lock().source_of(vcpu, waiting).map(|source| source.describe(copy.spec()));
        let state = self.rewind_hlt(CpuState::from_vcpu(copy.vcpu())?);
        let guest = GuestState::from_machine(copy, &state);
        self.record_state(&guest, &guest.fetch(), None);
        self.cause = Cause::Hang(Box::new(HangKind::NoEndOfInterrupt { vector, waiting, source }));
        self.source = StateSource::SecondRun;
        Ok(true)
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
