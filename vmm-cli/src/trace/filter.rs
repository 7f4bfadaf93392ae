//! Filters of a trace: terms of the form `KEY=VALUE`.
//!
//! | term | excludes |
//! |---|---|
//! | `exit=KIND,KIND` | exits of other types, named as in reports: `pio-in`, `mmio-write`, `hlt` |
//! | `port=FIRST-LAST`, `port=NUMBER` | exits without an access to these ports |
//! | `address=FIRST-LAST`, `address=NUMBER` | exits without an access to these physical addresses |
//! | `symbol=NAME`, `symbol=BEGINNING*` | exits and steps elsewhere in the guest |
//! | `call=NAME` | other calls |
//! | `after=N` | events before the guest made N exits |
//!
//! Of several terms with the same key, any may match. Terms of different keys must all match. `port` and `address`
//! count as one key. Terms about exits do not apply to calls, and vice versa.

use std::ops::RangeInclusive;

use vmm_core::cpu::exit_counts::ExitKind;
use vmm_core::kvm_sys_wrap::Call;
use vmm_core::spec::BusAddress;

/// One term.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilterTerm {
    /// Exits of these types.
    Exits(Vec<ExitKind>),
    /// Accesses to these ports.
    Ports(RangeInclusive<u64>),
    /// Accesses to these physical addresses.
    Addresses(RangeInclusive<u64>),
    /// Code of the symbol with this name, or if the flag is set, of symbols with this prefix.
    Symbol(String, bool),
    /// KVM call with this name.
    Call(String),
    /// Events after this number of exits.
    After(u64),
}

impl FilterTerm {
    /// Parses a term of the command line.
    ///
    /// # Errors
    /// Returns a message if the term is invalid.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or("a filter is KEY=VALUE, such as exit=pio-out or port=0x3f8-0x3ff")?;
        match key {
            "exit" => value.split(',').map(kind).collect::<Result<_, _>>().map(Self::Exits),
            "port" => range(value, u16::MAX.into()).map(Self::Ports),
            "address" => range(value, u64::MAX).map(Self::Addresses),
            "symbol" => Ok(match value.strip_suffix('*') {
                Some(beginning) => Self::Symbol(beginning.to_owned(), true),
                None => Self::Symbol(value.to_owned(), false),
            }),
            "call" => Call::ALL
                .iter()
                .find(|call| call.name() == value)
                .map(|call| Self::Call(call.name().to_owned()))
                .ok_or_else(|| format!("no call `{value}`: they are named as in KVM_RUN")),
            "after" => number(value).map(Self::After),
            _ => Err(format!("no key `{key}`: there are exit, port, address, symbol, call and after")),
        }
    }
}

fn kind(name: &str) -> Result<ExitKind, String> {
    ExitKind::ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
        let names: Vec<_> = ExitKind::ALL.iter().map(|kind| kind.name()).collect();
        format!("no exit `{name}`: there are {}", names.join(", "))
    })
}

fn range(value: &str, most: u64) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(format!("{value} ends before it begins"));
    }
    if last > most {
        return Err(format!("{last:#x} is above {most:#x}, the last there is"));
    }
    Ok(first..=last)
}

fn number(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let parsed = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    parsed.map_err(|_| format!("`{text}` is no number"))
}

/// All terms of a trace.
#[derive(Debug, Clone, Default)]
pub(crate) struct TraceFilter(Vec<FilterTerm>);

impl TraceFilter {
    pub(crate) fn new(terms: &[FilterTerm]) -> Self {
        Self(terms.to_vec())
    }

    /// Returns true if a call after `exits` exits is traced.
    pub(crate) fn call(&self, name: &str, exits: u64) -> bool {
        self.late_enough(exits)
            && self.any(|term| if let FilterTerm::Call(call) = term { Some(call == name) } else { None })
    }

    /// Returns true if an exit can match. Its symbol is checked later, by [`symbol`](Self::symbol).
    pub(crate) fn exit(&self, kind: ExitKind, at: Option<BusAddress>, exits: u64) -> bool {
        let place = |term: &FilterTerm| match (term, at) {
            (FilterTerm::Ports(range), Some(BusAddress::Port(port))) => Some(range.contains(&port.0.into())),
            (FilterTerm::Addresses(range), Some(BusAddress::Mmio(gpa))) => Some(range.contains(&gpa.0)),
            (FilterTerm::Ports(_) | FilterTerm::Addresses(_), _) => Some(false),
            (
                FilterTerm::Exits(_) | FilterTerm::Symbol(..) | FilterTerm::Call(_) | FilterTerm::After(_),
                _,
            ) => None,
        };
        self.late_enough(exits)
            && self.any(
                |term| if let FilterTerm::Exits(kinds) = term { Some(kinds.contains(&kind)) } else { None },
            )
            && self.any(place)
    }

    /// Returns true if a step can match. Its symbol is checked later, by [`symbol`](Self::symbol).
    pub(crate) fn step(&self, exits: u64) -> bool {
        self.late_enough(exits)
    }

    /// Returns true if code of this symbol (`name`, or `name+0x12`) is traced.
    pub(crate) fn symbol(&self, symbol: Option<&str>) -> bool {
        let found = symbol.map(|symbol| symbol.rsplit_once("+0x").map_or(symbol, |(name, _)| name));
        self.any(|term| match term {
            FilterTerm::Symbol(name, false) => Some(found == Some(name)),
            FilterTerm::Symbol(beginning, true) => {
                Some(found.is_some_and(|found| found.starts_with(beginning.as_str())))
            }
            FilterTerm::Exits(_)
            | FilterTerm::Ports(_)
            | FilterTerm::Addresses(_)
            | FilterTerm::Call(_)
            | FilterTerm::After(_) => None,
        })
    }

    fn late_enough(&self, exits: u64) -> bool {
        self.any(|term| if let FilterTerm::After(count) = term { Some(exits > *count) } else { None })
    }

    /// Returns true if any of the terms for which `matches` returns `Some` matches, or there are none.
    fn any(&self, matches: impl Fn(&FilterTerm) -> Option<bool>) -> bool {
        let mut opinions = self.0.iter().filter_map(matches).peekable();
        opinions.peek().is_none() || opinions.any(|matched| matched)
    }
}

#[cfg(test)]
mod tests {
    use vmm_core::{Gpa, Port};

    use super::*;

    fn filter(terms: &[&str]) -> TraceFilter {
        TraceFilter(terms.iter().map(|term| FilterTerm::parse(term).unwrap()).collect())
    }

    #[test]
    fn terms_of_one_key_add_up_and_those_of_different_keys_narrow() {
        let port = |port| Some(BusAddress::Port(Port(port)));
        let serial = filter(&["port=0x3f8-0x3ff", "port=0xe9", "exit=pio-out,mmio-write"]);
        assert!(serial.exit(ExitKind::PioOut, port(0x3f8), 1));
        assert!(serial.exit(ExitKind::PioOut, port(0xe9), 1));
        assert!(!serial.exit(ExitKind::PioOut, port(0x400), 1));
        assert!(!serial.exit(ExitKind::PioIn, port(0x3f8), 1));
        assert!(!serial.exit(ExitKind::MmioWrite, Some(BusAddress::Mmio(Gpa(0x3f8))), 1));
        assert!(!serial.exit(ExitKind::Hlt, None, 1));
        assert!(serial.call("KVM_RUN", 0) && serial.step(0) && serial.symbol(None));
        let both = filter(&["port=0xe9", "address=0xd000_0000-0xd0000fff"]);
        assert!(both.exit(ExitKind::MmioRead, Some(BusAddress::Mmio(Gpa(0xd000_0004))), 1));
        assert!(both.exit(ExitKind::PioOut, port(0xe9), 1));
    }

    #[test]
    fn symbols_calls_and_counts() {
        let print = filter(&["symbol=print*", "symbol=main", "call=KVM_RUN", "after=10"]);
        for (symbol, expected) in
            [(Some("print_hex+0x4"), true), (Some("main"), true), (Some("main2"), false), (None, false)]
        {
            assert_eq!(print.symbol(symbol), expected, "{symbol:?}");
        }
        assert!(print.call("KVM_RUN", 11));
        assert!(!print.call("KVM_RUN", 10));
        assert!(!print.call("KVM_GET_REGS", 11));
        assert!(!print.step(10));
        assert!(filter(&[]).exit(ExitKind::Hlt, None, 1));
    }

    #[test]
    fn a_wrong_term_says_what_would_be_right() {
        for (text, part) in [
            ("pio-out", "KEY=VALUE"),
            ("prot=1", "there are exit, port"),
            ("exit=pio", "pio-in, pio-out"),
            ("port=0x10000", "above 0xffff"),
            ("port=9-5", "ends before it begins"),
            ("address=0xg", "`0xg` is no number"),
            ("call=run", "KVM_RUN"),
        ] {
            assert!(FilterTerm::parse(text).unwrap_err().contains(part), "{text}");
        }
    }
}
