//! Symbols of a file, looked up by name and by address (gABI, "Symbol Table").
//!
//! A guest runs without symbols, so a file with a missing or damaged symbol table can be loaded. Its plan has a note then.

use std::ops::Range;

use strsim::damerau_levenshtein;
use thiserror::Error;

use crate::address::VirtAddr;
use crate::display::list;

/// Kind of a symbol, in ascending order of usefulness as a name for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SymbolKind {
    /// Absolute value that does not move with the base address (SHN_ABS).
    Absolute,
    /// Address without a type, as assemblers emit for `name:` (STT_NOTYPE).
    Label,
    /// Variable (STT_OBJECT).
    Object,
    /// Function (STT_FUNC).
    Function,
}

/// Named address or value of an ELF file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Symbol {
    /// Name as in the file, not demangled.
    pub name: String,
    /// Address that the symbol is loaded at; for an absolute symbol ([`SymbolKind::Absolute`]), its value.
    pub address: VirtAddr,
    /// Size in bytes; 0 if the file gives none, as for most labels.
    pub size: u64,
    /// Kind of the symbol: function, variable, label or absolute value.
    pub kind: SymbolKind,
    /// True if the symbol is visible outside its object file (STB_GLOBAL or STB_WEAK).
    pub global: bool,
}

/// Symbol table that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SymbolTableError {
    /// Section header table outside the file, or with an entry size that does not match the class.
    #[error("the section header table is damaged")]
    Sections,
    /// Symbol table that is outside the file.
    #[error("the symbol table is outside the file")]
    Table,
    /// String table of the symbols that is outside the file.
    #[error("the string table of the symbols is outside the file")]
    Names,
    /// Symbol names that together are several times larger than the file.
    #[error("the symbols' names are larger than the file")]
    TooLarge,
}

/// Symbol name that has no unique address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SymbolError {
    /// File without symbols. Holds the requested name.
    #[error("no symbol `{0}`: the file has no symbols")]
    NoSymbols(String),
    /// Name that no symbol of the file has.
    #[error("no symbol `{name}` in the file")]
    NotFound {
        /// Name that was looked up.
        name: String,
        /// Similar names, the most similar one first.
        near: Vec<String>,
    },
    /// Name of several local symbols, and of no global one.
    #[error("the symbol `{name}` is ambiguous: {}", list(.addresses))]
    Ambiguous {
        /// Name that was looked up.
        name: String,
        /// Addresses of the symbols with the name.
        addresses: Vec<VirtAddr>,
    },
}

impl SymbolError {
    /// Returns advice on the error for the user, if there is any.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoSymbols(_) => {
                Some("give an address, or keep the symbols when linking (no `-s`, no `strip`)".to_owned())
            }
            Self::NotFound { near, .. } if near.is_empty() => None,
            Self::NotFound { near, .. } => Some(format!(
                "did you mean {}?",
                near.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ")
            )),
            Self::Ambiguous { .. } => Some("give the address instead of the name".to_owned()),
        }
    }
}

/// Symbols of one ELF file at their loaded addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Symbols {
    /// All symbols by address, the best name for an address last. Absolute symbols come after all others.
    symbols: Vec<Symbol>,
    /// Number of symbols that are not absolute.
    non_absolute_count: usize,
    /// For each such symbol, the highest end of it and all symbols before it. A downward search may stop there.
    max_ends: Vec<u64>,
    /// Indices of all symbols, by name.
    by_name: Vec<usize>,
}

impl Symbols {
    pub(crate) fn new(mut symbols: Vec<Symbol>) -> Self {
        symbols.sort_by_key(|symbol| {
            (symbol.kind == SymbolKind::Absolute, symbol.address, symbol.kind, symbol.global)
        });
        let non_absolute_count = symbols.partition_point(|symbol| symbol.kind != SymbolKind::Absolute);
        let max_ends = symbols
            .iter()
            .take(non_absolute_count)
            .scan(0, |highest: &mut u64, symbol| {
                *highest = symbol.address.0.saturating_add(symbol.size).max(*highest);
                Some(*highest)
            })
            .collect();
        let mut by_name: Vec<usize> = (0..symbols.len()).collect();
        by_name.sort_by_key(|&index| symbols.get(index).map(|symbol| &symbol.name));
        Self { symbols, non_absolute_count, max_ends, by_name }
    }

    /// Returns the number of symbols.
    #[must_use]
    pub fn len(&self) -> usize {
        self.symbols.len()
    }

    /// Returns true if there are no symbols.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.symbols.is_empty()
    }

    /// Iterates over all symbols by address, absolute symbols last.
    pub fn iter(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter()
    }

    /// Returns the symbol with the given name. A global symbol is preferred to local ones.
    ///
    /// # Errors
    ///
    /// [`SymbolError`] if no symbol has the name, or if local symbols with the name have different addresses.
    pub fn lookup(&self, name: &str) -> Result<&Symbol, SymbolError> {
        let found = || {
            self.by_name
                .get(self.named(name))
                .into_iter()
                .flatten()
                .filter_map(|&index| self.symbols.get(index))
        };
        let Some(first) = found().next() else {
            let name = name.to_owned();
            return Err(if self.is_empty() {
                SymbolError::NoSymbols(name)
            } else {
                SymbolError::NotFound { near: self.near(&name), name }
            });
        };
        if let Some(global) = found().find(|symbol| symbol.global) {
            return Ok(global);
        }
        if found().all(|symbol| symbol.address == first.address) {
            return Ok(first);
        }
        Err(SymbolError::Ambiguous {
            name: name.to_owned(),
            addresses: found().map(|symbol| symbol.address).collect(),
        })
    }

    /// Returns the range of `by_name` that holds the symbols called `name`.
    fn named(&self, name: &str) -> Range<usize> {
        let compare = |index: &usize| self.symbols.get(*index).map_or("", |symbol| &symbol.name).cmp(name);
        let start = self.by_name.partition_point(|index| compare(index).is_lt());
        let end = self.by_name.partition_point(|index| compare(index).is_le());
        start..end
    }

    /// Returns the nearest symbol at or below `address` that covers it, and the offset of `address` from the symbol.
    ///
    /// A symbol without a size covers everything up to the next symbol.
    #[must_use]
    pub fn nearest(&self, address: VirtAddr) -> Option<(&Symbol, u64)> {
        let located = self.symbols.get(..self.non_absolute_count)?;
        let below = located.get(..located.partition_point(|symbol| symbol.address <= address))?;
        let closest = below.last()?.address;
        below
            .iter()
            .zip(&self.max_ends)
            .rev()
            .take_while(|&(symbol, &max_end)| symbol.address == closest || max_end > address.0)
            .map(|(symbol, _)| (symbol, address.0.saturating_sub(symbol.address.0)))
            .find(|&(symbol, offset)| match symbol.size {
                0 => symbol.address == closest,
                size => offset < size,
            })
    }

    /// Returns at most three names that `name` may be a misspelling of.
    fn near(&self, name: &str) -> Vec<String> {
        // One wrong letter in three. Long names are skipped, since the time is proportional to the product of the lengths.
        let limit = (name.len() / 3).max(1);
        let is_comparable = |other: &str| other.len().abs_diff(name.len()) <= limit && other.len() <= 256;
        let mut near: Vec<(usize, &str)> = self
            .symbols
            .iter()
            .map(|symbol| symbol.name.as_str())
            .filter(|other| is_comparable(other))
            .map(|other| (damerau_levenshtein(name, other), other))
            .filter(|&(distance, _)| distance <= limit)
            .collect();
        near.sort_unstable();
        near.dedup();
        near.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn symbol(name: &str, address: u64, size: u64, kind: SymbolKind, global: bool) -> Symbol {
        Symbol { name: name.to_owned(), address: VirtAddr(address), size, kind, global }
    }

    fn sample() -> Symbols {
        use SymbolKind::{Absolute, Function, Label, Object};
        Symbols::new(vec![
            symbol("_start", 0x1000, 0, Label, true),
            symbol("main", 0x1100, 0x80, Function, true),
            symbol("loop", 0x1110, 0, Label, false),
            symbol("inner", 0x1120, 4, Object, false),
            symbol("twice", 0x1200, 8, Function, false),
            symbol("twice", 0x1300, 8, Function, false),
            symbol("shared", 0x1400, 8, Function, false),
            symbol("shared", 0x1500, 8, Function, true),
            symbol("alias", 0x1500, 0, Label, true),
            symbol("SIZE", 0x1600, 0, Absolute, true),
        ])
    }

    #[test]
    fn addresses_get_the_name_that_covers_them() {
        let symbols = sample();
        let name = |address| {
            symbols.nearest(VirtAddr(address)).map(|(symbol, offset)| format!("{}+{offset:#x}", symbol.name))
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(name(0xfff), None, "below all");
        assert_eq!(name(0x1000), some("_start+0x0"));
        assert_eq!(name(0x10ff), some("_start+0xff"), "a label reaches to the next symbol");
        assert_eq!(name(0x1104), some("main+0x4"));
        assert_eq!(name(0x1115), some("loop+0x5"), "the label inside a function is nearer");
        assert_eq!(name(0x1122), some("inner+0x2"));
        assert_eq!(name(0x1130), some("main+0x30"), "after the end of `inner`, still inside `main`");
        assert_eq!(name(0x1180), None, "after the end of `main`");
        assert_eq!(name(0x1504), some("shared+0x4"), "a function names better than a label");
        assert_eq!(name(0x1508), some("alias+0x8"));
        assert_eq!(name(0x9999), some("alias+0x8499"), "absolute symbols have no address in the image");
    }

    #[test]
    fn names_are_found_or_explained() {
        let symbols = sample();
        let address = |name| symbols.lookup(name).map(|symbol| symbol.address.0);
        assert_eq!(address("main"), Ok(0x1100));
        assert_eq!(address("shared"), Ok(0x1500), "the global one wins");
        assert_eq!(address("SIZE"), Ok(0x1600));
        let error = address("twice").unwrap_err();
        assert_eq!(error.to_string(), "the symbol `twice` is ambiguous: 0x1200, 0x1300");
        let error = address("strat").unwrap_err();
        assert_eq!(error.to_string(), "no symbol `strat` in the file");
        assert_eq!(error.help(), None, "`_start` has distance two from a name of five letters");
        assert_eq!(address("_strat").unwrap_err().help().as_deref(), Some("did you mean `_start`?"));
        let error = Symbols::default().lookup("main").unwrap_err();
        assert_eq!(error.to_string(), "no symbol `main`: the file has no symbols");
    }
    proptest! {
        /// The search that stops early finds the same symbol as a scan of all symbols.
        #[test]
        fn nearest_agrees_with_its_definition(
            extents in prop::collection::vec((0_u64..40, 0_u64..12, any::<bool>()), 0..20),
            address in 0_u64..60,
        ) {
            let kind = |function| if function { SymbolKind::Function } else { SymbolKind::Label };
            let all = extents.into_iter().map(|(at, size, function)| symbol("s", at, size, kind(function), true));
            let symbols = Symbols::new(all.collect());
            let below = || symbols.iter().filter(|symbol| symbol.address.0 <= address);
            let closest = below().map(|symbol| symbol.address).max();
            let covers = |symbol: &&Symbol| match symbol.size {
                0 => Some(symbol.address) == closest,
                size => address < symbol.address.0 + size,
            };
            let expected = below().filter(covers).map(|symbol| (symbol.address, symbol.kind)).max();
            let found = symbols.nearest(VirtAddr(address)).map(|(symbol, _)| (symbol.address, symbol.kind));
            prop_assert_eq!(found, expected);
        }
    }
}
