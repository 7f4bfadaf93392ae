//! The registers, as a guest finds them.

use super::*;
use crate::devices::test_doubles::EdgeCounter;
use crate::devices::tests::guest;

/// 2024-02-29 13:05:59 UTC, a Thursday.
const LEAP_DAY: Duration = Duration::from_secs(1_709_211_959);

/// A clock without a line.
fn clock(sizes: MemorySizes) -> Rtc {
    Rtc::new(sizes, IrqLine::disconnected(), AlarmHandle::default()).unwrap()
}

fn time(rtc: &mut Rtc, now: Duration) -> Vec<u8> {
    [0x32, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|register| rtc.register(register, now)).to_vec()
}

fn cmos(rtc: &mut Rtc, register: u8) -> u8 {
    let mut data = [0xff];
    rtc.write(0, &[register], &guest()).unwrap();
    rtc.read(1, &mut data, &guest()).unwrap();
    data[0]
}

#[test]
fn the_time_is_in_the_format_that_register_b_asks_for() {
    let mut rtc = clock(MemorySizes::default());
    assert_eq!(time(&mut rtc, LEAP_DAY), [0x20, 0x24, 0x02, 0x29, 5, 0x13, 0x05, 0x59]);
    rtc.write(0, &[STATUS_B, BINARY | HOURS_24], &guest()).unwrap();
    assert_eq!(time(&mut rtc, LEAP_DAY), [20, 24, 2, 29, 5, 13, 5, 59]);
    rtc.write(0, &[STATUS_B, 0], &guest()).unwrap();
    assert_eq!(time(&mut rtc, LEAP_DAY)[5], 0x81, "one in the afternoon");
}

#[test]
fn it_runs_with_the_hosts_clock() {
    let mut rtc = clock(MemorySizes::default());
    let before = date(now().as_secs()).year;
    let read = u16::from(cmos(&mut rtc, CENTURY)) << 8 | u16::from(cmos(&mut rtc, 9));
    let after = date(now().as_secs()).year;
    let years = [before, after].map(|year| u16::from_str_radix(&year.to_string(), 16).unwrap());
    assert!(years.contains(&read), "{read:#x}");
}

#[test]
fn an_update_is_announced_and_its_end_is_told_once() {
    let mut rtc = clock(MemorySizes::default());
    assert_eq!(rtc.register(STATUS_A, LEAP_DAY), DEFAULT_A);
    let shortly_before = LEAP_DAY + Duration::from_micros(999_000);
    assert_eq!(rtc.register(STATUS_A, shortly_before), DEFAULT_A | UPDATE_IN_PROGRESS);
    rtc.seen = LEAP_DAY;
    assert_eq!(rtc.register(STATUS_C, LEAP_DAY + Duration::from_micros(1)), 0);
    let next = LEAP_DAY + Duration::from_secs(1);
    assert_eq!(rtc.register(STATUS_C, next), UPDATE_ENDED | PERIODIC);
    assert_eq!(rtc.register(STATUS_C, next), 0);
    rtc.set(STATUS_B, HOURS_24 | PERIODIC);
    let period = next + Duration::from_micros(1_000);
    assert_eq!(rtc.register(STATUS_C, period), REQUEST | PERIODIC, "1/1024 s have passed");
}

fn with_line() -> (Rtc, EdgeCounter, AlarmHandle) {
    let (edges, wire) = (EdgeCounter::default(), AlarmHandle::default());
    (Rtc::new(MemorySizes::default(), IrqLine::new(edges.clone()), wire.clone()).unwrap(), edges, wire)
}

#[test]
fn an_event_interrupts_once_until_register_c_is_read() {
    let (mut rtc, edges, _) = with_line();
    rtc.set(STATUS_B, HOURS_24 | UPDATE_ENDED);
    rtc.seen = LEAP_DAY;
    let mut at = |seconds: u64, read: bool| {
        let now = LEAP_DAY + Duration::from_secs(seconds);
        rtc.update_flags(now);
        rtc.update_interrupt(now).unwrap();
        let flags = if read { rtc.register(STATUS_C, now) & !PERIODIC } else { 0 };
        (edges.count(), flags)
    };
    assert_eq!(at(0, false), (0, 0));
    assert_eq!(at(1, false), (1, 0));
    assert_eq!(at(2, true), (1, REQUEST | UPDATE_ENDED));
    assert_eq!(at(2, true), (1, 0));
    assert_eq!(at(3, true), (2, REQUEST | UPDATE_ENDED));
}

#[test]
fn enabling_what_has_happened_interrupts_at_once() {
    let (mut rtc, edges, _) = with_line();
    rtc.seen = now() - Duration::from_secs(2);
    rtc.write(0, &[STATUS_B, HOURS_24 | UPDATE_ENDED], &guest()).unwrap();
    assert_eq!(edges.count(), 1);
    assert_eq!(cmos(&mut rtc, STATUS_C) & (REQUEST | UPDATE_ENDED), REQUEST | UPDATE_ENDED);
}

#[test]
fn the_wire_knows_of_an_alarm_that_is_on() {
    let (mut rtc, _, wire) = with_line();
    for (register, value) in [(ALARM_SECOND, 0xff), (ALARM_MINUTE, 0xff), (ALARM_HOUR, 0xff)] {
        rtc.write(0, &[register, value], &guest()).unwrap();
    }
    assert_eq!(wire.next(LEAP_DAY), None);
    rtc.write(0, &[STATUS_B, HOURS_24 | ALARM], &guest()).unwrap();
    assert_eq!(wire.next(LEAP_DAY), Some(LEAP_DAY + Duration::from_secs(1)));
    rtc.write(0, &[STATUS_B, HOURS_24 | ALARM | HALTED], &guest()).unwrap();
    assert_eq!(wire.next(LEAP_DAY), None, "no updates, no alarm");
    assert!(rtc.descriptor().unwrap().is_some());
    assert!(clock(MemorySizes::default()).descriptor().unwrap().is_none());
}

#[test]
fn a_restored_clock_is_as_it_was() {
    let alarm_on = || {
        let (mut rtc, _, _) = with_line();
        for (register, value) in [(0x40, 7), (ALARM_SECOND, 0xff), (ALARM_MINUTE, 0xff), (ALARM_HOUR, 0xff)] {
            rtc.write(0, &[register, value], &guest()).unwrap();
        }
        rtc.write(0, &[STATUS_B, HOURS_24 | ALARM], &guest()).unwrap();
        rtc
    };
    // Again if a second, and with it the alarm, has passed meanwhile.
    let old = std::iter::repeat_with(alarm_on).find(|rtc| rtc.flags == 0).unwrap();
    let (mut new, edges, wire) = with_line();
    new.restore(&old.save().unwrap()).unwrap();
    assert_eq!(wire.next(LEAP_DAY), Some(LEAP_DAY + Duration::from_secs(1)));
    assert_eq!(new.save(), old.save());
    new.seen -= Duration::from_secs(1);
    new.poll_input().unwrap();
    assert_eq!((cmos(&mut new, 0x40), edges.count()), (7, 1));
    assert_eq!(new.restore(&[]), Err(StateMismatch));
}

#[test]
fn memory_sizes_are_where_kernels_look_for_them() {
    let mut rtc = clock(MemorySizes { above_1m: 255 << 20, above_4g: 5 << 30 });
    let mut word =
        |register| u16::from(cmos(&mut rtc, register)) | u16::from(cmos(&mut rtc, register + 1)) << 8;
    assert_eq!(word(0x15), 640);
    assert_eq!((word(0x17), word(0x30)), (0xffff, 0xffff), "more than fits");
    assert_eq!(word(0x34), 240 * 16);
    assert_eq!(word(0x5b), 0x4000, "0x1_4000 units of 64 KiB");
    assert_eq!(cmos(&mut rtc, 0x5d), 1);
}

#[test]
fn free_memory_keeps_what_is_written_and_the_time_does_not() {
    let mut rtc = clock(MemorySizes::default());
    rtc.write(0, &[0x8f, 0x0a], &guest()).unwrap();
    assert_eq!(cmos(&mut rtc, 0x0f), 0x0a, "the shutdown code, with NMI masked or not");
    rtc.write(0, &[STATUS_D, 0], &guest()).unwrap();
    assert_eq!(cmos(&mut rtc, STATUS_D), VALID);
    let mut index = [0];
    rtc.read(0, &mut index, &guest()).unwrap();
    assert_eq!(index, [0], "left alone: the bus shows ones");
}
