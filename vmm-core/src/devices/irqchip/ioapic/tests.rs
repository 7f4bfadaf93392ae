//! Tests of the IOAPIC: cases of the data sheet, and when an input sends a message.

use proptest::prelude::*;

use super::*;
use crate::devices::irqchip::message::{DeliveryMode, Destination, DestinationMode};
use crate::encoding::{from_bytes, to_bytes};

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;

fn read(ioapic: &mut IoApic, register: u8) -> u32 {
    ioapic.write(SELECT, register.into());
    ioapic.read(WINDOW)
}

fn write(ioapic: &mut IoApic, register: u8, value: u32) {
    ioapic.write(SELECT, register.into());
    ioapic.write(WINDOW, value);
}

/// Sets the low half of an entry.
fn set_entry(ioapic: &mut IoApic, input: u8, low: u32) {
    write(ioapic, REDIRECTION + input * 2, low);
}

fn entry(ioapic: &mut IoApic, input: u8) -> u32 {
    read(ioapic, REDIRECTION + input * 2)
}

/// Takes the messages: input, vector and trigger mode of each.
fn take(ioapic: &mut IoApic) -> Vec<(u8, u8, TriggerMode)> {
    let messages = ioapic.take_messages();
    messages.map(|sent| (sent.input, sent.message.vector, sent.message.trigger)).collect()
}

#[test]
fn registers_after_reset() {
    let mut ioapic = IoApic::new();
    assert_eq!([ID, VERSION, ARBITRATION].map(|register| read(&mut ioapic, register)), [0, 0x17_0011, 0]);
    assert!((0..INPUTS).all(|input| entry(&mut ioapic, input) == MASKED));
    assert_eq!(
        [0x11, 0x40, 0xff, 0x03].map(|register| read(&mut ioapic, register)),
        [0, u32::MAX, u32::MAX, u32::MAX]
    );
    ioapic.write(SELECT, 0xabcd_ef12);
    assert_eq!((ioapic.read(SELECT), ioapic.read(0x20), ioapic.read(0x40)), (0x12, 0, 0));
}

#[test]
fn only_writable_bits_are_written() {
    let mut ioapic = IoApic::new();
    for register in [ID, VERSION, ARBITRATION, 0x12, 0x13, 0x40] {
        write(&mut ioapic, register, u32::MAX);
    }
    let registers = [ID, VERSION, ARBITRATION, 0x12, 0x13].map(|register| read(&mut ioapic, register));
    assert_eq!(registers, [0x0f00_0000, 0x17_0011, 0x0f00_0000, 0x1_afff, 0xff00_0000]);
    ioapic.write(0x20, 0);
    ioapic.write(0x40, 0);
}

#[test]
fn an_edge_sends_one_message() {
    let mut ioapic = IoApic::new();
    set_entry(&mut ioapic, 4, 0x34);
    ioapic.set_input(4, true);
    ioapic.set_input(4, true);
    assert!(ioapic.is_asserted(4) && !ioapic.is_asserted(5) && !ioapic.is_asserted(200));
    assert_eq!((take(&mut ioapic), take(&mut ioapic)), (vec![(4, 0x34, TriggerMode::Edge)], vec![]));
    ioapic.set_input(4, false);
    ioapic.set_input(4, true);
    ioapic.set_input(4, false);
    assert_eq!(take(&mut ioapic), [(4, 0x34, TriggerMode::Edge)]);
}

#[test]
fn an_edge_of_a_masked_input_is_lost() {
    let mut ioapic = IoApic::new();
    set_entry(&mut ioapic, 4, MASKED | 0x34);
    ioapic.set_input(4, true);
    set_entry(&mut ioapic, 4, 0x34);
    assert_eq!(take(&mut ioapic), []);
}

#[test]
fn a_level_sends_messages_until_it_ends() {
    let mut ioapic = IoApic::new();
    ioapic.set_input(9, true);
    set_entry(&mut ioapic, 9, LEVEL | MASKED | 0x39);
    assert_eq!(take(&mut ioapic), []);
    set_entry(&mut ioapic, 9, LEVEL | 0x39);
    let sent = vec![(9, 0x39, TriggerMode::Level)];
    assert_eq!((take(&mut ioapic), take(&mut ioapic)), (sent.clone(), vec![]));
    assert_eq!(entry(&mut ioapic, 9), LEVEL | REMOTE_IRR | 0x39);
    ioapic.eoi(0x38);
    assert_eq!(take(&mut ioapic), []);
    ioapic.eoi(0x39);
    assert_eq!(take(&mut ioapic), sent, "still asserted");
    ioapic.set_input(9, false);
    ioapic.eoi(0x39);
    assert_eq!((take(&mut ioapic), entry(&mut ioapic, 9)), (vec![], LEVEL | 0x39));
}

#[test]
fn becoming_edge_triggered_ends_the_interrupt() {
    let mut ioapic = IoApic::new();
    ioapic.set_input(9, true);
    set_entry(&mut ioapic, 9, LEVEL | 0x39);
    assert_eq!(take(&mut ioapic).len(), 1);
    set_entry(&mut ioapic, 9, MASKED | 0x39);
    set_entry(&mut ioapic, 9, LEVEL | 0x39);
    assert_eq!(take(&mut ioapic).len(), 1);
    set_entry(&mut ioapic, 9, LEVEL | 0x3a);
    assert_eq!((take(&mut ioapic).len(), entry(&mut ioapic, 9)), (0, LEVEL | REMOTE_IRR | 0x3a));
}

#[test]
fn a_rejected_level_is_sent_again() {
    let mut ioapic = IoApic::new();
    set_entry(&mut ioapic, 9, LEVEL | 0x39);
    set_entry(&mut ioapic, 10, 0x3a);
    ioapic.set_input(9, true);
    ioapic.set_input(10, true);
    let messages = ioapic.take_messages();
    for sent in messages {
        ioapic.reject(sent.input);
    }
    ioapic.reject(200);
    assert_eq!(take(&mut ioapic), [(9, 0x39, TriggerMode::Level)]);
}

#[test]
fn messages_have_destination_and_mode() {
    let mut ioapic = IoApic::new();
    let mut message = |low: u32, high: u32| {
        write(&mut ioapic, 0x11, high);
        set_entry(&mut ioapic, 0, low);
        ioapic.set_input(0, false);
        ioapic.set_input(0, true);
        let first = ioapic.take_messages().next();
        first.map(|sent| (sent.message.mode, sent.message.destination.mode, sent.message.destination.id))
    };
    let (physical, logical) = (DestinationMode::Physical, DestinationMode::Logical);
    assert_eq!(message(0x131, 0x0300_0000), Some((DeliveryMode::LowestPriority, physical, 3)));
    assert_eq!(message(0x831, 0xff00_0000), Some((DeliveryMode::Fixed, logical, Destination::BROADCAST)));
    assert_eq!(
        message(LEVEL | 0x400, 0),
        Some((DeliveryMode::Nmi, physical, 0)),
        "an edge in spite of its mode"
    );
    assert_eq!(message(0x700, 0), Some((DeliveryMode::ExtInt, physical, 0)));
    assert_eq!((message(0x331, 0), message(0x631, 0)), (None, None), "reserved");
    assert_eq!(entry(&mut ioapic, 0) & REMOTE_IRR, 0);
    let entry = ioapic.entries()[0];
    assert_eq!((entry.trigger(), entry.delivery_mode()), (TriggerMode::Edge, DeliveryMode::StartUp));
}

/// Something that happens to an IOAPIC.
#[derive(Debug, Clone)]
enum Step {
    Write(u64, u32),
    SetEntry(u8, u32),
    SetInput(u8, bool),
    Eoi(u8),
    Take(bool),
}

fn step() -> impl Strategy<Value = Step> {
    // Few inputs and vectors, so that steps meet.
    let low = (0x30u32..0x34, any::<[bool; 2]>()).prop_map(|(vector, [level, masked])| {
        vector | if level { LEVEL } else { 0 } | if masked { MASKED } else { 0 }
    });
    prop_oneof![
        1 => (0u64..0x50, any::<u32>()).prop_map(|(offset, value)| Step::Write(offset, value)),
        4 => (0u8..4, low).prop_map(|(input, low)| Step::SetEntry(input, low)),
        4 => (prop_oneof![9 => 0u8..4, 1 => any::<u8>()], any::<bool>()).prop_map(|(input, level)| Step::SetInput(input, level)),
        2 => (0x30u8..0x34).prop_map(Step::Eoi),
        4 => any::<bool>().prop_map(Step::Take),
    ]
}

fn apply(ioapic: &mut IoApic, step: &Step) {
    match *step {
        Step::Write(offset, value) => ioapic.write(offset, value),
        Step::SetEntry(input, low) => set_entry(ioapic, input, low),
        Step::SetInput(input, level) => ioapic.set_input(input, level),
        Step::Eoi(vector) => ioapic.eoi(vector),
        Step::Take(accepted) => {
            let messages = ioapic.take_messages();
            for sent in messages.filter(|_| !accepted) {
                ioapic.reject(sent.input);
            }
        }
    }
}

proptest! {
    #[test]
    fn a_level_is_sent_if_and_only_if_it_is_asserted_unmasked_and_not_pending(steps in prop::collection::vec(step(), 1..100)) {
        let mut ioapic = IoApic::new();
        for step in &steps {
            apply(&mut ioapic, step);
            let expected: Vec<_> = (0..INPUTS).zip(ioapic.entries())
                .filter(|(input, entry)| {
                    entry.effective_trigger() == TriggerMode::Level
                        && ioapic.is_asserted(*input) && !entry.is_masked() && !entry.remote_irr()
                })
                .map(|(input, _)| input)
                .collect();
            let mut taken = ioapic.clone();
            let levels: Vec<_> = taken.take_messages()
                .filter(|sent| sent.message.trigger == TriggerMode::Level).map(|sent| sent.input).collect();
            prop_assert_eq!(levels, expected);
            prop_assert_eq!(taken.take_messages().count(), 0, "each once");
        }
    }

    #[test]
    fn saved_state_is_restored_and_any_state_works(
        before in prop::collection::vec(step(), 1..50),
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..10),
        after in prop::collection::vec(step(), 1..50),
    ) {
        let mut ioapic = IoApic::new();
        before.iter().for_each(|step| apply(&mut ioapic, step));
        let mut bytes = to_bytes(&ioapic).unwrap();
        prop_assert_eq!(from_bytes::<IoApic>(&bytes), Ok(ioapic));
        for (index, byte) in changes {
            *index.get_mut(&mut bytes) = byte;
        }
        let Ok(mut restored) = from_bytes::<IoApic>(&bytes) else { return Ok(()) };
        after.iter().for_each(|step| apply(&mut restored, step));
        for register in 0..=u8::MAX {
            read(&mut restored, register);
        }
    }
}
