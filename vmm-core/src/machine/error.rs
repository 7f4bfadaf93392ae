//! Errors before and during a run, each with the party to blame.
//!
//! Acts of the guest are never errors: they are an [`End`](crate::machine::end::End). A front-end makes exit statuses of
//! [`Error::blame`].

use std::io;

use kvm_sys_wrap::Error as KvmError;

use crate::Gva;
use crate::cpu::sregs_diff::SregsDifference;
use crate::devices::bus::{BusError, RestoreError, SaveError};
use crate::devices::virtio::DiskError;
use crate::initial_state::StateError;
use crate::layout::LayoutError;
use crate::spec::mode::Mode;

/// Party whose fault an error is: the configuration, the host, or this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The description of the machine, or the guest's file, is wrong.
    Configuration,
    /// The host cannot do what was asked; another host could.
    HostLacks,
    /// Something on this host failed.
    Host,
    /// The VMM itself has a bug.
    Bug,
}

/// Error of building or running a machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The memory layout that the description asks for is not possible.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The boot state that the description asks for is not possible.
    #[error(transparent)]
    State(#[from] StateError),
    /// Two devices have the same address.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A snapshot cannot be taken, or is of another machine.
    #[error("the snapshot is not usable: {problem}")]
    Snapshot {
        /// Description of the problem, for a message.
        problem: &'static str,
        /// Error of the host that caused the problem, if one did.
        source: Option<io::Error>,
    },
    /// A device cannot be saved in a snapshot or checkpoint.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// The description names a device of the library's user that was not passed when the machine was built.
    #[error("device `{name}` is described, but was not supplied")]
    DeviceNotSupplied {
        /// Name of the device that is missing.
        name: String,
    },
    /// The state of a machine cannot be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// A disk's image or overlay cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The description has more virtio devices than there are interrupts for them.
    #[error("{count} virtio devices; there are interrupts for {}", crate::spec::virtio::MAX_DEVICES)]
    TooManyVirtioDevices {
        /// Number of virtio devices in the description.
        count: usize,
    },
    /// The guest's image could not be put into memory.
    #[error("cannot load the guest")]
    Image(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The host took the vCPU's state and dropped part of it.
    #[error("this host's KVM cannot do mode {mode}: it {}", sentence(differences))]
    ModeDropped {
        /// CPU mode that the state is for.
        mode: Mode,
        /// Differences between the state that was set and the state that was read back.
        differences: Vec<SregsDifference>,
    },
    /// The host refused the vCPU's state.
    #[error("this host's KVM cannot do {feature}: it refused the vCPU's special registers")]
    ModeRefused {
        /// CPU mode of the state, with the feature that was asked for.
        feature: String,
        /// Error of the kernel when the state was set.
        source: KvmError,
    },
    /// The host's CPU lacks a feature, by its CPUID.
    #[error("this host's KVM cannot do {feature}: its CPUID does not offer it")]
    FeatureMissing {
        /// CPU feature that is missing.
        feature: &'static str,
    },
    /// The host cannot stop a machine with interrupts at a breakpoint, or cannot step it.
    #[error(
        "this host's KVM cannot debug a machine with interrupts in mode {mode}: no breakpoint stops it, or no step ends"
    )]
    NoDebugging {
        /// CPU mode of the guest.
        mode: Mode,
    },
    /// A machine with interrupt controllers in this process has no debugger, no single steps and no stop points.
    #[error(
        "a machine with interrupt controllers in this process cannot be debugged, single-stepped or stopped at an exit"
    )]
    NoInterruptDebugging,
    /// A machine with interrupts cannot be stopped at an address: no debug register works here, and no memory is there yet.
    #[error(
        "cannot stop at {gva}: nothing is mapped there before the guest runs, and this host reports no breakpoints"
    )]
    NoBreakpoint {
        /// Virtual address at which the guest was to stop.
        gva: Gva,
    },
    /// A run of several vCPUs cannot be stopped after a number of exits: their exits have no order.
    #[error("the exits of several vCPUs have no order, so none is the one to stop after")]
    NoExitCount,
    /// A system call of KVM failed.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The output or input of the guest's console failed.
    #[error("the guest's console failed")]
    Console(#[source] io::Error),
    /// A thread of the machine cannot be started, or not be confined.
    #[error("cannot start a thread of the machine")]
    Thread(#[source] io::Error),
    /// The host has no timer for the guest's clock.
    #[error("cannot set a timer for the guest's clock")]
    Clock(#[source] io::Error),
    /// A computed table could not be written to its place in guest memory.
    #[error("cannot write {what} to guest memory")]
    Table {
        /// Name of the table that could not be written.
        what: &'static str,
        /// Error of the guest memory that the table was written to.
        source: vm_memory::GuestMemoryError,
    },
}

impl Error {
    /// Returns the party whose fault the error is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Layout(_)
            | Self::State(_)
            | Self::Bus(_)
            | Self::Restore(_)
            | Self::Save(_)
            | Self::DeviceNotSupplied { .. }
            | Self::NoExitCount
            | Self::Snapshot { source: None, .. }
            | Self::TooManyVirtioDevices { .. } => Blame::Configuration,
            Self::Image(error) => error.downcast_ref::<KvmError>().map_or(Blame::Configuration, blame_kvm),
            Self::Disk(error) if error.is_configuration() => Blame::Configuration,
            Self::Disk(_) => Blame::Host,
            Self::ModeDropped { .. }
            | Self::ModeRefused { .. }
            | Self::FeatureMissing { .. }
            | Self::NoBreakpoint { .. }
            | Self::NoDebugging { .. }
            | Self::NoInterruptDebugging => Blame::HostLacks,
            Self::Kvm(error) => blame_kvm(error),
            Self::Console(_) | Self::Thread(_) | Self::Clock(_) | Self::Snapshot { .. } => Blame::Host,
            Self::Table { .. } => Blame::Bug,
        }
    }
}

fn blame_kvm(error: &KvmError) -> Blame {
    match error {
        KvmError::MissingCapability { .. } | KvmError::VcpuId { .. } => Blame::HostLacks,
        KvmError::OpenDevice { .. }
        | KvmError::ApiVersion { .. }
        | KvmError::Call { .. }
        | KvmError::HugePages { .. }
        | KvmError::Overcommit { .. }
        | KvmError::FileChanged { .. }
        | KvmError::Kick { .. } => Blame::Host,
        KvmError::TssAddress { .. }
        | KvmError::SlotShape { .. }
        | KvmError::SlotNumber { .. }
        | KvmError::Overlap(_) => Blame::Configuration,
        KvmError::Reply { .. } | KvmError::NoMemory { .. } | KvmError::Released { .. } => Blame::Bug,
        // A variant of a later version.
        _ => Blame::Host,
    }
}

/// `cleared CR0.PG and cleared EFER.LME`.
fn sentence(differences: &[SregsDifference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
