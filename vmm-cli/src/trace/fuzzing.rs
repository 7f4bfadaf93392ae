//! Any terms as a filter of a trace.

use vmm_core::cpu::exit_counts::ExitKind;
use vmm_core::kvm_sys_wrap::Call;
use vmm_core::spec::BusAddress;
use vmm_core::{Gpa, Port};

use super::filter::{FilterTerm, TraceFilter};

/// Maximum number of terms.
const MAX_TERMS: usize = 16;

/// Checks a filter with the terms in `bytes`, one a line, against events that follow from them.
pub fn trace_filter(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut terms = Vec::new();
    for line in text.lines().take(MAX_TERMS) {
        match FilterTerm::parse(line) {
            Ok(term) => terms.push(term),
            Err(message) => assert!(!message.is_empty()),
        }
    }
    for term in &terms {
        if let FilterTerm::Ports(range) | FilterTerm::Addresses(range) = term {
            assert!(range.start() <= range.end());
        }
        if let FilterTerm::Ports(range) = term {
            assert!(*range.end() <= u16::MAX.into());
        }
    }
    let filter = TraceFilter::new(&terms);
    let reversed: Vec<_> = terms.iter().rev().cloned().collect();
    let reversed = TraceFilter::new(&reversed);
    let fewer = terms.split_last().map_or(&[][..], |(_, fewer)| fewer);
    let is_new_key = terms.last().is_some_and(|last| fewer.iter().all(|term| key(term) != key(last)));
    let fewer = TraceFilter::new(fewer);
    for event in events(&terms) {
        let matches = event.matches(&filter);
        assert_eq!(matches, event.matches(&reversed), "the order of terms matters: {terms:?}");
        let before = event.matches(&fewer);
        // A term of a new key takes events away, one of a known key adds some.
        assert!(
            if is_new_key { !matches || before } else { matches || !before || terms.is_empty() },
            "{terms:?}"
        );
    }
}

/// Returns a number for the key of a term.
const fn key(term: &FilterTerm) -> u8 {
    match term {
        FilterTerm::Exits(_) => 0,
        FilterTerm::Ports(_) | FilterTerm::Addresses(_) => 1,
        FilterTerm::Symbol(..) => 2,
        FilterTerm::Call(_) => 3,
        FilterTerm::After(_) => 4,
    }
}

/// Event that a filter decides on.
enum FilteredEvent<'a> {
    Exit(ExitKind, Option<BusAddress>, u64),
    Call(&'a str, u64),
    Symbol(Option<&'a str>),
    Step(u64),
}

impl FilteredEvent<'_> {
    fn matches(&self, filter: &TraceFilter) -> bool {
        match self {
            Self::Exit(kind, at, exits) => filter.exit(*kind, *at, *exits),
            Self::Call(name, exits) => filter.call(name, *exits),
            Self::Symbol(symbol) => filter.symbol(*symbol),
            Self::Step(exits) => filter.step(*exits),
        }
    }
}

/// Returns events at the limits of the terms.
fn events(terms: &[FilterTerm]) -> Vec<FilteredEvent<'_>> {
    let mut events = vec![
        FilteredEvent::Exit(ExitKind::Hlt, None, 1),
        FilteredEvent::Call(Call::ALL.first().map_or("", |call| call.name()), 0),
        FilteredEvent::Symbol(None),
        FilteredEvent::Symbol(Some("main+0x10")),
        FilteredEvent::Step(0),
    ];
    for term in terms {
        match term {
            FilterTerm::Exits(kinds) => {
                events.extend(kinds.iter().take(4).map(|kind| FilteredEvent::Exit(*kind, None, u64::MAX)));
            }
            FilterTerm::Ports(range) => {
                let at = |port: u64| Some(BusAddress::Port(Port(u16::try_from(port).unwrap_or(u16::MAX))));
                for port in [*range.start(), *range.end(), range.end().saturating_add(1)] {
                    events.push(FilteredEvent::Exit(ExitKind::PioOut, at(port), 1));
                }
            }
            FilterTerm::Addresses(range) => {
                for address in [*range.start(), *range.end(), range.end().saturating_add(1)] {
                    let at = Some(BusAddress::Mmio(Gpa(address)));
                    events.push(FilteredEvent::Exit(ExitKind::MmioRead, at, 1));
                }
            }
            FilterTerm::Symbol(name, _) => events.push(FilteredEvent::Symbol(Some(name))),
            FilterTerm::Call(name) => events.push(FilteredEvent::Call(name, 7)),
            FilterTerm::After(count) => {
                events.extend([*count, count.saturating_add(1)].map(FilteredEvent::Step));
            }
        }
    }
    events
}
