//! Quantiles and histogram of a number of durations.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Number of bars of a histogram, without the one above the 99th percentile.
const BARS: u32 = 10;
/// Length of the longest bar in characters.
const MAX_BAR_WIDTH: usize = 50;

/// Quantiles by nearest rank: each is a measured time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Quantiles {
    #[serde(serialize_with = "nanoseconds")]
    pub(crate) min: Duration,
    #[serde(serialize_with = "nanoseconds")]
    pub(crate) q1: Duration,
    #[serde(serialize_with = "nanoseconds")]
    pub(crate) median: Duration,
    #[serde(serialize_with = "nanoseconds")]
    pub(crate) q3: Duration,
    #[serde(serialize_with = "nanoseconds")]
    pub(crate) p99: Duration,
    #[serde(serialize_with = "nanoseconds")]
    pub(crate) max: Duration,
}

impl Quantiles {
    /// Returns the quantiles; `None` without times.
    pub(crate) fn from_times(times: &[Duration]) -> Option<Self> {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        let quantile = |percent: usize| {
            let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
            sorted.get(rank.saturating_sub(1)).copied()
        };
        Some(Self {
            min: quantile(0)?,
            q1: quantile(25)?,
            median: quantile(50)?,
            q3: quantile(75)?,
            p99: quantile(99)?,
            max: quantile(100)?,
        })
    }

    /// Draws a bar for each tenth of the range from minimum to 99th percentile, and one for the rest, each with its
    /// lower edge.
    pub(crate) fn histogram(&self, times: &[Duration]) -> String {
        let step = self.p99.saturating_sub(self.min) / BARS;
        let mut edges: Vec<Duration> = (0..BARS).map(|bar| self.min + step * bar).collect();
        // Without a step all edges are equal.
        edges.dedup();
        let mut counts = vec![0_usize; edges.len()];
        let mut beyond = 0_usize;
        for time in times {
            let bar = edges.iter().rposition(|edge| edge <= time).and_then(|bar| counts.get_mut(bar));
            match bar {
                Some(count) if *time <= self.p99 => *count += 1,
                Some(_) | None => beyond += 1,
            }
        }
        if beyond > 0 {
            edges.push(self.p99);
            counts.push(beyond);
        }
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        let mut text = String::new();
        for (edge, count) in edges.into_iter().zip(counts) {
            // A bar that is not empty has at least one character.
            let bar = "#".repeat((count * MAX_BAR_WIDTH).div_ceil(most));
            text += &format!(
                "{:>10}  {bar}{}{count}\n",
                ShortDuration(edge).to_string(),
                if bar.is_empty() { "" } else { " " }
            );
        }
        text
    }
}

/// Duration with three significant digits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShortDuration(pub(crate) Duration);

impl fmt::Display for ShortDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let (value, unit) = match self.0.as_nanos() {
            0..1_000 => (seconds * 1e9, "ns"),
            1_000..1_000_000 => (seconds * 1e6, "us"),
            1_000_000..1_000_000_000 => (seconds * 1e3, "ms"),
            _ => (seconds, "s"),
        };
        let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
        let digits = if unit == "ns" { 0 } else { digits };
        write!(f, "{value:.digits$} {unit}")
    }
}

fn nanoseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn micros(times: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        times.into_iter().map(Duration::from_micros).collect()
    }

    #[test]
    fn quantiles_are_times_that_were_measured() {
        assert_eq!(Quantiles::from_times(&[]), None);
        let points = Quantiles::from_times(&micros((1..=200).rev())).unwrap();
        let Quantiles { min, q1, median, q3, p99, max } = points;
        assert_eq!([min, q1, median, q3, p99, max].to_vec(), micros([1, 50, 100, 150, 198, 200]));
        let one = Quantiles::from_times(&micros([7])).unwrap();
        assert_eq!((one.min, one.median, one.max), (micros([7])[0], micros([7])[0], micros([7])[0]));
    }

    #[test]
    fn a_histogram_has_a_bar_for_each_tenth_and_one_for_the_rest() {
        let times = micros((0..99).map(|time| 100 + time / 9 * 10).chain([5000]));
        let text = Quantiles::from_times(&times).unwrap().histogram(&times);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 11, "{text}");
        assert_eq!(lines[0], format!("{:>10}  {} 9", "100 us", "#".repeat(25)));
        assert_eq!(lines[9], format!("{:>10}  {} 18", "190 us", "#".repeat(50)));
        assert_eq!(lines[10], format!("{:>10}  {} 1", "200 us", "#".repeat(3)));
        let equal = micros([5, 5]);
        assert_eq!(Quantiles::from_times(&equal).unwrap().histogram(&equal).lines().count(), 1);
    }

    #[test]
    fn times_have_three_digits() {
        let shown = |ns| ShortDuration(Duration::from_nanos(ns)).to_string();
        let times = [0, 999, 1_234, 12_345, 123_456, 9_996, 1_234_567, 61_000_000_000].map(shown);
        assert_eq!(times, ["0 ns", "999 ns", "1.23 us", "12.3 us", "123 us", "10.0 us", "1.23 ms", "61.0 s"]);
    }

    proptest! {
        #[test]
        fn quantiles_rise_and_every_time_is_in_one_bar(times in prop::collection::vec(0_u64..5_000, 1..300)) {
            let times = micros(times);
            let points = Quantiles::from_times(&times).unwrap();
            let Quantiles { min, q1, median, q3, p99, max } = points;
            prop_assert!([min, q1, median, q3, p99, max].is_sorted());
            let counts = points.histogram(&times).lines().map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum::<usize>();
            prop_assert_eq!(counts, times.len());
        }
    }
}
