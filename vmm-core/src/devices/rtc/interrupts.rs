//! What the clock tells of, and when: the end of an update each second, periods of a fraction of a second, the alarm.
//!
//! Each is a flag in register C, and an enable bit at the same place in register B. All of it is computed from two
//! times: nothing ticks here.

use std::time::Duration;

use super::alarm::RtcAlarm;

/// A period has passed.
pub(super) const PERIODIC: u8 = 1 << 6;
/// The time has come to that of the alarm.
pub(super) const ALARM: u8 = 1 << 5;
/// A second has begun, and the time is up to date.
pub(super) const UPDATE_ENDED: u8 = 1 << 4;

/// Ticks of the crystal in a second.
const CRYSTAL: u128 = 32_768;
const SECOND: u128 = 1_000_000_000;

/// What decides which events there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Events {
    /// The low four bits of register A.
    pub(super) rate: u8,
    /// The alarm's registers.
    pub(super) alarm: RtcAlarm,
    /// Bit 7 of register B is 0: seconds pass.
    pub(super) updates: bool,
}

impl Events {
    /// The flags of what happens after `from`, up to and including `to`.
    pub(super) fn between(&self, from: Duration, to: Duration) -> u8 {
        let mut flags = 0;
        if self.updates && to.as_secs() > from.as_secs() {
            flags |= UPDATE_ENDED;
            if self.alarm.next(from.as_secs()).is_some_and(|then| then <= to.as_secs()) {
                flags |= ALARM;
            }
        }
        if let Some(ticks) = self.period()
            && tick(from) / ticks != tick(to) / ticks
        {
            flags |= PERIODIC;
        }
        flags
    }

    /// When the first of the events in `flags` happens after `now`.
    pub(super) fn next(&self, flags: u8, now: Duration) -> Option<Duration> {
        let wanted = |flag| flags & flag != 0;
        let seconds = |wanted: bool| wanted.then_some(()).filter(|()| self.updates);
        let update = seconds(wanted(UPDATE_ENDED)).and_then(|()| now.as_secs().checked_add(1));
        let alarm = seconds(wanted(ALARM)).and_then(|()| self.alarm.next(now.as_secs()));
        let period = self.period().filter(|_| wanted(PERIODIC)).and_then(|ticks| {
            let tick = (tick(now) / ticks + 1) * ticks;
            // Rounded up: at that time the tick has come.
            let nanoseconds = (tick * SECOND).div_ceil(CRYSTAL);
            let fraction = u32::try_from(nanoseconds % SECOND).ok()?;
            Some(Duration::new(u64::try_from(nanoseconds / SECOND).ok()?, fraction))
        });
        [update.map(Duration::from_secs), alarm.map(Duration::from_secs), period].into_iter().flatten().min()
    }

    /// Ticks of a period: rate n means 2^(n-1); 1 and 2 are as 8 and 9, 0 is none (MC146818A, table 5).
    fn period(&self) -> Option<u128> {
        match self.rate {
            0 => None,
            rate @ (1 | 2) => Some(1 << (rate + 6)),
            rate => Some(1 << (rate - 1)),
        }
    }
}

fn tick(time: Duration) -> u128 {
    time.as_nanos() * CRYSTAL / SECOND
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::bcd::Format;
    use super::*;

    fn events(rate: u8, second: u8) -> Events {
        let format = Format { binary: true, hours_24: true };
        Events { rate, alarm: RtcAlarm { second, minute: 0xff, hour: 0xff, format }, updates: true }
    }

    #[test]
    fn each_event_has_its_time() {
        let now = Duration::from_millis(100_300);
        let next = |flag| events(6, 50).next(flag, now).map(|then| (then - now).as_micros());
        assert_eq!(next(UPDATE_ENDED), Some(700_000));
        assert_eq!(next(ALARM), Some(9_700_000));
        assert_eq!(next(PERIODIC), Some(781), "the next multiple of 1/1024 s");
        assert_eq!(next(0), None);
        assert_eq!(Events { updates: false, ..events(0, 50) }.next(0xff, now), None);
    }

    proptest! {
        #[test]
        fn nothing_happens_before_the_next_event_and_it_happens_then(
            rate in 0u8..16, second in 0u8..70, flag in prop::sample::select(vec![PERIODIC, ALARM, UPDATE_ENDED]),
            nanoseconds in 0u64..10_000_000_000_000,
        ) {
            let (events, now) = (events(rate, second), Duration::from_nanos(nanoseconds));
            let Some(then) = events.next(flag, now) else { return Ok(()) };
            prop_assert!(then > now);
            prop_assert_eq!(events.between(now, then) & flag, flag);
            prop_assert_eq!(events.between(now, then - Duration::from_nanos(1)) & flag, 0);
        }
    }
}
