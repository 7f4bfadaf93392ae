//! Confinement of the process before the guest runs ([`vmm_core::sandbox`]): the option, and what a command adds to a plain run.

use std::path::Path;

use clap::{Args, ValueEnum};
use vmm_core::sandbox::system_calls::Features;
use vmm_core::sandbox::{DirectoryUse, Sandbox, SandboxError, SandboxMode, missing_part};
use vmm_core::spec::{Interrupts, MachineSpec};

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::status::Status;

/// Choice of the confinement (`--sandbox`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum SandboxChoice {
    /// Confine the process as far as the host can
    #[default]
    Auto,
    /// Refuse to run on a host that cannot confine it fully
    Strict,
    /// Do not confine the process
    Off,
}

/// Option of the subcommands that run a guest.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct SandboxArgs {
    /// Confinement of this process before the guest runs
    #[arg(long, value_enum, default_value_t, value_name = "MODE")]
    sandbox: SandboxChoice,
}

impl SandboxArgs {
    /// Confines this process for a run of `machine` that uses `features`, and that still uses `directories`.
    ///
    /// # Errors
    /// `--sandbox=strict` on a host that lacks a part ([`Status::Refused`]), or a step that failed ([`Status::Host`]).
    pub(crate) fn enter<'a>(
        self,
        machine: &MachineSpec,
        features: Features,
        directories: impl IntoIterator<Item = (&'a Path, DirectoryUse)>,
    ) -> Result<(), Diagnostics> {
        self.enter_for(features | machine_features(machine), directories)
    }

    /// Confines this process for runs that use `features`, and that still use `directories`.
    ///
    /// # Errors
    /// As [`SandboxArgs::enter`].
    pub(crate) fn enter_for<'a>(
        self,
        features: Features,
        directories: impl IntoIterator<Item = (&'a Path, DirectoryUse)>,
    ) -> Result<(), Diagnostics> {
        let directories = directories.into_iter().map(|(path, purpose)| (path.to_owned(), purpose));
        let directories: Vec<_> = directories.collect();
        let names = directories.iter().any(|(_, purpose)| *purpose == DirectoryUse::OutputFiles);
        let naming = if names { Features::OUTPUT_FILES } else { Features::empty() };
        let sandbox = Sandbox {
            mode: self.mode(),
            features: features | naming,
            directories,
            exit_status: Status::Bug.code(),
        };
        sandbox.enter().map_err(|error| diagnostic(&error).into())
    }

    /// Checks that this host has all parts, for `--sandbox=strict`.
    ///
    /// # Errors
    /// It has not ([`Status::Refused`]).
    pub(crate) fn check_host(self) -> Result<(), Diagnostics> {
        match missing_part().filter(|_| self.mode() == SandboxMode::Strict) {
            Some(part) => Err(diagnostic(&SandboxError::Missing { part }).into()),
            None => Ok(()),
        }
    }

    fn mode(self) -> SandboxMode {
        match self.sandbox {
            SandboxChoice::Auto => SandboxMode::Auto,
            SandboxChoice::Strict => SandboxMode::Strict,
            SandboxChoice::Off => SandboxMode::Off,
        }
    }
}

/// Features that every run of a machine uses.
pub(crate) fn machine_features(machine: &MachineSpec) -> Features {
    let mut features = Features::empty();
    features.set(Features::INTERRUPTS, machine.interrupts != Interrupts::None);
    features.set(Features::VIRTIO, !machine.devices.virtio.is_empty());
    features.set(Features::KVM_TESTDEV, machine.devices.platform.kvm_testdev);
    // A machine that wakes from suspend is reset: it goes on with the VM of a second machine.
    let can_wake = machine.devices.platform.power && machine.kernel_irqchip() != Interrupts::None;
    features.set(Features::REPLAY, can_wake);
    features
}

fn diagnostic(error: &SandboxError) -> Diagnostic {
    match error {
        SandboxError::Missing { .. } => Diagnostic::error(Status::Refused, error.to_string())
            .with_help(Some("`--sandbox=auto` runs with what this host has; `vmm-cli doctor` shows it")),
        SandboxError::Step { source, .. } => Diagnostic::error(Status::Host, format!("{error}: {source}"))
            .with_help(Some("`--sandbox=off` runs without confinement")),
        // A variant of a later version.
        _ => Diagnostic::error(Status::Host, error.to_string()),
    }
}
