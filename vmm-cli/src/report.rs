//! Report of a run: as text on standard error, or as JSON.
//!
//! A successful run prints nothing but the guest's output. For a guest that died, the text has the end in a sentence,
//! the address and symbol where it was, the code bytes there, its registers, and the control registers bit by bit.

pub(crate) mod autopsy;
mod cpu;
mod other_vcpus;

use std::collections::BTreeMap;

use serde::Serialize;
use vmm_core::cpu::cpu_state::CpuState;
use vmm_core::machine::Machine;
use vmm_core::machine::end::Verdict;
use vmm_core::machine::run_loop::RunOutcome;

use crate::config::Config;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::expectations::Mismatch;
use crate::prepare::Files;
use crate::profile::ProfileReport;
use crate::status::Status;
use crate::stderr;
use crate::trace::Statistics;
use autopsy::AutopsyReport;
use cpu::CpuReport;
use other_vcpus::OtherVcpus;

/// Report of a run. The JSON form has these keys; more may come, none go.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Exit status of `vmm-cli`.
    status: u8,
    /// Name of the end, as in `[expect] end`.
    end: &'static str,
    /// Description of the end.
    message: String,
    /// Exit code of the guest, if it gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
    /// Total number of exits.
    exits: u64,
    /// Number of exits by type.
    exits_by_type: BTreeMap<&'static str, u64>,
    /// Nanoseconds from the first `KVM_RUN` to the end.
    elapsed_ns: u128,
    /// Result of `[expect]`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    expect: Option<Expectations>,
    /// Devices that stopped because of an error of their driver, each with the error.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    complaints: Vec<String>,
    /// State of the vCPU, where the guest crashed or hung.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<CpuReport>,
    /// Other vCPUs and unknown MSRs, where the guest crashed or hung.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    other_vcpus: Option<OtherVcpus>,
    /// Autopsy, where the guest died, hangs, or did not meet `[expect]` (`report/autopsy.rs`).
    #[serde(skip_serializing_if = "Option::is_none")]
    autopsy: Option<AutopsyReport>,
    /// Statistics, with `--stats`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stats: Option<Statistics>,
    /// Profile, with `--timing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timing: Option<ProfileReport>,
    #[serde(skip)]
    pub(crate) verdict: Verdict,
}

/// Result of `[expect]`.
#[derive(Debug, Serialize)]
struct Expectations {
    met: bool,
    failures: Vec<Mismatch>,
}

impl Report {
    pub(crate) fn new(
        status: Status,
        verdict: Verdict,
        outcome: &RunOutcome,
        machine: &Machine,
        files: &Files,
        mismatches: Option<Vec<Mismatch>>,
    ) -> Self {
        let cpu = match verdict {
            Verdict::Success | Verdict::Code(_) => None,
            Verdict::Crashed | Verdict::Hung | Verdict::Interrupted => {
                CpuReport::from_machine(machine, &outcome.end, files)
            }
        };
        let around = cpu.is_some().then(|| OtherVcpus::new(machine, files));
        Self {
            status: status.code(),
            end: outcome.end.name(),
            message: outcome.end.to_string(),
            exit_code: outcome.end.exit_code(),
            exits: outcome.exits.total(),
            exits_by_type: outcome.exits.iter().map(|(kind, count)| (kind.name(), count)).collect(),
            elapsed_ns: outcome.elapsed.as_nanos(),
            complaints: complaints(machine),
            expect: mismatches.map(|failures| Expectations { met: failures.is_empty(), failures }),
            cpu,
            other_vcpus: around,
            autopsy: None,
            stats: None,
            timing: None,
            verdict,
        }
    }

    /// Adds an autopsy. Its registers replace those of a vCPU that the host reset.
    pub(crate) fn set_autopsy(&mut self, autopsy: Option<AutopsyReport>) {
        if let (Some(cpu), Some(autopsy)) = (&mut self.cpu, &autopsy)
            && let Some(state) = autopsy.registers()
        {
            cpu.replace(state, autopsy.code());
        }
        self.autopsy = autopsy;
    }

    /// Returns the registers before the end, where the autopsy found them.
    pub(crate) fn before(&self) -> Option<&CpuState> {
        self.autopsy.as_ref().and_then(AutopsyReport::registers)
    }

    /// Returns the lines of `[expect]` that are not met.
    pub(crate) fn mismatches(&self) -> &[Mismatch] {
        self.expect.as_ref().map_or(&[], |expect| &expect.failures)
    }

    /// Returns the first paragraph of the autopsy.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.autopsy.as_ref().map(AutopsyReport::summary)
    }

    /// Renders the report as one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        // Nothing in it can fail to serialize: keys are strings, values plain.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Prints the report to standard error, if the run was not a plain success.
    pub(crate) fn eprint(&self, config: &Config) {
        if let Some(message) = self.headline() {
            Diagnostics::from(Diagnostic::error(Status::Guest(self.status.into()), message)).eprint();
        }
        if self.status != 0 {
            for complaint in &self.complaints {
                stderr::print_line(format_args!("  {complaint}"));
            }
        }
        if let (Some(autopsy), Some(_)) = (&self.autopsy, &self.cpu) {
            stderr::print(format_args!("{autopsy}"));
        }
        if let Some(cpu) = &self.cpu {
            stderr::print(format_args!("{cpu}"));
        }
        if let Some(around) = &self.other_vcpus {
            stderr::print(format_args!("{around}"));
        }
        let Some(expect) = &self.expect else { return };
        Diagnostics(expect.failures.iter().map(|mismatch| mismatch.diagnostic(config)).collect()).eprint();
        // For a run that ended by itself, the location of its end follows the mismatches.
        if let (Some(autopsy), None, false) = (&self.autopsy, &self.cpu, expect.met) {
            stderr::print(format_args!("{autopsy}"));
        }
        if expect.met && self.status != 0 {
            stderr::print_line(format_args!(
                "[expect] is met; a run that ends like this has the status {} all the same",
                self.status
            ));
        }
    }

    /// Describes the end in a sentence, unless it is a plain success.
    pub(crate) fn headline(&self) -> Option<String> {
        match self.verdict {
            Verdict::Success => None,
            Verdict::Code(_) if self.expect.is_some() => None,
            Verdict::Code(code) if code == u32::from(self.status) => Some(self.message.clone()),
            Verdict::Code(_) => Some(format!("{}, reported as status {}", self.message, self.status)),
            Verdict::Crashed => Some(format!("guest crashed: {}", self.message)),
            Verdict::Hung => Some(format!("guest hung: {}", self.message)),
            Verdict::Interrupted => Some(self.message.clone()),
        }
    }
}

/// Returns the driver errors of virtio devices.
fn complaints(machine: &Machine) -> Vec<String> {
    let (_, mmio) = machine.buses();
    let complaints = mmio.complaints().into_iter();
    complaints.map(|(at, name, problem)| format!("{name} at {at:#x} waits for a reset: {problem}")).collect()
}
