//! Observer of the interrupts that controllers in this process deliver.

use std::collections::BTreeMap;

use crate::cpu::cpu_state::CpuState;
use crate::devices::InterruptSource;
use crate::machine::end::End;
use crate::machine::guest_state::GuestState;
use crate::machine::host::CpuTraits;
use crate::machine::observer::{InterruptView, Observer};
use crate::spec::MachineSpec;

use super::exception::Exception;
use super::exception_chain::ExceptionChain;

/// Observer that keeps the last interrupt of each vCPU.
pub(super) struct Deliveries {
    cpu: CpuTraits,
    /// The run ends before each delivery.
    stops: bool,
    /// Vector of the interrupt before which the run has ended.
    pub(super) stopped_at: Option<u8>,
    /// The next delivery is the one before which the run has ended.
    passes: bool,
    /// Number of interrupts of all vCPUs.
    pub(super) count: u64,
    /// Last interrupt of each vCPU, by its number.
    pub(super) last: BTreeMap<u64, DeliveredInterrupt>,
}

/// Interrupt with the state of the vCPU before its delivery.
#[derive(Clone)]
pub(super) struct DeliveredInterrupt {
    pub(super) vector: u8,
    /// Origin of the interrupt; `None` if the controllers do not tell.
    pub(super) source: Option<InterruptSource>,
    /// Registers before the delivery.
    pub(super) state: CpuState,
    /// Exceptions that the delivery leads to, or the handler.
    pub(super) chain: ExceptionChain,
}

impl Deliveries {
    /// Creates an observer without interrupts. With `stops`, it ends the run before each delivery.
    pub(super) const fn new(cpu: CpuTraits, stops: bool) -> Self {
        Self { cpu, stops, stopped_at: None, passes: false, count: 0, last: BTreeMap::new() }
    }

    /// Lets the interrupt pass before which the run has ended. The run ends before the following ones if `stops`.
    pub(super) const fn pass(&mut self, stops: bool) {
        (self.passes, self.stops) = (true, stops);
    }

    /// Returns the source of a vector in words if it was the last of a vCPU.
    pub(super) fn source_of(&self, vector: u8, spec: &MachineSpec) -> Option<String> {
        let last = self.last.values().find(|last| last.vector == vector)?;
        last.source.map(|source| source.describe(spec))
    }

    /// Returns the source of the last interrupt of the first vCPU in words.
    pub(super) fn last_source(&self, spec: &MachineSpec) -> Option<String> {
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
