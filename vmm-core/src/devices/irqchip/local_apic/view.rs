//! State of a local APIC for reports. No call here changes anything.

#[cfg(test)]
use super::ApicMode;
use super::lvt::{Lvt, LvtEntry};
use super::timer::TimerMode;
use super::{LocalApic, class};

/// Timer of a local APIC, for reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApicTimerView {
    /// Interrupt of the timer.
    pub(crate) entry: LvtEntry,
    /// Mode of the timer.
    pub(crate) mode: TimerMode,
    /// Initial count.
    pub(crate) initial_count: u32,
    /// Current count.
    pub(crate) current_count: u32,
    /// Divisor of the frequency, 1 to 128.
    pub(crate) divisor: u64,
    /// Time of the next expiry in nanoseconds of the machine's clock; `None` if the timer is off.
    pub(crate) expiry: Option<u64>,
}

/// Highest interrupt that waits for the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApicWaiting {
    /// Vector of the interrupt.
    pub(crate) vector: u8,
    /// Interrupt in service that holds it back.
    pub(crate) in_service: Option<u8>,
    /// Task priority that holds it back.
    pub(crate) task_priority: Option<u8>,
}

impl LocalApic {
    /// Returns the mode.
    #[cfg(test)]
    pub(crate) const fn mode(&self) -> ApicMode {
        self.mode
    }

    /// Returns the vectors that wait for the processor (IRR), in rising order.
    #[cfg(test)]
    pub(crate) fn requested_vectors(&self) -> Vec<u8> {
        self.requested.iter().collect()
    }

    /// Returns the vectors that the processor has not ended (ISR), in rising order.
    #[cfg(test)]
    pub(crate) fn vectors_in_service(&self) -> Vec<u8> {
        self.in_service.iter().collect()
    }

    /// Returns the highest interrupt that the processor has not ended.
    pub(crate) fn in_service(&self) -> Option<u8> {
        self.in_service.highest()
    }

    /// Returns the highest interrupt that waits for the processor, and what holds it back.
    pub(crate) fn waiting(&self) -> Option<ApicWaiting> {
        let vector = self.requested.highest()?;
        let holds_back = |priority: &u8| class(*priority) >= class(vector);
        Some(ApicWaiting {
            vector,
            in_service: self.in_service.highest().filter(holds_back),
            task_priority: Some(self.task_priority).filter(holds_back),
        })
    }

    /// Returns the vectors that came level-triggered (TMR), in rising order.
    #[cfg(test)]
    pub(crate) fn level_triggered_vectors(&self) -> Vec<u8> {
        self.level_triggered.iter().collect()
    }

    /// Returns task priority and processor priority (TPR, PPR).
    #[cfg(test)]
    pub(crate) fn priorities(&self) -> (u8, u8) {
        (self.task_priority, self.processor_priority())
    }

    /// Returns the spurious-interrupt vector register; bit 8 is set if the APIC is enabled by software.
    #[cfg(test)]
    pub(crate) const fn spurious_register(&self) -> u32 {
        self.spurious
    }

    /// Returns the entry of the input LINT0, to which the PICs lead.
    #[cfg(test)]
    pub(crate) fn lint0_entry(&self) -> LvtEntry {
        self.lvt.entry(Lvt::Lint0)
    }

    /// Returns the state of the timer at `now`.
    pub(crate) fn timer_view(&self, now: u64) -> ApicTimerView {
        ApicTimerView {
            entry: self.lvt.entry(Lvt::Timer),
            mode: self.timer_mode(),
            initial_count: self.timer.initial_count(),
            current_count: self.current_count(now),
            divisor: self.timer.divisor(),
            expiry: self.timer.expiry(),
        }
    }
}
