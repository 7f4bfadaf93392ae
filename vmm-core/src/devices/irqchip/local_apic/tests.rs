//! Tests of a local APIC: cases of the manual, and laws of its priorities.

use proptest::prelude::*;

use super::icr::Shorthand;
use super::x2apic::GeneralProtection;
use super::*;
use crate::devices::irqchip::message::{Destination, DestinationMode};
use crate::encoding::{from_bytes, split_from_bytes, to_bytes};

const ID: u16 = 0x20;
const TPR: u16 = 0x80;
const PPR: u16 = 0xa0;
const EOI: u16 = 0xb0;
const SVR: u16 = 0xf0;
const ESR: u16 = 0x280;
const ICR: u16 = 0x300;
const ICR_HIGH: u16 = 0x310;
const LVT_TIMER: u16 = 0x320;
const LVT_LINT0: u16 = 0x350;
const LVT_ERROR: u16 = 0x370;
const INITIAL_COUNT: u16 = 0x380;
const CURRENT_COUNT: u16 = 0x390;
const DIVIDE: u16 = 0x3e0;

/// Divide configuration: by 1.
const BY_1: u32 = 0b1011;
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE: u32 = 1 << 18;

/// Returns an APIC that software has enabled, with the spurious vector 0xff.
fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(1);
    apic.write(SVR, 0x1ff, 0);
    apic
}

fn x2apic() -> LocalApic {
    let mut apic = enabled();
    apic.set_mode(ApicMode::X2Apic);
    apic
}

fn message(mode: DeliveryMode, vector: u8, trigger: TriggerMode) -> InterruptMessage {
    let destination = Destination { mode: DestinationMode::Physical, id: 1 };
    InterruptMessage { destination, mode, vector, trigger }
}

fn interrupt(apic: &mut LocalApic, vector: u8) {
    assert_eq!(apic.deliver(message(DeliveryMode::Fixed, vector, TriggerMode::Edge)), None);
}

/// Reads the error status after a write of it.
fn errors(apic: &mut LocalApic) -> u32 {
    apic.write(ESR, 0, 0);
    apic.read(ESR, 0)
}

#[test]
fn registers_after_reset() {
    let mut apic = LocalApic::new(1);
    let mut read = |offset| apic.read(offset, 0);
    assert_eq!((read(ID), read(0x30), read(SVR)), (1 << 24, 0x5_0014, 0xff));
    assert_eq!((read(0xd0), read(0xe0), read(TPR), read(DIVIDE)), (0, u32::MAX, 0, 0));
    assert!((LVT_TIMER..=LVT_ERROR).step_by(16).all(|offset| read(offset) == 1 << 16), "all masked");
    assert_eq!(read(ESR), 0);
}

#[test]
fn a_higher_priority_class_interrupts_and_a_lower_one_waits() {
    let mut apic = enabled();
    for vector in [0x41, 0x52, 0x5f] {
        interrupt(&mut apic, vector);
    }
    assert_eq!(apic.requested_vectors(), [0x41, 0x52, 0x5f]);
    assert_eq!((apic.pending(), apic.acknowledge()), (Some(Pending::Vector(0x5f)), 0x5f));
    assert_eq!((apic.pending(), apic.read(PPR, 0)), (None, 0x50), "0x52 is of the same class");
    interrupt(&mut apic, 0x60);
    assert_eq!(apic.acknowledge(), 0x60);
    assert_eq!(apic.vectors_in_service(), [0x5f, 0x60]);
    let ended = [(); 3].map(|()| apic.write(EOI, 0, 0));
    let end = |vector| ApicEffect::Eoi { vector, level: false };
    assert_eq!(ended, [end(0x60), end(0x5f), ApicEffect::None]);
    assert_eq!(apic.acknowledge(), 0x52);
}

#[test]
fn the_task_priority_holds_interrupts_back() {
    let mut apic = enabled();
    interrupt(&mut apic, 0x45);
    apic.write(TPR, 0x41, 0);
    assert_eq!((apic.pending(), apic.read(PPR, 0), apic.cr8()), (None, 0x41, 4));
    assert_eq!((apic.acknowledge(), apic.vectors_in_service()), (0xff, vec![]), "spurious");
    apic.set_cr8(0xf3);
    assert_eq!((apic.pending(), apic.read(TPR, 0)), (Some(Pending::Vector(0x45)), 0x30));
    assert_eq!(apic.read(0x90, 0), 0x40, "arbitration: the class of what waits");
    assert_eq!(apic.priorities(), (0x30, 0x30));
}

#[test]
fn the_end_of_a_level_triggered_interrupt_goes_to_the_ioapics() {
    let mut apic = enabled();
    apic.deliver(message(DeliveryMode::Fixed, 0x31, TriggerMode::Level));
    assert_eq!(apic.level_triggered_vectors(), [0x31]);
    assert_eq!((apic.read(0x190, 0), apic.read(0x210, 0)), (1 << 17, 1 << 17));
    apic.acknowledge();
    assert_eq!(apic.write(EOI, 0, 0), ApicEffect::Eoi { vector: 0x31, level: true });
    interrupt(&mut apic, 0x31);
    assert_eq!(apic.level_triggered_vectors(), [0_u8; 0], "the last trigger mode counts");
}

#[test]
fn events_pass_through_whatever_software_has_disabled() {
    let mut apic = LocalApic::new(1);
    let mut deliver = |mode| apic.deliver(message(mode, 0x12, TriggerMode::Edge));
    assert_eq!(deliver(DeliveryMode::Nmi), Some(CpuEvent::Nmi));
    assert_eq!(deliver(DeliveryMode::Smi), Some(CpuEvent::Smi));
    assert_eq!(deliver(DeliveryMode::Init), Some(CpuEvent::Init));
    assert_eq!(deliver(DeliveryMode::StartUp), Some(CpuEvent::StartUp(0x12)));
    assert_eq!(deliver(DeliveryMode::ExtInt), Some(CpuEvent::ExtInt));
    assert_eq!((deliver(DeliveryMode::Reserved), deliver(DeliveryMode::Fixed)), (None, None));
    assert_eq!(apic.requested_vectors(), [0_u8; 0]);
    apic.set_mode(ApicMode::Disabled);
    assert_eq!(apic.deliver(message(DeliveryMode::Nmi, 0, TriggerMode::Edge)), None);
    assert!(!apic.accepts(&message(DeliveryMode::Nmi, 0, TriggerMode::Edge)));
}

#[test]
fn disabling_by_software_masks_the_table_and_keeps_what_waits() {
    let mut apic = enabled();
    interrupt(&mut apic, 0x50);
    apic.write(LVT_TIMER, 0x40, 0);
    apic.write(SVR, 0xff, 0);
    assert_eq!(apic.read(LVT_TIMER, 0), 0x1_0040);
    apic.write(LVT_TIMER, 0x41, 0);
    assert_eq!(apic.read(LVT_TIMER, 0), 0x1_0041, "the mask stays");
    interrupt(&mut apic, 0x60);
    assert_eq!(apic.pending(), Some(Pending::Vector(0x50)));
    assert!(!apic.accepts(&message(DeliveryMode::Fixed, 0x60, TriggerMode::Edge)));
}

#[test]
fn writable_bits_of_the_local_vector_table() {
    let mut apic = enabled();
    let written = [0x320, 0x330, 0x340, 0x350, 0x360, 0x370].map(|offset| {
        apic.write(offset, u32::MAX, 0);
        apic.read(offset, 0)
    });
    assert_eq!(written, [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff]);
}

#[test]
fn messages_are_decoded_from_the_command_register() {
    let mut apic = enabled();
    apic.write(ICR_HIGH, 0x7fff_ffff, 0);
    assert_eq!(apic.read(ICR_HIGH, 0), 0x7f00_0000);
    let ApicEffect::Ipi(icr) = apic.write(ICR, 0x1000 | 0xcd41, 0) else { panic!() };
    assert_eq!(apic.read(ICR, 0), 0xcd41, "delivered at once");
    assert_eq!((icr.shorthand, icr.message.mode), (Shorthand::None, DeliveryMode::Init));
    let logical = Destination { mode: DestinationMode::Logical, id: 0x7f };
    assert_eq!((icr.message.destination, icr.message.trigger), (logical, TriggerMode::Edge));
    let de_assert = 0x8500;
    assert_eq!(apic.write(ICR, de_assert, 0), ApicEffect::None);
    let ApicEffect::Ipi(icr) = apic.write(ICR, 0xc_4400, 0) else { panic!() };
    assert!(apic.is_target(&icr, false) && !apic.is_target(&icr, true), "all but the sender");
    let ApicEffect::Ipi(icr) = apic.write(ICR, 0x8_4400, 0) else { panic!() };
    assert!(apic.is_target(&icr, false) && apic.is_target(&icr, true), "all");
    let ApicEffect::Ipi(icr) = apic.write(ICR, 0x4_4400, 0) else { panic!() };
    assert!(!apic.is_target(&icr, false) && apic.is_target(&icr, true), "itself");
    apic.write(ICR, 0x4_4045, 0);
    assert_eq!(apic.requested_vectors(), [0x45], "an interrupt for itself has no effect outside");
}

#[test]
fn illegal_vectors_and_registers_are_errors() {
    let mut apic = enabled();
    apic.write(LVT_ERROR, 0x33, 0);
    interrupt(&mut apic, 15);
    assert_eq!(
        (apic.read(ESR, 0), apic.acknowledge()),
        (0, 0x33),
        "an interrupt, and no value before a write"
    );
    assert_eq!(apic.write(ICR, 0x4_400f, 0), ApicEffect::None);
    assert_eq!(apic.read(0x40, 0), 0);
    apic.write(0x3f0, 0, 0);
    assert_eq!(apic.requested_vectors(), [0_u8; 0], "only the first error interrupts");
    assert_eq!((errors(&mut apic), errors(&mut apic)), (0b1110_0000, 0));
    apic.read(0x2f0, 0);
    assert_eq!(apic.requested_vectors(), [0x33], "armed again");
    apic.write(LVT_ERROR, 3, 0);
    apic.write(ESR, 0, 0);
    apic.read(0, 0);
    assert_eq!(errors(&mut apic), 0b1100_0000, "the error's own vector is illegal");
}

#[test]
fn lint0_leads_the_pics_to_the_processor() {
    let mut apic = LocalApic::new(0);
    apic.set_lint0(true);
    assert_eq!(apic.pending(), None, "masked after reset");
    apic.set_virtual_wire();
    assert_eq!((apic.pending(), apic.lint0_entry().mode), (Some(Pending::ExtInt), DeliveryMode::ExtInt));
    apic.write(SVR, 0x1ff, 0);
    interrupt(&mut apic, 0xf0);
    apic.write(TPR, 0xff, 0);
    assert_eq!(apic.pending(), Some(Pending::ExtInt), "priorities do not count");
    apic.set_lint0(false);
    assert_eq!(apic.pending(), None);
    apic.set_lint0(true);
    apic.write(LVT_LINT0, 1 << 16, 0);
    assert_eq!(apic.pending(), None);
    apic.set_mode(ApicMode::Disabled);
    assert_eq!(apic.pending(), Some(Pending::ExtInt), "as without an APIC");
}

#[test]
fn lint0_has_other_modes() {
    let mut apic = enabled();
    apic.write(LVT_LINT0, 0x45, 0);
    assert_eq!((apic.set_lint0(true), apic.set_lint0(true)), (None, None));
    assert_eq!(apic.acknowledge(), 0x45);
    assert_eq!(apic.pending(), None);
    apic.set_lint0(false);
    apic.write(LVT_LINT0, 0x400, 0);
    assert_eq!((apic.set_lint0(true), apic.set_lint0(true)), (Some(CpuEvent::Nmi), None));
}

#[test]
fn a_one_shot_timer_interrupts_once() {
    let mut apic = enabled();
    apic.write(DIVIDE, BY_1, 0);
    apic.write(LVT_TIMER, 0x40, 0);
    assert_eq!(apic.next_event(), None);
    apic.write(INITIAL_COUNT, 1000, 500);
    assert_eq!((apic.next_event(), apic.read(CURRENT_COUNT, 700)), (Some(1500), 800));
    apic.advance(1499);
    assert_eq!(apic.pending(), None);
    apic.advance(1500);
    assert_eq!((apic.pending(), apic.next_event()), (Some(Pending::Vector(0x40)), None));
    assert_eq!((apic.read(CURRENT_COUNT, 2000), apic.read(INITIAL_COUNT, 2000)), (0, 1000));
    apic.write(INITIAL_COUNT, 1000, 3000);
    assert_eq!(apic.next_event(), None, "another interrupt would have no effect");
    apic.acknowledge();
    assert_eq!(apic.next_event(), Some(4000));
    apic.write(INITIAL_COUNT, 0, 3500);
    assert_eq!((apic.next_event(), apic.timer_view(3500).expiry), (None, None));
}

#[test]
fn a_periodic_timer_interrupts_again_and_missed_periods_count_once() {
    let mut apic = enabled();
    apic.write(DIVIDE, BY_1, 0);
    apic.write(LVT_TIMER, PERIODIC | 0x40, 0);
    apic.write(INITIAL_COUNT, 1000, 0);
    apic.advance(u64::from(u32::MAX));
    assert_eq!(apic.acknowledge(), 0x40);
    assert_eq!(apic.next_event(), Some(4_294_968_000));
    assert_eq!((apic.read(CURRENT_COUNT, 4_294_967_296), apic.pending()), (704, None));
    apic.write(LVT_TIMER, 1 << 16 | PERIODIC | 0x40, 4_294_967_296);
    assert_eq!(apic.next_event(), None, "masked");
    apic.advance(4_294_968_500);
    assert_eq!((apic.pending(), apic.timer_view(4_294_968_500).current_count), (None, 500));
}

#[test]
fn a_deadline_fires_at_a_value_of_the_tsc() {
    let mut apic = enabled();
    let tsc = Tsc { value: 10_000, frequency: 2_000_000_000 };
    apic.set_tsc_deadline(12_000, tsc, 100);
    assert_eq!(apic.tsc_deadline(100), 0, "ignored in the other modes");
    apic.write(INITIAL_COUNT, 1000, 100);
    apic.write(LVT_TIMER, TSC_DEADLINE | 0x40, 100);
    assert_eq!((apic.read(INITIAL_COUNT, 100), apic.next_event()), (0, None), "the mode turns it off");
    apic.set_tsc_deadline(12_000, tsc, 100);
    apic.write(INITIAL_COUNT, 1000, 100);
    assert_eq!((apic.next_event(), apic.tsc_deadline(1099)), (Some(1100), 12_000));
    assert_eq!((apic.read(INITIAL_COUNT, 1099), apic.read(CURRENT_COUNT, 1099)), (0, 0));
    assert_eq!((apic.tsc_deadline(1100), apic.acknowledge()), (0, 0x40));
    apic.set_tsc_deadline(12_000, tsc, 1100);
    apic.write(LVT_TIMER, 0x40, 1100);
    assert_eq!((apic.next_event(), apic.tsc_deadline(1100)), (None, 0));
}

#[test]
fn init_keeps_number_and_mode() {
    let mut apic = x2apic();
    apic.write_msr(0x838, 77, 0).unwrap();
    interrupt(&mut apic, 0x40);
    apic.init();
    let mut expected = LocalApic::new(1);
    expected.set_mode(ApicMode::X2Apic);
    assert_eq!(apic, expected);
    let mut apic = enabled();
    apic.write(ID, 9 << 24, 0);
    apic.init();
    assert_eq!((apic.read(ID, 0), apic.read(SVR, 0)), (9 << 24, 0xff));
}

#[test]
fn modes_keep_or_reset_the_registers() {
    let mut apic = enabled();
    apic.write(TPR, 0x20, 0);
    apic.set_mode(ApicMode::XApic);
    apic.set_mode(ApicMode::X2Apic);
    assert_eq!((apic.read_msr(0x808, 0), apic.read_msr(0x802, 0)), (Ok(0x20), Ok(1)));
    assert_eq!((apic.read(TPR, 0), apic.write(TPR, 0, 0)), (u32::MAX, ApicEffect::None), "no memory");
    apic.set_mode(ApicMode::Disabled);
    assert_eq!((apic.read_msr(0x808, 0), apic.mode()), (Err(GeneralProtection), ApicMode::Disabled));
    apic.set_mode(ApicMode::XApic);
    assert_eq!(apic, LocalApic::new(1));
    assert_eq!(apic.spurious_register(), 0xff);
}

#[test]
fn x2apic_accesses_that_raise_general_protection() {
    let mut apic = x2apic();
    let before = apic.clone();
    let fails = Err(GeneralProtection);
    // Not in this mode, write-only, and outside.
    for msr in [0x800, 0x809, 0x80b, 0x80e, 0x82f, 0x831, 0x83f, 0x840, 0x8ff, 0x7ff, 0x900] {
        assert_eq!(apic.read_msr(msr, 0), fails, "{msr:#x}");
    }
    for msr in [0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x827, 0x839, 0x831, 0x80e] {
        assert_eq!(apic.write_msr(msr, 0, 0), Err(GeneralProtection), "{msr:#x}");
    }
    let reserved = [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 0x1000),
        (0x828, 1),
        (0x830, 1 << 20),
        (0x832, 1 << 19),
        (0x838, 1 << 32),
        (0x83e, 4),
        (0x83f, 0x100),
    ];
    for (msr, value) in reserved {
        assert_eq!(apic.write_msr(msr, value, 0), Err(GeneralProtection), "{msr:#x}");
    }
    assert_eq!(apic, before);
}

#[test]
fn x2apic_messages_have_a_destination_of_32_bits() {
    let mut apic = x2apic();
    let value = 0x1_2345_0000_4c40;
    let Ok(ApicEffect::Ipi(icr)) = apic.write_msr(0x830, value, 0) else { panic!() };
    let destination = Destination { mode: DestinationMode::Logical, id: 0x1_2345 };
    assert_eq!((icr.message.destination, icr.message.mode), (destination, DeliveryMode::Nmi));
    assert_eq!((apic.read_msr(0x830, 0), apic.read_msr(0x80d, 0)), (Ok(value), Ok(2)));
    assert_eq!(apic.write_msr(0x83f, 0x51, 0), Ok(ApicEffect::SelfIpi { vector: 0x51 }));
    assert_eq!((apic.acknowledge(), apic.write_msr(0x83f, 5, 0)), (0x51, Ok(ApicEffect::None)));
    apic.write_msr(0x828, 0, 0).unwrap();
    assert_eq!(apic.read_msr(0x828, 0), Ok(0x20));
}

/// Something that happens to an APIC.
#[derive(Debug, Clone)]
enum Step {
    Read(u16),
    Write(u16, u32),
    ReadMsr(u32),
    WriteMsr(u32, u64),
    Deliver(u8, bool),
    Acknowledge,
    Cr8(u8),
    Lint0(bool),
    Mode(ApicMode),
    Deadline(u64, Tsc),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let offset = prop_oneof![9 => (0u16..0x40).prop_map(|number| number * 16), 1 => any::<u16>()];
    let value = prop_oneof![any::<u32>(), 0u32..0x400, Just(0x1ff)];
    let modes = [ApicMode::XApic, ApicMode::X2Apic, ApicMode::Disabled];
    let tsc = any::<(u64, u64)>().prop_map(|(value, frequency)| Tsc { value, frequency });
    prop_oneof![
        4 => offset.clone().prop_map(Step::Read),
        8 => (offset, value).prop_map(|(offset, value)| Step::Write(offset, value)),
        2 => (0x7f0u32..0x910).prop_map(Step::ReadMsr),
        2 => (0x7f0u32..0x910, any::<u64>()).prop_map(|(msr, value)| Step::WriteMsr(msr, value)),
        4 => any::<(u8, bool)>().prop_map(|(vector, level)| Step::Deliver(vector, level)),
        2 => Just(Step::Acknowledge),
        1 => any::<u8>().prop_map(Step::Cr8),
        1 => any::<bool>().prop_map(Step::Lint0),
        1 => prop::sample::select(modes.to_vec()).prop_map(Step::Mode),
        1 => (any::<u64>(), tsc).prop_map(|(deadline, tsc)| Step::Deadline(deadline, tsc)),
        2 => (0..1u64 << 50).prop_map(Step::Wait),
    ]
}

fn apply(apic: &mut LocalApic, step: &Step, now: &mut u64) {
    match *step {
        Step::Read(offset) => {
            apic.read(offset, *now);
        }
        Step::Write(offset, value) => {
            apic.write(offset, value, *now);
        }
        Step::ReadMsr(msr) => {
            let _ = apic.read_msr(msr, *now);
        }
        Step::WriteMsr(msr, value) => {
            let _ = apic.write_msr(msr, value, *now);
        }
        Step::Deliver(vector, level) => {
            let trigger = if level { TriggerMode::Level } else { TriggerMode::Edge };
            apic.deliver(message(DeliveryMode::Fixed, vector, trigger));
        }
        Step::Acknowledge => {
            apic.acknowledge();
        }
        Step::Cr8(value) => apic.set_cr8(value),
        Step::Lint0(level) => {
            apic.set_lint0(level);
        }
        Step::Mode(mode) => apic.set_mode(mode),
        Step::Deadline(deadline, tsc) => apic.set_tsc_deadline(deadline, tsc, *now),
        Step::Wait(nanoseconds) => {
            *now = now.saturating_add(nanoseconds);
            apic.advance(*now);
        }
    }
}

proptest! {
    #[test]
    fn an_interrupt_is_taken_if_and_only_if_it_has_the_priority(steps in prop::collection::vec(step(), 1..200)) {
        let (mut apic, mut now) = (enabled(), 0);
        for step in &steps {
            apply(&mut apic, step, &mut now);
            let (requested, priority) = (apic.requested_vectors(), apic.processor_priority());
            prop_assert!(requested.iter().all(|vector| *vector >= MIN_VECTOR));
            let expected = requested.last().copied().filter(|vector| vector >> 4 > priority >> 4);
            let mut taken = apic.clone();
            let vector = taken.acknowledge();
            if let Some(expected) = expected {
                prop_assert_eq!(vector, expected);
                // It is in service with the highest priority, and nothing of its class interrupts it.
                prop_assert_eq!(taken.processor_priority() >> 4, vector >> 4);
                prop_assert_eq!(taken.in_service.highest(), Some(vector));
                let ApicEffect::Eoi { vector: ended, .. } = taken.end_of_interrupt() else { panic!() };
                prop_assert_eq!((ended, taken.processor_priority()), (vector, priority));
            } else {
                prop_assert_eq!(&taken, &apic, "spurious");
            }
            if apic.lint0 {
                continue;
            }
            prop_assert_eq!(apic.pending(), expected.map(Pending::Vector));
        }
    }

    #[test]
    fn nothing_happens_before_the_next_event_and_an_interrupt_then(steps in prop::collection::vec(step(), 1..100)) {
        let (mut apic, mut now) = (enabled(), 0);
        apic.write(LVT_TIMER, PERIODIC | 0x40, 0);
        apic.write(INITIAL_COUNT, 12345, 0);
        for step in &steps {
            apply(&mut apic, step, &mut now);
            apic.advance(now);
            let Some(then) = apic.next_event() else { continue };
            prop_assert!(then > now);
            let mut early = apic.clone();
            early.advance(then - 1);
            prop_assert_eq!(&early, &apic);
            let changed = |apic: &LocalApic| (apic.requested, apic.errors);
            early.advance(then);
            let illegal = apic.lvt.entry(Lvt::Timer).vector < MIN_VECTOR;
            prop_assert!(illegal || changed(&early) != changed(&apic));
        }
    }

    #[test]
    fn time_may_pass_in_any_parts(
        count in 1u32.., divide in 0u32..16, mode in 0u32..2, parts in prop::collection::vec(0..1u64 << 40, 1..20),
    ) {
        let mut apic = enabled();
        apic.write(DIVIDE, divide, 0);
        apic.write(LVT_TIMER, mode << 17 | 0x40, 0);
        apic.write(INITIAL_COUNT, count, 0);
        let mut at_once = apic.clone();
        let mut now = 0;
        for part in parts {
            now += part;
            apic.advance(now);
        }
        at_once.advance(now);
        prop_assert_eq!(apic, at_once);
    }

    #[test]
    fn any_restored_state_is_a_state(
        before in prop::collection::vec(step(), 1..30),
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..30),
        after in prop::collection::vec(step(), 1..50),
    ) {
        let (mut apic, mut now) = (enabled(), 0);
        before.iter().for_each(|step| apply(&mut apic, step, &mut now));
        let mut bytes = to_bytes(&apic).unwrap();
        for (index, byte) in changes {
            *index.get_mut(&mut bytes) = byte;
        }
        let Ok((mut apic, _)) = split_from_bytes::<LocalApic>(&bytes) else { return Ok(()) };
        for step in &after {
            apply(&mut apic, step, &mut now);
            apic.timer_view(now);
            apic.pending();
        }
    }

    #[test]
    fn saved_state_is_restored(steps in prop::collection::vec(step(), 1..50)) {
        let (mut apic, mut now) = (enabled(), 0);
        steps.iter().for_each(|step| apply(&mut apic, step, &mut now));
        prop_assert_eq!(from_bytes::<LocalApic>(&to_bytes(&apic).unwrap()), Ok(apic));
    }
}
