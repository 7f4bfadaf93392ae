//! Real-time clock and its CMOS memory: 128 bytes behind an index port (0x70) and a data port (0x71).
//!
//! The time is the host's, in UTC, in the format of register B: BCD and 24 hours unless the guest changes it. The clock cannot
//! be set: writes to time registers are ignored. Updates, periods and alarms set flags in register C and raise interrupt line
//! 8 if register B enables them: an edge for the first, and none until the guest has read register C. The alarm also wakes a
//! suspended machine ([`AlarmHandle`]). The rest is memory, with the memory sizes that firmware leaves there (Motorola
//! MC146818A data sheet; the offsets are those of IBM's AT and, from 0x34 on, of QEMU).
//!
//! | file | part |
//! |---|---|
//! | `rtc.rs` | the registers |
//! | `rtc/date.rs`, `rtc/bcd.rs` | time and date in the format of the registers |
//! | `rtc/alarm.rs`, `rtc/interrupts.rs` | events between two times, and the time of the next one |
//! | `rtc/timer.rs` | host timer for the next event |

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::Port;
use crate::devices::device::{Action, Device, Guest, InputStatus, StateMismatch, from_bytes, to_bytes};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::devices::irq::IrqLine;
use crate::spec::BusAddress;
use alarm::RtcAlarm;
use bcd::Format;
use interrupts::{ALARM, Events, PERIODIC, UPDATE_ENDED};
use timer::Timer;

mod alarm;
mod bcd;
mod date;
mod interrupts;
mod timer;

pub use alarm::AlarmHandle;
pub use date::{Date, date};

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "rtc",
    title: "the clock",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0x70))),
    length: 2,
    irqs: &[8],
    purpose: "the time, an alarm, and how much memory there is",
};

/// Offset of the data port; the index is at offset 0.
const DATA: u64 = 1;
/// Register A: the divider for 32768 Hz, and periods of 1/1024 s.
const STATUS_A: u8 = 0x0a;
const DEFAULT_A: u8 = 0x26;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
const STATUS_B: u8 = 0x0b;
const HOURS_24: u8 = 1 << 1;
const BINARY: u8 = 1 << 2;
/// Updates are stopped (SET), as a driver does before it sets the time.
const HALTED: u8 = 1 << 7;
/// Events of register C that can interrupt.
const ENABLES: u8 = PERIODIC | ALARM | UPDATE_ENDED;
const STATUS_C: u8 = 0x0c;
/// Register C: an enabled event has happened (IRQF).
const REQUEST: u8 = 1 << 7;
/// Alarm registers.
const ALARM_SECOND: u8 = 0x01;
const ALARM_MINUTE: u8 = 0x03;
const ALARM_HOUR: u8 = 0x05;
const STATUS_D: u8 = 0x0d;
/// Register D: the battery is good.
const VALID: u8 = 1 << 7;
/// Index of the century's register in CMOS memory, as the FADT names it.
pub const CENTURY: u8 = 0x32;
/// Time before a new second in which an update is in progress (UIP): 244 us before it starts, and 1984 us of update.
const UPDATE_TIME: Duration = Duration::from_micros(244 + 1984);

/// Memory sizes that firmware leaves in CMOS memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemorySizes {
    /// Bytes of memory from 1 MiB up, without a gap, below 4 GiB; 0 if there is no memory at 1 MiB.
    pub above_1m: u64,
    /// Bytes of memory from 4 GiB up.
    pub above_4g: u64,
}

/// Saved state of the clock; the fields are those of [`Rtc`].
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedRtc {
    index: u8,
    /// 128 bytes.
    memory: Vec<u8>,
    flags: u8,
    seen: Duration,
    raised: bool,
}

/// Real-time clock of a PC, with its alarm and CMOS memory.
#[derive(Debug)]
pub struct Rtc {
    index: u8,
    memory: [u8; 128],
    /// Events since register C was read, up to the time `seen` since the epoch.
    flags: u8,
    seen: Duration,
    /// True if the line was raised and register C has not been read since.
    raised: bool,
    line: IrqLine,
    alarm: AlarmHandle,
    /// Host timer; `None` if the line is not connected.
    timer: Option<Timer>,
}

impl Rtc {
    /// Creates a real-time clock whose CMOS memory holds the machine's memory sizes. It reports its alarm to `alarm` if `line`
    /// is connected.
    ///
    /// # Errors
    /// Errors of creating a host timer.
    pub fn new(sizes: MemorySizes, line: IrqLine, alarm: AlarmHandle) -> io::Result<Self> {
        let timer = line.is_connected().then(Timer::new).transpose()?;
        let mut rtc =
            Self { index: 0, memory: [0; 128], flags: 0, seen: now(), raised: false, line, alarm, timer };
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
        Ok(rtc)
    }

    /// Returns a file descriptor that becomes readable when the clock has an interrupt to raise; `None` if the line is not
    /// connected.
    ///
    /// # Errors
    /// Errors of duplicating the descriptor.
    pub fn descriptor(&self) -> io::Result<Option<OwnedFd>> {
        self.timer.as_ref().map(Timer::descriptor).transpose()
    }

    fn set(&mut self, register: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(register)) {
            *byte = value;
        }
    }

    /// Sets two registers, the low byte first. A larger value is limited to 0xffff.
    fn set_word(&mut self, register: u8, value: u64) {
        let [low, high] = u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
        self.set(register, low);
        self.set(register.saturating_add(1), high);
    }

    fn get(&self, register: u8) -> u8 {
        self.memory.get(usize::from(register)).copied().unwrap_or(0xff)
    }

    /// Returns a register at a time since the epoch.
    fn register(&mut self, register: u8, now: Duration) -> u8 {
        let (date, format) = (date(now.as_secs()), self.format());
        match register {
            0x00 => format.number(date.second),
            0x02 => format.number(date.minute),
            0x04 => format.hour(date.hour),
            0x06 => format.number(date.weekday),
            0x07 => format.number(date.day),
            0x08 => format.number(date.month),
            0x09 => format.number(u8::try_from(date.year % 100).unwrap_or(0)),
            CENTURY => format.number(u8::try_from(date.year / 100).unwrap_or(99)),
            STATUS_A => {
                let left =
                    Duration::from_secs(1).saturating_sub(Duration::from_nanos(now.subsec_nanos().into()));
                let updating = if left <= UPDATE_TIME { UPDATE_IN_PROGRESS } else { 0 };
                self.get(STATUS_A) | updating
            }
            STATUS_C => {
                self.update_flags(now);
                let request = if self.wants_interrupt() { REQUEST } else { 0 };
                self.raised = false;
                std::mem::take(&mut self.flags) | request
            }
            STATUS_D => VALID,
            other => self.get(other),
        }
    }

    /// Adds the events up to `now` to the flags.
    fn update_flags(&mut self, now: Duration) {
        self.flags |= self.events().between(self.seen, now);
        self.seen = now;
    }

    fn wants_interrupt(&self) -> bool {
        self.flags & self.get(STATUS_B) & ENABLES != 0
    }

    /// Raises the interrupt or sets the timer for the next one, after a change of registers.
    fn update_interrupt(&mut self, now: Duration) -> io::Result<()> {
        let Some(timer) = &self.timer else { return Ok(()) };
        self.report_alarm();
        if self.raised {
            return timer.set(None);
        }
        if self.wants_interrupt() {
            self.raised = true;
            timer.set(None)?;
            return self.line.pulse();
        }
        timer.set(self.events().next(self.get(STATUS_B) & ENABLES, now))
    }

    /// Reports the enabled alarm. An alarm without a connected line wakes no machine.
    fn report_alarm(&self) {
        let events = self.events();
        let on = self.timer.is_some() && events.updates && self.get(STATUS_B) & ALARM != 0;
        self.alarm.set(Some(events.alarm).filter(|_| on));
    }

    fn events(&self) -> Events {
        let alarm = RtcAlarm {
            second: self.get(ALARM_SECOND),
            minute: self.get(ALARM_MINUTE),
            hour: self.get(ALARM_HOUR),
            format: self.format(),
        };
        Events { rate: self.get(STATUS_A) & 0xf, alarm, updates: self.get(STATUS_B) & HALTED == 0 }
    }

    fn format(&self) -> Format {
        let status = self.get(STATUS_B);
        Format { binary: status & BINARY != 0, hours_24: status & HOURS_24 != 0 }
    }
}

/// Returns the time since the epoch; 0 if the host's clock is before 1970.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

impl Device for Rtc {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        // The index cannot be read back, as on a PC.
        if let (DATA, Some(byte)) = (offset, data.first_mut()) {
            let now = now();
            *byte = self.register(self.index, now);
            if self.index == STATUS_C {
                self.update_interrupt(now)?;
            }
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        // A word to 0x70 is an index and its data.
        for (port, byte) in (offset..=DATA).zip(data) {
            match (port, self.index) {
                // Bit 7 masks the NMI, which nothing here raises.
                (0, _) => self.index = byte & 0x7f,
                (_, 0x00 | 0x02 | 0x04 | 0x06..=0x09 | CENTURY | STATUS_C | STATUS_D) => {}
                (_, register) => {
                    let now = now();
                    // Events so far belong to the old settings.
                    self.update_flags(now);
                    let value = if register == STATUS_A { byte & !UPDATE_IN_PROGRESS } else { *byte };
                    self.set(register, value);
                    self.update_interrupt(now)?;
                }
            }
        }
        Ok(Action::Continue)
    }

    fn poll_input(&mut self) -> io::Result<InputStatus> {
        let now = now();
        self.update_flags(now);
        self.update_interrupt(now)?;
        Ok(InputStatus::Consumed)
    }

    fn awaited_access(&self) -> Option<&'static str> {
        self.raised.then_some("a read of its register C")
    }

    fn save(&self) -> Option<Vec<u8>> {
        let Self { index, ref memory, flags, seen, raised, .. } = *self;
        to_bytes(&SavedRtc { index, memory: memory.to_vec(), flags, seen, raised })
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        let SavedRtc { index, memory, flags, seen, raised } = from_bytes(state)?;
        self.memory = memory.try_into().map_err(|_| StateMismatch)?;
        (self.index, self.flags, self.seen, self.raised) = (index, flags, seen, raised);
        self.report_alarm();
        // Pending interrupts are raised as soon as the machine runs. The kernel accepts a time in the past.
        if let Some(timer) = &self.timer {
            let _ = timer.set(Some(Duration::ZERO));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
