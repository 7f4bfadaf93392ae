//! Durations: `"500ms"`, `"10s"`, `"2m"`, `"1h"`.
//!
//! A bare number is refused, since its unit is unknown.

use std::str::FromStr;
use std::time::Duration;

use super::{ParseError, Value, value_in_toml};

/// Duration as a number with a unit, such as `10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub Duration);

/// Units, with their length in milliseconds.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl Value for Time {
    const EXPECTED: &'static str = "a duration such as \"10s\" or \"500ms\"";

    fn from_integer(value: u64) -> Result<Self, ParseError> {
        Err(ParseError::new(format!("`{value}` has no unit"))
            .help(format!("write \"{value}s\" for seconds or \"{value}ms\" for milliseconds")))
    }

    fn from_text(text: &str) -> Result<Self, ParseError> {
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let number: u64 = match digits.parse() {
            Ok(number) => number,
            Err(_) if !digits.is_empty() => return Err(ParseError::new(format!("`{text}` is too long"))),
            Err(_) => {
                return Err(ParseError::new(format!("`{text}` is not a duration"))
                    .help("write a whole number and a unit, such as `10s` or `500ms`"));
            }
        };
        if unit.is_empty() {
            return Self::from_integer(number);
        }
        match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, milliseconds)) => match number.checked_mul(*milliseconds) {
                Some(total) => Ok(Self(Duration::from_millis(total))),
                None => Err(ParseError::new(format!("`{text}` is too long"))),
            },
            None => Err(wrong_unit(text, digits, unit)),
        }
    }
}

impl FromStr for Time {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::from_text(text)
    }
}

fn wrong_unit(text: &str, digits: &str, unit: &str) -> ParseError {
    let meant = match unit.trim().to_ascii_lowercase().as_str() {
        "ms" | "msec" | "millis" | "milliseconds" => "ms",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "m",
        "h" | "hour" | "hours" => "h",
        _ => {
            return ParseError::new(format!(
                "`{text}` is not a duration: it needs a whole number and a unit"
            ))
            .help("units are ms, s, m and h");
        }
    };
    ParseError::new(format!("`{text}` has an unknown unit, `{unit}`"))
        .did_you_mean(format_args!("{digits}{meant}"))
}

value_in_toml!(Time, {
    "description": "A duration with a unit of ms, s, m or h, such as \"10s\".",
    "type": "string",
    "pattern": "^[0-9]+(ms|s|m|h)$"
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_durations() {
        for (text, milliseconds) in
            [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("1h", 3_600_000), ("0s", 0)]
        {
            assert_eq!(Time::from_text(text), Ok(Time(Duration::from_millis(milliseconds))), "{text}");
        }
    }

    #[test]
    fn bad_durations_say_what_was_meant() {
        for (text, help) in [
            ("10", "write \"10s\" for seconds or \"10ms\" for milliseconds"),
            ("10 s", "did you mean `10s`?"),
            ("5min", "did you mean `5m`?"),
            ("5parsecs", "units are ms, s, m and h"),
            ("1.5s", "units are ms, s, m and h"),
            ("soon", "write a whole number and a unit, such as `10s` or `500ms`"),
        ] {
            assert_eq!(Time::from_text(text).unwrap_err().help.as_deref(), Some(help), "{text}");
        }
        assert_eq!(
            Time::from_text("99999999999999999999s").unwrap_err().message,
            "`99999999999999999999s` is too long"
        );
        assert_eq!(
            Time::from_text("9999999999999999999h").unwrap_err().message,
            "`9999999999999999999h` is too long"
        );
    }
}
