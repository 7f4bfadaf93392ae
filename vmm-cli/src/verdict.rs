//! What a run is worth: its end held against `[expect]`, examined if it has to be, and all of it as one report.

use crate::config::Config;
use crate::status::Status;
use vmm_core::machine::Machine;
use vmm_core::machine::end::Verdict;
use vmm_core::machine::run_loop::RunOutcome;
use vmm_core::record::Recording;

use crate::expectations;
use crate::prepare::Files;
use crate::report::{Report, autopsy};

/// A run that is over.
pub(crate) struct FinishedRun<'a> {
    /// What it came to.
    pub(crate) outcome: &'a RunOutcome,
    /// The machine, as the run left it.
    pub(crate) machine: &'a Machine,
    /// What was loaded.
    pub(crate) files: &'a Files,
    /// What the guest printed, as far as `[expect]` asks for it.
    pub(crate) output: &'a [u8],
    /// The record of the run, if it may be had again to find out why the guest died.
    pub(crate) recording: Option<&'a Recording>,
}

/// Judges a run: its status, and the report of it.
pub(crate) fn evaluate(config: &Config, ended: &FinishedRun<'_>) -> (Status, Report) {
    let FinishedRun { outcome, machine, files, output, recording } = ended;
    let expect = config.expect.as_ref();
    let mut mismatches = expect.map(|expect| expectations::check(expect, outcome, machine, files, output));
    let verdict = machine.verdict(&outcome.end);
    let autopsy = recording
        .filter(|_| autopsy::is_wanted(verdict, &outcome.end, config, mismatches.as_deref()))
        .map(|recording| autopsy::perform(machine, &outcome.end, recording, files));
    if let (Some(expect), Some(mismatches)) = (expect, &mut mismatches) {
        let cause = autopsy.as_ref().map(autopsy::AutopsyReport::summary);
        mismatches.extend(expectations::check_cause(expect, cause));
    }
    let status = status_from_verdict(verdict, mismatches.as_deref().map(<[_]>::is_empty));
    let mut report = Report::new(status, verdict, outcome, machine, files, mismatches);
    report.set_autopsy(autopsy);
    (status, report)
}

/// Whether the guest did what was expected of it. Unlike with `run`, one that dies or hangs can: but only if its `[expect]` says
/// that it is to end like this.
pub(crate) fn is_as_expected(config: &Config, report: &Report) -> bool {
    let names_end = config.expect.as_ref().is_some_and(|expect| expect.end.is_some());
    report.mismatches().is_empty()
        && match report.verdict {
            Verdict::Success | Verdict::Code(_) => true,
            Verdict::Crashed | Verdict::Hung => names_end,
            Verdict::Interrupted => false,
        }
}

/// What a run is worth. Only one that ended by itself can be a success, whatever was expected of it.
pub(crate) fn status_from_verdict(verdict: Verdict, expectations_met: Option<bool>) -> Status {
    match (verdict, expectations_met) {
        (Verdict::Crashed, _) => Status::Crashed,
        (Verdict::Hung, _) => Status::Hung,
        (Verdict::Interrupted, _) => Status::Interrupted,
        (Verdict::Success | Verdict::Code(_), Some(true)) => Status::Success,
        (Verdict::Success | Verdict::Code(_), Some(false)) => Status::Unexpected,
        (Verdict::Success, None) => Status::Success,
        (Verdict::Code(code), None) => Status::Guest(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_or_a_hang_is_never_a_success() {
        for verdict in [Verdict::Crashed, Verdict::Hung, Verdict::Interrupted] {
            for met in [None, Some(true), Some(false)] {
                assert_ne!(status_from_verdict(verdict, met), Status::Success);
            }
        }
        assert_eq!(status_from_verdict(Verdict::Code(42), Some(true)), Status::Success);
        assert_eq!(status_from_verdict(Verdict::Code(42), None), Status::Guest(42));
        assert_eq!(status_from_verdict(Verdict::Success, Some(false)), Status::Unexpected);
    }
}
