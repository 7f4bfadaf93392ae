//! Number formats of the clock: bits 1 and 2 of register B.

/// Format of numbers: BCD or binary, 24 or 12 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    pub(super) binary: bool,
    pub(super) hours_24: bool,
}

impl Format {
    /// Returns a number below 100 in this format.
    pub(super) const fn number(self, value: u8) -> u8 {
        if self.binary { value } else { ((value / 10) << 4) | (value % 10) }
    }

    /// Returns an hour in this format: of 24, or of 12 with bit 7 for PM.
    pub(super) const fn hour(self, hour: u8) -> u8 {
        if self.hours_24 {
            return self.number(hour);
        }
        let afternoon = if hour >= 12 { 1 << 7 } else { 0 };
        let hour = if hour.is_multiple_of(12) { 12 } else { hour % 12 };
        self.number(hour) | afternoon
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noon_and_midnight_are_twelve() {
        let format = Format { binary: false, hours_24: false };
        assert_eq!([0, 1, 11, 12, 13].map(|hour| format.hour(hour)), [0x12, 0x01, 0x11, 0x92, 0x81]);
        let format = Format { binary: true, hours_24: true };
        assert_eq!((format.hour(13), format.number(59)), (13, 59));
    }
}
