//! Modes and commands, as the data sheet of the 8259A describes them.

use super::super::{CASCADE, PicRegisters};
use super::*;

#[test]
fn the_order_of_inputs_is_that_of_priorities() {
    let mut pics = pics();
    pulse(&mut pics, &[7, 3, 5]);
    assert_eq!((pics.read(0x20), vectors(&mut pics)), (0b1010_1000, vec![MASTER + 3]));
    pulse(&mut pics, &[1, 4]);
    assert_eq!(vectors(&mut pics), [MASTER + 1], "4 is lower than 3");
    write(&mut pics, &[(0x20, 0x0b)]);
    assert_eq!(pics.read(0x20), 0b0000_1010);
    write(&mut pics, &[(0x20, 0x20)]);
    assert_eq!((pics.read(0x20), pics.intr()), (0b0000_1000, false), "the highest in service has ended");
    write(&mut pics, &[(0x20, 0x20)]);
    assert_eq!(vectors(&mut pics), [MASTER + 4]);
}

#[test]
fn the_slave_requests_over_input_2() {
    let mut pics = pics();
    pulse(&mut pics, &[12, 3, 9]);
    assert_eq!((pics.read(0x20), pics.read(0xa0)), (0b0000_1100, 0b0001_0010));
    assert_eq!(vectors(&mut pics), [SLAVE + 1]);
    write(&mut pics, &[(0xa0, 0x20)]);
    assert!(!pics.intr(), "the master has the slave in service");
    write(&mut pics, &[(0x20, 0x20)]);
    assert_eq!(vectors(&mut pics), [SLAVE + 4]);
    write(&mut pics, &[(0xa0, 0x20), (0x20, 0x20)]);
    assert_eq!(vectors(&mut pics), [MASTER + 3]);
}

#[test]
fn an_edge_is_one_interrupt_and_a_level_as_many_as_it_lasts() {
    let mut pics = pics();
    pics.write(0x4d0, 0xff);
    pics.write(0x4d1, 0xff);
    assert_eq!((pics.read(0x4d0), pics.read(0x4d1)), (0xf8, 0xde), "some inputs cannot");
    for (irq, vector, level) in [(1, MASTER + 1, false), (5, MASTER + 5, true), (11, SLAVE + 3, true)] {
        let eoi = [(0xa0, 0x20), (0x20, 0x20)];
        pics.set_input(irq, true);
        pics.set_input(irq, true);
        assert_eq!(vectors(&mut pics), [vector]);
        write(&mut pics, &eoi);
        assert_eq!(pics.intr(), level);
        pics.set_input(irq, false);
        assert!(!pics.intr());
        pics.set_input(irq, true);
        assert_eq!(vectors(&mut pics), [vector]);
        pics.set_input(irq, false);
        write(&mut pics, &eoi);
    }
    pics.set_input(5, true);
    pics.write(0x4d0, 0);
    assert!(!pics.intr(), "a level is no edge");
}

#[test]
fn masked_inputs_are_remembered() {
    let mut pics = pics();
    pics.write(0x21, 0xff);
    pulse(&mut pics, &[4, 14]);
    assert_eq!((pics.intr(), pics.read(0x21), pics.read(0x20)), (false, 0xff, 0b0001_0100));
    pics.write(0x21, 0xeb);
    assert_eq!(vectors(&mut pics), [SLAVE + 6], "the slave's is higher");
    pics.write(0xa1, 0xff);
    pulse(&mut pics, &[8]);
    write(&mut pics, &[(0xa0, 0x20), (0x20, 0x20)]);
    assert_eq!(vectors(&mut pics), [MASTER + 4]);
}

#[test]
fn without_a_request_the_answer_is_input_7_and_nothing_is_in_service() {
    let mut pics = pics();
    assert_eq!(pics.acknowledge(), MASTER + 7);
    assert_eq!(pics.registers()[0].isr, 0);
    // A state that only a changed snapshot has: the request of a slave that has none.
    pics.master.requests = 1 << CASCADE;
    assert_eq!(pics.acknowledge(), SLAVE + 7);
    assert_eq!(pics.registers().map(|chip| chip.isr), [1 << CASCADE, 0]);
}

#[test]
fn a_request_of_the_slave_ends_with_its_mask_or_its_level() {
    let mut pics = pics();
    pulse(&mut pics, &[10]);
    assert!(pics.intr());
    pics.write(0xa1, 0x04);
    assert_eq!((pics.intr(), pics.read(0x20)), (false, 0));
    pics.write(0xa1, 0);
    assert!(pics.intr());
    pics.write(0x4d1, 0x04);
    assert!(!pics.intr(), "the edge is forgotten");
    pics.set_input(10, true);
    assert!(pics.intr());
    pics.set_input(10, false);
    assert!(!pics.intr());
}

#[test]
fn eois_end_what_they_name() {
    let mut pics = pics();
    pulse(&mut pics, &[6]);
    vectors(&mut pics);
    pulse(&mut pics, &[3]);
    vectors(&mut pics);
    let isr = |pics: &PicPair| pics.registers()[0].isr;
    write(&mut pics, &[(0x20, 0x66)]);
    assert_eq!(isr(&pics), 1 << 3, "specific: 6");
    write(&mut pics, &[(0x20, 0x40), (0x20, 0x64)]);
    assert_eq!(isr(&pics), 1 << 3, "no operation, and 4 is not in service");
    write(&mut pics, &[(0x20, 0x20), (0x20, 0x20)]);
    assert_eq!(isr(&pics), 0);
}

#[test]
fn rotation_makes_an_input_the_lowest() {
    let mut pics = pics();
    pics.write(0x20, 0xc4);
    pulse(&mut pics, &[0, 4, 5]);
    assert_eq!(vectors(&mut pics), [MASTER + 5], "set priority: 4 is the lowest");
    write(&mut pics, &[(0x20, 0xa0)]);
    pulse(&mut pics, &[5, 6]);
    assert_eq!(vectors(&mut pics), [MASTER + 6], "non-specific EOI with rotation: 5 is the lowest");
    write(&mut pics, &[(0x20, 0xe7)]);
    assert_eq!(pics.registers()[0].isr, 1 << 6, "specific EOI with rotation: 7 is the lowest");
    assert_eq!(vectors(&mut pics), [MASTER]);
    write(&mut pics, &[(0x20, 0x60), (0x20, 0x66)]);
    assert_eq!(vectors(&mut pics), [MASTER + 4]);
    write(&mut pics, &[(0x20, 0xa0), (0x20, 0xa0)]);
    assert_eq!(vectors(&mut pics), [MASTER + 5], "without a service nothing rotates");
}

#[test]
fn with_automatic_eoi_nothing_is_in_service() {
    let mut pics = PicPair::new();
    write(&mut pics, &init(3, 3));
    pulse(&mut pics, &[0, 1, 8, 15]);
    assert_eq!(vectors(&mut pics), [MASTER, MASTER + 1, SLAVE, SLAVE + 7]);
    assert_eq!(pics.registers().map(|chip| chip.isr), [0, 0]);
    pics.write(0x20, 0x80);
    pulse(&mut pics, &[3]);
    assert_eq!(vectors(&mut pics), [MASTER + 3]);
    pulse(&mut pics, &[3, 4]);
    assert_eq!(vectors(&mut pics), [MASTER + 4, MASTER + 3], "it rotates");
    pics.write(0x20, 0x00);
    pulse(&mut pics, &[3, 4]);
    assert_eq!(vectors(&mut pics), [MASTER + 4, MASTER + 3], "the order stays: 3 is the lowest");
}

#[test]
fn in_the_special_mask_mode_masked_services_block_nothing() {
    let mut pics = pics();
    pulse(&mut pics, &[3]);
    vectors(&mut pics);
    pulse(&mut pics, &[6]);
    assert!(!pics.intr());
    write(&mut pics, &[(0x21, 0x08), (0x20, 0x68)]);
    assert_eq!(vectors(&mut pics), [MASTER + 6]);
    pics.write(0x20, 0x20);
    assert_eq!(pics.registers()[0].isr, 1 << 3, "a non-specific EOI does not end a masked one");
    pics.write(0x20, 0x20);
    assert_eq!(pics.registers()[0].isr, 1 << 3);
    pulse(&mut pics, &[7]);
    pics.write(0x20, 0x08);
    assert!(pics.intr(), "bit 6 is clear: the mode stays");
    pics.write(0x20, 0x48);
    assert!(!pics.intr());
}

#[test]
fn in_the_special_fully_nested_mode_a_slave_interrupts_itself() {
    for (icw4, expected) in [(0x01, vec![]), (0x11, vec![SLAVE + 1])] {
        let mut pics = PicPair::new();
        write(&mut pics, &init(icw4, icw4));
        pulse(&mut pics, &[12]);
        assert_eq!(vectors(&mut pics), [SLAVE + 4]);
        pulse(&mut pics, &[5, 13, 10]);
        pics.write(0xa1, 0x04);
        assert!(!pics.intr(), "5 and 13 are lower, and 10 is masked");
        pulse(&mut pics, &[9]);
        assert_eq!(vectors(&mut pics), expected);
    }
}

#[test]
fn a_poll_acknowledges() {
    let mut pics = pics();
    pulse(&mut pics, &[4, 11]);
    pics.write(0x20, 0x0c);
    assert_eq!(pics.read(0x20), 0x82);
    assert_eq!(pics.registers()[0].isr, 1 << 2);
    pics.write(0xa0, 0x0f);
    assert_eq!(pics.read(0xa1), 0x83, "at either port, and before a selected register");
    assert_eq!((pics.read(0xa0), pics.read(0xa1)), (1 << 3, 0), "then it is over");
    pics.write(0x20, 0x0c);
    assert_eq!(pics.read(0x20), 0x07, "none: 4 is lower than 2");
    pics.write(0x20, 0x20);
    pics.write(0x20, 0x0c);
    assert_eq!(pics.read(0x20), 0x84);
}

#[test]
fn initialization_forgets_what_was_before() {
    let mut pics = pics();
    pulse(&mut pics, &[1]);
    vectors(&mut pics);
    pulse(&mut pics, &[0, 3]);
    pics.set_input(4, true);
    write(&mut pics, &[(0x20, 0xc3), (0x20, 0x0b), (0x20, 0x68), (0x21, 0x5a), (0x20, 0x0c)]);
    pics.write(0x20, 0x11);
    assert!(!pics.intr(), "the sequence has begun");
    write(&mut pics, &[(0x21, 0x47), (0x21, 0x04), (0x21, 0x01)]);
    let expected = PicRegisters { irr: 0, isr: 0, imr: 0, vector_base: Some(0x40) };
    assert_eq!(pics.registers()[0], expected);
    pics.set_input(4, true);
    assert_eq!(pics.read(0x20), 0, "IRR is selected, there is no poll, and input 4 did not rise");
    pulse(&mut pics, &[0, 4]);
    pulse(&mut pics, &[4]);
    assert_eq!(vectors(&mut pics), [0x40], "the fully nested mode");
    pics.write(0x20, 0x20);
    assert_eq!(vectors(&mut pics), [0x44]);
}

#[test]
fn icw1_decides_which_words_follow() {
    // Without ICW4, which had set AEOI before.
    let mut pics = PicPair::new();
    write(&mut pics, &init(0x13, 0x13));
    write(&mut pics, &[(0x20, 0x10), (0x21, 0x50), (0x21, 0x04), (0x21, 0xfe)]);
    pulse(&mut pics, &[0]);
    assert_eq!((pics.read(0x21), vectors(&mut pics)), (0xfe, vec![0x50]));
    assert_eq!(pics.registers()[0].isr, 1);
    // Alone, without ICW3: input 2 is one as the others.
    write(&mut pics, &[(0x20, 0x12), (0x21, 0x60), (0x21, 0x02)]);
    pulse(&mut pics, &[8]);
    assert_eq!((pics.read(0x21), vectors(&mut pics)), (0x02, vec![0x62]));
    assert_eq!(pics.registers()[1].isr, 0);
    write(&mut pics, &[(0x20, 0x13), (0x21, 0x60), (0x21, 0x03), (0x21, 0xf0)]);
    pulse(&mut pics, &[1]);
    assert_eq!((vectors(&mut pics), pics.registers()[0].isr), (vec![0x61], 0));
}

#[test]
fn nothing_is_requested_before_initialization() {
    let mut pics = PicPair::new();
    pics.write(0x21, 0xf0);
    pulse(&mut pics, &[0, 8]);
    assert_eq!((pics.intr(), pics.read(0x21), pics.read(0x20)), (false, 0xf0, 1));
    assert_eq!(pics.registers().map(|chip| chip.vector_base), [None, None]);
    assert_eq!(pics.acknowledge(), 7);
    assert_eq!((pics.read(0x22), pics.read(0)), (0xff, 0xff));
}
