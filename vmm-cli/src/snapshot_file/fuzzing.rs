//! Any snapshot with a right checksum.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use vmm_core::encoding;
use vmm_core::kvm_sys_wrap::VcpuState;
use vmm_core::snapshot::{HostIdentity, Snapshot};

use super::identity::Identity;
use super::{Description, MAGIC, Saved, UNCHECKED, VERSION};
use crate::config::{Config, Overrides};
use crate::diagnostic::{Diagnostic, Location};
use crate::prepare::Prepared;

/// Machine of the golden snapshot, prepared.
pub(crate) struct GoldenMachine {
    pub(crate) config: Config,
    pub(crate) prepared: Prepared,
}

impl GoldenMachine {
    pub(crate) fn new() -> Self {
        let config = Config::load(&golden("golden.toml"), &Overrides::new()).unwrap();
        let prepared = Prepared::new(&config).unwrap();
        Self { config, prepared }
    }

    /// Returns the state of the vCPU in the golden snapshot.
    pub(crate) fn vcpu_state() -> VcpuState {
        let saved = Saved::open(&golden(&format!("format-{VERSION}.snap"))).unwrap();
        saved.description.state.vcpus().next().unwrap().clone()
    }
}

fn golden(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots").join(name)
}

thread_local! {
    static MACHINE: GoldenMachine = GoldenMachine::new();
    /// File that each snapshot is written to.
    static FILE: OwnedFd = memfd_create("snapshot", MemfdFlags::CLOEXEC).unwrap();
}

/// Checks a snapshot. The bytes are those that the checksum covers: the first 16 of a file are left out.
pub fn snapshot(bytes: &[u8]) {
    MACHINE.with(|machine| check(machine, bytes));
    // Each eighth time with one bit changed: that is refused.
    let last = bytes.last().map_or(0, |last| usize::from(*last));
    let mut changed = bytes.to_vec();
    if let Some(byte) = changed.get_mut(last * bytes.len() / 256).filter(|_| last.is_multiple_of(8)) {
        *byte ^= 1 << (last >> 5);
        assert!(read(&changed, crc32fast::hash(bytes)).is_err(), "a damaged snapshot is accepted");
    }
}

fn check(machine: &GoldenMachine, bytes: &[u8]) {
    let saved = match read(bytes, crc32fast::hash(bytes)) {
        Ok(saved) => saved,
        Err(problem) => {
            assert!(!problem.message.is_empty());
            return;
        }
    };
    let description = &saved.description;
    let form = encoding::to_bytes(description).unwrap();
    let again: Description = encoding::from_bytes(&form).unwrap();
    assert!(encoding::to_bytes(&again).unwrap() == form, "another description when it is saved again");

    let spec = &machine.prepared.machine;
    let (now, host) = (Identity::new(spec), HostIdentity::this().unwrap());
    let difference = description.machine.difference(&now, &machine.config);
    if let Some(difference) = difference {
        assert!(!difference.to_string().is_empty());
    }
    let _ = description.host.refuses(&host);
    let Ok(memory) = saved.memory(spec) else { return };
    let ranges = memory.ranges().unwrap();
    assert!(ranges.iter().map(|(_, size)| size).sum::<u64>() <= 64 << 10, "more memory than the machine has");
    let Description { cpuid, state, .. } = saved.description;
    let layout = machine.prepared.layout.clone();
    if let Ok(snapshot) = Snapshot::new(spec.clone(), layout, cpuid.as_deref(), state, memory) {
        assert!(snapshot.cpuid().map(<[_]>::len) == cpuid.as_ref().map(Vec::len));
        assert_eq!(snapshot.state().vcpus().count(), 1);
    }
}

/// Reads a snapshot of these bytes and this checksum.
fn read(bytes: &[u8], checksum: u32) -> Result<Saved, Diagnostic> {
    FILE.with(|file| {
        let file = File::from(file.try_clone().unwrap());
        let mut head = Vec::with_capacity(UNCHECKED);
        head.extend(MAGIC);
        head.extend(VERSION.to_le_bytes());
        head.extend(checksum.to_le_bytes());
        file.set_len(0).unwrap();
        file.write_all_at(&head, 0).unwrap();
        file.write_all_at(bytes, u64::try_from(UNCHECKED).unwrap()).unwrap();
        // Copies of a descriptor share the position.
        std::io::Seek::rewind(&mut &file).unwrap();
        Saved::read(file, Location::Nowhere)
    })
}
