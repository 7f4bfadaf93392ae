//! Registers: discovery, agreement, what cannot be changed, and checkpoints.

use super::super::entropy::VirtioEntropy;
use super::driver::{Driver, LIVE, VERSION_1, WRITE, rings};
use crate::devices::device::{Device, InputStatus};

#[test]
fn a_driver_finds_what_it_looks_for() {
    let mut driver = Driver::new(VirtioEntropy);
    assert_eq!(driver.get(0x000).to_le_bytes(), *b"virt");
    assert_eq!(driver.get(0x004), 2);
    assert_eq!(driver.get(0x008), 4);
    assert_eq!(driver.device.length(), 0x200);
    driver.set(0x030, 0);
    assert_eq!(driver.get(0x034), 64);
    for none in [1, 2, u32::MAX] {
        driver.set(0x030, none);
        assert_eq!((driver.get(0x034), driver.get(0x044)), (0, 0));
    }
    assert_eq!(driver.get(0x0b0), u32::MAX, "no shared memory");
    for nothing in [0x00c + 0x10, 0x028, 0x040, 0x0fc, 0x100, 0x1fc] {
        assert_eq!(driver.get(nothing), 0, "{nothing:#x}");
    }
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    for (features, agreed) in [
        (VERSION_1, true),
        (VERSION_1 | 1 << 28, true),
        (1 << 28, false),
        (0, false),
        (VERSION_1 | 1 << 34, false),
    ] {
        let mut driver = Driver::new(VirtioEntropy);
        driver.set(0x070, 3);
        driver.accept(features);
        driver.set(0x070, 3 | 8);
        assert_eq!(driver.get(0x070) & 8 != 0, agreed, "{features:#x}");
        driver.set(0x070, LIVE);
        assert_eq!(driver.get(0x070) & 4 != 0, agreed, "not live without agreement");
        // What was agreed on stays.
        driver.accept(1 << 40);
        driver.set(0x070, LIVE);
        assert_eq!(driver.get(0x070) & 8 != 0, agreed);
    }
}

#[test]
fn only_aligned_words_reach_the_registers() {
    let mut driver = Driver::new(VirtioEntropy);
    for (offset, data) in
        [(0x070, &[1][..]), (0x070, &[1; 2]), (0x070, &[1; 8]), (0x06f, &[1; 4]), (0x071, &[1; 4])]
    {
        driver.write(offset, data);
        assert_eq!(driver.get(0x070), 0);
    }
    for (offset, length) in [(0, 1), (0, 2), (0, 8), (1, 4), (0x1ff, 8)] {
        let mut data = vec![0xff; length];
        driver.read(offset, &mut data);
        assert_eq!(data, vec![0; length]);
    }
}

#[test]
fn a_queue_in_service_is_not_moved() {
    let mut driver = Driver::started(VirtioEntropy);
    driver.place(0, 4, [0x9000, 0xa000, 0xb000]);
    driver.set(0x044, 1);
    driver.send(0, &[(0x4_0000, 16, WRITE)]);
    assert_eq!(driver.used(0), [(0, 16)], "still where it was");
}

#[test]
fn a_driver_that_looks_for_itself_is_not_interrupted() {
    let mut driver = Driver::started(VirtioEntropy);
    driver.send(0, &[(0x4_0000, 16, WRITE)]);
    assert_eq!((driver.pulses(), driver.get(0x060)), (1, 1));
    driver.set(0x064, 1);
    assert_eq!(driver.get(0x060), 0);
    driver.put(rings(0)[1], &[1, 0]);
    driver.send(0, &[(0x4_0000, 16, WRITE)]);
    assert_eq!((driver.used(0).len(), driver.pulses(), driver.get(0x060)), (2, 1, 0));
}

#[test]
fn a_checkpoint_goes_on_where_it_was_taken() {
    let mut driver = Driver::started(VirtioEntropy);
    driver.send(0, &[(0x4_0000, 16, WRITE)]);
    let state = driver.device.save().unwrap();
    let mut other = Driver::new(VirtioEntropy);
    other.device.restore(&state).unwrap();
    assert_eq!(other.device.save().unwrap(), state);
    assert_eq!((other.get(0x070), other.get(0x060)), (LIVE, 1));
    // The rings belong to the memory, which a checkpoint holds as well.
    driver.send(0, &[(0x4_0000, 8, WRITE)]);
    let lower = driver.bytes(0, 0x1_0000);
    other.put(0, &lower);
    other.put(rings(0)[2] + 2, &[1, 0]);
    other.notify(0);
    assert_eq!(other.used(0), [(0, 16), (1, 8)]);

    for damaged in [&state[..state.len() - 8], &[], &[0xff; 17 * 8]] {
        let before = other.device.save().unwrap();
        assert!(other.device.restore(damaged).is_err());
        assert_eq!(other.device.save().unwrap(), before);
    }
}

#[test]
fn an_error_of_the_driver_is_not_told_after_the_state_was_restored() {
    let mut driver = Driver::started(VirtioEntropy);
    let state = driver.device.save().unwrap();
    driver.publish(0, 8);
    driver.notify(0);
    assert!(driver.device.driver_error().is_some());
    driver.device.restore(&state).unwrap();
    assert_eq!((driver.device.driver_error(), driver.get(0x070)), (None, LIVE));
}

#[test]
fn without_input_there_is_nothing_to_receive() {
    let mut driver = Driver::started(VirtioEntropy);
    assert_eq!(driver.device.poll_input().unwrap(), InputStatus::Closed);
}
