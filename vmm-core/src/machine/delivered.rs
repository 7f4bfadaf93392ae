//! Interrupts that a machine with interrupt controllers in this process delivered, for the analysis of its end.

use crate::cpu::cpu_state::CpuState;
use crate::devices::irqchip::InterruptSource;

/// Delivered interrupt, with the state of the vCPU that got it.
#[derive(Debug, Clone)]
pub(crate) struct DeliveredInterrupt {
    /// Vector of the interrupt.
    pub(crate) vector: u8,
    /// Origin of the interrupt; `None` if the controllers do not tell.
    pub(crate) source: Option<InterruptSource>,
    /// Registers of the vCPU before the delivery.
    pub(crate) state: CpuState,
}

/// Record of delivered interrupts. Off by default, since it reads the registers at each one.
#[derive(Debug, Default)]
pub(crate) struct DeliveryRecord {
    /// True if interrupts are recorded.
    pub(crate) is_on: bool,
    /// Last interrupt of each vCPU that got one, with the number of the vCPU; the latest comes last.
    last: Vec<(usize, DeliveredInterrupt)>,
}

impl DeliveryRecord {
    /// Adds an interrupt of a vCPU.
    pub(crate) fn push(&mut self, vcpu: usize, interrupt: DeliveredInterrupt) {
        self.last.retain(|(other, _)| *other != vcpu);
        self.last.push((vcpu, interrupt));
    }

    /// Returns the last interrupt of a vCPU.
    pub(crate) fn last(&self, vcpu: usize) -> Option<&DeliveredInterrupt> {
        self.last.iter().find(|(number, _)| *number == vcpu).map(|(_, interrupt)| interrupt)
    }
}
