//! Statistics over rounds: quartiles, ratios to a reference in the same round, and uncertainty of the median.

use serde::{Deserialize, Serialize};

/// Median and quartiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Quartiles {
    /// 25th percentile.
    pub(super) low: f64,
    /// 50th percentile.
    pub(super) median: f64,
    /// 75th percentile.
    pub(super) high: f64,
}

impl Quartiles {
    /// Computes the quartiles of values; `None` if there are none.
    pub(super) fn from_values(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let at = |share| quantile(&sorted, share);
        Some(Self { low: at(0.25)?, median: at(0.5)?, high: at(0.75)? })
    }
}

/// Returns the ratio of each value to the reference value of the same round.
pub(super) fn ratios(values: &[f64], reference: &[f64]) -> Vec<f64> {
    values.iter().zip(reference).map(|(value, reference)| value / reference).collect()
}

/// Returns the relative uncertainty of the median: half the width of its 95 % confidence interval, divided by the median.
///
/// The interval holds for any distribution: its ends are the values `0.98 sqrt(n)` positions from the middle.
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

/// Returns the value below which `share` of the sorted values are; `None` if there are none.
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
        let spread = Quartiles::from_values(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(spread, Some(Quartiles { low: 2.0, median: 3.0, high: 4.0 }));
        assert_eq!(Quartiles::from_values(&[7.0]), Some(Quartiles { low: 7.0, median: 7.0, high: 7.0 }));
        assert_eq!(Quartiles::from_values(&[]), None);
    }

    #[test]
    fn a_slow_round_does_not_change_ratios() {
        assert_eq!(ratios(&[2.0, 20.0], &[1.0, 10.0]), [2.0, 2.0]);
    }

    #[test]
    fn more_values_reduce_the_uncertainty() {
        let values: Vec<f64> = (0..400).map(|number| 1.0 + f64::from(number % 20) / 100.0).collect();
        let (few, many) = (uncertainty(&values[..20]), uncertainty(&values));
        assert!(many < few / 2.0, "{few} {many}");
        assert_eq!(uncertainty(&[1.0; 9]), 0.0);
        assert_eq!(uncertainty(&[]), f64::INFINITY);
    }
}
