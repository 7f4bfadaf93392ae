//! Shared part of the cases of one configuration, and the boot snapshot.
//!
//! With `test.snapshot-at` the guest runs once up to that address, in a worker process of its own. Its memory and its state go
//! to two files in memory that the parent made, and each further worker makes a machine from them. The parent never reads them.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};
use vmm_core::Gva;
use vmm_core::debugger::run_until::run_until;
use vmm_core::devices::console::{Console, NoInput, Output};
use vmm_core::encoding;
use vmm_core::kvm_sys_wrap::MemoryFile;
use vmm_core::kvm_sys_wrap::bindings::kvm_cpuid_entry2;
use vmm_core::machine::Machine;
use vmm_core::machine::error::Error;
use vmm_core::machine::reserved_vms::ReplayPurpose;
use vmm_core::machine::stop_point::StopPoint;
use vmm_core::sandbox::system_calls::Features;
use vmm_core::snapshot::{MachineState, MemoryImage, Snapshot};

use super::case_output::CaseOutput;
use super::case_setup::resolve_address;
use super::input;
use super::resources::Resources;
use crate::config::Config;
use crate::config::address_expr::AddressExpr;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::inspect::{ended_before_stop, load_address};
use crate::machine_error::machine_error;
use crate::prepare::{FileCache, Prepared};
use crate::sandbox::SandboxArgs;
use crate::status::Status;

/// Configuration that is ready to run.
pub(super) struct Fixture {
    pub(super) config: Config,
    pub(super) prepared: Prepared,
    /// Snapshot that the cases start from, with `test.snapshot-at`.
    pub(super) boot_snapshot: Option<BootSnapshot>,
    /// True if a machine can be reset for another case.
    pub(super) allows_reset: bool,
}

/// Machine that the cases start from.
#[derive(Debug)]
pub(super) struct BootSnapshot {
    pub(super) snapshot: Snapshot,
    /// Output of the guest up to the snapshot.
    pub(super) printed: Vec<u8>,
}

/// Files of a boot snapshot, which one process fills and others take it from.
#[derive(Debug)]
pub(super) struct BootFiles {
    /// Memory of the machine.
    memory: File,
    /// [`SavedBoot`] as bytes.
    state: File,
}

/// All of a boot snapshot but the memory.
#[derive(Serialize, Deserialize)]
struct SavedBoot {
    cpuid: Option<Vec<kvm_cpuid_entry2>>,
    state: MachineState,
    printed: Vec<u8>,
}

impl BootFiles {
    /// Creates empty files.
    ///
    /// # Errors
    /// The host has no memory or descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        let memory = MemoryFile::reserve().map_err(io::Error::other)?;
        Ok(Self { memory, state: memfd_create("boot state", MemfdFlags::CLOEXEC)?.into() })
    }

    /// Returns the descriptors that a worker needs.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.memory.as_fd(), self.state.as_fd()]
    }

    /// Makes the snapshot of a prepared machine from the files.
    fn read(&self, config: &Config, prepared: &Prepared) -> Result<BootSnapshot, Diagnostics> {
        let bytes = read_all(&self.state).map_err(|error| file_error(&error))?;
        let SavedBoot { cpuid, state, printed } =
            encoding::from_bytes(&bytes).map_err(|error| file_error(&error))?;
        let host = |error| Diagnostics::from(machine_error(config, &error));
        let memory = self.memory.try_clone().map_err(|error| file_error(&error))?;
        let memory = MemoryImage::from_file(memory, &prepared.machine).map_err(host)?;
        let (spec, layout) = (prepared.machine.clone(), prepared.layout.clone());
        let snapshot = Snapshot::new(spec, layout, cpuid.as_deref(), state, memory).map_err(host)?;
        Ok(BootSnapshot { snapshot, printed })
    }

    fn write(&self, state: &SavedBoot) -> Result<(), Diagnostics> {
        let bytes = encoding::to_bytes(state).map_err(|error| file_error(&error))?;
        (&self.state).write_all(&bytes).map_err(|error| file_error(&error).into())
    }
}

/// Reads a file from its start. Processes share the position of an inherited descriptor, so it is not used.
fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn file_error(error: &dyn std::error::Error) -> Diagnostic {
    Diagnostic::error(Status::Host, format!("cannot pass on the snapshot of the booted machine: {error}"))
}

impl Fixture {
    /// Reads the guest's files.
    ///
    /// # Errors
    /// Mistakes in the configuration and the guest's files.
    pub(super) fn new(config: Config) -> Result<Self, Diagnostics> {
        let prepared = Prepared::with(&config, &FileCache::with_cache())?;
        let allows_reset = input::allows_reset(&config, &prepared.machine);
        Ok(Self { config, prepared, boot_snapshot: None, allows_reset })
    }

    /// Returns the address at which the boot snapshot is taken, if there is one.
    pub(super) fn snapshot_at(&self) -> Option<&AddressExpr> {
        self.config.test.as_ref().and_then(|plan| plan.snapshot_at.as_ref())
    }

    /// Takes the boot snapshot from files that another process filled.
    ///
    /// # Errors
    /// The files are not those of this machine.
    pub(super) fn read_boot_snapshot(&mut self, files: &BootFiles) -> Result<(), Diagnostics> {
        self.boot_snapshot = Some(files.read(&self.config, &self.prepared)?);
        Ok(())
    }

    /// Runs the guest to `place`, and fills the files with the snapshot.
    ///
    /// # Errors
    /// The guest ends before, or the host cannot run it.
    pub(super) fn boot(
        &self,
        place: &AddressExpr,
        to: &BootFiles,
        resources: &Resources,
        sandbox: SandboxArgs,
    ) -> Result<(), Diagnostics> {
        let (config, Prepared { machine: spec, files, .. }) = (&self.config, &self.prepared);
        let address = resolve_address(config, files, place, "test.snapshot-at")?;
        let copy = CaseOutput::new(true);
        let output = Output::new(copy.clone());
        let console = Console { output, input: Box::new(NoInput), input_fd: None };
        let host = |error: Error| Diagnostics::from(machine_error(config, &error));
        let memory = to.memory.try_clone().map_err(|error| file_error(&error))?;
        let machine = Machine::build(resources.kvm(), spec.clone(), files, console).map_err(host)?;
        let point = StopPoint::Address { gva: Gva(address), gpa: load_address(files, address) };
        let _reserved = machine.reserve_replays(ReplayPurpose::StopPoint).map_err(host)?;
        sandbox.enter(machine.spec(), Features::SNAPSHOT, [])?;
        let (mut machine, end) = run_until(machine, point).map_err(host)?;
        let result = match end {
            Some(end) => Err(ended_before_stop(&machine, &end, &format!("at {place}")).into()),
            None => machine.snapshot_to(memory).map_err(host).and_then(|snapshot| {
                let cpuid = snapshot.cpuid().map(<[_]>::to_vec);
                let printed = copy.with_checked(<[u8]>::to_vec);
                to.write(&SavedBoot { cpuid, state: snapshot.state().clone(), printed })
            }),
        };
        resources.close(machine);
        result
    }
}
