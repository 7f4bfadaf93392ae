//! Drivers that break the rules of the queues. The device says so and goes quiet: no panic, no endless loop, and no write
//! where the guest itself could not.

use super::super::entropy::VirtioEntropy;
use super::driver::{
    BEYOND_HOLE, Driver, INDIRECT, MEMORY_END, NEEDS_RESET, NEXT, READ_ONLY, READ_ONLY_SIZE, VERSION_1,
    WRITE, rings,
};
use vm_memory::{Bytes, GuestAddress};

/// A queue that cannot be; the device may be live already or not.
#[track_caller]
fn refuses_queue(size: u32, rings: [u64; 3], problem: &str) {
    let mut driver = Driver::new(VirtioEntropy);
    driver.set(0x070, 3);
    driver.accept(VERSION_1);
    driver.set(0x070, 3 | 8);
    driver.place(0, size, rings);
    driver.set(0x044, 1);
    assert_eq!((driver.get(0x044), driver.pulses()), (0, 0), "no interrupt before DRIVER_OK");
    driver.assert_broken(&format!("queue 0 {problem}"));
}

#[test]
fn queues_of_impossible_sizes() {
    let good = rings(0);
    for size in [0, 3, 7, 9, 63, 128, 0x8000, 0xffff] {
        refuses_queue(size, good, "has a size that is no power of two, or too large");
    }
    for size in [0x1_0000, 0x1_0008, u32::MAX] {
        refuses_queue(size, good, "has an impossible size");
    }
}

#[test]
fn rings_out_of_reach() {
    let [table, available, used] = rings(0);
    for misaligned in
        [[table + 8, available, used], [table, available + 1, used], [table, available, used + 2]]
    {
        refuses_queue(8, misaligned, "has a misaligned ring");
    }
    let outside = "has a ring that is not in memory, or not writable";
    for address in [MEMORY_END - 16, MEMORY_END, BEYOND_HOLE - 16, 0xd000_0000, 1 << 62, !0xf] {
        for position in 0..3 {
            let mut rings = [table, available, used];
            rings[position] = address;
            refuses_queue(8, rings, outside);
        }
    }
    refuses_queue(8, [table, 0, used], outside);
    refuses_queue(8, [table, available, READ_ONLY], outside);
    refuses_queue(8, [table, available, READ_ONLY - 64], outside);
}

#[test]
fn rings_that_overlap() {
    let [table, available, used] = rings(0);
    let overlaps = "has rings that overlap";
    refuses_queue(8, [table, table, used], overlaps);
    refuses_queue(8, [table, available, table + 124], overlaps);
    refuses_queue(8, [table, used + 66, used], overlaps);
    let mut driver = Driver::new(VirtioEntropy);
    driver.place(0, 8, [table, table + 128, table + 128 + 20]);
    driver.set(0x044, 1);
    assert_eq!(driver.get(0x044), 1, "close, but apart");
}

#[test]
fn rings_in_read_only_memory_are_read() {
    let mut driver = Driver::new(VirtioEntropy);
    driver.set(0x070, 3);
    driver.accept(VERSION_1);
    driver.place(0, 8, [READ_ONLY, READ_ONLY + 0x1000, 0x3000]);
    driver.set(0x044, 1);
    driver.set(0x070, 15);
    // The guest could not have put this there, but a file could.
    driver.descriptor(READ_ONLY, 0, 0x4_0000, 8, WRITE, 0);
    driver.put(READ_ONLY + 0x1000, &[0, 0, 1, 0, 0, 0]);
    driver.notify(0);
    assert_eq!(driver.used(0), [(0, 8)]);
}

#[test]
fn a_head_outside_of_the_table() {
    for head in [8, 9, u16::MAX] {
        let mut driver = Driver::started(VirtioEntropy);
        driver.publish(0, head);
        driver.notify(0);
        driver.assert_broken(&format!("a chain begins at descriptor {head}, which the queue does not have"));
    }
}

#[test]
fn chains_without_end() {
    let broken = "the chain of descriptor 0 does not end, or leaves its table";
    let [table, ..] = rings(0);
    // To itself, in a circle, out of the table.
    for nexts in [vec![0], vec![1, 0], vec![1, 2, 3, 4, 5, 6, 7, 0], vec![1, 8], vec![u16::MAX]] {
        let mut driver = Driver::started(VirtioEntropy);
        for (index, next) in (0..).zip(&nexts) {
            driver.descriptor(table, index, 0x4_0000, 8, WRITE | NEXT, *next);
        }
        driver.publish(0, 0);
        driver.notify(0);
        assert_eq!((driver.used(0).len(), driver.bytes(0x4_0000, 8)), (0, vec![0; 8]));
        driver.assert_broken(broken);
    }
    let mut driver = Driver::started(VirtioEntropy);
    driver.send(0, &[(0, 8, WRITE), (0, u32::MAX, WRITE)]);
    driver.assert_broken(broken);
}

#[test]
fn indirect_tables() {
    let [table, ..] = rings(0);
    let broken = "the chain of descriptor 0 does not end, or leaves its table";
    let mut driver = Driver::started(VirtioEntropy);
    driver.descriptor(0x6_0000, 0, 0x4_0000, 8, WRITE | NEXT, 1);
    driver.descriptor(0x6_0000, 1, 0x4_1000, 8, WRITE, 0);
    driver.descriptor(table, 0, 0x6_0000, 32, INDIRECT, 0);
    driver.publish(0, 0);
    driver.notify(0);
    assert_eq!(driver.used(0), [(0, 16)]);

    // Not of whole descriptors, empty, in a hole, at the end of memory, too long.
    let bad = [(0x6_0000, 33), (0x6_0000, 0), (MEMORY_END, 32), (MEMORY_END - 16, 32), (0x6_0000, 16 << 16)];
    for (address, length) in bad {
        driver.start();
        driver.memory.write_slice(&[0; 0x3000], GuestAddress(0x1000)).unwrap();
        if address == MEMORY_END - 16 {
            driver.descriptor(address, 0, 0x4_0000, 8, WRITE | NEXT, 1);
        }
        driver.descriptor(table, 0, address, length, INDIRECT, 0);
        driver.publish(0, 0);
        driver.notify(0);
        driver.assert_broken(broken);
    }
    // A table inside of a table, and one with a chain that is longer than the queue can be.
    driver.start();
    driver.memory.write_slice(&[0; 0x3000], GuestAddress(0x1000)).unwrap();
    driver.descriptor(0x6_0000, 0, 0x6_1000, 16, INDIRECT, 0);
    driver.descriptor(table, 0, 0x6_0000, 16, INDIRECT, 0);
    driver.publish(0, 0);
    driver.notify(0);
    driver.assert_broken(broken);
    driver.start();
    driver.memory.write_slice(&[0; 0x3000], GuestAddress(0x1000)).unwrap();
    for index in 0..65 {
        driver.descriptor(0x6_0000, index, 0x4_0000, 1, WRITE | if index < 64 { NEXT } else { 0 }, index + 1);
    }
    driver.descriptor(table, 0, 0x6_0000, 16 * 65, INDIRECT, 0);
    driver.publish(0, 0);
    driver.notify(0);
    driver.assert_broken(broken);
}

#[test]
fn buffers_out_of_reach() {
    let lengths = [
        (MEMORY_END - 8, 9),
        (MEMORY_END, 1),
        (BEYOND_HOLE - 1, 1),
        (0, u32::MAX - 8),
        (u64::MAX, 1),
        (u64::MAX - 7, 16),
    ];
    let read_only =
        [(READ_ONLY, 8), (READ_ONLY - 4, 8), (READ_ONLY + READ_ONLY_SIZE - 1, 1), (READ_ONLY - 8, 0x2_0000)];
    for (address, length) in lengths.into_iter().chain(read_only) {
        let mut driver = Driver::started(VirtioEntropy);
        let around = driver.bytes(READ_ONLY - 8, 16);
        driver.send(0, &[(0x4_0000, 8, WRITE), (address, length, WRITE)]);
        assert_eq!((driver.bytes(READ_ONLY - 8, 16), driver.bytes(0x4_0000, 8)), (around, vec![0; 8]));
        driver.assert_broken("the chain of descriptor 0 has a buffer that is not in memory, or not writable");
    }
    let mut driver = Driver::started(VirtioEntropy);
    driver.send(0, &[(u64::MAX, 0, WRITE), (MEMORY_END - 8, 8, WRITE), (BEYOND_HOLE, 8, WRITE)]);
    assert_eq!(driver.used(0), [(0, 16)], "an empty buffer is nowhere");
}

#[test]
fn buffers_in_the_wrong_order() {
    let mut driver = Driver::started(VirtioEntropy);
    driver.send(0, &[(0x4_0000, 8, WRITE), (0x4_1000, 8, 0)]);
    driver.assert_broken("in the chain of descriptor 0 a buffer to read follows one to write");
}

#[test]
fn an_available_index_that_jumps() {
    for jump in [9_u16, 100, 0x8000, u16::MAX] {
        let mut driver = Driver::started(VirtioEntropy);
        driver.memory.write_obj(jump, GuestAddress(rings(0)[1] + 2)).unwrap();
        driver.notify(0);
        assert_eq!(driver.pulses(), 1, "the configuration interrupt");
        assert_eq!(driver.get(0x060), 2);
        driver.assert_broken("the available index is further ahead than the queue is long");
    }
}

#[test]
fn what_was_served_before_the_mistake_is_given_back() {
    let mut driver = Driver::started(VirtioEntropy);
    let good = driver.chain(0, &[(0x4_0000, 8, WRITE)]);
    driver.publish(0, good);
    driver.publish(0, 8);
    driver.notify(0);
    assert_eq!(driver.used(0), [(0, 8)]);
    assert_eq!((driver.get(0x060), driver.get(0x070) & NEEDS_RESET), (3, NEEDS_RESET));
}

#[test]
fn one_notification_serves_at_most_one_round() {
    // All entries name one chain, whose buffer is the available ring itself: the device writes random indexes there.
    let mut driver = Driver::started(VirtioEntropy);
    let [table, available, _] = rings(0);
    driver.descriptor(table, 0, available, 20, WRITE, 0);
    driver.put(available, &[0, 0, 8, 0]);
    driver.notify(0);
    assert!(driver.used(0).len() <= 8);
}

#[test]
fn notifications_out_of_place() {
    let mut driver = Driver::new(VirtioEntropy);
    for status in [0, 1, 3, 11] {
        driver.set(0x070, status);
        driver.accept(VERSION_1);
        for queue in [0, 1, u32::MAX] {
            driver.notify(queue);
        }
        assert_eq!((driver.get(0x070), driver.pulses()), (status, 0));
    }
    let mut driver = Driver::started(VirtioEntropy);
    let head = driver.chain(0, &[(0x4_0000, 8, WRITE)]);
    driver.publish(0, head);
    for queue in [1, 2, 0xffff, u32::MAX] {
        driver.notify(queue);
    }
    assert_eq!(driver.used(0), []);
    // A driver that has given up.
    driver.set(0x070, 15 | 0x80);
    driver.notify(0);
    assert_eq!(driver.used(0), []);
}

#[test]
fn a_reset_in_the_middle() {
    let mut driver = Driver::started(VirtioEntropy);
    let head = driver.chain(0, &[(0x4_0000, 8, WRITE)]);
    driver.publish(0, head);
    driver.set(0x070, 0);
    driver.notify(0);
    assert_eq!((driver.used(0), driver.get(0x044), driver.get(0x070)), (vec![], 0, 0));
    // Rings start anew.
    driver.memory.write_slice(&[0; 0x3000], GuestAddress(0x1000)).unwrap();
    driver.start();
    driver.send(0, &[(0x4_0000, 8, WRITE)]);
    assert_eq!(driver.used(0), [(0, 8)]);
    driver.set(0x030, 0);
    driver.set(0x044, 0);
    driver.send(0, &[(0x4_0000, 8, WRITE)]);
    assert_eq!(driver.used(0).len(), 1, "a queue out of service");
}

#[test]
fn a_driver_cannot_set_what_is_the_devices() {
    let mut driver = Driver::new(VirtioEntropy);
    driver.set(0x070, NEEDS_RESET | 1 | 0xffff_ff00);
    assert_eq!(driver.get(0x070), 1);
    driver.set(0x070, 2);
    assert_eq!(driver.get(0x070), 3, "and clears no bit but all");
    for read_only in [0x000, 0x004, 0x008, 0x00c, 0x010, 0x034, 0x060, 0x0fc, 0x100, 0x1fc] {
        let before = driver.get(read_only);
        driver.set(read_only, 0x5a5a_5a5a);
        assert_eq!(driver.get(read_only), before, "{read_only:#x}");
    }
}
