//! Timer of the local APIC (SDM vol. 3, 11.5.4): counts down once or periodically at 1 GHz divided by 1 to 128, or waits for a value
//! of the TSC.
//!
//! The frequency is that of KVM's local APICs. Nothing counts: the current count follows from the time of expiry.

use serde::{Deserialize, Serialize};

/// Nanoseconds of a second.
const SECOND: u128 = 1_000_000_000;
/// Bits of the divide configuration register that exist.
pub(super) const DIVIDE_BITS: u32 = 0b1011;

/// Mode of the timer: bits 17 and 18 of its entry in the local vector table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimerMode {
    /// Counts down to 0 and stops. The reserved encoding is the same.
    OneShot,
    /// Counts down to 0 and starts again.
    Periodic,
    /// Fires when the TSC reaches IA32_TSC_DEADLINE.
    TscDeadline,
}

impl TimerMode {
    /// Bits of the mode in the timer's entry.
    pub(super) const FIELD: u32 = 0b11 << 17;

    pub(super) const fn from_register(register: u32) -> Self {
        match register >> 17 & 0b11 {
            0b01 => Self::Periodic,
            0b10 => Self::TscDeadline,
            _ => Self::OneShot,
        }
    }
}

/// Time-stamp counter of a processor at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tsc {
    /// Value of the TSC.
    pub(crate) value: u64,
    /// Frequency in Hz.
    pub(crate) frequency: u64,
}

/// Timer of a local APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct ApicTimer {
    initial_count: u32,
    divide_configuration: u32,
    /// IA32_TSC_DEADLINE.
    tsc_deadline: u64,
    /// Time at which the timer fires; `None` if it is off.
    expiry: Option<u64>,
}

impl ApicTimer {
    pub(super) const fn initial_count(&self) -> u32 {
        self.initial_count
    }

    pub(super) const fn divide_configuration(&self) -> u32 {
        self.divide_configuration & DIVIDE_BITS
    }

    pub(super) const fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    pub(super) const fn expiry(&self) -> Option<u64> {
        self.expiry
    }

    /// Returns the nanoseconds of one count (11.5.4: the encodings 0 to 7 are 2, 4, ... 128, and 1).
    pub(super) const fn divisor(&self) -> u64 {
        let bits = self.divide_configuration;
        1 << (((bits >> 1 & 0b100 | bits & 0b11) + 1) % 8)
    }

    /// Starts counting down from `count`; 0 stops the timer.
    pub(super) fn start(&mut self, count: u32, now: u64) {
        self.initial_count = count;
        self.expiry = (count != 0).then(|| now.saturating_add(self.period()));
    }

    /// Turns the timer off.
    pub(super) const fn stop(&mut self) {
        (self.initial_count, self.tsc_deadline, self.expiry) = (0, 0, None);
    }

    /// Changes the divisor. The current count goes on at the new rate.
    pub(super) fn set_divide_configuration(&mut self, value: u32, now: u64) {
        let before = self.divisor();
        self.divide_configuration = value & DIVIDE_BITS;
        let after = self.divisor();
        self.expiry = self.expiry.map(|expiry| {
            let left = expiry.saturating_sub(now);
            now.saturating_add(left.saturating_mul(after) / before)
        });
    }

    /// Returns the current count; 0 if the timer is off.
    pub(super) fn current_count(&self, now: u64) -> u32 {
        let left = self.expiry.map_or(0, |expiry| expiry.saturating_sub(now));
        u32::try_from(left.div_ceil(self.divisor())).unwrap_or(u32::MAX)
    }

    pub(super) fn set_tsc_deadline(&mut self, deadline: u64, tsc: Tsc, now: u64) {
        self.tsc_deadline = deadline;
        let ticks = u128::from(deadline.saturating_sub(tsc.value));
        // Rounded up, so that the TSC has reached the deadline when the timer fires.
        let wait = (ticks * SECOND).div_ceil(u128::from(tsc.frequency.max(1)));
        let expiry = now.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX));
        self.expiry = (deadline != 0).then_some(expiry);
    }

    /// Returns true if the timer has fired at `now`, and starts the next period. Periods that have been missed count once.
    pub(super) fn expire(&mut self, mode: TimerMode, now: u64) -> bool {
        let Some(expiry) = self.expiry.filter(|expiry| *expiry <= now) else { return false };
        self.tsc_deadline = 0;
        // A restored timer may have a period of 0.
        self.expiry = match (mode, self.period()) {
            (TimerMode::Periodic, period @ 1..) => Some(now.saturating_add(period - (now - expiry) % period)),
            (TimerMode::Periodic | TimerMode::OneShot | TimerMode::TscDeadline, _) => None,
        };
        true
    }

    /// Time from the initial count to 0 in nanoseconds.
    fn period(&self) -> u64 {
        u64::from(self.initial_count) * self.divisor()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn divisors_are_those_of_the_manual() {
        let divisors = [0b0000, 0b0001, 0b0010, 0b0011, 0b1000, 0b1001, 0b1010, 0b1011].map(|value| {
            let mut timer = ApicTimer::default();
            timer.set_divide_configuration(value | 0b100, 0);
            assert_eq!(timer.divide_configuration(), value);
            timer.divisor()
        });
        assert_eq!(divisors, [2, 4, 8, 16, 32, 64, 128, 1]);
    }

    #[test]
    fn the_count_decreases_once_per_divided_tick() {
        let mut timer = ApicTimer::default();
        timer.set_divide_configuration(0b0011, 0);
        timer.start(1000, 50);
        let count = |now| timer.current_count(now);
        assert_eq!((count(50), count(65), count(66), count(16_049), count(16_050)), (1000, 1000, 999, 1, 0));
        assert_eq!(timer.expiry(), Some(16_050));
    }

    #[test]
    fn a_new_divisor_keeps_the_count() {
        let mut timer = ApicTimer::default();
        timer.start(1000, 0);
        timer.set_divide_configuration(0b1010, 1000);
        assert_eq!(timer.current_count(1000), 500);
        assert_eq!(timer.expiry(), Some(1000 + 500 * 128));
    }

    #[test]
    fn a_deadline_is_rounded_up_to_nanoseconds() {
        let mut timer = ApicTimer::default();
        let tsc = Tsc { value: 1000, frequency: 3_000_000_000 };
        timer.set_tsc_deadline(1001, tsc, 7);
        assert_eq!((timer.expiry(), timer.tsc_deadline()), (Some(8), 1001));
        timer.set_tsc_deadline(999, tsc, 7);
        assert_eq!(timer.expiry(), Some(7), "the past");
        timer.set_tsc_deadline(u64::MAX, Tsc { value: 0, frequency: 0 }, 7);
        assert_eq!(timer.expiry(), Some(u64::MAX));
        timer.set_tsc_deadline(0, tsc, 7);
        assert_eq!((timer.expiry(), timer.tsc_deadline()), (None, 0));
    }

    proptest! {
        #[test]
        fn a_periodic_timer_keeps_its_phase(
            count in 1..u32::MAX, divide in 0u32..16, start in 0..1u64 << 40, waits in prop::collection::vec(0..1u64 << 44, 1..20),
        ) {
            let mut timer = ApicTimer::default();
            timer.set_divide_configuration(divide, 0);
            timer.start(count, start);
            let period = timer.period();
            let mut now = start;
            for wait in waits {
                let before = (now - start) / period;
                now += wait;
                let fired = timer.expire(TimerMode::Periodic, now);
                prop_assert_eq!(fired, (now - start) / period > before);
                let expiry = timer.expiry().unwrap();
                prop_assert!(expiry > now && expiry - now <= period);
                prop_assert_eq!((expiry - start) % period, 0);
                prop_assert!((1..=count).contains(&timer.current_count(now)));
            }
        }
    }
}
