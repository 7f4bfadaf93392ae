//! Confinement of a process that runs a guest, before the guest's first instruction.
//!
//! A guest that takes over the process, through a mistake of ours or of KVM, gets little: it cannot open a file or a socket, start a
//! program, create a machine, or signal another process. The parts, from wide to narrow:
//!
//! | part | takes away |
//! |---|---|
//! | `no_new_privs` (prctl(2)) | privileges of programs |
//! | capabilities (capset(2)) | all |
//! | Landlock (landlock(7)) | files, except directories that a run must still name files in; TCP ports; signals and abstract sockets of others |
//! | seccomp (seccomp(2)) | system calls, by thread kind and by what the run uses ([`system_calls`]) |
//!
//! This is process-wide and cannot be undone, so a library never enters it on its own: [`Sandbox::enter`] does. Threads that a run
//! starts afterwards narrow themselves further.

mod files;
mod filter;
pub mod system_calls;

use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use kvm_sys_wrap::{has_system_call_filters, install_system_call_handler, landlock_version};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use thiserror::Error;

use filter::Refusal;
use system_calls::{Features, QUIETLY_REFUSED, ThreadKind};

pub use files::{DirectoryUse, WANTED_LANDLOCK};

/// Features of the sandbox that this process has entered.
static ENTERED: OnceLock<Features> = OnceLock::new();

/// Choice of what happens on a host that lacks a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SandboxMode {
    /// No confinement.
    Off,
    /// Confinement by the parts that the host has.
    #[default]
    Auto,
    /// Confinement by all parts. Otherwise it is an error.
    Strict,
}

/// Sandbox of a run, before it is entered.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Choice of what happens on a host that lacks a part.
    pub mode: SandboxMode,
    /// Things that the run uses.
    pub features: Features,
    /// Directories that the run still uses.
    pub directories: Vec<(PathBuf, DirectoryUse)>,
    /// Exit status of the process when it makes a refused system call.
    pub exit_status: u8,
}

/// Error of entering the sandbox.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// A part is missing, and the mode is [`SandboxMode::Strict`].
    #[error("this host cannot confine the run: {part}")]
    Missing {
        /// Missing part, such as `no Landlock`.
        part: &'static str,
    },
    /// A step failed that every kernel can do.
    #[error("cannot confine the run: {step}")]
    Step {
        /// Step, such as `prctl(PR_SET_NO_NEW_PRIVS)`.
        step: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
}

impl Sandbox {
    /// Confines this process. It must be called before the first `KVM_RUN`, and before other threads are started: threads that
    /// exist keep what they had.
    ///
    /// # Errors
    /// [`SandboxError::Missing`] in the mode [`SandboxMode::Strict`] on a host without seccomp or without the Landlock that this
    /// crate asks for, [`SandboxError::Step`] where a step fails that every kernel can do.
    pub fn enter(&self) -> Result<(), SandboxError> {
        match self.mode {
            SandboxMode::Off => return Ok(()),
            SandboxMode::Strict => {
                if let Some(part) = missing_part() {
                    return Err(SandboxError::Missing { part });
                }
            }
            SandboxMode::Auto => {}
        }
        let failed = |step| move |source: io::Error| SandboxError::Step { step, source };
        install_system_call_handler(self.exit_status)
            .map_err(|error| failed("a handler for SIGSYS")(io::Error::other(error)))?;
        set_no_new_privs(true).map_err(|error| failed("prctl(PR_SET_NO_NEW_PRIVS)")(error.into()))?;
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).map_err(|error| failed("capset")(error.into()))?;
        files::restrict(&self.directories)?;
        match install_filter(ThreadKind::Main, self.features) {
            Err(error) if has_system_call_filters() => return Err(failed("seccomp")(error)),
            Ok(()) | Err(_) => {}
        }
        // Set once: a process enters one sandbox.
        let _ = ENTERED.set(self.features);
        Ok(())
    }
}

/// Returns the part of a full sandbox that this host lacks, such as `no Landlock`; `None` if it has all.
#[must_use]
pub fn missing_part() -> Option<&'static str> {
    match (has_system_call_filters(), landlock_version()) {
        (false, _) => Some("no seccomp"),
        (true, None) => Some("no Landlock"),
        (true, Some(..WANTED_LANDLOCK)) => Some("only an old Landlock"),
        (true, Some(_)) => None,
    }
}

/// Narrows the filter of a new thread, if this process has entered a sandbox.
///
/// # Errors
/// The kernel refused the filter.
pub(crate) fn enter_thread(kind: ThreadKind) -> io::Result<()> {
    match ENTERED.get() {
        Some(features) => install_filter(kind, *features),
        None => Ok(()),
    }
}

fn install_filter(kind: ThreadKind, features: Features) -> io::Result<()> {
    let rules = system_calls::rules(kind, features);
    let ioctls = system_calls::ioctl_requests(kind, features);
    let quiet: Vec<_> = QUIETLY_REFUSED.iter().map(|(_, number)| *number).collect();
    let program = filter::compile(&rules, &ioctls, &quiet, std::process::id(), Refusal::Trap)
        .ok_or_else(|| io::Error::other("the filter is too long"))?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}
