//! Local APIC (SDM vol. 3, chapter 11): takes interrupts for one processor, sorts them by priority, and sends messages to other
//! processors.
//!
//! | file | part |
//! |---|---|
//! | `local_apic.rs` | interrupts on their way from a message to the processor |
//! | `local_apic/registers.rs` | registers, as memory in xAPIC mode |
//! | `local_apic/x2apic.rs` | registers, as MSRs in x2APIC mode |
//! | `local_apic/vector_set.rs` | IRR, ISR and TMR |
//! | `local_apic/lvt.rs` | local vector table, and the input LINT0 |
//! | `local_apic/timer.rs` | timer |
//! | `local_apic/icr.rs` | interrupt command register: messages to other APICs |
//! | `local_apic/addressing.rs` | destinations of messages, and the lowest priority |
//! | `local_apic/error_status.rs` | errors |
//! | `local_apic/view.rs` | state for reports |
//!
//! The version is that of KVM's local APICs, 0x14 with six entries in the local vector table: no interrupt for corrected machine
//! checks, and no suppression of the EOI broadcast.

use serde::{Deserialize, Serialize};

use super::message::{DeliveryMode, InterruptMessage, TriggerMode, vector_field};
use error_status::{ErrorStatus, RECEIVE_ILLEGAL_VECTOR};
use icr::Icr;
use lvt::{LocalVectorTable, Lvt};
use timer::{ApicTimer, TimerMode, Tsc};
use vector_set::VectorSet;

pub(crate) mod addressing;
mod error_status;
pub(crate) mod icr;
pub(crate) mod lvt;
mod registers;
pub(crate) mod timer;
mod vector_set;
pub(crate) mod view;
pub(crate) mod x2apic;

/// First vector that an interrupt may have; lower ones are those of exceptions (SDM vol. 3, 11.5.2).
pub(super) const MIN_VECTOR: u8 = 16;
/// Spurious-interrupt vector register: the APIC is enabled by software.
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Writable bits of the spurious-interrupt vector register: vector, enable, and focus checking, which has no effect.
const SPURIOUS_BITS: u32 = 0x3ff;

/// Local APIC of one processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LocalApic {
    /// Number of the APIC after reset; always its number in x2APIC mode.
    id: u32,
    /// Number of the APIC in xAPIC mode, which software can change.
    xapic_id: u8,
    mode: ApicMode,
    /// Task-priority register (TPR).
    task_priority: u8,
    /// Spurious-interrupt vector register (SVR).
    spurious: u32,
    /// Bits 24 to 31 of the logical destination register (LDR) in xAPIC mode.
    logical_id: u8,
    /// Bits 28 to 31 of the destination format register (DFR).
    destination_format: u8,
    /// Interrupt command register; bits 32 to 63 are at offset 0x310.
    icr: u64,
    /// Interrupts that wait for the processor (IRR).
    requested: VectorSet,
    /// Interrupts that the processor has not ended (ISR).
    in_service: VectorSet,
    /// Interrupts that came level-triggered (TMR).
    level_triggered: VectorSet,
    lvt: LocalVectorTable,
    errors: ErrorStatus,
    timer: ApicTimer,
    /// Level of the input LINT0.
    lint0: bool,
}

/// Mode of a local APIC, from IA32_APIC_BASE (SDM vol. 3, 11.12.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ApicMode {
    /// Disabled: the processor behaves as one without a local APIC.
    Disabled,
    /// Enabled, with registers in memory.
    XApic,
    /// Enabled, with registers as MSRs.
    X2Apic,
}

/// Effect of a register write outside of the local APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApicEffect {
    /// No effect outside.
    None,
    /// A message for local APICs ([`LocalApic::is_target`]).
    Ipi(Icr),
    /// An interrupt that the APIC sent to itself and has received.
    SelfIpi {
        /// Vector of the interrupt.
        vector: u8,
    },
    /// The processor has ended an interrupt.
    Eoi {
        /// Vector of the interrupt.
        vector: u8,
        /// True for a level-triggered interrupt, whose end goes to the IOAPICs.
        level: bool,
    },
}

/// Event that a local APIC passes on to its processor at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CpuEvent {
    /// Non-maskable interrupt.
    Nmi,
    /// System management interrupt.
    Smi,
    /// INIT: the processor is reset, and [`LocalApic::init`] has to be called.
    Init,
    /// SIPI: a processor that waits after INIT starts at this page (CS base `page << 12`).
    StartUp(u8),
    /// Interrupt with a vector from the PICs.
    ExtInt,
}

/// Interrupt to inject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    /// Interrupt with this vector, to be taken by [`LocalApic::acknowledge`].
    Vector(u8),
    /// Interrupt with a vector from the PICs, to be taken by their acknowledge cycle.
    ExtInt,
}

impl LocalApic {
    /// Creates a local APIC in the state after reset, in xAPIC mode.
    pub(crate) fn new(id: u32) -> Self {
        let [xapic_id, ..] = id.to_le_bytes();
        Self {
            id,
            xapic_id,
            mode: ApicMode::XApic,
            task_priority: 0,
            spurious: 0xff,
            logical_id: 0,
            destination_format: 0xf,
            icr: 0,
            requested: VectorSet::default(),
            in_service: VectorSet::default(),
            level_triggered: VectorSet::default(),
            lvt: LocalVectorTable::default(),
            errors: ErrorStatus::default(),
            timer: ApicTimer::default(),
            lint0: false,
        }
    }

    /// Connects the PICs as a BIOS leaves the first processor (virtual wire mode, MultiProcessor Specification, 3.6.2.2): LINT0
    /// takes their vectors.
    pub(crate) fn set_virtual_wire(&mut self) {
        self.lvt.set_virtual_wire();
    }

    /// Resets the registers, as INIT does (SDM vol. 3, 11.4.7.3). Number and mode are kept.
    pub(crate) fn init(&mut self) {
        *self = Self { xapic_id: self.xapic_id, mode: self.mode, lint0: self.lint0, ..Self::new(self.id) };
    }

    /// Changes the mode. All registers are kept from xAPIC to x2APIC mode, and reset by each other change (11.12.5).
    pub(crate) fn set_mode(&mut self, mode: ApicMode) {
        match (self.mode, mode) {
            (ApicMode::XApic, ApicMode::X2Apic) => self.mode = mode,
            (before, after) if before == after => {}
            _ => *self = Self { mode, lint0: self.lint0, ..Self::new(self.id) },
        }
    }

    /// Takes a message, and returns the event for the processor if it has one. The destination has been checked before
    /// ([`LocalApic::is_addressed`]).
    pub(crate) fn deliver(&mut self, message: InterruptMessage) -> Option<CpuEvent> {
        if self.mode == ApicMode::Disabled {
            return None;
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.request(message.vector, message.trigger);
                None
            }
            DeliveryMode::Smi => Some(CpuEvent::Smi),
            DeliveryMode::Nmi => Some(CpuEvent::Nmi),
            DeliveryMode::Init => Some(CpuEvent::Init),
            DeliveryMode::StartUp => Some(CpuEvent::StartUp(message.vector)),
            DeliveryMode::ExtInt => Some(CpuEvent::ExtInt),
            DeliveryMode::Reserved => None,
        }
    }

    /// Returns the interrupt that the processor takes next; `None` if there is none above its priority.
    pub(crate) fn pending(&self) -> Option<Pending> {
        if self.wants_pic_vector() {
            return Some(Pending::ExtInt);
        }
        self.deliverable().map(Pending::Vector)
    }

    /// Moves the highest waiting interrupt into service, and returns its vector. Without one above the processor's priority, returns
    /// the spurious vector and changes nothing (11.9).
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let Some(vector) = self.deliverable() else { return vector_field(self.spurious) };
        self.requested.remove(vector);
        self.in_service.insert(vector);
        vector
    }

    /// Fires the timer if it is due at `now`.
    pub(crate) fn advance(&mut self, now: u64) {
        let entry = self.lvt.entry(Lvt::Timer);
        if self.timer.expire(self.timer_mode(), now) && !entry.masked {
            self.request(entry.vector, TriggerMode::Edge);
        }
    }

    /// Returns the time at which the timer will request an interrupt. `None` if it is off or masked, or if its last interrupt
    /// still waits for the processor, so that another one would have no effect.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let entry = self.lvt.entry(Lvt::Timer);
        let has_effect = !entry.masked && !self.requested.contains(entry.vector);
        self.timer.expiry().filter(|_| has_effect)
    }

    /// Current count of the timer at `now`, which is 0 with a deadline (11.5.4.1).
    fn current_count(&self, now: u64) -> u32 {
        if self.timer_mode() == TimerMode::TscDeadline { 0 } else { self.timer.current_count(now) }
    }

    /// Sets the initial count, which starts the timer. Ignored with a deadline (11.5.4.1).
    fn set_initial_count(&mut self, count: u32, now: u64) {
        if self.timer_mode() != TimerMode::TscDeadline {
            self.timer.start(count, now);
        }
    }

    /// Returns IA32_TSC_DEADLINE at `now`; 0 if the timer is off or has fired.
    #[cfg_attr(not(test), expect(dead_code, reason = "IA32_TSC_DEADLINE does not exit yet"))]
    pub(crate) fn tsc_deadline(&mut self, now: u64) -> u64 {
        self.advance(now);
        self.timer.tsc_deadline()
    }

    /// Sets IA32_TSC_DEADLINE: the timer fires when the TSC reaches `deadline`; 0 turns it off. Ignored in the timer's other
    /// modes (11.5.4.1).
    #[cfg_attr(not(test), expect(dead_code, reason = "IA32_TSC_DEADLINE does not exit yet"))]
    pub(crate) fn set_tsc_deadline(&mut self, deadline: u64, tsc: Tsc, now: u64) {
        self.advance(now);
        if self.timer_mode() == TimerMode::TscDeadline {
            self.timer.set_tsc_deadline(deadline, tsc, now);
        }
    }

    /// Returns CR8: bits 4 to 7 of the task priority.
    pub(crate) const fn cr8(&self) -> u8 {
        self.task_priority >> 4
    }

    /// Sets the task priority from CR8; only bits 0 to 3 exist.
    pub(crate) const fn set_cr8(&mut self, value: u8) {
        self.task_priority = value << 4;
    }

    /// Processor-priority register (PPR, 11.8.3.1): the higher one of the task priority and the interrupt in service.
    fn processor_priority(&self) -> u8 {
        let in_service = class(self.in_service.highest().unwrap_or(0));
        if class(self.task_priority) >= in_service { self.task_priority } else { in_service }
    }

    /// Arbitration priority (11.6.2.4): that of the processor, and of the interrupts that wait for it.
    pub(crate) fn arbitration_priority(&self) -> u8 {
        let interrupts = [&self.requested, &self.in_service].map(|set| set.highest().map_or(0, class));
        let highest = interrupts.into_iter().max().unwrap_or(0);
        if class(self.task_priority) >= highest { self.task_priority } else { highest }
    }

    fn deliverable(&self) -> Option<u8> {
        let vector = self.requested.highest()?;
        (class(vector) > class(self.processor_priority())).then_some(vector)
    }

    /// Returns true if the APIC is enabled by software; otherwise its local vector table is masked (11.4.7.2).
    pub(crate) const fn is_software_enabled(&self) -> bool {
        self.spurious & SOFTWARE_ENABLE != 0
    }

    /// Adds an interrupt to those that wait for the processor. An APIC that is disabled by software drops it (11.4.7.2).
    fn request(&mut self, vector: u8, trigger: TriggerMode) {
        if !self.is_software_enabled() {
            return;
        }
        if vector < MIN_VECTOR {
            self.report_error(RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.requested.insert(vector);
        match trigger {
            TriggerMode::Edge => self.level_triggered.remove(vector),
            TriggerMode::Level => self.level_triggered.insert(vector),
        }
    }

    /// Ends the interrupt in service with the highest vector.
    pub(super) fn end_of_interrupt(&mut self) -> ApicEffect {
        let Some(vector) = self.in_service.highest() else { return ApicEffect::None };
        self.in_service.remove(vector);
        ApicEffect::Eoi { vector, level: self.level_triggered.contains(vector) }
    }

    /// Records an error. The first one after a write of the error status requests an interrupt.
    fn report_error(&mut self, error: u32) {
        let entry = self.lvt.entry(Lvt::Error);
        if !self.errors.record(error) || entry.masked {
            return;
        }
        if entry.vector < MIN_VECTOR {
            self.errors.record(RECEIVE_ILLEGAL_VECTOR);
        } else {
            self.request(entry.vector, TriggerMode::Edge);
        }
    }
}

/// Priority class of a vector or priority: bits 4 to 7, in place.
const fn class(priority: u8) -> u8 {
    priority & 0xf0
}

#[cfg(test)]
mod tests;
