//! Addresses, ports and register values: an integer, or a string such as `"0xffff_ffff_8000_0000"`.
//!
//! TOML guarantees integers of 63 bits only, so addresses in the upper half of the address space are written as strings.

use super::{ParseError, Value, size::Size, value_in_toml};

/// Guest address, physical or virtual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

/// Value of a 64-bit register or of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(pub u64);

/// Number of an x86 I/O port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u16);

/// Parses `0x`, `0o`, `0b` or decimal digits, with underscores between them as in TOML.
pub(super) fn parse_number(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.get(..2) {
        Some("0x") => (lower.get(2..)?, 16),
        Some("0o") => (lower.get(2..)?, 8),
        Some("0b") => (lower.get(2..)?, 2),
        Some(_) | None => (lower.as_str(), 10),
    };
    let well_formed =
        digits.split('_').all(|group| !group.is_empty() && group.chars().all(|c| c.is_digit(radix)));
    if well_formed { u64::from_str_radix(&digits.replace('_', ""), radix).ok() } else { None }
}

/// Returns the error for a text that is not a number of at most 64 bits; `what` names the expected value.
fn refuse(text: &str, what: &str) -> ParseError {
    let refusal = ParseError::new(format!("`{text}` is not {what}"));
    let bare_hex = text.replace('_', "");
    let hex_digits = bare_hex.trim_start_matches("0x");
    if !hex_digits.is_empty() && hex_digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return if hex_digits.len() > 16
            || parse_number(text).is_none() && text.chars().all(|c| c.is_ascii_digit())
        {
            ParseError::new(format!("`{text}` does not fit in 64 bits"))
        } else {
            refusal.did_you_mean(format_args!("0x{hex_digits}"))
        };
    }
    match Size::from_text(text) {
        Ok(Size(bytes)) => refusal.did_you_mean(format_args!("{bytes:#x}")),
        Err(_) => refusal.help("write an integer, or a string such as \"0xffff_ffff_8000_0000\""),
    }
}

/// Returns the error for a negative address: it is probably one of the upper half, printed as a signed number.
fn refuse_negative(value: i64, what: &str) -> ParseError {
    ParseError::new(format!("`{value}` is not {what}: it is below 0"))
        .help(format!("write \"{value:#x}\" if that is what you mean"))
}

impl Value for Address {
    const EXPECTED: &'static str = "an address: an integer, or a string such as \"0xffff_ffff_8000_0000\"";

    fn from_integer(value: u64) -> Result<Self, ParseError> {
        Ok(Self(value))
    }

    fn from_negative(value: i64) -> ParseError {
        refuse_negative(value, "an address")
    }

    fn from_text(text: &str) -> Result<Self, ParseError> {
        parse_number(text).map(Self).ok_or_else(|| refuse(text, "an address"))
    }
}

impl Value for Word {
    const EXPECTED: &'static str = "a value: an integer, or a string such as \"0xffff_ffff_8000_0000\"";

    fn from_integer(value: u64) -> Result<Self, ParseError> {
        Ok(Self(value))
    }

    fn from_negative(value: i64) -> ParseError {
        refuse_negative(value, "an unsigned value")
    }

    fn from_text(text: &str) -> Result<Self, ParseError> {
        parse_number(text).map(Self).ok_or_else(|| refuse(text, "a value"))
    }
}

impl Value for Port {
    const EXPECTED: &'static str = "an I/O port from 0 to 0xffff";

    fn from_integer(value: u64) -> Result<Self, ParseError> {
        u16::try_from(value).map(Self).map_err(|_| {
            ParseError::new(format!("port {value:#x} does not exist")).help("ports go from 0 to 0xffff")
        })
    }

    fn from_negative(value: i64) -> ParseError {
        ParseError::new(format!("port {value} does not exist")).help("ports go from 0 to 0xffff")
    }

    fn from_text(text: &str) -> Result<Self, ParseError> {
        parse_number(text).ok_or_else(|| refuse(text, "a port")).and_then(Self::from_integer)
    }
}

value_in_toml!(Address, {
    "description": "An address: an integer, or a string such as \"0xffff_ffff_8000_0000\".",
    "anyOf": [
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": "^(0[xX][0-9a-fA-F]+(_[0-9a-fA-F]+)*|0[oO][0-7]+(_[0-7]+)*|0[bB][01]+(_[01]+)*|[0-9]+(_[0-9]+)*)$" }
    ]
});

value_in_toml!(Word, {
    "description": "An unsigned value: an integer, or a string such as \"0xffff_ffff_8000_0000\".",
    "anyOf": [
        { "type": "integer", "minimum": 0 },
        { "type": "string", "pattern": "^(0[xX][0-9a-fA-F]+(_[0-9a-fA-F]+)*|0[oO][0-7]+(_[0-7]+)*|0[bB][01]+(_[01]+)*|[0-9]+(_[0-9]+)*)$" }
    ]
});

value_in_toml!(Port, {
    "description": "An x86 I/O port, 0 to 0xffff.",
    "anyOf": [
        { "type": "integer", "minimum": 0, "maximum": 65535 },
        { "type": "string", "pattern": "^(0[xX][0-9a-fA-F]+(_[0-9a-fA-F]+)*|[0-9]+(_[0-9]+)*)$" }
    ]
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_addresses() {
        for (text, value) in [
            ("0x7c00", 0x7c00),
            ("0xffff_ffff_8000_0000", 0xffff_ffff_8000_0000),
            ("0XFF", 0xff),
            ("1_000", 1000),
            ("0b101", 5),
            ("0o17", 15),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(Address::from_text(text), Ok(Address(value)), "{text}");
        }
    }

    #[test]
    fn bad_addresses_say_what_was_meant() {
        for (text, help) in [
            ("7c00", Some("did you mean `0x7c00`?")),
            ("0x7c00__0", Some("did you mean `0x7c000`?")),
            ("1MiB", Some("did you mean `0x100000`?")),
            ("start", Some("write an integer, or a string such as \"0xffff_ffff_8000_0000\"")),
            ("", Some("write an integer, or a string such as \"0xffff_ffff_8000_0000\"")),
            ("0x1_0000_0000_0000_0000", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(Address::from_text(text).unwrap_err().help.as_deref(), help, "{text}");
        }
        let refusal = Address::from_negative(-0x8000_0000);
        assert_eq!(refusal.help.as_deref(), Some("write \"0xffffffff80000000\" if that is what you mean"));
    }

    #[test]
    fn ports_have_sixteen_bits() {
        assert_eq!(Port::from_text("0x3f8"), Ok(Port(0x3f8)));
        assert_eq!(Port::from_integer(0xffff), Ok(Port(0xffff)));
        assert_eq!(Port::from_integer(0x1_0000).unwrap_err().message, "port 0x10000 does not exist");
    }

    proptest! {
        #[test]
        fn hexadecimal_reads_back(value: u64) {
            prop_assert_eq!(Address::from_text(&format!("{value:#x}")), Ok(Address(value)));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = Address::from_text(&text);
            let _ = Port::from_text(&text);
        }
    }
}
