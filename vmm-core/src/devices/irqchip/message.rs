//! Interrupt messages, which IOAPICs and local APICs send to local APICs (SDM vol. 3, 11.6 and 11.11; 82093AA, 3.2.4).

use serde::{Deserialize, Serialize};

/// Message to local APICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InterruptMessage {
    /// Local APICs that the message is for.
    pub(crate) destination: Destination,
    /// Effect on a local APIC.
    pub(crate) mode: DeliveryMode,
    /// Vector of the interrupt; for [`DeliveryMode::StartUp`] the page of the first instruction.
    pub(crate) vector: u8,
    /// Trigger mode; the end of a level-triggered interrupt is reported to the IOAPICs.
    pub(crate) trigger: TriggerMode,
}

/// Effect of a message on the local APIC that gets it, or of a local interrupt (SDM vol. 3, 11.5.1 and 11.6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DeliveryMode {
    /// Interrupt with the vector of the message.
    Fixed,
    /// Interrupt with the vector of the message, for the addressed APIC with the lowest priority only.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Encoding without a meaning.
    Reserved,
    /// Non-maskable interrupt.
    Nmi,
    /// Reset of the processor (INIT).
    Init,
    /// Start of a processor that waits after INIT (SIPI).
    StartUp,
    /// Interrupt with a vector from the 8259A.
    ExtInt,
}

impl DeliveryMode {
    /// Returns the mode whose encoding is in bits 8 to 10 of `register`.
    pub(crate) const fn from_register(register: u32) -> Self {
        match register >> 8 & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            _ => Self::ExtInt,
        }
    }

    /// Returns true if a local APIC queues such an interrupt by its vector (IRR).
    pub(crate) const fn is_queued(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

/// Trigger mode of an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TriggerMode {
    /// One interrupt for each rising edge.
    Edge,
    /// Interrupts as long as the line is high.
    Level,
}

/// Meaning of the number in a [`Destination`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DestinationMode {
    /// Number of one APIC.
    Physical,
    /// Set of APICs, by their logical destination registers.
    Logical,
}

/// Local APICs that a message is for (SDM vol. 3, 11.6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Destination {
    /// Meaning of `id`.
    pub(crate) mode: DestinationMode,
    /// Number or set; [`Destination::BROADCAST`] for all APICs.
    pub(crate) id: u32,
}

impl Destination {
    /// Number of all APICs, in both modes.
    pub(crate) const BROADCAST: u32 = u32::MAX;

    /// Returns the destination of a message of an IOAPIC or of a local APIC in xAPIC mode, whose broadcast is 0xff.
    pub(crate) fn from_xapic(mode: DestinationMode, id: u8) -> Self {
        Self { mode, id: if id == u8::MAX { Self::BROADCAST } else { id.into() } }
    }
}

/// Returns bits 0 to 7 of a register, which hold the vector in most of them.
pub(crate) const fn vector_field(register: u32) -> u8 {
    let [vector, ..] = register.to_le_bytes();
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_modes_have_the_encoding_of_the_manual() {
        let modes = [0, 1, 2, 3, 4, 5, 6, 7].map(|bits| DeliveryMode::from_register(bits << 8 | 0xf8ff));
        use DeliveryMode::*;
        assert_eq!(modes, [Fixed, LowestPriority, Smi, Reserved, Nmi, Init, StartUp, ExtInt]);
        assert_eq!(modes.map(DeliveryMode::is_queued).iter().filter(|queued| **queued).count(), 2);
    }

    #[test]
    fn only_the_broadcast_of_xapic_is_widened() {
        let id = |id| Destination::from_xapic(DestinationMode::Physical, id).id;
        assert_eq!((id(0xff), id(0xfe), id(0)), (Destination::BROADCAST, 0xfe, 0));
    }
}
