//! Local APICs that a message is for (SDM vol. 3, 11.6.2 and 11.12.10).

use super::icr::{Icr, Shorthand};
use super::{ApicMode, LocalApic};
use crate::devices::irqchip::message::{Destination, DestinationMode, InterruptMessage};

/// Destination format register: flat model.
const FLAT: u8 = 0xf;
/// Destination format register: cluster model.
const CLUSTER: u8 = 0x0;

impl LocalApic {
    /// Returns true if a message of an IOAPIC is for this APIC. With lowest-priority delivery, one of those that
    /// [accept](LocalApic::accepts) it gets it ([`lowest_priority`]).
    pub(crate) fn is_addressed(&self, destination: Destination) -> bool {
        let Destination { mode, id } = destination;
        match (self.mode, mode) {
            (ApicMode::Disabled, _) => false,
            (ApicMode::XApic | ApicMode::X2Apic, _) if id == Destination::BROADCAST => true,
            (ApicMode::XApic, DestinationMode::Physical) => id == u32::from(self.xapic_id),
            (ApicMode::X2Apic, DestinationMode::Physical) => id == self.id,
            (ApicMode::XApic, DestinationMode::Logical) => {
                u8::try_from(id).is_ok_and(|set| self.is_in_logical_set(set))
            }
            (ApicMode::X2Apic, DestinationMode::Logical) => {
                let own = self.logical_destination();
                id >> 16 == own >> 16 && id & own & 0xffff != 0
            }
        }
    }

    /// Returns true if a message of the interrupt command register is for this APIC; `is_sender` if it is the one that sent it.
    pub(crate) fn is_target(&self, icr: &Icr, is_sender: bool) -> bool {
        let is_on = self.mode != ApicMode::Disabled;
        match icr.shorthand {
            Shorthand::None => self.is_addressed(icr.message.destination),
            Shorthand::Oneself => is_on && is_sender,
            Shorthand::AllIncludingSelf => is_on,
            Shorthand::AllExcludingSelf => is_on && !is_sender,
        }
    }

    /// Returns true if the APIC takes such a message when it is addressed: it drops interrupts while it is disabled by software
    /// (11.4.7.2).
    pub(crate) fn accepts(&self, message: &InterruptMessage) -> bool {
        self.mode != ApicMode::Disabled && (!message.mode.is_queued() || self.is_software_enabled())
    }

    /// Logical destination register (LDR). In x2APIC mode it follows from the number: clusters of 16 (11.12.10.2).
    pub(super) fn logical_destination(&self) -> u32 {
        match self.mode {
            ApicMode::X2Apic => (self.id >> 4) << 16 | 1 << (self.id & 0xf),
            ApicMode::XApic | ApicMode::Disabled => u32::from(self.logical_id) << 24,
        }
    }

    fn is_in_logical_set(&self, set: u8) -> bool {
        let own = self.logical_id;
        match self.destination_format {
            FLAT => set & own != 0,
            CLUSTER => set >> 4 == own >> 4 && set & own & 0xf != 0,
            _ => false,
        }
    }
}

/// Returns the APIC that gets a message with lowest-priority delivery, of those that are addressed and accept it. Each has a
/// number and its [priority](LocalApic::arbitration_priority). Among equal ones the vector decides, so that different vectors
/// go to different processors.
pub(crate) fn lowest_priority(candidates: &[(usize, u8)], vector: u8) -> Option<usize> {
    let lowest = candidates.iter().map(|(_, priority)| *priority).min()?;
    let equal = || candidates.iter().filter(|(_, priority)| *priority == lowest);
    let choice = usize::from(vector).checked_rem(equal().count())?;
    equal().nth(choice).map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apic(mode: ApicMode, id: u32, ldr: u8, dfr: u8) -> LocalApic {
        let mut apic = LocalApic::new(id);
        apic.write(0xd0, u32::from(ldr) << 24, 0);
        apic.write(0xe0, u32::from(dfr) << 28, 0);
        apic.set_mode(mode);
        apic
    }

    fn is_addressed(apic: &LocalApic, mode: DestinationMode, id: u8) -> bool {
        apic.is_addressed(Destination::from_xapic(mode, id))
    }

    #[test]
    fn physical_destinations_are_numbers() {
        let apic = apic(ApicMode::XApic, 3, 0, FLAT);
        let addressed = |id| is_addressed(&apic, DestinationMode::Physical, id);
        assert_eq!([3, 4, 0, 0xff].map(addressed), [true, false, false, true]);
    }

    #[test]
    fn flat_logical_destinations_are_sets() {
        let apic = apic(ApicMode::XApic, 3, 0b0110, FLAT);
        let addressed = |id| is_addressed(&apic, DestinationMode::Logical, id);
        assert_eq!([0b0010, 0b0100, 0b1001, 0, 0xff].map(addressed), [true, true, false, false, true]);
    }

    #[test]
    fn clustered_logical_destinations_are_a_cluster_and_a_set() {
        let apic = apic(ApicMode::XApic, 3, 0x24, CLUSTER);
        let addressed = |id| is_addressed(&apic, DestinationMode::Logical, id);
        assert_eq!([0x24, 0x2f, 0x23, 0x34, 0xff].map(addressed), [true, true, false, false, true]);
        let neither = self::apic(ApicMode::XApic, 3, 0x24, 0x3);
        assert!(!is_addressed(&neither, DestinationMode::Logical, 0x24), "no model");
    }

    #[test]
    fn x2apic_destinations_have_32_bits() {
        let apic = apic(ApicMode::X2Apic, 0x1_0023, 0xff, FLAT);
        let addressed = |mode, id| apic.is_addressed(Destination { mode, id });
        let physical = [0x1_0023, 0x23, 0xff, u32::MAX].map(|id| addressed(DestinationMode::Physical, id));
        assert_eq!(physical, [true, false, false, true]);
        let logical = [0x1002_0008, 0x1002_ffff, 0x1002_0007, 0x1003_0008, u32::MAX];
        let logical = logical.map(|id| addressed(DestinationMode::Logical, id));
        assert_eq!(logical, [true, true, false, false, true]);
    }

    #[test]
    fn an_ioapic_reaches_x2apic_processors() {
        let last = apic(ApicMode::X2Apic, 0x123, 0, FLAT);
        assert!(is_addressed(&last, DestinationMode::Physical, 0xff));
        assert!(!is_addressed(&last, DestinationMode::Physical, 0x23));
        let first = apic(ApicMode::X2Apic, 5, 0, FLAT);
        assert!(is_addressed(&first, DestinationMode::Physical, 5));
        assert!(is_addressed(&first, DestinationMode::Logical, 0x20), "cluster 0");
    }

    #[test]
    fn a_disabled_apic_is_never_addressed() {
        let apic = apic(ApicMode::Disabled, 3, 0xff, FLAT);
        assert!(!is_addressed(&apic, DestinationMode::Physical, 3));
        assert!(!is_addressed(&apic, DestinationMode::Physical, 0xff));
    }

    #[test]
    fn the_lowest_priority_gets_the_message_and_equal_ones_take_turns() {
        assert_eq!(lowest_priority(&[], 0x40), None);
        assert_eq!(lowest_priority(&[(0, 0x30), (1, 0x20), (2, 0x40)], 0x41), Some(1));
        let equal = [(0, 0x50), (4, 0x20), (7, 0x20)];
        assert_eq!(
            [0x40, 0x41, 0x42].map(|vector| lowest_priority(&equal, vector)),
            [Some(4), Some(7), Some(4)]
        );
    }
}
