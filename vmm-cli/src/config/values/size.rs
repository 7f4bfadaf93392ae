//! Sizes in bytes: `4096`, `"512B"`, `"64KiB"`, `"2MiB"`, `"1GiB"`, `"1TiB"`.
//!
//! The units are powers of 1024. `KB` and `MB` are ambiguous and refused, with the unit that was probably meant as help.

use super::{ParseError, Value, value_in_toml};

/// Size in bytes, with an optional unit such as `MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

impl Value for Size {
    const EXPECTED: &'static str = "a size such as \"2MiB\" or a number of bytes";

    fn from_integer(value: u64) -> Result<Self, ParseError> {
        Ok(Self(value))
    }

    fn from_negative(value: i64) -> ParseError {
        ParseError::new(format!("`{value}` is not a size: it is below 0"))
    }

    fn from_text(text: &str) -> Result<Self, ParseError> {
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        if digits.is_empty() {
            return Err(ParseError::new(format!("`{text}` is not a size"))
                .help("write a whole number and a unit, such as `2MiB`"));
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(wrong_unit(text, digits, unit));
        };
        let number: Option<u64> = digits.parse().ok();
        match number.and_then(|number| number.checked_mul(*factor)) {
            Some(bytes) => Ok(Self(bytes)),
            None => Err(ParseError::new(format!("`{text}` does not fit in 64 bits"))),
        }
    }
}

fn wrong_unit(text: &str, digits: &str, unit: &str) -> ParseError {
    if unit.is_empty() {
        return ParseError::new(format!("`{text}` has no unit"))
            .help(format!("write `{digits}` without quotes, or `{digits}B`, for bytes"));
    }
    if unit.starts_with(['.', ',', '_']) {
        return ParseError::new(format!("`{text}` is not a size: it needs a whole number and a unit"))
            .help("use a smaller unit, such as `1536KiB` for one and a half MiB");
    }
    let meant = match unit.trim().to_ascii_lowercase().as_str() {
        "byte" | "bytes" | "b" => "B",
        "k" | "kb" | "kib" | "ki" => "KiB",
        "m" | "mb" | "mib" | "mi" => "MiB",
        "g" | "gb" | "gib" | "gi" => "GiB",
        "t" | "tb" | "tib" | "ti" => "TiB",
        _ => {
            return ParseError::new(format!("`{text}` has an unknown unit, `{unit}`"))
                .help("units are B, KiB, MiB, GiB and TiB");
        }
    };
    ParseError::new(format!("`{text}` has an unknown unit, `{unit}`"))
        .did_you_mean(format_args!("{digits}{meant}"))
}

value_in_toml!(Size, {
    "description": "A size: an integer of bytes, or a string with a unit of B, KiB, MiB, GiB or TiB.",
    "anyOf": [
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$" }
    ]
});

/// Formats a size in the largest unit that divides it: `64 KiB`, `1000 B`.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let fits = |factor: &u64| bytes != 0 && bytes.is_multiple_of(*factor);
    let (unit, factor) = UNITS.iter().rev().find(|(_, factor)| fits(factor)).copied().unwrap_or(("B", 1));
    format!("{} {unit}", bytes.checked_div(factor).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_sizes() {
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65536),
            ("2MiB", 2 << 20),
            ("1GiB", 1 << 30),
            ("1TiB", 1 << 40),
            ("0B", 0),
        ] {
            assert_eq!(Size::from_text(text), Ok(Size(bytes)), "{text}");
        }
    }

    #[test]
    fn bad_sizes_say_what_was_meant() {
        for (text, help) in [
            ("2MB", "did you mean `2MiB`?"),
            ("64 KiB", "did you mean `64KiB`?"),
            ("1g", "did you mean `1GiB`?"),
            ("4mib", "did you mean `4MiB`?"),
            ("4096", "write `4096` without quotes, or `4096B`, for bytes"),
            ("1.5MiB", "use a smaller unit, such as `1536KiB` for one and a half MiB"),
            ("2MiBs", "units are B, KiB, MiB, GiB and TiB"),
            ("big", "write a whole number and a unit, such as `2MiB`"),
            ("", "write a whole number and a unit, such as `2MiB`"),
        ] {
            let refusal = Size::from_text(text).unwrap_err();
            assert_eq!(refusal.help.as_deref(), Some(help), "{text}");
        }
        assert_eq!(
            Size::from_text("16777216TiB").unwrap_err().message,
            "`16777216TiB` does not fit in 64 bits"
        );
        assert_eq!(Size::from_text("99999999999999999999B").unwrap_err().help, None);
    }

    #[test]
    fn sizes_are_shown_in_the_largest_whole_unit() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1000), "1000 B");
        assert_eq!(show_size(65536), "64 KiB");
        assert_eq!(show_size(3 << 30), "3 GiB");
        assert_eq!(show_size((1 << 20) + 1), "1048577 B");
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes: u64) {
            let text = show_size(bytes).replace(' ', "");
            prop_assert_eq!(Size::from_text(&text), Ok(Size(bytes)));
        }
    }
}
