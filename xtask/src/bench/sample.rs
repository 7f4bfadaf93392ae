//! Numbers from many rounds: medians, ratios to a reference of the same round, and when there are enough of them.

use serde::{Deserialize, Serialize};

/// A median, with the quartiles around it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    /// A quarter of all values are below.
    pub(super) low: f64,
    /// Half of them are.
    pub(super) median: f64,
    /// Three quarters are.
    pub(super) high: f64,
}

impl Spread {
    /// `None` of no values.
    pub(super) fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let at = |share| quantile(&sorted, share);
        Some(Self { low: at(0.25)?, median: at(0.5)?, high: at(0.75)? })
    }
}

/// The ratios of values to those of a reference, round by round: what slows one round down slows both.
pub(super) fn ratios(values: &[f64], reference: &[f64]) -> Vec<f64> {
    values.iter().zip(reference).map(|(value, reference)| value / reference).collect()
}

/// How far the true median may be from that of the values, as a share of it: half the width of the interval that holds it
/// in 95 of 100 cases, whatever the distribution (its ends are the values `0.98 sqrt(n)` places from the middle).
pub(super) fn uncertainty(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    #[expect(clippy::cast_precision_loss, reason = "few values")]
    let reach = 0.98 / (sorted.len().max(1) as f64).sqrt();
    let at = |share: f64| quantile(&sorted, share.clamp(0.0, 1.0));
    match (at(0.5 - reach), at(0.5), at(0.5 + reach)) {
        (Some(low), Some(median), Some(high)) if median > 0.0 => (high - low) / 2.0 / median,
        _ => f64::INFINITY,
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value that this share of all are below; `None` of none.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that is in memory"
    )]
    let index = (sorted.len().checked_sub(1)? as f64 * share).round() as usize;
    sorted.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_values_of_the_list() {
        let spread = Spread::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(spread, Some(Spread { low: 2.0, median: 3.0, high: 4.0 }));
        assert_eq!(Spread::of(&[7.0]), Some(Spread { low: 7.0, median: 7.0, high: 7.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_slow_round_leaves_ratios_alone() {
        assert_eq!(ratios(&[2.0, 20.0], &[1.0, 10.0]), [2.0, 2.0]);
    }

    #[test]
    fn more_values_make_the_median_surer() {
        let values: Vec<f64> = (0..400).map(|number| 1.0 + f64::from(number % 20) / 100.0).collect();
        let (few, many) = (uncertainty(&values[..20]), uncertainty(&values));
        assert!(many < few / 2.0, "{few} {many}");
        assert_eq!(uncertainty(&[1.0; 9]), 0.0);
        assert_eq!(uncertainty(&[]), f64::INFINITY);
    }
}
