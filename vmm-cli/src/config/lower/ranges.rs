//! Named ranges of addresses or ports with their span in the file, and their overlaps.

use crate::config::problem::ConfigProblem;
use crate::config::source::Span;

/// Range of addresses or ports, with its span in the file; without a span, it is a default.
#[derive(Debug, Clone)]
pub(super) struct Range {
    pub(super) name: String,
    pub(super) start: u64,
    pub(super) length: u64,
    pub(super) span: Option<Span>,
}

impl Range {
    /// Returns the last address in the range; `None` if the range is empty or exceeds 64 bits.
    pub(super) fn last(&self) -> Option<u64> {
        self.length.checked_sub(1).and_then(|length| self.start.checked_add(length))
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (self.last(), other.last()) {
            (Some(last), Some(other_last)) => self.start <= other_last && other.start <= last,
            _ => false,
        }
    }

    /// Describes the range: `name at 0x3f8-0x3ff`.
    fn show(&self) -> String {
        match self.last() {
            Some(last) if last != self.start => format!("{} at {:#x}-{last:#x}", self.name, self.start),
            Some(_) | None => format!("{} at {:#x}", self.name, self.start),
        }
    }
}

/// Ports and addresses of the devices so far.
#[derive(Default)]
pub(super) struct ClaimedRanges {
    pub(super) ports: Vec<Range>,
    pub(super) windows: Vec<Range>,
}

/// Returns the problem of two overlapping ranges, at the first one that the user wrote.
pub(super) fn overlap(range: &Range, other: &Range) -> ConfigProblem {
    let message = format!("{} overlaps {}", range.show(), other.show());
    match (&range.span, &other.span) {
        (Some(span), Some(other_span)) => {
            ConfigProblem::new(span, message).related(other_span, format!("{} is here", other.name))
        }
        (Some(span), None) | (None, Some(span)) => ConfigProblem::new(span, message),
        (None, None) => ConfigProblem::in_file(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, length: u64) -> Range {
        Range { name: "x".to_owned(), start, length, span: None }
    }

    #[test]
    fn neighbours_do_not_overlap() {
        assert!(!range(0, 8).overlaps(&range(8, 8)));
        assert!(range(0, 9).overlaps(&range(8, 8)));
        assert!(range(8, 1).overlaps(&range(0, 16)));
        assert!(!range(8, 0).overlaps(&range(0, 16)));
        assert!(!range(u64::MAX, 2).overlaps(&range(0, 16)));
        assert!(range(u64::MAX, 1).overlaps(&range(u64::MAX - 1, 2)));
    }

    #[test]
    fn both_are_named() {
        let serial = Range { name: "the serial port".to_owned(), start: 0x3f8, length: 8, span: Some(3..4) };
        let problem = overlap(&serial, &range(0x3ff, 1));
        assert_eq!(problem.message, "the serial port at 0x3f8-0x3ff overlaps x at 0x3ff");
    }
}
