//! Verdict of a case from its runs: retries, skipped cases, and the end of the suite.

use std::time::Duration;

use super::outcome::{CaseFailure, CaseRun, CaseVerdict};
use super::workers::WorkerSettings;
use crate::status::Status;

/// Runs of a case so far.
#[derive(Debug, Default)]
pub(super) struct CaseProgress {
    /// True once there is a verdict.
    pub(super) is_done: bool,
    /// Time of the runs that failed.
    pub(super) elapsed: Duration,
    earlier: Vec<CaseFailure>,
}

impl CaseProgress {
    /// Adds a run. Returns the verdict, or `None` if the case is to be run again. `is_stopping` is true if nothing is started any
    /// more, `is_interrupted` if that is because the user ends the suite.
    pub(super) fn add_run(
        &mut self,
        run: CaseRun,
        settings: &WorkerSettings,
        is_stopping: bool,
        is_interrupted: bool,
    ) -> Option<CaseVerdict> {
        let last = match run {
            CaseRun::Interrupted if is_interrupted => return Some(CaseVerdict::NotRun),
            CaseRun::Interrupted => {
                CaseFailure::without_run(Status::Bug, "its worker process got a signal to end".to_owned())
            }
            CaseRun::Skipped(reason) if !settings.no_skip => return Some(CaseVerdict::Skipped(reason)),
            CaseRun::Skipped(reason) => CaseFailure::without_run(Status::Refused, reason),
            CaseRun::Passed if self.earlier.is_empty() => return Some(CaseVerdict::Passed),
            CaseRun::Passed => return Some(CaseVerdict::Flaky(std::mem::take(&mut self.earlier))),
            CaseRun::Failed(failure) => *failure,
        };
        // Mistakes in files and missing features do not change between runs.
        let is_final = matches!(last.status, Status::Configuration | Status::Refused);
        if is_final || self.earlier.len() >= settings.retries || is_stopping {
            return Some(CaseVerdict::Failed { last, earlier: std::mem::take(&mut self.earlier) });
        }
        self.earlier.push(last);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::sandbox::SandboxArgs;

    /// Returns the verdict of a sequence of runs, each given by a letter, with two retries.
    fn verdict(letters: &str, no_skip: bool) -> (&'static str, usize) {
        let settings = WorkerSettings {
            jobs: NonZeroUsize::MIN,
            retries: 2,
            fail_fast: false,
            no_skip,
            sandbox: SandboxArgs::default(),
        };
        let mut case = CaseProgress::default();
        let runs = letters.chars().map(Some).chain([None]).map(|letter| match letter {
            Some('p') => CaseRun::Passed,
            Some('f') => CaseFailure::without_run(Status::Unexpected, "no".to_owned()).into(),
            Some('b') => CaseFailure::without_run(Status::Configuration, "no".to_owned()).into(),
            Some('s') => CaseRun::Skipped("not here".to_owned()),
            _ => CaseRun::Interrupted,
        });
        let verdict = runs.into_iter().find_map(|run| case.add_run(run, &settings, false, true)).unwrap();
        (verdict.name(), verdict.attempts())
    }

    #[test]
    fn a_case_that_passes_later_is_flaky() {
        assert_eq!(verdict("p", false), ("passed", 1));
        assert_eq!(verdict("fp", false), ("flaky", 2));
        assert_eq!(verdict("ffp", false), ("flaky", 3));
        assert_eq!(verdict("fffp", false), ("failed", 3));
        assert_eq!(verdict("f", false), ("not-run", 0));
    }

    #[test]
    fn what_stays_the_same_is_not_tried_again() {
        assert_eq!(verdict("bp", false), ("failed", 1));
        assert_eq!(verdict("sp", false), ("skipped", 1));
        assert_eq!(verdict("sp", true), ("failed", 1));
    }
}
