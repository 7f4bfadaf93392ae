//! Statistics of a run, from the log of libFuzzer.

use std::time::Duration;

/// Numbers of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunStatistics {
    pub(super) executions: u64,
    pub(super) elapsed: Duration,
}

impl RunStatistics {
    /// Reads the number of executions: from the final statistics, or, if libFuzzer was killed, from the last line of its progress.
    pub(super) fn from_log(log: &str, elapsed: Duration) -> Self {
        let last = |number: fn(&str) -> Option<u64>| log.lines().rev().find_map(number);
        let executions = last(final_count).or_else(|| last(progress_count)).unwrap_or(0);
        Self { executions, elapsed }
    }

    pub(super) fn per_second(self) -> u64 {
        let milliseconds = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        self.executions.saturating_mul(1000) / milliseconds
    }
}

/// `stat::number_of_executed_units: 1234`
fn final_count(line: &str) -> Option<u64> {
    line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok()
}

/// `#1234   NEW    cov: 5 ft: 6 ...`
fn progress_count(line: &str) -> Option<u64> {
    line.strip_prefix('#')?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_found_in_the_log() {
        let count = |log: &str| RunStatistics::from_log(log, Duration::from_secs(2));
        let log = "INFO: seed\n#2\tINITED cov: 3\n#4096\tpulse  cov: 5 ft: 6\n";
        assert_eq!(count(log).executions, 4096);
        let finished = format!("{log}Done\nstat::number_of_executed_units: 10000\nstat::peak_rss_mb:  40\n");
        assert_eq!((count(&finished).executions, count(&finished).per_second()), (10_000, 5000));
        assert_eq!(count("").executions, 0);
    }
}
