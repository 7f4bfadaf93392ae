//! Reasons why an interrupt is not delivered.

use super::machine::{SECOND, init_pics, start_pit};
use crate::devices::irqchip::status::InterruptObstacle::{self, *};
use crate::devices::irqchip::{InterruptSource, Irqchip};

/// Returns what waits for the first vCPU, whose RFLAGS.IF is `interrupts`: vector, source, obstacles.
fn waiting(
    irqchip: &Irqchip,
    interrupts: bool,
) -> Option<(Option<u8>, Option<InterruptSource>, Vec<InterruptObstacle>)> {
    let waiting = irqchip.status(0, interrupts).expect("there is a vCPU").waiting?;
    Some((waiting.vector, waiting.source, waiting.obstacles))
}

fn self_ipi(irqchip: &mut Irqchip, vector: u32) {
    irqchip.write_apic(0, 0x300, 0x4_0000 | vector);
}

/// Creates a local APIC that is enabled by software.
fn apic() -> Irqchip {
    let mut irqchip = Irqchip::new(1, false);
    irqchip.write_apic(0, 0xf0, 0x1ff);
    irqchip
}

#[test]
fn an_interrupt_waits_for_if_for_the_end_of_another_one_and_for_the_task_priority() {
    let mut irqchip = apic();
    self_ipi(&mut irqchip, 0x40);
    assert_eq!(waiting(&irqchip, true), None, "it is delivered");
    let source = Some(InterruptSource::Ipi(0));
    assert_eq!(waiting(&irqchip, false), Some((Some(0x40), source, vec![InterruptsDisabled])));
    assert!(irqchip.acknowledge(0).is_some());
    self_ipi(&mut irqchip, 0x31);
    let in_service = InService { vector: 0x40 };
    assert_eq!(waiting(&irqchip, true), Some((Some(0x31), source, vec![in_service])));
    irqchip.write_apic(0, 0x80, 0x30);
    let both = vec![in_service, TaskPriority { priority: 0x30 }];
    assert_eq!(waiting(&irqchip, true), Some((Some(0x31), source, both)));
    // The end of the first one leaves the task priority.
    irqchip.write_apic(0, 0xb0, 0);
    let priority = vec![TaskPriority { priority: 0x30 }];
    assert_eq!(waiting(&irqchip, true), Some((Some(0x31), source, priority)));
    irqchip.write_apic(0, 0x80, 0x20);
    assert_eq!(waiting(&irqchip, true), None);
    // A higher one is delivered in any case.
    irqchip.write_apic(0, 0x80, 0x30);
    self_ipi(&mut irqchip, 0x50);
    assert_eq!(waiting(&irqchip, true), None);
}

#[test]
fn a_timer_is_told_if_it_cannot_interrupt() {
    let cases = [
        ("disabled by software", 0xff, 0x40, Some(ApicDisabled)),
        ("masked", 0x1ff, 0x1_0040, Some(TimerMasked)),
        ("a vector of an exception", 0x1ff, 0x05, Some(IllegalVector)),
        ("armed", 0x1ff, 0x40, None),
    ];
    for (name, spurious, entry, expected) in cases {
        let mut irqchip = Irqchip::new(1, false);
        irqchip.write_apic(0, 0xf0, spurious);
        irqchip.write_apic(0, 0x320, entry);
        assert_eq!(waiting(&irqchip, true), None, "{name}: nothing is set up");
        irqchip.write_apic(0, 0x380, 1000);
        let found = waiting(&irqchip, true).map(|(_, source, obstacles)| (source, obstacles));
        let expected = expected.map(|obstacle| (Some(InterruptSource::ApicTimer), vec![obstacle]));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_timer_that_has_counted_down_once_is_told() {
    let mut irqchip = apic();
    irqchip.write_apic(0, 0x320, 0x40);
    irqchip.write_apic(0, 0x380, 1000);
    irqchip.advance(SECOND);
    assert_eq!(irqchip.acknowledge(0).map(|interrupt| interrupt.vector), Some(0x40));
    irqchip.write_apic(0, 0xb0, 0);
    let expired = Some((Some(0x40), Some(InterruptSource::ApicTimer), vec![TimerExpired]));
    assert_eq!(waiting(&irqchip, true), expired);
    assert_eq!(waiting(&irqchip, false), None, "it is not what the vCPU waits for");
}

#[test]
fn an_input_of_the_pics_waits_behind_one_in_service_a_mask_or_if() {
    let mut irqchip = Irqchip::new(1, true);
    init_pics(&mut irqchip);
    start_pit(&mut irqchip, 1000);
    irqchip.advance(SECOND);
    let pit = |obstacle| Some((Some(0x20), Some(InterruptSource::Pit), vec![obstacle]));
    assert_eq!(waiting(&irqchip, true), None);
    assert_eq!(waiting(&irqchip, false), pit(InterruptsDisabled));
    assert!(irqchip.acknowledge(0).is_some());
    irqchip.advance(2 * SECOND);
    assert_eq!(waiting(&irqchip, true), pit(InServiceAtPic { input: 0 }));
    // An end for another input.
    irqchip.write_port(0x20, 0x61);
    assert_eq!(waiting(&irqchip, true), pit(InServiceAtPic { input: 0 }));
    irqchip.write_port(0x20, 0x60);
    assert_eq!(waiting(&irqchip, true), None);
    irqchip.write_port(0x21, 0xff);
    let masked = Some((None, Some(InterruptSource::Pit), vec![Masked { input: 0 }]));
    assert_eq!(waiting(&irqchip, true), masked);
    irqchip.write_port(0x21, 0xfe);
    irqchip.write_apic(0, 0xf0, 0x1ff);
    irqchip.write_apic(0, 0x350, 0x1_0700);
    assert_eq!(waiting(&irqchip, true), pit(Lint0Masked));
}

#[test]
fn an_input_of_the_slave_waits_behind_the_cascade() {
    let mut irqchip = Irqchip::new(1, true);
    init_pics(&mut irqchip);
    irqchip.write_port(0xa1, 0xfe);
    let clock = |obstacle| Some((Some(0x28), Some(InterruptSource::Line(8)), vec![obstacle]));
    irqchip.set_line(8, true);
    assert_eq!(waiting(&irqchip, true), clock(CascadeMasked));
    irqchip.write_port(0x21, 0xfb);
    assert_eq!(waiting(&irqchip, true), None);
    assert!(irqchip.acknowledge(0).is_some());
    // Ended at the master alone.
    irqchip.write_port(0x20, 0x20);
    irqchip.set_line(8, false);
    irqchip.set_line(8, true);
    assert_eq!(waiting(&irqchip, true), clock(InServiceAtPic { input: 8 }));
    irqchip.write_port(0xa0, 0x20);
    assert_eq!(waiting(&irqchip, true), None);
    assert!(irqchip.acknowledge(0).is_some());
    irqchip.write_port(0xa0, 0x20);
    // Ended at the slave alone.
    irqchip.set_line(8, false);
    irqchip.set_line(8, true);
    assert_eq!(waiting(&irqchip, true), clock(InServiceAtPic { input: 2 }));
}

#[test]
fn what_alone_could_interrupt_is_told() {
    let mut irqchip = Irqchip::new(1, true);
    irqchip.init_pics(0x20, 0x28);
    irqchip.write_port(0x21, 0xfb);
    irqchip.write_port(0xa1, 0xfe);
    let possible = |irqchip: &Irqchip| irqchip.status(0, true).expect("there is a vCPU").possible;
    assert_eq!(possible(&irqchip), [InterruptSource::Line(8)]);
    irqchip.write_port(0x21, 0xfe);
    assert_eq!(possible(&irqchip), [], "the timer will interrupt");
}

#[test]
fn a_message_to_nobody_is_kept() {
    let mut irqchip = Irqchip::new(2, false);
    let lost = |irqchip: &Irqchip| irqchip.status(0, true).expect("there are two").lost_ipi;
    irqchip.write_apic(1, 0xf0, 0x1ff);
    for (destination, expected) in [(1, None), (7, Some((0x51, 7))), (1, Some((0x51, 7)))] {
        irqchip.write_apic(0, 0x310, destination << 24);
        irqchip.write_apic(0, 0x300, 0x51);
        assert_eq!(lost(&irqchip), expected, "to {destination}");
    }
    let status = irqchip.status(1, false).expect("there are two");
    let waiting = status.waiting.expect("it takes none");
    assert_eq!((waiting.vector, waiting.source), (Some(0x51), Some(InterruptSource::Ipi(0))));
}
