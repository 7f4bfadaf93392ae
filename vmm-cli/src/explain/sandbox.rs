//! Confinement of a run: the system calls that are allowed, each with its reason.

use std::fmt;

use serde::Serialize;
use vmm_core::sandbox::system_calls::{self, ArgumentRule, Features, ThreadKind};
use vmm_core::spec::MachineSpec;

use crate::sandbox::machine_features;
use crate::wrap::wrap;

/// Confinement of `vmm-cli run` without options, once the guest runs.
#[derive(Debug, Serialize)]
pub(super) struct SandboxSummary {
    /// System calls of the first thread, which runs the first vCPU.
    system_calls: Vec<AllowedCall>,
    /// `ioctl` requests of that thread.
    ioctls: Vec<AllowedCall>,
}

/// Allowed system call or `ioctl` request.
#[derive(Debug, Serialize)]
struct AllowedCall {
    name: &'static str,
    reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    only: Option<&'static str>,
}

impl SandboxSummary {
    pub(super) fn of(spec: &MachineSpec) -> Self {
        let features = machine_features(spec) | Features::REPLAY;
        let only = |rule| match rule {
            ArgumentRule::Any | ArgumentRule::Ioctls => None,
            ArgumentRule::Masked { .. } | ArgumentRule::OneOf { .. } => Some("with some arguments"),
            ArgumentRule::ThisProcess => Some("to this process"),
        };
        let calls = system_calls::rules(ThreadKind::Main, features).into_iter();
        let ioctls = system_calls::ioctls(ThreadKind::Main, features).into_iter();
        Self {
            system_calls: calls
                .map(|rule| AllowedCall { name: rule.name, reason: rule.reason, only: only(rule.arguments) })
                .collect(),
            ioctls: ioctls
                .map(|rule| AllowedCall { name: rule.name, reason: rule.reason, only: None })
                .collect(),
        }
    }
}

impl fmt::Display for SandboxSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  files         those that are open; new names only beside --report, --core and --trace-out"
        )?;
        for (title, calls) in [("system calls", &self.system_calls), ("ioctls", &self.ioctls)] {
            let names = calls.iter().map(|call| call.name).collect::<Vec<_>>().join(" ");
            let text = format!("{} ({names})", calls.len());
            let mut title = title;
            for line in wrap(&text, 94) {
                writeln!(f, "  {title:<13} {line}")?;
                title = "";
            }
        }
        writeln!(
            f,
            "  `--format json` has the reason for each; `vmm-cli doctor` shows whether this host can do it"
        )
    }
}
