//! Counting element of a counter: count and OUT as functions of the CLK pulses since it was loaded.

use serde::{Deserialize, Serialize};

use super::control_word::{ControlWord, CounterMode};

/// Counting element that was loaded. Times are numbers of CLK pulses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CountingElement {
    /// Count that was loaded, as it was written.
    initial: u16,
    /// Time of loading. After a pause it is later, and it can lie before time 0: the difference to now counts.
    start: u64,
    /// While the element does not count: the pulses that it had counted.
    paused: Option<u64>,
    /// Mode 3: the first half after loading is the one with OUT low.
    starts_low: bool,
}

/// Half of a period in mode 3.
struct Half {
    out: bool,
    /// Pulses since its start.
    position: u64,
    length: u64,
}

impl CountingElement {
    /// Creates an element that is loaded at a time. It does not count if `is_paused`.
    pub(super) const fn new(initial: u16, start: u64, is_paused: bool, starts_low: bool) -> Self {
        Self { initial, start, paused: if is_paused { Some(0) } else { None }, starts_low }
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// Returns the pulses since loading.
    fn elapsed(&self, tick: u64) -> u64 {
        self.paused.unwrap_or_else(|| tick.wrapping_sub(self.start))
    }

    /// Stops counting. A strobe of mode 4 ends with it.
    pub(super) fn pause(&mut self, control: ControlWord, tick: u64) {
        let elapsed = self.elapsed(tick);
        let is_strobe =
            control.mode() == CounterMode::SoftwareStrobe && elapsed == control.decode(self.initial);
        // A round later the count is the same.
        self.paused = Some(if is_strobe { elapsed.saturating_add(control.modulus()) } else { elapsed });
    }

    /// Goes on counting.
    pub(super) fn resume(&mut self, tick: u64) {
        if let Some(elapsed) = self.paused.take() {
            self.start = tick.wrapping_sub(elapsed);
        }
    }

    /// Returns the half of the period in mode 3. An odd count makes the half with OUT high one pulse longer.
    fn half(&self, control: ControlWord, tick: u64) -> Half {
        let count = control.decode(self.initial);
        let first = if self.starts_low { count / 2 } else { count - count / 2 };
        let position = self.elapsed(tick) % count;
        if position < first {
            Half { out: !self.starts_low, position, length: first }
        } else {
            Half { out: self.starts_low, position: position - first, length: count - first }
        }
    }

    pub(super) fn out(&self, control: ControlWord, tick: u64) -> bool {
        let (count, elapsed) = (control.decode(self.initial), self.elapsed(tick));
        match control.mode() {
            CounterMode::InterruptOnTerminalCount | CounterMode::OneShot => elapsed >= count,
            // A low GATE pauses these, and sets OUT high.
            CounterMode::RateGenerator => self.is_paused() || elapsed % count != count - 1,
            CounterMode::SquareWave => self.is_paused() || self.half(control, tick).out,
            CounterMode::SoftwareStrobe | CounterMode::HardwareStrobe => elapsed != count,
        }
    }

    /// Returns the count as it is read.
    pub(super) fn count(&self, control: ControlWord, tick: u64) -> u16 {
        let (count, elapsed) = (control.decode(self.initial), self.elapsed(tick));
        control.encode(match control.mode() {
            CounterMode::RateGenerator => count - elapsed % count,
            // By two with each pulse. The last bit of an odd count is not loaded.
            CounterMode::SquareWave => (count & !1).saturating_sub(2 * self.half(control, tick).position),
            CounterMode::InterruptOnTerminalCount
            | CounterMode::OneShot
            | CounterMode::SoftwareStrobe
            | CounterMode::HardwareStrobe => {
                let modulus = control.modulus();
                count % modulus + modulus - elapsed % modulus
            }
        })
    }

    /// Returns the time of the next pulse at which the periodic modes load the count again: after a period in mode 2, a half of it in
    /// mode 3.
    pub(super) fn next_reload(&self, control: ControlWord, tick: u64) -> u64 {
        let pulses = if control.mode() == CounterMode::SquareWave {
            let Half { position, length, .. } = self.half(control, tick);
            length.saturating_sub(position)
        } else {
            let count = control.decode(self.initial);
            count - self.elapsed(tick) % count
        };
        tick.saturating_add(pulses)
    }

    /// Returns the next time at which OUT changes.
    pub(super) fn next_out_change(&self, control: ControlWord, tick: u64) -> Option<u64> {
        if self.is_paused() {
            return None;
        }
        let (count, elapsed) = (control.decode(self.initial), self.elapsed(tick));
        let pulses = match control.mode() {
            CounterMode::InterruptOnTerminalCount | CounterMode::OneShot => count.checked_sub(elapsed)?,
            // A count of 1 is illegal.
            CounterMode::RateGenerator | CounterMode::SquareWave if count == 1 => return None,
            CounterMode::RateGenerator => match count - 1 - elapsed % count {
                0 => 1,
                pulses => pulses,
            },
            CounterMode::SquareWave => return Some(self.next_reload(control, tick)),
            CounterMode::SoftwareStrobe | CounterMode::HardwareStrobe => match count.checked_sub(elapsed)? {
                0 => 1,
                pulses => pulses,
            },
        };
        (pulses != 0).then(|| tick.saturating_add(pulses))
    }

    /// Returns the number of rising edges of OUT after `from`, up to and including `to`, which is not before it.
    pub(super) fn rising_edges(&self, control: ControlWord, from: u64, to: u64) -> u64 {
        if self.is_paused() {
            return 0;
        }
        let count = control.decode(self.initial);
        let first = self.elapsed(from);
        let last = first.saturating_add(to.saturating_sub(from));
        let periods = |shift: u64| last.saturating_add(shift) / count - first.saturating_add(shift) / count;
        match control.mode() {
            CounterMode::InterruptOnTerminalCount | CounterMode::OneShot => {
                u64::from(first < count && count <= last)
            }
            CounterMode::RateGenerator | CounterMode::SquareWave if count == 1 => 0,
            CounterMode::SquareWave if self.starts_low => periods(count - count / 2),
            CounterMode::RateGenerator | CounterMode::SquareWave => periods(0),
            CounterMode::SoftwareStrobe | CounterMode::HardwareStrobe => {
                u64::from(first <= count && count < last)
            }
        }
    }
}
