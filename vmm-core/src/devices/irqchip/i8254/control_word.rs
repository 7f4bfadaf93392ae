//! Control word of a counter: mode, number format, and which bytes are written and read.

use serde::{Deserialize, Serialize};

/// Mode of a counter (data sheet, "Mode Definitions").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CounterMode {
    /// Mode 0: OUT rises when the count has expired.
    InterruptOnTerminalCount,
    /// Mode 1: OUT is low from a rising GATE until the count has expired.
    OneShot,
    /// Mode 2: OUT is low for one CLK pulse of each period.
    RateGenerator,
    /// Mode 3: OUT is high for one half of each period.
    SquareWave,
    /// Mode 4: OUT is low for one CLK pulse when the count has expired.
    SoftwareStrobe,
    /// Mode 5: as mode 4, but a rising GATE loads the count.
    HardwareStrobe,
}

/// Bytes of a count that are written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CountBytes {
    Low,
    High,
    /// The low byte, then the high one.
    Both,
}

/// Control word of a counter, without the bits that select the counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ControlWord(pub(super) u8);

impl ControlWord {
    pub(super) const fn mode(self) -> CounterMode {
        match self.0 >> 1 & 7 {
            0 => CounterMode::InterruptOnTerminalCount,
            1 => CounterMode::OneShot,
            2 | 6 => CounterMode::RateGenerator,
            4 => CounterMode::SoftwareStrobe,
            5 => CounterMode::HardwareStrobe,
            _ => CounterMode::SquareWave,
        }
    }

    pub(super) const fn bytes(self) -> CountBytes {
        match self.0 >> 4 & 3 {
            1 => CountBytes::Low,
            2 => CountBytes::High,
            _ => CountBytes::Both,
        }
    }

    /// Returns true if counts have four decimal digits (BCD).
    const fn is_decimal(self) -> bool {
        self.0 & 1 != 0
    }

    /// Returns the number of counts: 0 follows the highest one.
    pub(super) const fn modulus(self) -> u64 {
        if self.is_decimal() { 10_000 } else { 1 << 16 }
    }

    /// Returns the CLK pulses that a count stands for, 1 or more. 0 is the highest count.
    pub(super) fn decode(self, count: u16) -> u64 {
        match count {
            0 => self.modulus(),
            // Digits above 9 are not defined.
            _ if self.is_decimal() => {
                [12, 8, 4, 0].into_iter().fold(0, |value, shift| value * 10 + u64::from(count >> shift & 0xf))
            }
            _ => count.into(),
        }
    }

    /// Returns the count as it is read.
    pub(super) fn encode(self, pulses: u64) -> u16 {
        let mut rest = pulses % self.modulus();
        if !self.is_decimal() {
            return u16::try_from(rest).unwrap_or_default();
        }
        let mut count = 0;
        for shift in [0, 4, 8, 12] {
            count |= u16::try_from(rest % 10).unwrap_or_default() << shift;
            rest /= 10;
        }
        count
    }
}
