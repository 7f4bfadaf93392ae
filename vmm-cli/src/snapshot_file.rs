//! A snapshot as a file.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `\x89VMMSNAP` |
//! | 8 | 4 | the version of the format, [`VERSION`] |
//! | 12 | 4 | CRC-32 of all that follows |
//! | 16 | 8 | the size of the description |
//! | 24 | 8 | the number of ranges of memory |
//! | 32 | | the description: [`Description`], encoded by [`vmm_core::encoding`] |
//! | behind it | 16 each | the ranges: first address and size |
//! | behind them | | their bytes, one after the other, to the end of the file |
//!
//! Numbers are little-endian. Memory that is all zeros is in no range. The description names the machine by the keys of its
//! configuration ([`Identity`]), so that no other one is given the state; a configuration is needed to take it up again.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod identity;
mod read;
#[cfg(test)]
mod tests;
mod write;

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::diagnostic::Diagnostic;
use crate::status::Status;
use serde::{Deserialize, Serialize};
use vmm_core::Kvm;
use vmm_core::kvm_sys_wrap::bindings::kvm_cpuid_entry2;
use vmm_core::layout::Layout;
use vmm_core::snapshot::{HostIdentity, MachineState, STATE_VERSION, Snapshot};
use vmm_core::spec::MachineSpec;

use crate::prepare::Files;

use identity::Identity;
pub(crate) use read::Saved;
pub(crate) use write::write;

/// Returns the identity of this host, which is read from files the first time.
///
/// # Errors
/// They cannot be read ([`Status::Host`]).
pub(crate) fn this_host() -> Result<HostIdentity, Diagnostic> {
    HostIdentity::this()
        .map_err(|error| Diagnostic::error(Status::Host, format!("cannot identify this host: {error}")))
}

const MAGIC: [u8; 8] = *b"\x89VMMSNAP";
/// Version of the format that is written, and the only one that is read. It is raised with every change of [`Description`],
/// of [`Identity`], and of the state of the machine. A new device is no such change: earlier machines are those without it.
const VERSION: u32 = 2;
const _: () =
    assert!(STATE_VERSION == 1, "the saved form of the machine's state has changed: raise VERSION too");
/// Bytes before the description.
const HEAD: usize = 32;
/// Bytes of the head that the checksum does not cover.
const UNCHECKED: usize = 16;

/// All but the memory.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    /// Program that wrote the file, with its version.
    pub(crate) program: String,
    /// The configuration, as an absolute path.
    pub(crate) config: PathBuf,
    /// Stop point of the guest, in words.
    pub(crate) point: String,
    pub(crate) host: HostIdentity,
    pub(crate) machine: Identity,
    /// CRC-32 of the files that were loaded.
    pub(crate) files: u32,
    /// Output of the guest so far, as far as it is kept: `[expect]` covers the whole run.
    pub(crate) printed: Vec<u8>,
    pub(crate) cpuid: Option<Vec<kvm_cpuid_entry2>>,
    pub(crate) state: MachineState,
}

impl Description {
    pub(crate) fn new(
        snapshot: &Snapshot,
        config: PathBuf,
        point: String,
        files: &Files,
        printed: Vec<u8>,
        host: HostIdentity,
    ) -> Self {
        Self {
            program: format!("vmm-cli {}", env!("CARGO_PKG_VERSION")),
            config,
            point,
            host,
            machine: Identity::new(snapshot.spec()),
            files: checksum(files),
            printed,
            cpuid: snapshot.cpuid().map(<[_]>::to_vec),
            state: snapshot.state().clone(),
        }
    }
}

/// The snapshot in a file, and what its guest had printed, if it is one of this machine with these files, and this host can go on with it.
///
/// # Errors
/// It cannot be read, or why it cannot be taken up.
pub(crate) fn take_up(
    path: &Path,
    configuration: &Config,
    spec: MachineSpec,
    layout: Layout,
    files: &Files,
    kvm: &Kvm,
) -> Result<(Snapshot, Vec<u8>), Diagnostic> {
    let saved = Saved::open(path)?;
    let Description { config, point, host, machine, files: sum, cpuid, state, .. } = &saved.description;
    let origin = format!("it was taken of {}, {point}", config.display());
    if let Some(difference) = machine.difference(&Identity::new(&spec), configuration) {
        let origin = format!("the snapshot {} was taken of {}, {point}", path.display(), config.display());
        let why = format!("it is of another machine: {difference}");
        return Err(saved.damaged(&why).at(difference.location).with_help(Some(origin)));
    }
    if *sum != checksum(files) {
        return Err(saved
            .damaged(&"the guest's files have changed since it was taken")
            .with_help(Some(origin)));
    }
    let refused = |why: String| Diagnostic { status: Status::Refused, ..saved.damaged(&why) };
    if let Some(why) = host.refuses(&this_host()?) {
        return Err(refused(why));
    }
    let memory = saved.memory(&spec)?;
    let snapshot = Snapshot::new(spec, layout, cpuid.as_deref(), state.clone(), memory)
        .map_err(|error| saved.unusable(&error))?;
    let missing = snapshot.missing_features(kvm).map_err(|error| saved.unusable(&error))?;
    if !missing.is_empty() {
        let why = format!(
            "its guest was told of CPU features that this host does not have: {}",
            missing.join(", ")
        );
        return Err(refused(why));
    }
    Ok((snapshot, saved.description.printed))
}

/// Returns the CRC-32 of all files that were loaded.
pub(crate) fn checksum(files: &Files) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for (bytes, _) in files.contents() {
        hasher.update(bytes);
    }
    hasher.finalize()
}
