//! Access to files by Landlock (landlock(7)): none, except names in some directories. Open descriptors stay usable.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};

use super::SandboxError;

/// Version of Landlock that is asked for: Linux 6.12, which also stops signals to other processes.
const WANTED: ABI = ABI::V6;

/// Version of Landlock that a full sandbox needs (Linux 6.12).
pub const WANTED_LANDLOCK: u32 = WANTED as u32;

/// Use of a directory after the sandbox is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectoryUse {
    /// Files get their names in it, and incomplete ones are removed.
    OutputFiles,
    /// A socket in it is removed.
    Socket,
    /// An empty directory in it is removed.
    Directory,
}

impl DirectoryUse {
    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Self::OutputFiles => AccessFs::MakeReg | AccessFs::RemoveFile,
            Self::Socket => AccessFs::RemoveFile.into(),
            Self::Directory => AccessFs::RemoveDir.into(),
        }
    }
}

/// Takes all access to files from this process, except for these uses of directories, as far as this kernel has Landlock.
pub(super) fn restrict(directories: &[(PathBuf, DirectoryUse)]) -> Result<(), SandboxError> {
    let failed = |error: landlock::RulesetError| SandboxError::Step {
        step: "landlock_restrict_self",
        source: io::Error::other(error),
    };
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(WANTED)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(WANTED)))
        .and_then(Ruleset::create);
    let mut ruleset = ruleset.map_err(failed)?;
    for (directory, purpose) in directories {
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let open = PathFd::new(directory).map_err(|error| SandboxError::Step {
            step: "open a directory of output files",
            source: io::Error::other(error),
        })?;
        ruleset = ruleset.add_rule(PathBeneath::new(open, purpose.rights())).map_err(failed)?;
    }
    // It is set already.
    ruleset.no_new_privs(false).restrict_self().map_err(failed)?;
    Ok(())
}
