//! File of the host that a machine or a configuration names, and the only place that opens one.
//!
//! A name can come from somebody who is not trusted. Then the file must be inside one directory, also after symbolic links
//! are resolved. The name is resolved first and its result checked. The file is then opened by that result without following
//! links (openat2(2), `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`), so a link that is put there in between is of no use.
//! Where the kernel refuses openat2, the same is done component by component with `O_NOFOLLOW`.
//!
//! Only regular files are opened: a device can act when it is opened, and a pipe may never end.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{self, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, open, openat, openat2, statat};
use rustix::io::Errno;

/// File of the host, and the directory that it must be inside, if there is one.
#[derive(Debug, Clone)]
pub struct HostFile {
    path: PathBuf,
    /// Directory without symbolic links, as [`Path::canonicalize`] returns it.
    directory: Option<PathBuf>,
    /// The file as [`HostFile::open_shared`] opened it. It is no part of the identity.
    shared: Arc<OnceLock<File>>,
}

impl PartialEq for HostFile {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, &self.directory) == (&other.path, &other.directory)
    }
}

impl Eq for HostFile {}

impl Hash for HostFile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.path, &self.directory).hash(state);
    }
}

/// Error of [`HostFile::open`].
#[derive(Debug, thiserror::Error)]
pub enum HostFileError {
    /// The file is not inside the directory that it must be in.
    #[error("it is outside of {}", directory.display())]
    Outside {
        /// Path of the file without symbolic links.
        real: PathBuf,
        /// Directory that the file must be inside.
        directory: PathBuf,
    },
    /// The file is a directory, a pipe, a socket or a device.
    #[error("it is not a regular file")]
    NotRegular,
    /// Error of a system call.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl HostFileError {
    /// Returns true if the name of the file is at fault and not the host.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Outside { .. } | Self::NotRegular => true,
            Self::Io(error) => {
                error.kind() == io::ErrorKind::NotFound
                    || Errno::from_io_error(error)
                        .is_some_and(|errno| [Errno::LOOP, Errno::NOTDIR].contains(&errno))
            }
        }
    }
}

impl From<Errno> for HostFileError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl HostFile {
    /// Names a file that may be anywhere.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: None, shared: Arc::default() }
    }

    /// Names a file that must be inside `directory`, a path without symbolic links.
    #[must_use]
    pub fn inside(path: impl Into<PathBuf>, directory: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), directory: Some(directory.into()), shared: Arc::default() }
    }

    /// Returns the path as it was given.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.path
    }

    /// Returns the path for messages.
    #[must_use]
    pub fn display(&self) -> path::Display<'_> {
        self.path.display()
    }

    /// Opens the file for reading, and for writing if `writes`.
    ///
    /// # Errors
    /// [`HostFileError`].
    pub fn open(&self, writes: bool) -> Result<File, HostFileError> {
        let access = if writes { OFlags::RDWR } else { OFlags::RDONLY };
        // O_NONBLOCK: a pipe that took the name after the check must not hold up the caller.
        let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file: File = match &self.directory {
            None => {
                if !fs::metadata(&self.path)?.is_file() {
                    return Err(HostFileError::NotRegular);
                }
                open(&self.path, flags, Mode::empty())?.into()
            }
            Some(directory) => {
                let name = self.resolve(directory)?;
                let path_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let directory = open(directory, path_flags, Mode::empty())?;
                let stat = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Err(HostFileError::NotRegular);
                }
                open_beneath(directory, &name, flags)?.into()
            }
        };
        // Checked again: another file may have taken the name.
        if file.metadata()?.is_file() { Ok(file) } else { Err(HostFileError::NotRegular) }
    }

    /// Opens the file for reading, the first time only: later calls on this value and its clones return copies of that descriptor.
    /// Machines that are built again have the same file, also in a process that can open none any more.
    ///
    /// # Errors
    /// [`HostFileError`].
    pub fn open_shared(&self) -> Result<File, HostFileError> {
        let file = match self.shared.get() {
            Some(file) => file,
            None => {
                let file = self.open(false)?;
                self.shared.get_or_init(|| file)
            }
        };
        Ok(file.try_clone()?)
    }

    /// Returns the path from `directory` to the file, without symbolic links and without `..`.
    fn resolve(&self, directory: &Path) -> Result<PathBuf, HostFileError> {
        let outside = |real: PathBuf| HostFileError::Outside { real, directory: directory.to_owned() };
        match self.path.canonicalize() {
            Ok(real) => match real.strip_prefix(directory) {
                Ok(name) if name.as_os_str().is_empty() => Err(HostFileError::NotRegular),
                Ok(name) => Ok(name.to_owned()),
                Err(_) => Err(outside(real)),
            },
            Err(error) => {
                // Nothing is told about files outside, not even that they are missing.
                let mut existing = self.path.ancestors().skip(1).filter_map(|parent| {
                    if parent.as_os_str().is_empty() { Path::new(".") } else { parent }.canonicalize().ok()
                });
                match existing.next() {
                    Some(parent) if parent.starts_with(directory) => Err(error.into()),
                    Some(_) | None => Err(outside(self.path.clone())),
                }
            }
        }
    }
}

/// Names a file that may be anywhere.
impl From<PathBuf> for HostFile {
    fn from(path: PathBuf) -> Self {
        Self::new(path)
    }
}

/// Names a file that may be anywhere.
impl From<&str> for HostFile {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

/// Opens `name`, which has no `..`, without following any symbolic link.
fn open_beneath(directory: OwnedFd, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(&directory, name, flags, Mode::empty(), resolve) {
        // An older kernel, or a filter of system calls around this process.
        Err(Errno::NOSYS | Errno::PERM) => open_by_components(directory, name, flags),
        result => result,
    }
}

/// Opens `name` component by component.
fn open_by_components(mut directory: OwnedFd, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut components = name.components().peekable();
    while let Some(component) = components.next() {
        let path::Component::Normal(component) = component else { return Err(Errno::XDEV) };
        if components.peek().is_none() {
            return openat(&directory, component, flags | OFlags::NOFOLLOW, Mode::empty());
        }
        let path_flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory = openat(&directory, component, path_flags, Mode::empty())?;
    }
    Err(Errno::NOENT)
}

#[cfg(test)]
mod tests;
