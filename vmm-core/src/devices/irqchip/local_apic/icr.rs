//! Interrupt command register: messages from one local APIC to others and to itself (SDM vol. 3, 11.6.1).

use super::error_status::SEND_ILLEGAL_VECTOR;
use super::{ApicEffect, ApicMode, LocalApic, MIN_VECTOR};
use crate::devices::irqchip::message::{
    DeliveryMode, Destination, DestinationMode, InterruptMessage, TriggerMode, vector_field,
};

/// Bit 12: delivery status, which always reads 0 since messages arrive at once.
const DELIVERY_STATUS: u64 = 1 << 12;
/// Bits that are kept: vector, delivery mode, destination mode, level, trigger mode, shorthand and destination.
const KEPT_BITS: u64 = 0xffff_ffff_000c_cfff;
/// Bits that are not reserved.
pub(super) const COMMAND_BITS: u64 = KEPT_BITS | DELIVERY_STATUS;
/// Bit 11: logical destination.
const LOGICAL: u64 = 1 << 11;
/// Bit 14: assert. A level-triggered INIT without it is the INIT level de-assert.
const ASSERT: u64 = 1 << 14;
/// Bit 15: level-triggered.
const LEVEL_TRIGGERED: u64 = 1 << 15;

/// Message that software sends by the interrupt command register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Icr {
    /// Local APICs that the message is for.
    pub(crate) shorthand: Shorthand,
    /// Message. It is edge-triggered, since the trigger mode of the register has a meaning for INIT only.
    pub(crate) message: InterruptMessage,
}

/// Destination shorthand of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shorthand {
    /// No shorthand: the APICs of the message's destination.
    None,
    /// The sender.
    Oneself,
    /// All APICs and the sender.
    AllIncludingSelf,
    /// All APICs but the sender.
    AllExcludingSelf,
}

impl Icr {
    /// Returns the message of a register value; `None` for one that no APIC takes.
    fn from_register(value: u64, mode: ApicMode) -> Option<Self> {
        let [low, high] = [value, value >> 32].map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
        let destination_mode =
            if value & LOGICAL != 0 { DestinationMode::Logical } else { DestinationMode::Physical };
        let destination = match mode {
            ApicMode::X2Apic => Destination { mode: destination_mode, id: high },
            ApicMode::XApic | ApicMode::Disabled => {
                let [.., id] = high.to_le_bytes();
                Destination::from_xapic(destination_mode, id)
            }
        };
        let shorthand = match low >> 18 & 0b11 {
            0b00 => Shorthand::None,
            0b01 => Shorthand::Oneself,
            0b10 => Shorthand::AllIncludingSelf,
            _ => Shorthand::AllExcludingSelf,
        };
        let mode = DeliveryMode::from_register(low);
        match mode {
            DeliveryMode::Reserved | DeliveryMode::ExtInt => return None,
            // Only processors before the Pentium 4 use it.
            DeliveryMode::Init if value & LEVEL_TRIGGERED != 0 && value & ASSERT == 0 => return None,
            DeliveryMode::Fixed
            | DeliveryMode::LowestPriority
            | DeliveryMode::Smi
            | DeliveryMode::Nmi
            | DeliveryMode::Init
            | DeliveryMode::StartUp => {}
        }
        let vector = vector_field(low);
        Some(Self {
            shorthand,
            message: InterruptMessage { destination, mode, vector, trigger: TriggerMode::Edge },
        })
    }
}

impl LocalApic {
    /// Writes the interrupt command register, and sends the message. An interrupt for this APIC alone by shorthand arrives at
    /// once.
    pub(super) fn send(&mut self, value: u64) -> ApicEffect {
        self.icr = value & KEPT_BITS;
        let Some(icr) = Icr::from_register(value, self.mode) else { return ApicEffect::None };
        let Icr { shorthand, message } = icr;
        if message.mode.is_queued() && message.vector < MIN_VECTOR {
            self.report_error(SEND_ILLEGAL_VECTOR);
            return ApicEffect::None;
        }
        if message.mode.is_queued() && shorthand == Shorthand::Oneself {
            return self.send_to_self(message.vector);
        }
        ApicEffect::Ipi(icr)
    }

    /// Sends an interrupt to this APIC (SELF IPI register, 11.12.11).
    pub(super) fn send_to_self(&mut self, vector: u8) -> ApicEffect {
        if vector < MIN_VECTOR {
            self.report_error(SEND_ILLEGAL_VECTOR);
            return ApicEffect::None;
        }
        self.request(vector, TriggerMode::Edge);
        ApicEffect::SelfIpi { vector }
    }
}
