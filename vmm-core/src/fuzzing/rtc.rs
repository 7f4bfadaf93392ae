//! The clock: valid times, and registers that keep what was written.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use super::board::FuzzBoard;
use super::input::FuzzInput;
use crate::devices::device::Device;
use crate::devices::irq::IrqLine;
use crate::devices::rtc::{AlarmHandle, CENTURY, MemorySizes, Rtc};
use crate::devices::test_doubles::EdgeCounter;
use crate::spec::DeviceSpecs;

/// Maximum number of accesses.
const MAX_ACCESSES: usize = 200;

const INDEX: u64 = 0;
const DATA: u64 = 1;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const STATUS_C: u8 = 0x0c;
const STATUS_D: u8 = 0x0d;
/// Register A: an update is in progress.
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
/// Register B: hours from 0 to 23, and not from 1 to 12 with bit 7 for PM.
const HOURS_24: u8 = 1 << 1;
/// Register B: binary numbers, and not BCD.
const BINARY: u8 = 1 << 2;

thread_local! {
    /// Only its guest is used.
    static BOARD: FuzzBoard = FuzzBoard::new(|_| DeviceSpecs { serial: None, ..DeviceSpecs::default() });
}

/// Checks the clock with accesses; the first byte decides whether its interrupt line is connected.
pub fn rtc(bytes: &[u8]) {
    BOARD.with(|board| {
        let mut input = FuzzInput::new(bytes);
        let line = match input.u8() & 1 {
            0 => IrqLine::disconnected(),
            _ => IrqLine::new(EdgeCounter::default()),
        };
        let alarm = AlarmHandle::default();
        let sizes =
            MemorySizes { above_1m: u64::from(input.u32()) << 12, above_4g: u64::from(input.u16()) << 20 };
        let mut clock = Clock {
            device: Rtc::new(sizes, line, alarm.clone()).unwrap(),
            board,
            index: 0,
            written: [None; 128],
        };
        for _ in 0..MAX_ACCESSES {
            if input.is_empty() {
                break;
            }
            let (kind, value) = (input.u8(), input.u8());
            match kind & 7 {
                0 | 1 => clock.select(value),
                2 => clock.write(&[value]),
                3 => clock.write(&[value, input.u8()]),
                4 => {
                    clock.device.poll_input().unwrap();
                }
                5 => clock.check_saved_state(),
                _ => clock.read(),
            }
        }
        for register in (0..=STATUS_D).chain([CENTURY, 0x7f]) {
            clock.select(register);
            clock.read();
        }
        clock.check_saved_state();
        let _ = alarm.next(std::time::Duration::from_secs(input.u32().into()));
    });
}

/// The clock, and what was written to its registers.
struct Clock<'a> {
    device: Rtc,
    board: &'a FuzzBoard,
    index: u8,
    written: [Option<u8>; 128],
}

impl Clock<'_> {
    fn select(&mut self, index: u8) {
        self.device.write(INDEX, &[index], &self.board.guest).unwrap();
        self.index = index & 0x7f;
    }

    /// Writes to the data port. Of a wider access only the first byte is data.
    fn write(&mut self, data: &[u8]) {
        self.device.write(DATA, data, &self.board.guest).unwrap();
        if let (Some(place), Some(byte)) = (self.written.get_mut(usize::from(self.index)), data.first()) {
            *place = Some(*byte);
        }
    }

    fn known(&self, register: u8) -> Option<u8> {
        self.written.get(usize::from(register)).copied().flatten()
    }

    fn read(&mut self) {
        let mut data = [0xff];
        self.device.read(DATA, &mut data, &self.board.guest).unwrap();
        let [byte] = data;
        let format = self.known(STATUS_B).unwrap_or(HOURS_24);
        let is_binary = format & BINARY != 0;
        let number = |byte: u8| {
            assert!(is_binary || (byte >> 4 < 10 && byte & 0xf < 10), "{byte:#x} is no BCD number");
            if is_binary { byte } else { (byte >> 4) * 10 + (byte & 0xf) }
        };
        let is_valid = match self.index {
            0x00 | 0x02 => number(byte) < 60,
            0x04 if format & HOURS_24 != 0 => number(byte) < 24,
            0x04 => (1..=12).contains(&number(byte & 0x7f)),
            0x06 => (1..=7).contains(&number(byte)),
            0x07 => (1..=31).contains(&number(byte)),
            0x08 => (1..=12).contains(&number(byte)),
            0x09 => number(byte) < 100,
            CENTURY => (19..100).contains(&number(byte)),
            STATUS_A => {
                let kept = |written| (byte ^ written) & !UPDATE_IN_PROGRESS == 0;
                self.known(STATUS_A).is_none_or(kept)
            }
            STATUS_C => byte & 0x0f == 0,
            STATUS_D => byte == 0x80,
            register => self.known(register).is_none_or(|written| byte == written),
        };
        assert!(is_valid, "register {:#x} is {byte:#x}", self.index);
    }

    fn check_saved_state(&mut self) {
        let saved = self.device.save().unwrap();
        self.device.restore(&saved).unwrap();
        assert!(self.device.save().as_ref() == Some(&saved), "another state after its restoration");
    }
}
