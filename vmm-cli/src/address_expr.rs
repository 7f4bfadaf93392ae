//! Places in a guest as the command line names them: `0x7c00`, `main`, `main+0x10`, `0x7c0:0x10`, and ranges of them.
//!
//! Only the grammar is here. What a symbol stands for is known to who has read the guest's files.

use std::fmt;

use crate::config::values::{Address, EntryChoice, Refusal, Size, Value};
use crate::diagnostic::Diagnostic;
use crate::status::Status;

/// What a place is counted from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressBase {
    /// This address; `segment:offset` is one already, as real mode computes it.
    Address(u64),
    /// A symbol.
    Symbol(String),
}

/// A place: a base, and an offset from it in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressExpr {
    /// Where to count from.
    pub base: AddressBase,
    /// How far.
    pub offset: u64,
}

/// How far a range goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeExtent {
    /// Up to but not including a place.
    UpTo(AddressExpr),
    /// A number of bytes.
    Length(u64),
    /// As far as the symbol that it starts at.
    Symbol,
}

/// A range of guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRange {
    /// Its first byte.
    pub start: AddressExpr,
    /// Its end.
    pub extent: RangeExtent,
}

/// As it is written on a command line.
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
    /// Reads an address, a symbol, or one of them with `+` and an offset.
    ///
    /// # Errors
    /// What is wrong with `text`, as a mistake on the command line.
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
            // Text is always one of the above.
            EntryChoice::FromFile => AddressBase::Address(0),
        };
        Ok(Self { base, offset })
    }
}

impl AddressRange {
    /// Reads `START..END`, `START,LENGTH`, or a symbol alone.
    ///
    /// # Errors
    /// As [`Place::parse`].
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
                let refusal = Refusal::new(format!("`{text}` is an address and not a range"));
                Err(mistake(refusal.help(format!("write `{text},64` for 64 bytes, or `{text}..END`"))))
            }
        }
    }
}

/// A number of bytes: `64`, `0x40` or `4KiB`.
fn parse_length(text: &str) -> Result<u64, Diagnostic> {
    match Address::from_text(text) {
        Ok(Address(length)) => Ok(length),
        Err(_) => Size::from_text(text).map(|Size(length)| length).map_err(mistake),
    }
}

fn mistake(Refusal { message, help }: Refusal) -> Diagnostic {
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
