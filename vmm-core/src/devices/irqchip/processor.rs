//! States of a processor that events of its local APIC change: halted, reset, waiting for SIPI (SDM vol. 3, 9.4 and 11.4.7).

use serde::{Deserialize, Serialize};

use super::local_apic::{CpuEvent, LocalApic};

/// State of one processor, and events that it has not taken yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessorEvents {
    is_bsp: bool,
    activity: Activity,
    /// A non-maskable interrupt waits.
    nmi: bool,
    /// Place at which the processor has to start.
    start: Option<Start>,
}

/// Activity of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Activity {
    /// Executes instructions.
    Active,
    /// Executed HLT.
    Halted {
        /// True if RFLAGS.IF is set, so that an interrupt wakes it.
        interrupts: bool,
    },
    /// Has not received INIT since it was switched on.
    WaitForInit,
    /// Received INIT, and waits for SIPI.
    WaitForSipi,
}

/// Place at which a processor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Start {
    /// Reset vector: the bootstrap processor after INIT.
    ResetVector,
    /// Page whose number was in a SIPI: CS has the base `page << 12`, and IP is 0.
    Page(u8),
}

impl ProcessorEvents {
    /// Creates the state after power-on. Only the bootstrap processor executes instructions.
    pub(crate) const fn new(is_bsp: bool) -> Self {
        let activity = if is_bsp { Activity::Active } else { Activity::WaitForInit };
        Self { is_bsp, activity, nmi: false, start: None }
    }

    /// Returns the activity.
    pub(crate) const fn activity(&self) -> Activity {
        self.activity
    }

    /// Returns true after a HLT with RFLAGS.IF set.
    pub(crate) const fn is_halted(&self) -> bool {
        matches!(self.activity, Activity::Halted { interrupts: true })
    }

    /// Records a HLT; `interrupts` if RFLAGS.IF is set.
    pub(crate) const fn halt(&mut self, interrupts: bool) {
        self.activity = Activity::Halted { interrupts };
    }

    /// Ends a HLT, since the processor takes an interrupt.
    pub(crate) const fn wake(&mut self) {
        if let Activity::Halted { .. } = self.activity {
            self.activity = Activity::Active;
        }
    }

    /// Returns true if the processor has instructions to execute, possibly because of `has_interrupt`, a pending maskable interrupt.
    pub(super) const fn is_runnable(&self, has_interrupt: bool) -> bool {
        match self.activity {
            Activity::Active => true,
            Activity::Halted { interrupts } => self.nmi || interrupts && has_interrupt,
            Activity::WaitForInit | Activity::WaitForSipi => false,
        }
    }

    /// Takes the non-maskable interrupt that waits, if there is one.
    pub(crate) const fn take_nmi(&mut self) -> bool {
        std::mem::replace(&mut self.nmi, false)
    }

    pub(super) const fn take_start(&mut self) -> Option<Start> {
        self.start.take()
    }

    /// Takes an event of the processor's local APIC.
    pub(super) fn receive(&mut self, event: CpuEvent, apic: &mut LocalApic) {
        match event {
            CpuEvent::Nmi => self.nmi = true,
            CpuEvent::Init => {
                apic.init();
                (self.activity, self.start) = match self.is_bsp {
                    true => (Activity::Active, Some(Start::ResetVector)),
                    false => (Activity::WaitForSipi, None),
                };
                self.nmi = false;
            }
            CpuEvent::StartUp(page) => {
                if self.activity == Activity::WaitForSipi {
                    (self.activity, self.start) = (Activity::Active, Some(Start::Page(page)));
                }
            }
            // No machine has system management mode; an ExtInt message without the PICs has no vector.
            CpuEvent::Smi | CpuEvent::ExtInt => {}
        }
    }
}
