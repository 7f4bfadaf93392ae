//! Entry points: a symbol, an address, or `segment:offset` in real mode.

use vmm_core::Gva;

use super::address::parse_number;
use super::{ParseError, Value, value_in_toml};

/// Entry point as a configuration names it, before symbols are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryChoice {
    /// Symbol of the guest's ELF file.
    Symbol(String),
    /// Virtual address of the first instruction.
    Address(Gva),
    /// Entry given by CS and IP; real mode only.
    Segmented {
        /// Value of CS at the entry.
        segment: u16,
        /// Value of IP at the entry.
        offset: u16,
    },
}

impl Value for EntryChoice {
    const EXPECTED: &'static str = "an entry point: a symbol, an address, or \"segment:offset\"";

    fn from_integer(value: u64) -> Result<Self, ParseError> {
        Ok(Self::Address(Gva(value)))
    }

    fn from_negative(value: i64) -> ParseError {
        ParseError::new(format!("`{value}` is not an address: it is below 0"))
            .help(format!("write \"{value:#x}\" if that is what you mean"))
    }

    // No symbol of C, assembly or Rust starts with a digit, and every number does.
    fn from_text(text: &str) -> Result<Self, ParseError> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            match text.split_once(':') {
                Some((segment, offset)) => segmented(text, segment, offset),
                None => match parse_number(text) {
                    Some(value) => Ok(Self::Address(Gva(value))),
                    None => Err(ParseError::new(format!("`{text}` is neither an address nor a symbol"))
                        .help("write an address as `0x7c00`, or the name of a symbol")),
                },
            }
        } else if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Err(ParseError::new(format!("{text:?} is neither an address nor a symbol"))
                .help("leave `entry` out to start where the file says"))
        } else {
            Ok(Self::Symbol(text.to_owned()))
        }
    }
}

fn segmented(text: &str, segment: &str, offset: &str) -> Result<EntryChoice, ParseError> {
    let half = |part| parse_number(part).and_then(|value| u16::try_from(value).ok());
    match (half(segment), half(offset)) {
        (Some(segment), Some(offset)) => Ok(EntryChoice::Segmented { segment, offset }),
        _ => Err(ParseError::new(format!("`{text}` is not a segment and an offset of 16 bits each"))
            .help("write both in hexadecimal with 0x, such as `0x7c0:0x0`")),
    }
}

value_in_toml!(EntryChoice, {
    "description": "Where execution starts: an address, a symbol of the ELF file, or \"segment:offset\" in real mode.",
    "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[^\\s]+$" }]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        assert_eq!(EntryChoice::from_text("_start"), Ok(EntryChoice::Symbol("_start".to_owned())));
        assert_eq!(EntryChoice::from_text("core::main"), Ok(EntryChoice::Symbol("core::main".to_owned())));
        assert_eq!(EntryChoice::from_text("0x7c00"), Ok(EntryChoice::Address(Gva(0x7c00))));
        assert_eq!(EntryChoice::from_integer(0x7c00), Ok(EntryChoice::Address(Gva(0x7c00))));
        let segmented = EntryChoice::Segmented { segment: 0x7c0, offset: 0 };
        assert_eq!(EntryChoice::from_text("0x7c0:0x0"), Ok(segmented));
    }

    #[test]
    fn what_is_none_of_them() {
        for text in ["", "two words", "7c00", "0x", "0x7c0:", "0x10000:0", "0x7c0:0:0"] {
            assert!(EntryChoice::from_text(text).unwrap_err().help.is_some(), "{text}");
        }
    }
}
