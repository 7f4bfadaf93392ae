//! Directory for the socket of one run, which only this user can enter.
//!
//! A process that is killed cannot remove its directory: the next run with a directory of its own does. The directory is locked as
//! long as its process lives (flock(2)), so one without a lock is abandoned. A process number would not tell, since it may be
//! that of a process in another PID namespace, or of a later process.

use std::env;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{self, Path, PathBuf};
use std::process;

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Name of the socket in the directory.
pub(super) const SOCKET_NAME: &str = "gdb.sock";
/// Start of the name of the directory. The numbers of the process and of the directory follow.
const PREFIX: &str = "vmm-gdb-";
/// Maximum number of names that are tried for a directory.
const MAX_NAMES: u32 = 100;

/// Directory that only this user can enter (mode 0700). It is removed when the value is dropped, if it is empty.
#[derive(Debug)]
pub(super) struct PrivateDirectory {
    path: PathBuf,
    /// Lock, which is never read; `None` on file systems without locks.
    _lock: Option<OwnedFd>,
}

impl PrivateDirectory {
    /// Creates a directory in `$XDG_RUNTIME_DIR`, or in the directory for temporary files.
    pub(super) fn create() -> io::Result<Self> {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        if let Some(directory) = runtime.and_then(|runtime| Self::create_in(&runtime).ok()) {
            return Ok(directory);
        }
        Self::create_in(&path::absolute(env::temp_dir())?)
    }

    /// Creates a directory in `parent`, and removes abandoned ones there.
    pub(super) fn create_in(parent: &Path) -> io::Result<Self> {
        remove_abandoned(parent);
        for number in 0..MAX_NAMES {
            let path = parent.join(format!("{PREFIX}{}-{number}", process::id()));
            // An existing directory is never used: another user may have made it.
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            match lock(&path) {
                Ok(lock) => return Ok(Self { path, _lock: Some(lock) }),
                // Another run took the directory for an abandoned one, before it was locked.
                Err(Errno::NOENT | Errno::WOULDBLOCK) => {}
                Err(_) => return Ok(Self { path, _lock: None }),
            }
        }
        Err(ErrorKind::AlreadyExists.into())
    }

    /// Returns the path of the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        // Ignored: somebody put files there, or removed it.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Opens and locks a directory.
///
/// # Errors
/// `WOULDBLOCK` if another process has locked it, `NOENT` if another process removed it meanwhile, or the error of a call.
fn lock(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, path, flags, Mode::empty())?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    let (opened, named) = (fstat(&directory)?, statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?);
    if (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino) {
        Ok(directory)
    } else {
        Err(Errno::NOENT)
    }
}

/// Removes the directories of killed processes of this user.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            // Ignored: it is in use, is another user's, or somebody put files there.
            let _ = remove_if_abandoned(&entry.path());
        }
    }
}

fn remove_if_abandoned(path: &Path) -> Result<(), Errno> {
    let directory = lock(path)?;
    if fstat(&directory)?.st_uid != geteuid().as_raw() {
        return Ok(());
    }
    let is_socket = |mode| FileType::from_raw_mode(mode) == FileType::Socket;
    if statat(&directory, SOCKET_NAME, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|file| is_socket(file.st_mode)) {
        unlinkat(&directory, SOCKET_NAME, AtFlags::empty())?;
    }
    // Fails if there is anything else in it.
    unlinkat(CWD, path, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn each_directory_is_new_and_removed() {
        let parent = tempfile::tempdir().unwrap();
        let first = PrivateDirectory::create_in(parent.path()).unwrap();
        let second = PrivateDirectory::create_in(parent.path()).unwrap();
        assert_ne!(first.path, second.path);
        assert_eq!(fs::metadata(first.path()).unwrap().mode() & 0o7777, 0o700);
        drop((first, second));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_abandoned_directory_is_removed_and_one_in_use_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let abandoned = parent.path().join("vmm-gdb-1-0");
        let used = PrivateDirectory::create_in(parent.path()).unwrap();
        let foreign = parent.path().join("vmm-gdb-2-0");
        for path in [&abandoned, &foreign] {
            fs::create_dir(path).unwrap();
        }
        // A dropped listener leaves its file, as that of a killed process does.
        drop(UnixListener::bind(abandoned.join(SOCKET_NAME)).unwrap());
        drop(UnixListener::bind(used.path().join(SOCKET_NAME)).unwrap());
        fs::write(foreign.join("precious"), "").unwrap();
        let other = PrivateDirectory::create_in(parent.path()).unwrap();
        assert!(!abandoned.exists());
        assert!(used.path().join(SOCKET_NAME).exists() && foreign.join("precious").exists());
        assert!(other.path().exists());
    }

    #[test]
    fn only_one_process_can_lock_a_directory() {
        let parent = tempfile::tempdir().unwrap();
        let locked = lock(parent.path()).unwrap();
        assert_eq!(lock(parent.path()).unwrap_err(), Errno::WOULDBLOCK);
        drop(locked);
        assert!(lock(parent.path()).is_ok());
        assert_eq!(lock(&parent.path().join("none")).unwrap_err(), Errno::NOENT);
    }
}
