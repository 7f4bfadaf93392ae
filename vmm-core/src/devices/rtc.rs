//! The real-time clock and its CMOS memory: 128 bytes behind an index port (0x70) and a data port (0x71).
//!
//! The clock is the host's, in UTC, in the format that register B asks for: BCD and 24 hours unless the guest changes it.
//! It cannot be set; what a guest writes to a time register is dropped. Register C tells by polling that a second or a
//! period has passed; there are no interrupts. The rest is memory, in which firmware leaves the sizes of the machine's
//! memory (Motorola MC146818A data sheet; the places are those of IBM's AT and, from 0x34 on, of QEMU).

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::length;
use crate::device::{Action, Device, Guest};

mod date;

pub use date::{Date, date};

/// The data port; the other one is the index.
const DATA: u64 = 1;
/// Register A: the divider for 32768 Hz, and periods of 1/1024 s.
const STATUS_A: u8 = 0x0a;
const DEFAULT_A: u8 = 0x26;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
const STATUS_B: u8 = 0x0b;
const HOURS_24: u8 = 1 << 1;
const BINARY: u8 = 1 << 2;
const STATUS_C: u8 = 0x0c;
const REQUEST: u8 = 1 << 7;
const PERIODIC: u8 = 1 << 6;
const UPDATE_ENDED: u8 = 1 << 4;
const STATUS_D: u8 = 0x0d;
/// Register D: the battery is good.
const VALID: u8 = 1 << 7;
/// The century, in the place that the FADT names.
pub const CENTURY: u8 = 0x32;
/// How long before a new second the clock says that it is about to change: 244 us of warning, 1984 us of work.
const UPDATE_TIME: Duration = Duration::from_micros(244 + 1984);

/// What firmware leaves in CMOS memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemorySizes {
    /// Bytes from 1 MiB up, without a gap, below 4 GiB; 0 where there is no memory at 1 MiB.
    pub above_1m: u64,
    /// Bytes from 4 GiB up.
    pub above_4g: u64,
}

/// The clock.
#[derive(Debug)]
pub struct Rtc {
    index: u8,
    memory: [u8; 128],
    /// When register C was last read; since the epoch.
    looked: Duration,
}

impl Rtc {
    /// A clock whose memory says how much memory the machine has.
    #[must_use]
    pub fn new(sizes: MemorySizes) -> Self {
        let mut rtc = Self { index: 0, memory: [0; 128], looked: now() };
        rtc.set(STATUS_A, DEFAULT_A);
        rtc.set(STATUS_B, HOURS_24);
        // Equipment: a floating-point unit, no keyboard, no display.
        rtc.set(0x14, 1 << 1);
        rtc.set_word(0x15, 640);
        let kib = sizes.above_1m >> 10;
        rtc.set_word(0x17, kib);
        rtc.set_word(0x30, kib);
        // From 16 MiB up, in units of 64 KiB.
        rtc.set_word(0x34, sizes.above_1m.saturating_sub(15 << 20) >> 16);
        let units = sizes.above_4g >> 16;
        rtc.set_word(0x5b, units & 0xffff);
        rtc.set(0x5d, u8::try_from(units >> 16).unwrap_or(u8::MAX));
        rtc
    }

    fn set(&mut self, register: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(register)) {
            *byte = value;
        }
    }

    /// Two registers, the low byte first; a value that does not fit is the largest that does.
    fn set_word(&mut self, register: u8, value: u64) {
        let [low, high] = u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
        self.set(register, low);
        self.set(register.saturating_add(1), high);
    }

    fn get(&self, register: u8) -> u8 {
        self.memory.get(usize::from(register)).copied().unwrap_or(0xff)
    }

    /// A register at a time since the epoch.
    fn register(&mut self, register: u8, now: Duration) -> u8 {
        let date = date(now.as_secs());
        match register {
            0x00 => self.format(date.second),
            0x02 => self.format(date.minute),
            0x04 => self.hour(date.hour),
            0x06 => self.format(date.weekday),
            0x07 => self.format(date.day),
            0x08 => self.format(date.month),
            0x09 => self.format(u8::try_from(date.year % 100).unwrap_or(0)),
            CENTURY => self.format(u8::try_from(date.year / 100).unwrap_or(99)),
            STATUS_A => {
                let left =
                    Duration::from_secs(1).saturating_sub(Duration::from_nanos(now.subsec_nanos().into()));
                let updating = if left <= UPDATE_TIME { UPDATE_IN_PROGRESS } else { 0 };
                self.get(STATUS_A) | updating
            }
            STATUS_C => {
                let flags = self.events(now);
                self.looked = now;
                if flags & self.get(STATUS_B) == 0 { flags } else { flags | REQUEST }
            }
            STATUS_D => VALID,
            other => self.get(other),
        }
    }

    /// What has happened since register C was last read.
    fn events(&self, now: Duration) -> u8 {
        let mut flags = 0;
        if now.as_secs() != self.looked.as_secs() {
            flags |= UPDATE_ENDED;
        }
        // Rate n means 32768 / 2^(n-1) periods a second; 1 and 2 are as 8 and 9 (MC146818A, table 5).
        let rate = match self.get(STATUS_A) & 0xf {
            0 => return flags,
            rate @ (1 | 2) => rate + 7,
            rate => rate,
        };
        let periods = |time: Duration| (time.as_nanos() * 32768 / 1_000_000_000) >> (rate - 1);
        if periods(now) != periods(self.looked) {
            flags |= PERIODIC;
        }
        flags
    }

    /// A number in the format of register B: BCD or binary.
    fn format(&self, value: u8) -> u8 {
        if self.get(STATUS_B) & BINARY == 0 { ((value / 10) << 4) | (value % 10) } else { value }
    }

    /// The hour of 24, or of 12 with bit 7 for the afternoon.
    fn hour(&self, hour: u8) -> u8 {
        if self.get(STATUS_B) & HOURS_24 != 0 {
            return self.format(hour);
        }
        let afternoon = if hour >= 12 { 1 << 7 } else { 0 };
        let hour = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.format(hour) | afternoon
    }
}

/// Since the epoch. A host whose clock is before 1970 is in 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Device for Rtc {
    fn length(&self) -> u64 {
        length::RTC
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        // The index cannot be read back, as on a PC.
        if let (DATA, Some(byte)) = (offset, data.first_mut()) {
            *byte = self.register(self.index, now());
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        // A word to 0x70 is an index and its data.
        for (port, byte) in (offset..=DATA).zip(data) {
            match (port, self.index) {
                // Bit 7 masks the NMI, which nothing here raises.
                (0, _) => self.index = byte & 0x7f,
                (_, STATUS_A) => self.set(STATUS_A, byte & !UPDATE_IN_PROGRESS),
                (_, 0x00 | 0x02 | 0x04 | 0x06..=0x09 | CENTURY | STATUS_C | STATUS_D) => {}
                (_, register) => self.set(register, *byte),
            }
        }
        Ok(Action::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::tests::guest;

    /// 2024-02-29 13:05:59 UTC, a Thursday.
    const LEAP_DAY: Duration = Duration::from_secs(1_709_211_959);

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
        let mut rtc = Rtc::new(MemorySizes::default());
        assert_eq!(time(&mut rtc, LEAP_DAY), [0x20, 0x24, 0x02, 0x29, 5, 0x13, 0x05, 0x59]);
        rtc.write(0, &[STATUS_B, BINARY | HOURS_24], &guest()).unwrap();
        assert_eq!(time(&mut rtc, LEAP_DAY), [20, 24, 2, 29, 5, 13, 5, 59]);
        rtc.write(0, &[STATUS_B, 0], &guest()).unwrap();
        assert_eq!(time(&mut rtc, LEAP_DAY)[5], 0x81, "one in the afternoon");
        assert_eq!(rtc.hour(0), 0x12, "midnight");
        assert_eq!(rtc.hour(12), 0x92, "noon");
    }

    #[test]
    fn it_runs_with_the_hosts_clock() {
        let mut rtc = Rtc::new(MemorySizes::default());
        let before = date(now().as_secs()).year;
        let read = u16::from(cmos(&mut rtc, CENTURY)) << 8 | u16::from(cmos(&mut rtc, 9));
        let after = date(now().as_secs()).year;
        let years = [before, after].map(|year| u16::from_str_radix(&year.to_string(), 16).unwrap());
        assert!(years.contains(&read), "{read:#x}");
    }

    #[test]
    fn an_update_is_announced_and_its_end_is_told_once() {
        let mut rtc = Rtc::new(MemorySizes::default());
        assert_eq!(rtc.register(STATUS_A, LEAP_DAY), DEFAULT_A);
        let shortly_before = LEAP_DAY + Duration::from_micros(999_000);
        assert_eq!(rtc.register(STATUS_A, shortly_before), DEFAULT_A | UPDATE_IN_PROGRESS);
        rtc.looked = LEAP_DAY;
        assert_eq!(rtc.register(STATUS_C, LEAP_DAY + Duration::from_micros(1)), 0);
        let next = LEAP_DAY + Duration::from_secs(1);
        assert_eq!(rtc.register(STATUS_C, next), UPDATE_ENDED | PERIODIC);
        assert_eq!(rtc.register(STATUS_C, next), 0);
        rtc.write(0, &[STATUS_B, HOURS_24 | PERIODIC], &guest()).unwrap();
        let period = next + Duration::from_micros(1_000);
        assert_eq!(rtc.register(STATUS_C, period), REQUEST | PERIODIC, "1/1024 s have passed");
    }

    #[test]
    fn memory_sizes_are_where_kernels_look_for_them() {
        let mut rtc = Rtc::new(MemorySizes { above_1m: 255 << 20, above_4g: 5 << 30 });
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
        let mut rtc = Rtc::new(MemorySizes::default());
        rtc.write(0, &[0x8f, 0x0a], &guest()).unwrap();
        assert_eq!(cmos(&mut rtc, 0x0f), 0x0a, "the shutdown code, with NMI masked or not");
        rtc.write(0, &[STATUS_D, 0], &guest()).unwrap();
        assert_eq!(cmos(&mut rtc, STATUS_D), VALID);
        let mut index = [0];
        rtc.read(0, &mut index, &guest()).unwrap();
        assert_eq!(index, [0], "left alone: the bus shows ones");
    }
}
