//! A race: candidates run in turns, in each round once, in another order each time.
//!
//! Times on a shared machine drift, so none is worth anything alone. What counts is the ratio of two candidates *in the
//! same round*. Rounds go on until the median ratios to the first candidate are sure enough, or the time is up.

use std::time::{Duration, Instant};

use super::sample::{Spread, ratios, uncertainty};
use crate::failure::{Failure, Result};
use crate::interrupt;

/// One who runs.
pub(super) struct Candidate<'a> {
    name: String,
    /// Runs once, and says how many seconds count.
    run: Box<dyn FnMut() -> Result<f64> + 'a>,
    seconds: Vec<f64>,
}

/// How long a race goes on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Rounds at least.
    pub(super) least: usize,
    /// Rounds at most.
    pub(super) most: usize,
    /// No round begins later than this.
    pub(super) time: Duration,
    /// The uncertainty of the median ratios that is small enough.
    pub(super) sure: f64,
}

impl Rules {
    /// For runs of milliseconds.
    pub(super) const SHORT: Self = Self { least: 61, most: 1001, time: Duration::from_secs(20), sure: 0.005 };
    /// For runs of a tenth of a second and more.
    pub(super) const LONG: Self = Self { least: 9, most: 101, time: Duration::from_secs(15), sure: 0.005 };
    /// To see that everything works; its numbers are worth nothing.
    pub(super) const QUICK: Self = Self { least: 2, most: 2, time: Duration::from_secs(10), sure: 0.0 };
}

impl<'a> Candidate<'a> {
    pub(super) fn new(name: impl Into<String>, run: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run), seconds: Vec::new() }
    }
}

/// What a race came to.
pub(super) struct Times(Vec<(String, Vec<f64>)>);

impl Times {
    /// Those of rounds that somebody else has run.
    pub(super) fn from_rounds(rounds: impl IntoIterator<Item = (String, Vec<f64>)>) -> Self {
        Self(rounds.into_iter().collect())
    }

    /// The names, in the order of the candidates.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The seconds of one run of a candidate.
    pub(super) fn seconds(&self, name: &str) -> Result<Spread> {
        self.of(name).and_then(Spread::of).ok_or_else(|| no_rounds(name))
    }

    /// The ratio of one candidate to another.
    pub(super) fn ratio(&self, name: &str, reference: &str) -> Result<Spread> {
        let pair = self.of(name).zip(self.of(reference));
        pair.and_then(|(values, reference)| Spread::of(&ratios(values, reference)))
            .ok_or_else(|| no_rounds(name))
    }

    /// How many seconds more one candidate takes than another.
    pub(super) fn difference(&self, name: &str, reference: &str) -> Result<Spread> {
        let pair = self.of(name).zip(self.of(reference)).ok_or_else(|| no_rounds(name))?;
        let more: Vec<f64> = pair.0.iter().zip(pair.1).map(|(value, reference)| value - reference).collect();
        Spread::of(&more).ok_or_else(|| no_rounds(name))
    }

    /// Rounds that counted.
    pub(super) fn rounds(&self) -> usize {
        self.0.first().map_or(0, |(_, seconds)| seconds.len())
    }

    fn of(&self, name: &str) -> Option<&[f64]> {
        self.0.iter().find(|(candidate, _)| candidate == name).map(|(_, seconds)| seconds.as_slice())
    }
}

fn no_rounds(name: &str) -> Failure {
    Failure::new(format!("{name} was not measured"))
}

/// Runs all candidates by the rules. One round more comes first, to warm caches up, and does not count.
pub(super) fn race(mut candidates: Vec<Candidate<'_>>, rules: Rules) -> Result<Times> {
    for candidate in &mut candidates {
        (candidate.run)()?;
    }
    let started = Instant::now();
    for round in 0..rules.most {
        for index in order(candidates.len(), round) {
            if interrupt::seen() {
                return Err(Failure::new("interrupted").with_status(interrupt::STATUS));
            }
            if let Some(candidate) = candidates.get_mut(index) {
                let seconds = (candidate.run)()?;
                candidate.seconds.push(seconds);
            }
        }
        let done = round + 1;
        let enough =
            || started.elapsed() >= rules.time || (done % 10 == 0 && is_sure(&candidates, rules.sure));
        if done >= rules.least && enough() {
            break;
        }
    }
    Ok(Times(candidates.into_iter().map(|candidate| (candidate.name, candidate.seconds)).collect()))
}

/// Who runs when: each begins in turn, and now runs before, now behind each of the others.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(round % count.max(1));
    if (round / count.max(1)) % 2 == 1 {
        order.reverse();
    }
    order
}

fn is_sure(candidates: &[Candidate<'_>], sure: f64) -> bool {
    let Some(first) = candidates.first() else { return true };
    candidates.iter().all(|candidate| uncertainty(&ratios(&candidate.seconds, &first.seconds)) <= sure)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn everyone_runs_in_each_round_and_nobody_is_always_first() {
        let order = RefCell::new(String::new());
        let candidate = |name: &'static str, seconds| {
            let order = &order;
            Candidate::new(name, move || {
                order.borrow_mut().push_str(name);
                Ok(seconds)
            })
        };
        let rules = Rules { least: 6, most: 6, ..Rules::QUICK };
        let times = race(vec![candidate("a", 1.0), candidate("b", 3.0), candidate("c", 2.0)], rules).unwrap();
        assert_eq!(*order.borrow(), "abc abc bca cab cba acb bac".replace(' ', ""));
        assert_eq!((times.rounds(), times.names().collect::<String>()), (6, "abc".to_owned()));
        assert_eq!(times.ratio("b", "a").unwrap().median, 3.0);
        assert_eq!(times.difference("b", "a").unwrap().median, 2.0);
        assert!(times.seconds("d").is_err());
    }

    #[test]
    fn a_race_ends_once_it_is_sure() {
        let steady = |name| Candidate::new(name, || Ok(1.0));
        let rules = Rules { least: 3, most: 1000, sure: 0.01, ..Rules::QUICK };
        assert_eq!(race(vec![steady("a"), steady("b")], rules).unwrap().rounds(), 10);
    }
}
