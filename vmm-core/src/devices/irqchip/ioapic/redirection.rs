//! Redirection entry of the IOAPIC: the message that an input sends (82093AA, 3.2.4).

use serde::{Deserialize, Serialize};

use super::Half;
use crate::devices::irqchip::message::{
    DeliveryMode, Destination, DestinationMode, InterruptMessage, TriggerMode, vector_field,
};

/// Bit 11: logical destination.
const LOGICAL: u32 = 1 << 11;
/// Bit 14: the interrupt has been accepted and not ended.
const REMOTE_IRR: u32 = 1 << 14;
/// Bit 15: level-triggered.
const LEVEL_TRIGGERED: u32 = 1 << 15;
/// Bit 16: masked.
const MASKED: u32 = 1 << 16;
/// Bits of the low half that software can change: vector, modes, polarity (bit 13), trigger mode and mask.
const WRITABLE: u32 = 0x0fff | 1 << 13 | LEVEL_TRIGGERED | MASKED;

/// Redirection entry of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RedirectionEntry {
    low: u32,
    /// Bits 56 to 63.
    destination: u8,
}

impl Default for RedirectionEntry {
    /// Returns the entry after reset, which is masked.
    fn default() -> Self {
        Self { low: MASKED, destination: 0 }
    }
}

impl RedirectionEntry {
    /// Returns a half of the entry.
    pub(super) fn half(&self, half: Half) -> u32 {
        match half {
            Half::Low => self.low,
            Half::High => u32::from(self.destination) << 24,
        }
    }

    /// Writes a half of the entry. Becoming edge-triggered ends the interrupt: system software does this in place of an EOI
    /// register, which came with version 0x20.
    pub(super) fn set_half(&mut self, half: Half, value: u32) {
        match half {
            Half::Low => {
                let kept = if value & LEVEL_TRIGGERED != 0 { self.low & REMOTE_IRR } else { 0 };
                self.low = value & WRITABLE | kept;
            }
            Half::High => [.., self.destination] = value.to_le_bytes(),
        }
    }

    /// Returns the vector.
    pub(crate) const fn vector(&self) -> u8 {
        vector_field(self.low)
    }

    /// Returns the delivery mode.
    pub(crate) const fn delivery_mode(&self) -> DeliveryMode {
        DeliveryMode::from_register(self.low)
    }

    /// Returns the destination.
    pub(crate) fn destination(&self) -> Destination {
        let is_logical = self.low & LOGICAL != 0;
        let mode = if is_logical { DestinationMode::Logical } else { DestinationMode::Physical };
        Destination::from_xapic(mode, self.destination)
    }

    /// Returns the trigger mode.
    pub(crate) const fn trigger(&self) -> TriggerMode {
        if self.low & LEVEL_TRIGGERED != 0 { TriggerMode::Level } else { TriggerMode::Edge }
    }

    /// Returns true if the input is masked.
    pub(crate) const fn is_masked(&self) -> bool {
        self.low & MASKED != 0
    }

    /// Returns true if the level-triggered interrupt has been accepted and not ended.
    pub(crate) const fn remote_irr(&self) -> bool {
        self.low & REMOTE_IRR != 0
    }

    pub(super) const fn set_remote_irr(&mut self, is_set: bool) {
        self.low = if is_set { self.low | REMOTE_IRR } else { self.low & !REMOTE_IRR };
    }

    /// Returns the trigger mode with which the input works: an event without an EOI is always edge-triggered.
    pub(super) const fn effective_trigger(&self) -> TriggerMode {
        if self.delivery_mode().is_queued() { self.trigger() } else { TriggerMode::Edge }
    }

    /// Returns the message of the input; `None` for a delivery mode that an IOAPIC does not have.
    pub(super) fn message(&self) -> Option<InterruptMessage> {
        let mode = self.delivery_mode();
        let is_defined = !matches!(mode, DeliveryMode::Reserved | DeliveryMode::StartUp);
        is_defined.then(|| InterruptMessage {
            destination: self.destination(),
            mode,
            vector: self.vector(),
            trigger: self.effective_trigger(),
        })
    }
}
