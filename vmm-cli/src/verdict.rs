//! Evaluates a finished run: checks `[expect]`, examines a dead guest, and makes the report.

use vmm_core::machine::Machine;
use vmm_core::machine::end::Verdict;
use vmm_core::machine::run_loop::RunOutcome;
use vmm_core::record::Recording;

use crate::config::Config;
use crate::diagnostic::Diagnostic;
use crate::expectations;
use crate::machine_error::machine_error;
use crate::prepare::Files;
use crate::report::{Report, autopsy};
use crate::status::Status;

/// A finished run.
pub(crate) struct FinishedRun<'a> {
    /// Outcome of the run.
    pub(crate) outcome: &'a RunOutcome,
    /// Machine after the run.
    pub(crate) machine: &'a Machine,
    /// Loaded files.
    pub(crate) files: &'a Files,
    /// Output of the guest, as far as `[expect]` checks it.
    pub(crate) output: &'a [u8],
    /// Record of the run, if an autopsy may replay it.
    pub(crate) recording: Option<&'a Recording>,
}

/// Evaluates a run. Returns its exit status and its report.
///
/// # Errors
/// The host cannot read the state of the machine.
pub(crate) fn evaluate(config: &Config, ended: &FinishedRun<'_>) -> Result<(Status, Report), Diagnostic> {
    let FinishedRun { outcome, machine, files, output, recording } = ended;
    let expect = config.expect.as_ref();
    let check = |expect| expectations::check(expect, outcome, machine, files, output);
    let mut mismatches = expect.map(check).transpose().map_err(|error| machine_error(config, &error))?;
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
    Ok((status, report))
}

/// Returns true if the guest did what was expected. Unlike with `run`, a guest that dies or hangs does, if its
/// `[expect] end` names that end.
pub(crate) fn is_as_expected(config: &Config, report: &Report) -> bool {
    let names_end = config.expect.as_ref().is_some_and(|expect| expect.end.is_some());
    report.mismatches().is_empty()
        && match report.verdict {
            Verdict::Success | Verdict::Code(_) => true,
            Verdict::Crashed | Verdict::Hung => names_end,
            Verdict::Interrupted => false,
        }
}

/// Returns the exit status of a verdict. Only a run that ended by itself can be a success.
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
