//! Local APIC of a processor, and the states of the processor that its events change: halted, reset, waiting for SIPI (SDM vol. 3,
//! 9.4 and 11.4.7).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::local_apic::{CpuEvent, LocalApic};
use super::message::{DeliveryMode, InterruptMessage};

/// Vector of the non-maskable interrupt.
pub(crate) const NMI: u8 = 2;

/// Local APIC and state of one processor, and events that it has not taken yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IrqchipProcessor {
    pub(super) apic: LocalApic,
    is_bsp: bool,
    activity: Activity,
    /// A non-maskable interrupt waits.
    nmi: bool,
    /// vCPUs that sent this one an interrupt, by its vector; the last one of each.
    pub(super) ipi_senders: BTreeMap<u8, u32>,
    /// Interrupt that this vCPU sent last to a destination that no local APIC has: its vector, and the number in the message.
    pub(super) lost_ipi: Option<(u8, u32)>,
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

impl IrqchipProcessor {
    /// Creates the state after power-on. Only the bootstrap processor executes instructions.
    pub(super) fn new(number: u32) -> Self {
        let is_bsp = number == 0;
        let activity = if is_bsp { Activity::Active } else { Activity::WaitForInit };
        Self {
            apic: LocalApic::new(number),
            is_bsp,
            activity,
            nmi: false,
            ipi_senders: BTreeMap::new(),
            lost_ipi: None,
            start: None,
        }
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

    /// Returns true if the processor has instructions to execute, possibly because of a pending interrupt.
    pub(super) fn is_runnable(&self) -> bool {
        match self.activity {
            Activity::Active => true,
            Activity::Halted { interrupts } => self.nmi || interrupts && self.apic.pending().is_some(),
            Activity::WaitForInit | Activity::WaitForSipi => false,
        }
    }

    /// Returns true if a non-maskable interrupt waits.
    pub(crate) const fn has_nmi(&self) -> bool {
        self.nmi
    }

    /// Takes the non-maskable interrupt that waits.
    pub(super) const fn acknowledge_nmi(&mut self) {
        self.nmi = false;
    }

    /// Takes the place at which the processor starts after INIT or SIPI, if it has to.
    pub(crate) const fn take_start(&mut self) -> Option<Start> {
        self.start.take()
    }

    /// Gives a message to the local APIC, which accepts it. `sender` is the vCPU that sent it.
    pub(super) fn deliver(&mut self, message: InterruptMessage, sender: Option<u32>) {
        let vector = if message.mode == DeliveryMode::Nmi { NMI } else { message.vector };
        match sender {
            Some(sender) => self.ipi_senders.insert(vector, sender),
            None => self.ipi_senders.remove(&vector),
        };
        let event = self.apic.deliver(message);
        self.receive(event);
    }

    /// Sets the level of the input to which the PICs lead.
    pub(super) fn set_lint0(&mut self, level: bool) {
        let event = self.apic.set_lint0(level);
        self.receive(event);
    }

    /// Takes an event of the local APIC.
    fn receive(&mut self, event: Option<CpuEvent>) {
        match event {
            Some(CpuEvent::Nmi) => self.nmi = true,
            Some(CpuEvent::Init) => {
                self.apic.init();
                (self.activity, self.start) = match self.is_bsp {
                    true => (Activity::Active, Some(Start::ResetVector)),
                    false => (Activity::WaitForSipi, None),
                };
                self.nmi = false;
            }
            Some(CpuEvent::StartUp(page)) => {
                if self.activity == Activity::WaitForSipi {
                    (self.activity, self.start) = (Activity::Active, Some(Start::Page(page)));
                }
            }
            // No machine has system management mode; an ExtInt message without the PICs has no vector.
            Some(CpuEvent::Smi | CpuEvent::ExtInt) | None => {}
        }
    }
}
