//! Modes and commands, as the data sheet of the 8254 describes them.

use super::*;

/// Returns OUT of counter 0 at these pulses, as text.
fn output(pit: &Pit, ticks: std::ops::Range<u64>) -> String {
    ticks.map(|tick| if pit.output(at(tick)) { '-' } else { '_' }).collect()
}

/// Returns OUT of counter 2.
fn out2(pit: &mut Pit, tick: u64) -> bool {
    pit.read(0x61, at(tick)) & 0x20 != 0
}

#[test]
fn a_bios_left_it_running() {
    let mut pit = Pit::new();
    assert!(pit.output(0));
    let second = 1_000_000_000;
    assert_eq!(pit.edges(0, 3600 * second), 65543, "18.2 Hz");
    assert_eq!(pit.next_output_change(0), time(32768));
    assert_eq!(count(&mut pit, 100, 0), 65_336);
    assert_eq!(read(&mut pit, 5, 0x41), [0x12 - 5]);
    assert_eq!(read(&mut pit, 5, 0x61), [0x20], "GATE of counter 2 is low");
}

#[test]
fn time_does_not_drift() {
    let year = 365 * 86_400 * 1_000_000_000;
    assert_eq!(super::super::tick(year), 365 * 86_400 * 1_193_182);
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)]);
    assert_eq!(pit.edges(0, year), (365 * 86_400 * 1_193_182 - 1) / 1193);
    let late = year + 12_345;
    let next = pit.next_output_change(late).unwrap();
    assert!(next > late && pit.output(next) != pit.output(next - 1));
    assert_eq!(pit.next_output_change(u64::MAX - 1), None, "after the end of time");
}

#[test]
fn mode_0_counts_to_the_terminal_count() {
    let mut pit = Pit::new();
    write(&mut pit, 10, &[(0x43, 0x10)]);
    assert_eq!((output(&pit, 10..200).contains('-'), pit.next_output_change(at(10))), (false, None));
    write(&mut pit, 20, &[(0x40, 4)]);
    assert_eq!(output(&pit, 20..28), "_____---", "N + 1 pulses after the write");
    assert_eq!([21, 22, 24, 25, 26].map(|tick| read(&mut pit, tick, 0x40)), [[4], [3], [1], [0], [0xff]]);
    assert_eq!((pit.next_output_change(at(20)), pit.edges(at(20), at(300))), (time(25), 1));
    assert_eq!(pit.next_output_change(at(25)), None);
    // The first of two bytes stops it.
    write(&mut pit, 30, &[(0x43, 0x30), (0x40, 2), (0x40, 0)]);
    assert_eq!(output(&pit, 30..35), "___--");
    write(&mut pit, 40, &[(0x40, 3)]);
    assert_eq!(output(&pit, 40..45), "_____");
    write(&mut pit, 50, &[(0x40, 0)]);
    assert_eq!(output(&pit, 50..56), "____--");
}

#[test]
fn gate_pauses_modes_0_and_4() {
    for control in [0xb0, 0xb8] {
        let mut pit = Pit::new();
        write(&mut pit, 0, &[(0x61, 1), (0x43, control), (0x42, 10), (0x42, 0)]);
        assert_eq!(count(&mut pit, 4, 2), 7);
        write(&mut pit, 5, &[(0x61, 0)]);
        assert_eq!(count(&mut pit, 500, 2), 6);
        write(&mut pit, 500, &[(0x61, 1)]);
        assert_eq!((count(&mut pit, 501, 2), count(&mut pit, 506, 2)), (5, 0));
        let before = control == 0xb8;
        assert_eq!([505, 506, 507].map(|tick| out2(&mut pit, tick)), [before, !before, true]);
        // A count that is written meanwhile is loaded.
        write(&mut pit, 600, &[(0x61, 0), (0x42, 3), (0x42, 0)]);
        assert_eq!(count(&mut pit, 700, 2), 3);
        write(&mut pit, 700, &[(0x61, 1)]);
        assert_eq!([702, 703].map(|tick| out2(&mut pit, tick)), [before, !before], "no pulse to load it");
    }
}

#[test]
fn mode_1_is_a_pulse_after_each_trigger() {
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x43, 0x92), (0x42, 3)]);
    assert!(out2(&mut pit, 100), "no trigger");
    write(&mut pit, 100, &[(0x61, 1)]);
    let pulse = |pit: &mut Pit, from: u64| [0, 1, 2, 3, 4, 5].map(|tick| out2(pit, from + tick));
    assert_eq!(pulse(&mut pit, 100), [true, false, false, false, true, true]);
    assert_eq!(read(&mut pit, 105, 0x42), [0xff], "it goes on");
    // A new count waits for the next trigger.
    write(&mut pit, 200, &[(0x61, 0), (0x61, 1)]);
    write(&mut pit, 201, &[(0x42, 2)]);
    assert_eq!(pulse(&mut pit, 200), [true, false, false, false, true, true]);
    write(&mut pit, 300, &[(0x61, 0), (0x61, 1)]);
    assert_eq!(pulse(&mut pit, 300), [true, false, false, true, true, true]);
    // Triggered again, it is longer.
    write(&mut pit, 400, &[(0x61, 0), (0x61, 1)]);
    write(&mut pit, 402, &[(0x61, 0), (0x61, 1)]);
    assert_eq!(pulse(&mut pit, 402), [false, false, false, true, true, true]);
    // Counter 0 has no trigger.
    write(&mut pit, 500, &[(0x43, 0x12), (0x40, 3)]);
    assert_eq!((output(&pit, 500..510).as_str(), pit.next_output_change(at(500))), ("----------", None));
}

#[test]
fn mode_2_divides() {
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x43, 0x14), (0x40, 3)]);
    assert_eq!(output(&pit, 0..12), "---_--_--_--");
    assert_eq!([1, 2, 3, 4].map(|tick| read(&mut pit, tick, 0x40)), [[3], [2], [1], [3]]);
    assert_eq!((pit.edges(at(1), at(4)), pit.edges(at(4), at(301)), pit.edges(at(9), at(4))), (1, 99, 0));
    // A new count is taken at the end of the period.
    write(&mut pit, 12, &[(0x40, 5)]);
    assert_eq!(output(&pit, 12..24), "_----_----_-");
    assert_eq!(pit.edges(at(12), at(23)), 3);
}

#[test]
fn mode_3_is_a_square_wave() {
    for (value, expected) in [(4, "---__--__--__"), (5, "----__---__---"), (2, "--_-_-_-")] {
        let mut pit = Pit::new();
        write(&mut pit, 0, &[(0x43, 0x16), (0x40, value)]);
        assert_eq!(output(&pit, 0..u64::try_from(expected.len()).unwrap()), expected, "{value}");
    }
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x43, 0x16), (0x40, 5)]);
    let counts: Vec<u8> = (1..9).map(|tick| pit.read(0x40, at(tick))).collect();
    assert_eq!(counts, [4, 2, 0, 4, 2, 4, 2, 0], "by two, from one less than an odd count");
    // A new count is taken at the end of the half: at pulse 11.
    write(&mut pit, 9, &[(0x40, 4)]);
    assert_eq!(output(&pit, 8..18), "-__--__--_");
}

#[test]
fn gate_stops_the_periodic_modes_and_starts_them_anew() {
    for control in [0x94, 0x96] {
        let mut pit = Pit::new();
        write(&mut pit, 0, &[(0x61, 1), (0x43, control), (0x42, 4)]);
        assert!(!out2(&mut pit, 4));
        write(&mut pit, 4, &[(0x61, 0)]);
        assert!(out2(&mut pit, 4) && out2(&mut pit, 100));
        write(&mut pit, 100, &[(0x61, 1)]);
        assert_eq!([100, 101].map(|tick| read(&mut pit, tick, 0x42))[1], [4]);
        assert_eq!([101, 102, 104, 105].map(|tick| out2(&mut pit, tick)), [true, true, false, true]);
    }
}

#[test]
fn modes_4_and_5_are_strobes() {
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x43, 0x18), (0x40, 3)]);
    assert_eq!(output(&pit, 0..8), "----_---");
    assert_eq!((pit.next_output_change(0), pit.next_output_change(at(4))), (time(4), time(5)));
    assert_eq!((pit.edges(0, at(4)), pit.edges(0, at(500)), pit.next_output_change(at(5))), (0, 1, None));
    write(&mut pit, 0, &[(0x43, 0x9a), (0x42, 3)]);
    assert!([4, 5, 9].iter().all(|tick| out2(&mut pit, *tick)), "no trigger");
    write(&mut pit, 10, &[(0x61, 1)]);
    assert_eq!([13, 14, 15].map(|tick| out2(&mut pit, tick)), [true, false, true]);
}

#[test]
fn decimal_counts() {
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x43, 0x31), (0x40, 0x00), (0x40, 0x10)]);
    assert_eq!([1, 2, 1001, 1002].map(|tick| count(&mut pit, tick, 0)), [0x1000, 0x0999, 0, 0x9999]);
    assert_eq!(pit.next_output_change(0), time(1001));
    write(&mut pit, 2000, &[(0x43, 0x35), (0x40, 0), (0x40, 0)]);
    assert_eq!([2001, 2002].map(|tick| count(&mut pit, tick, 0)), [0, 0x9999], "10000");
    assert_eq!(pit.edges(at(2001), at(12_001)), 1);
}

#[test]
fn bytes_are_written_and_read_as_the_control_word_says() {
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x43, 0x64), (0x41, 0x12)]);
    assert_eq!(read(&mut pit, 1, 0x41), [0x12, 0x12], "the high byte; the low one is 0");
    assert_eq!(read(&mut pit, 2, 0x41), [0x11]);
    // A byte of a count is read between two that are written.
    write(&mut pit, 100, &[(0x43, 0x74), (0x41, 0x34), (0x41, 0x12)]);
    assert_eq!(read(&mut pit, 101, 0x41), [0x34]);
    write(&mut pit, 101, &[(0x41, 0x78)]);
    assert_eq!(read(&mut pit, 101, 0x41), [0x12, 0x34]);
    write(&mut pit, 101, &[(0x41, 0x56)]);
    assert_eq!(count(&mut pit, 101 + 0x1234, 1), 0x5678);
}

#[test]
fn latches_hold_until_they_are_read() {
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x43, 0x34), (0x40, 0x34), (0x40, 0x12)]);
    write(&mut pit, 1, &[(0x43, 0x00)]);
    write(&mut pit, 5, &[(0x43, 0x00), (0x43, 0xd2)]);
    assert_eq!(read(&mut pit, 900, 0x40), [0x34, 0x12], "the first one");
    assert_eq!(read(&mut pit, 1 + 0x34, 0x40), [0x00, 0x12], "then the count itself");
    // Count and status of all counters: the status is read first.
    write(&mut pit, 100, &[(0x43, 0xce)]);
    assert_eq!(read(&mut pit, 200, 0x40), [0xb4, 0xd1, 0x11, 0x6d]);
    assert_eq!(read::<1>(&mut pit, 200, 0x41)[0] & 0x7f, 0x14);
    assert_eq!(read::<1>(&mut pit, 200, 0x42)[0], 0xb6);
    // A control word ends them.
    write(&mut pit, 300, &[(0x43, 0xc2), (0x43, 0x38)]);
    write(&mut pit, 301, &[(0x40, 9), (0x40, 0)]);
    assert_eq!(read(&mut pit, 302, 0x40), [9, 0]);
}

#[test]
fn the_status_has_out_null_count_and_the_control_word() {
    let mut pit = Pit::new();
    let mut status = |tick: u64, writes: &[(u16, u8)]| {
        write(&mut pit, tick, writes);
        write(&mut pit, tick, &[(0x43, 0xe2)]);
        read::<1>(&mut pit, tick, 0x40)[0]
    };
    assert_eq!(status(0, &[]), 0xb6);
    assert_eq!(status(1, &[(0x43, 0x3d)]), 0xfd, "mode 6 is 2, and is read as it was written");
    assert_eq!(status(2, &[(0x40, 0x20)]), 0xfd);
    assert_eq!(status(3, &[(0x40, 0x00)]), 0xfd, "written, not loaded");
    assert_eq!(status(4, &[]), 0xbd);
    assert_eq!(status(5, &[(0x40, 0x30), (0x40, 0x00)]), 0xfd);
    assert_eq!(status(23, &[]), 0x7d, "OUT is low for a pulse");
    assert_eq!(status(24, &[]), 0xbd, "loaded");
}

#[test]
fn port_61_has_gate_speaker_refresh_and_out() {
    let mut pit = Pit::new();
    write(&mut pit, 0, &[(0x61, 0xff)]);
    assert_eq!(read(&mut pit, 0, 0x61), [0x2f]);
    assert_eq!([17, 18, 35, 36].map(|tick| read::<1>(&mut pit, tick, 0x61)[0] & 0x10), [0, 0x10, 0x10, 0]);
    write(&mut pit, 0, &[(0x43, 0xb0)]);
    assert_eq!(read(&mut pit, 0, 0x61), [0x0f]);
    write(&mut pit, 0, &[(0x61, 0)]);
    assert_eq!(
        (read(&mut pit, 0, 0x61), read(&mut pit, 0, 0x43), read(&mut pit, 0, 0x44)),
        ([0], [0xff], [0xff])
    );
}
