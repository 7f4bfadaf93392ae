//! Alarm of the clock: its times, and the handle by which power management reads it.
//!
//! Three registers hold a second, a minute and an hour, in the format of the time. The alarm fires when the time is equal to
//! them, once a day; a register of 0xc0 or more matches any value (MC146818A, "Time, calendar
//! and alarm locations").

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::bcd::Format;
use super::date::date;

const DAY: u64 = 86_400;
/// Lowest register value that matches any time.
const ANY: u8 = 0xc0;

/// Enabled alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RtcAlarm {
    pub(super) second: u8,
    pub(super) minute: u8,
    pub(super) hour: u8,
    pub(super) format: Format,
}

impl RtcAlarm {
    /// Returns the first second after `after`, both since the epoch, at which the alarm fires. `None` if the registers hold no
    /// valid time.
    pub(super) fn next(&self, after: u64) -> Option<u64> {
        let meets = |wanted: u8, found: u8| wanted >= ANY || wanted == found;
        let mut second = after.checked_add(1)?;
        let end = second.checked_add(DAY)?;
        while second < end {
            let date = date(second);
            // Skips an hour that does not match, then a minute.
            let step = if !meets(self.hour, self.format.hour(date.hour)) {
                3600 - second % 3600
            } else if !meets(self.minute, self.format.number(date.minute)) {
                60 - second % 60
            } else if !meets(self.second, self.format.number(date.second)) {
                1
            } else {
                return Some(second);
            };
            second += step;
        }
        None
    }
}

/// Handle with which power management reads the alarm of the real-time clock. Clones share the alarm.
#[derive(Debug, Clone, Default)]
pub struct AlarmHandle(Arc<Mutex<Option<RtcAlarm>>>);

impl AlarmHandle {
    /// Sets the enabled alarm; called by the clock.
    pub(super) fn set(&self, alarm: Option<RtcAlarm>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = alarm;
    }

    /// Returns the time of the next alarm after `after`, both since the epoch.
    #[must_use]
    pub fn next(&self, after: Duration) -> Option<Duration> {
        let alarm = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        alarm?.next(after.as_secs()).map(Duration::from_secs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-02-29 13:05:59 UTC.
    const NOON: u64 = 1_709_211_959;
    const BCD: Format = Format { binary: false, hours_24: true };

    fn next(hour: u8, minute: u8, second: u8, format: Format) -> Option<u64> {
        RtcAlarm { second, minute, hour, format }.next(NOON).map(|then| then - NOON)
    }

    #[test]
    fn it_goes_off_when_the_time_has_come() {
        assert_eq!(next(0xff, 0xc0, 0xff, BCD), Some(1), "any second");
        assert_eq!(next(0xff, 0xff, 0x59, BCD), Some(60), "this second is past");
        assert_eq!(next(0x13, 0x05, 0x59, BCD), Some(DAY), "tomorrow");
        assert_eq!(next(0x14, 0x00, 0x00, BCD), Some(54 * 60 + 1));
        assert_eq!(next(0x12, 0xff, 0xff, BCD), Some(DAY - 3600 - 359), "noon is past");
    }

    #[test]
    fn it_is_read_in_the_format_of_the_time() {
        let binary = Format { binary: true, hours_24: true };
        assert_eq!(next(14, 30, 1, binary), Some(84 * 60 + 2));
        let twelve = Format { binary: false, hours_24: false };
        assert_eq!(next(0x82, 0x00, 0x00, twelve), Some(54 * 60 + 1), "two in the afternoon");
        assert_eq!(next(0x99, 0x00, 0x00, BCD), None, "no hour has this number");
    }
}
