//! Formatting of sizes and lists in messages.

use std::fmt;

/// Formats a number of bytes in the largest unit that divides it: `64 KiB`, `100 bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 6] = [
            (1 << 60, "EiB"),
            (1 << 50, "PiB"),
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        let divides = |unit: u64| self.0 >= unit && self.0.is_multiple_of(unit);
        match UNITS.into_iter().find(|&(unit, _)| divides(unit)) {
            Some((unit, name)) => write!(f, "{} {name}", self.0 / unit),
            None if self.0 == 1 => f.write_str("1 byte"),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// Joins items with commas: `a, b, c`.
pub(crate) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_in_the_largest_unit_that_fits() {
        let printed =
            [0, 1, 1023, 1024, 1025, 65536, 3 << 20, 1 << 52].map(|bytes| ByteSize(bytes).to_string());
        assert_eq!(
            printed,
            ["0 bytes", "1 byte", "1023 bytes", "1 KiB", "1025 bytes", "64 KiB", "3 MiB", "4 PiB"]
        );
    }
}
