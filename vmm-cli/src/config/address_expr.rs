//! Parses guest addresses of the command line: `0x7c00`, `main`, `main+0x10`, `0x7c0:0x10`, and ranges of them.
//!
//! Only the grammar is here. `inspect.rs` looks up symbols in the guest's files.

use std::fmt;

use crate::config::values::{Address, EntryChoice, ParseError, Size, Value};
use crate::diagnostic::Diagnostic;
use crate::status::Status;

/// Base of an address expression: an address or a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressBase {
    /// Guest address as a number. `segment:offset` is already converted, as in real mode.
    Address(u64),
    /// Name of a symbol in the guest's ELF file.
    Symbol(String),
}

/// Address expression: a base and an offset in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressExpr {
    /// Base that the offset is added to.
    pub base: AddressBase,
    /// Offset that is added to the base, in bytes.
    pub offset: u64,
}

/// Extent of an address range: its end, its length, or that of a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeExtent {
    /// Exclusive end of the range.
    UpTo(AddressExpr),
    /// Length of the range in bytes.
    Length(u64),
    /// Size of the symbol that the range starts at.
    Symbol,
}

/// Range of guest memory as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRange {
    /// Address of the first byte.
    pub start: AddressExpr,
    /// Extent of the range: its end, its length, or that of a symbol.
    pub extent: RangeExtent,
}

/// Formats the expression as it is written on a command line.
impl fmt::Display for AddressExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            AddressBase::Address(address) => write!(f, "{address:#x}")?,
            AddressBase::Symbol(name) => f.write_str(name)?,
        }
        if self.offset == 0 { Ok(()) } else { write!(f, "+{:#x}", self.offset) }
    }
}

impl AddressExpr {
    /// Parses an address expression: an address, a symbol, or one of them with `+` and an offset.
    ///
    /// # Errors
    /// `text` is neither; the diagnostic has the status of a mistake on the command line.
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        let (base, offset) = match text.rsplit_once('+') {
            Some((base, offset)) => (base, Address::from_text(offset).map_err(mistake)?.0),
            None => (text, 0),
        };
        let base = match EntryChoice::from_text(base).map_err(mistake)? {
            EntryChoice::Symbol(name) => AddressBase::Symbol(name),
            EntryChoice::Address(address) => AddressBase::Address(address.0),
            EntryChoice::Segmented { segment, offset } => {
                AddressBase::Address(u64::from(segment) * 16 + u64::from(offset))
            }
        };
        Ok(Self { base, offset })
    }
}

impl AddressRange {
    /// Parses a range: `START..END`, `START,LENGTH`, or a symbol alone.
    ///
    /// # Errors
    /// `text` is no range, or one of its addresses is invalid ([`AddressExpr::parse`]).
    pub fn parse(text: &str) -> Result<Self, Diagnostic> {
        if let Some((start, end)) = text.rsplit_once("..") {
            return Ok(Self {
                start: AddressExpr::parse(start)?,
                extent: RangeExtent::UpTo(AddressExpr::parse(end)?),
            });
        }
        if let Some((start, length)) = text.rsplit_once(',') {
            return Ok(Self {
                start: AddressExpr::parse(start)?,
                extent: RangeExtent::Length(parse_length(length)?),
            });
        }
        let start = AddressExpr::parse(text)?;
        match start.base {
            AddressBase::Symbol(_) => Ok(Self { start, extent: RangeExtent::Symbol }),
            AddressBase::Address(_) => {
                let refusal = ParseError::new(format!("`{text}` is an address and not a range"));
                Err(mistake(refusal.help(format!("write `{text},64` for 64 bytes, or `{text}..END`"))))
            }
        }
    }
}

/// Parses a number of bytes: `64`, `0x40` or `4KiB`.
fn parse_length(text: &str) -> Result<u64, Diagnostic> {
    match Address::from_text(text) {
        Ok(Address(length)) => Ok(length),
        Err(_) => Size::from_text(text).map(|Size(length)| length).map_err(mistake),
    }
}

fn mistake(ParseError { message, help }: ParseError) -> Diagnostic {
    Diagnostic::error(Status::Configuration, message).with_help(help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str, offset: u64) -> AddressExpr {
        AddressExpr { base: AddressBase::Symbol(name.to_owned()), offset }
    }

    fn address(address: u64) -> AddressExpr {
        AddressExpr { base: AddressBase::Address(address), offset: 0 }
    }

    #[test]
    fn places() {
        for (text, place) in [
            ("0x7c00", address(0x7c00)),
            ("0xffff_ffff_8000_0000", address(0xffff_ffff_8000_0000)),
            ("0x7c0:0x10", address(0x7c10)),
            ("main", symbol("main", 0)),
            ("main+0x10", symbol("main", 0x10)),
            ("0x1000+16", AddressExpr { base: AddressBase::Address(0x1000), offset: 16 }),
        ] {
            assert_eq!(AddressExpr::parse(text), Ok(place), "{text}");
        }
        for text in ["", "7c00", "main+", "main+x", "+4", "two words"] {
            assert_eq!(AddressExpr::parse(text).unwrap_err().status, Status::Configuration, "{text}");
        }
    }

    #[test]
    fn ranges() {
        let range = |start, extent| Ok(AddressRange { start, extent });
        assert_eq!(
            AddressRange::parse("0x1000..0x2000"),
            range(address(0x1000), RangeExtent::UpTo(address(0x2000)))
        );
        assert_eq!(AddressRange::parse("0x1000,4KiB"), range(address(0x1000), RangeExtent::Length(4096)));
        assert_eq!(AddressRange::parse("main+4,16"), range(symbol("main", 4), RangeExtent::Length(16)));
        assert_eq!(AddressRange::parse("a..b+1"), range(symbol("a", 0), RangeExtent::UpTo(symbol("b", 1))));
        assert_eq!(AddressRange::parse("text"), range(symbol("text", 0), RangeExtent::Symbol));
        assert!(AddressRange::parse("0x1000").unwrap_err().help.unwrap().contains("0x1000,64"));
    }
}
