//! The controllers of a machine together: timer to PIC to local APIC, messages between local APICs, what can wake a machine.

use crate::devices::irqchip::processor::{Activity, Start};
use crate::devices::irqchip::{InterruptSource, Irqchip};

/// Frequency of the 8254 in Hz.
const PIT_FREQUENCY: u64 = 1_193_182;
pub(super) const SECOND: u64 = 1_000_000_000;

/// Initializes the PICs with vectors 0x20 and 0x28, all inputs but the timer's masked.
pub(super) fn init_pics(irqchip: &mut Irqchip) {
    irqchip.init_pics(0x20, 0x28);
    irqchip.write_port(0x21, 0xfe);
    irqchip.write_port(0xa1, 0xff);
}

/// Starts the 8254 in mode 2 with this count.
pub(super) fn start_pit(irqchip: &mut Irqchip, count: u16) {
    irqchip.write_port(0x43, 0x34);
    for byte in count.to_le_bytes() {
        irqchip.write_port(0x40, byte);
    }
}

/// Takes an interrupt, and ends it at the master PIC.
fn take(irqchip: &mut Irqchip) -> Option<(u8, Option<InterruptSource>)> {
    let interrupt = irqchip.acknowledge(0)?;
    irqchip.write_port(0x20, 0x20);
    Some((interrupt.vector, interrupt.source))
}

#[test]
fn the_timer_interrupts_through_the_pics_at_its_rate() {
    let mut irqchip = Irqchip::new(1, true);
    init_pics(&mut irqchip);
    start_pit(&mut irqchip, 11_932);
    let (mut interrupts, mut now) = (0, 0);
    while let Some(next) = irqchip.next_event().filter(|next| *next <= SECOND) {
        assert!(next > now);
        now = next;
        irqchip.advance(now);
        if let Some(taken) = take(&mut irqchip) {
            assert_eq!(taken, (0x20, Some(InterruptSource::Pit)));
            interrupts += 1;
        }
    }
    assert_eq!(interrupts, PIT_FREQUENCY / 11_932);
}

#[test]
fn edges_that_a_guest_was_too_slow_for_are_one_interrupt() {
    let mut irqchip = Irqchip::new(1, true);
    init_pics(&mut irqchip);
    start_pit(&mut irqchip, 1000);
    irqchip.advance(SECOND);
    assert!(take(&mut irqchip).is_some());
    assert_eq!(take(&mut irqchip), None);
}

#[test]
fn a_masked_timer_wakes_nobody() {
    let mut irqchip = Irqchip::new(1, true);
    assert!(irqchip.next_event().is_none() && !irqchip.has_unmasked_input(), "as after power-on");
    init_pics(&mut irqchip);
    assert!(irqchip.next_event().is_some() && !irqchip.has_unmasked_input());
    irqchip.write_port(0x21, 0xef);
    assert!(irqchip.next_event().is_none() && irqchip.has_unmasked_input());
}

#[test]
fn a_line_of_a_device_reaches_the_processor_that_the_ioapic_names() {
    let mut irqchip = Irqchip::new(2, true);
    irqchip.write_apic(1, 0xf0, 0x1ff);
    // Input 4: vector 0x41 to APIC 1, an edge.
    for (register, value) in [(0x18, 0x41), (0x19, 1 << 24)] {
        irqchip.write_ioapic(0x00, register);
        irqchip.write_ioapic(0x10, value);
    }
    irqchip.set_line(4, true);
    irqchip.set_line(4, false);
    assert!(irqchip.acknowledge(0).is_none());
    let interrupt = irqchip.acknowledge(1).expect("it was delivered");
    assert_eq!((interrupt.vector, interrupt.source), (0x41, Some(InterruptSource::Line(4))));
    assert_eq!(irqchip.in_service(1), Some(0x41));
    irqchip.write_apic(1, 0xb0, 0);
    assert_eq!(irqchip.in_service(1), None);
}

#[test]
fn a_processor_starts_by_init_and_sipi() {
    let mut irqchip = Irqchip::new(2, false);
    let activity = |irqchip: &Irqchip| irqchip.processor(1).expect("there are two").activity();
    assert_eq!(activity(&irqchip), Activity::WaitForInit);
    // A SIPI before INIT has no effect.
    for (command, expected) in
        [(0xc_4608, Activity::WaitForInit), (0xc_4500, Activity::WaitForSipi), (0xc_4608, Activity::Active)]
    {
        assert!(!irqchip.is_runnable(1));
        irqchip.write_apic(0, 0x300, command);
        assert_eq!(activity(&irqchip), expected, "{command:#x}");
    }
    assert_eq!(irqchip.processor_mut(1).expect("there are two").take_start(), Some(Start::Page(8)));
    assert_eq!(irqchip.processor_mut(1).expect("there are two").take_start(), None);
    // The second SIPI that kernels send.
    irqchip.write_apic(0, 0x300, 0xc_4608);
    assert_eq!(irqchip.processor_mut(1).expect("there are two").take_start(), None);
}

#[test]
fn a_halted_processor_is_woken_by_an_interrupt_only_if_it_takes_one() {
    let mut irqchip = Irqchip::new(1, false);
    irqchip.write_apic(0, 0xf0, 0x1ff);
    for (interrupts, is_woken) in [(false, false), (true, true)] {
        irqchip.processor_mut(0).expect("there is one").halt(interrupts);
        assert!(!irqchip.is_runnable(0) || irqchip.pending(0).is_some());
        // A self-IPI with vector 0x30.
        irqchip.write_apic(0, 0x300, 0x4_0030);
        assert_eq!(irqchip.is_runnable(0), is_woken);
    }
    // An NMI in any case.
    irqchip.processor_mut(0).expect("there is one").halt(false);
    irqchip.write_apic(0, 0x300, 0x4_0400);
    assert!(irqchip.is_runnable(0));
}

#[test]
fn a_reset_goes_on_in_time() {
    let mut irqchip = Irqchip::new(1, true);
    init_pics(&mut irqchip);
    irqchip.advance(SECOND);
    irqchip.reset();
    assert_eq!((irqchip.now(), irqchip.next_event()), (SECOND, None));
}
