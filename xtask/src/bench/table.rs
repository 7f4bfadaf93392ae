//! Results: a row for each candidate, with goals. Printed as tables, stored as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::interleave::Timings;
use super::stats::Quartiles;
use crate::failure::Result;

/// Results of one `cargo xtask bench`, as stored in JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct BenchRecord {
    /// Unix time in seconds.
    pub(super) time: u64,
    /// Kernel name and release.
    pub(super) kernel: String,
    /// Processor model.
    pub(super) processor: String,
    pub(super) rows: Vec<BenchRow>,
}

/// Result of one candidate in one part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct BenchRow {
    /// Part, such as `start`.
    pub(super) part: String,
    /// Candidate.
    pub(super) name: String,
    /// Unit of work that `time` is for, such as a run or an exit.
    pub(super) per: String,
    /// Time in microseconds.
    pub(super) time: Quartiles,
    /// Ratio to the part's first row.
    pub(super) ratio: Quartiles,
    /// Number of rounds.
    pub(super) rounds: usize,
    /// Number of system calls of one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) calls: Option<u64>,
    /// Peak resident memory of one run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peak_kib: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) goals: Vec<Goal>,
}

/// Upper limit for a measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Goal {
    /// Description of the measured value.
    pub(super) what: String,
    pub(super) measured: f64,
    /// Largest value that meets the goal.
    pub(super) limit: f64,
    /// Unit of both values; empty for a ratio.
    pub(super) unit: String,
}

impl Goal {
    /// Creates a goal for a ratio.
    pub(super) fn ratio(what: impl Into<String>, measured: Quartiles, limit: f64) -> Self {
        Self { what: what.into(), measured: measured.median, limit, unit: String::new() }
    }

    /// Returns true if the goal is met.
    pub(super) fn is_met(&self) -> bool {
        self.measured <= self.limit
    }
}

impl BenchRow {
    /// Creates the row of one candidate. One run has `count` units of work.
    pub(super) fn new(part: &str, per: &str, name: &str, timings: &Timings, count: f64) -> Result<Self> {
        let Quartiles { low, median, high } = timings.seconds(name)?;
        let scale = 1e6 / count;
        let reference = timings.names().next().unwrap_or(name);
        Ok(Self {
            part: part.to_owned(),
            name: name.to_owned(),
            per: per.to_owned(),
            time: Quartiles { low: low * scale, median: median * scale, high: high * scale },
            ratio: timings.ratio(name, reference)?,
            rounds: timings.rounds(),
            calls: None,
            peak_kib: None,
            goals: Vec::new(),
        })
    }

    fn is(&self, other: &Self) -> bool {
        (&self.part, &self.name) == (&other.part, &other.name)
    }
}

/// Table of one part.
pub(super) struct TimeTable<'a>(pub(super) &'a [BenchRow]);

impl fmt::Display for TimeTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.0.first() else { return Ok(()) };
        let head = format!("{}, us for one {}, {} rounds", first.part, first.per, first.rounds);
        writeln!(
            f,
            "{head:<44} {:>10} {:>19} {:>7} {:>15} {:>6} {:>9}",
            "median", "25 % to 75 %", "ratio", "25 % to 75 %", "calls", "peak KiB"
        )?;
        for BenchRow { name, time, ratio, calls, peak_kib, .. } in self.0 {
            let times = format!("{:.2} to {:.2}", time.low, time.high);
            let ratios = format!("{:.3} to {:.3}", ratio.low, ratio.high);
            let number = |number: &Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
            let (calls, peak) = (number(calls), number(peak_kib));
            let line = format!(
                "  {name:<42} {:>10.2} {times:>19} {:>7.3} {ratios:>15} {calls:>6} {peak:>9}",
                time.median, ratio.median
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Table of the goals of all rows, each with pass or fail.
pub(super) struct GoalTable<'a>(pub(super) &'a [BenchRow]);

impl fmt::Display for GoalTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for goal in self.0.iter().flat_map(|row| &row.goals) {
            let Goal { what, measured, limit, unit } = goal;
            let verdict = if goal.is_met() { "pass" } else { "falls short" };
            let digits = if unit.is_empty() { 3 } else { 1 };
            writeln!(f, "{what:<66} {measured:>9.digits$} <= {limit:<7} {unit:<4} {verdict}")?;
        }
        Ok(())
    }
}

/// Table of changes between two results. It compares ratios to the same reference, in which the speed of the machine cancels out.
pub(super) struct ChangeTable<'a> {
    pub(super) old: &'a [BenchRow],
    pub(super) new: &'a [BenchRow],
}

impl fmt::Display for ChangeTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<58} {:>9} {:>9} {:>8}", "ratio to the part's first row", "old", "new", "change")?;
        for row in self.new {
            let Some(old) = self.old.iter().find(|old| old.is(row)) else { continue };
            let (before, now) = (old.ratio.median, row.ratio.median);
            let name = format!("{}: {}", row.part, row.name);
            // If the quartiles overlap, the change may be noise.
            let apart = old.ratio.high < row.ratio.low || row.ratio.high < old.ratio.low;
            let mark = if apart { "" } else { "  (within the spread)" };
            writeln!(f, "{name:<58} {before:>9.3} {now:>9.3} {:>+7.1}%{mark}", (now / before - 1.0) * 100.0)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, ratio: f64) -> BenchRow {
        let spread = |median: f64| Quartiles { low: median * 0.99, median, high: median * 1.01 };
        BenchRow {
            part: "start".to_owned(),
            name: name.to_owned(),
            per: "run".to_owned(),
            time: spread(1000.0 * ratio),
            ratio: spread(ratio),
            rounds: 50,
            calls: Some(14),
            peak_kib: None,
            goals: vec![Goal::ratio("start of vmm-cli to that of C", spread(ratio), 0.9)],
        }
    }

    #[test]
    fn a_goal_is_met_or_falls_short() {
        let text = GoalTable(&[row("a", 0.9), row("b", 0.901)]).to_string();
        let verdicts: Vec<_> = text.lines().map(|line| line.ends_with("pass")).collect();
        assert_eq!(verdicts, [true, false]);
        assert!(text.contains("0.901 <= 0.9"), "{text}");
    }

    #[test]
    fn changes_within_the_spread_are_marked() {
        let (old, new) = ([row("a", 1.0), row("b", 1.0)], [row("a", 1.01), row("b", 0.5), row("c", 1.0)]);
        let text = ChangeTable { old: &old, new: &new }.to_string();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("+1.0%  (within the spread)"), "{text}");
        assert!(lines[1].ends_with("-50.0%"), "{text}");
    }

    #[test]
    fn a_record_survives_json() {
        let record =
            BenchRecord { time: 1, kernel: "Linux".into(), processor: "x".into(), rows: vec![row("a", 1.5)] };
        let text = serde_json::to_string(&record).unwrap();
        let back: BenchRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (back.rows[0].name.as_str(), back.rows[0].goals.clone()),
            ("a", record.rows[0].goals.clone())
        );
    }
}
