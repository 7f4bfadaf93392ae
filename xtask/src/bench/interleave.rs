//! Interleaved benchmark: each round runs every candidate once, in a different order each time.
//!
//! Times on a shared machine drift, so absolute times are not comparable. The result is the ratio of two candidates in the
//! same round. Rounds continue until the median ratios to the first candidate are certain enough, or the time is over.

use std::time::{Duration, Instant};

use super::stats::{Quartiles, ratios, uncertainty};
use crate::failure::{Failure, Result};
use crate::interrupt;

/// A measured command or function.
pub(super) struct Candidate<'a> {
    name: String,
    /// Runs once and returns the measured time in seconds.
    run: Box<dyn FnMut() -> Result<f64> + 'a>,
    seconds: Vec<f64>,
}

/// Limits of a measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct StopRules {
    /// Minimum number of rounds.
    pub(super) min_rounds: usize,
    /// Maximum number of rounds.
    pub(super) max_rounds: usize,
    /// No round starts after this time.
    pub(super) max_time: Duration,
    /// Uncertainty of the median ratios at which the measurement stops.
    pub(super) max_uncertainty: f64,
}

impl StopRules {
    /// Limits for runs of milliseconds.
    pub(super) const SHORT: Self =
        Self { min_rounds: 61, max_rounds: 1001, max_time: Duration::from_secs(20), max_uncertainty: 0.005 };
    /// Limits for runs of 0.1 s and more.
    pub(super) const LONG: Self =
        Self { min_rounds: 9, max_rounds: 101, max_time: Duration::from_secs(15), max_uncertainty: 0.005 };
    /// Limits for a test of the benchmark itself, with meaningless results.
    pub(super) const QUICK: Self =
        Self { min_rounds: 2, max_rounds: 2, max_time: Duration::from_secs(10), max_uncertainty: 0.0 };
}

impl<'a> Candidate<'a> {
    pub(super) fn new(name: impl Into<String>, run: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run), seconds: Vec::new() }
    }
}

/// Measured times in seconds: for each candidate its name and the times of all rounds.
pub(super) struct Timings(Vec<(String, Vec<f64>)>);

impl Timings {
    /// Creates the result from rounds measured by another program.
    pub(super) fn from_rounds(rounds: impl IntoIterator<Item = (String, Vec<f64>)>) -> Self {
        Self(rounds.into_iter().collect())
    }

    /// Returns the names, in the order of the candidates.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the time of one run of a candidate, in seconds.
    pub(super) fn seconds(&self, name: &str) -> Result<Quartiles> {
        self.values(name).and_then(Quartiles::from_values).ok_or_else(|| no_rounds(name))
    }

    /// Returns the ratio of one candidate to another.
    pub(super) fn ratio(&self, name: &str, reference: &str) -> Result<Quartiles> {
        let pair = self.values(name).zip(self.values(reference));
        pair.and_then(|(values, reference)| Quartiles::from_values(&ratios(values, reference)))
            .ok_or_else(|| no_rounds(name))
    }

    /// Returns the time that one candidate takes more than another, in seconds.
    pub(super) fn difference(&self, name: &str, reference: &str) -> Result<Quartiles> {
        let pair = self.values(name).zip(self.values(reference)).ok_or_else(|| no_rounds(name))?;
        let more: Vec<f64> = pair.0.iter().zip(pair.1).map(|(value, reference)| value - reference).collect();
        Quartiles::from_values(&more).ok_or_else(|| no_rounds(name))
    }

    /// Returns the number of rounds.
    pub(super) fn rounds(&self) -> usize {
        self.0.first().map_or(0, |(_, seconds)| seconds.len())
    }

    fn values(&self, name: &str) -> Option<&[f64]> {
        self.0.iter().find(|(candidate, _)| candidate == name).map(|(_, seconds)| seconds.as_slice())
    }
}

fn no_rounds(name: &str) -> Failure {
    Failure::new(format!("{name} was not measured"))
}

/// Runs all candidates until the limits are reached. A first round, to warm up caches, is not counted.
pub(super) fn interleave(mut candidates: Vec<Candidate<'_>>, rules: StopRules) -> Result<Timings> {
    for candidate in &mut candidates {
        (candidate.run)()?;
    }
    let started = Instant::now();
    for round in 0..rules.max_rounds {
        for index in order(candidates.len(), round) {
            if interrupt::requested() {
                return Err(Failure::new("interrupted").with_status(interrupt::EXIT_STATUS));
            }
            if let Some(candidate) = candidates.get_mut(index) {
                let seconds = (candidate.run)()?;
                candidate.seconds.push(seconds);
            }
        }
        let done = round + 1;
        let enough = || {
            started.elapsed() >= rules.max_time
                || (done % 10 == 0 && is_certain(&candidates, rules.max_uncertainty))
        };
        if done >= rules.min_rounds && enough() {
            break;
        }
    }
    Ok(Timings(candidates.into_iter().map(|candidate| (candidate.name, candidate.seconds)).collect()))
}

/// Returns the order of the candidates in a round. Over all rounds each is first, and each runs before and after each other.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(round % count.max(1));
    if (round / count.max(1)) % 2 == 1 {
        order.reverse();
    }
    order
}

fn is_certain(candidates: &[Candidate<'_>], max_uncertainty: f64) -> bool {
    let Some(first) = candidates.first() else { return true };
    candidates
        .iter()
        .all(|candidate| uncertainty(&ratios(&candidate.seconds, &first.seconds)) <= max_uncertainty)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn each_round_runs_all_candidates_in_another_order() {
        let order = RefCell::new(String::new());
        let candidate = |name: &'static str, seconds| {
            let order = &order;
            Candidate::new(name, move || {
                order.borrow_mut().push_str(name);
                Ok(seconds)
            })
        };
        let rules = StopRules { min_rounds: 6, max_rounds: 6, ..StopRules::QUICK };
        let times =
            interleave(vec![candidate("a", 1.0), candidate("b", 3.0), candidate("c", 2.0)], rules).unwrap();
        assert_eq!(*order.borrow(), "abc abc bca cab cba acb bac".replace(' ', ""));
        assert_eq!((times.rounds(), times.names().collect::<String>()), (6, "abc".to_owned()));
        assert_eq!(times.ratio("b", "a").unwrap().median, 3.0);
        assert_eq!(times.difference("b", "a").unwrap().median, 2.0);
        assert!(times.seconds("d").is_err());
    }

    #[test]
    fn rounds_end_when_the_ratios_are_certain() {
        let steady = |name| Candidate::new(name, || Ok(1.0));
        let rules = StopRules { min_rounds: 3, max_rounds: 1000, max_uncertainty: 0.01, ..StopRules::QUICK };
        assert_eq!(interleave(vec![steady("a"), steady("b")], rules).unwrap().rounds(), 10);
    }
}
