//! Events of the clock: end of the update each second, periods of a fraction of a second, alarm.
//!
//! Each is a flag in register C with an enable bit at the same position in register B. Events are computed from two times; no
//! timer runs for them.

use std::time::Duration;

use super::alarm::RtcAlarm;

/// Flag: a period has passed (PF).
pub(super) const PERIODIC: u8 = 1 << 6;
/// Flag: the alarm has fired (AF).
pub(super) const ALARM: u8 = 1 << 5;
/// Flag: an update has ended (UF).
pub(super) const UPDATE_ENDED: u8 = 1 << 4;

/// Frequency of the crystal in Hz.
const CRYSTAL: u128 = 32_768;
const SECOND: u128 = 1_000_000_000;

/// Settings that decide on events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Events {
    /// Low four bits of register A: rate of the periods.
    pub(super) rate: u8,
    /// Alarm registers.
    pub(super) alarm: RtcAlarm,
    /// True if the time is updated: bit 7 of register B is 0.
    pub(super) updates: bool,
}

impl Events {
    /// Returns the flags of the events after `from`, up to and including `to`.
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

    /// Returns the time of the first event in `flags` after `now`.
    pub(super) fn next(&self, flags: u8, now: Duration) -> Option<Duration> {
        let wanted = |flag| flags & flag != 0;
        let seconds = |wanted: bool| wanted.then_some(()).filter(|()| self.updates);
        let update = seconds(wanted(UPDATE_ENDED)).and_then(|()| now.as_secs().checked_add(1));
        let alarm = seconds(wanted(ALARM)).and_then(|()| self.alarm.next(now.as_secs()));
        let period = self.period().filter(|_| wanted(PERIODIC)).and_then(|ticks| {
            let tick = (tick(now) / ticks + 1) * ticks;
            // Rounded up, so that the tick has passed at that time.
            let nanoseconds = (tick * SECOND).div_ceil(CRYSTAL);
            let fraction = u32::try_from(nanoseconds % SECOND).ok()?;
            Some(Duration::new(u64::try_from(nanoseconds / SECOND).ok()?, fraction))
        });
        [update.map(Duration::from_secs), alarm.map(Duration::from_secs), period].into_iter().flatten().min()
    }

    /// Returns the ticks of a period: rate n means 2^(n-1); 1 and 2 are the same as 8 and 9, 0 is none (MC146818A, table 5).
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
