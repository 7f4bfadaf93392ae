//! Files that `vmm-cli` writes. An existing regular file is replaced only with `--force`.
//!
//! | function or type | for | until the end |
//! |---|---|---|
//! | [`create`] | reports and traces, which are written while the guest runs | grows under its name |
//! | [`TempOutput`] | dumps, core files, JUnit reports | has its name, and is removed if it stays incomplete |
//! | [`AtomicFile`] | snapshots | has no name: `kill -9` leaves the old file or the new one |
//! | [`write_all`] | pictures, templates | written at once |
//!
//! All but the last are created before the guest runs, so that an unwritable path is reported early.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

use crate::diagnostic::{Diagnostic, Location};
use crate::status::Status;

/// Creates `path` for `what`, a noun such as "the report". With `force` an existing file is truncated. Without it, only
/// existing special files are opened, such as a pipe or `/dev/null`.
///
/// # Errors
/// The file exists ([`Status::Configuration`]) or cannot be created ([`Status::Host`]).
pub(crate) fn create(path: &Path, what: &str, force: bool) -> Result<File, Diagnostic> {
    let is_special = path.metadata().is_ok_and(|data| !data.is_file());
    let opened =
        if is_special { OpenOptions::new().write(true).open(path) } else { open_regular(path, force) };
    opened.map_err(|error| {
        let exists = error.kind() == io::ErrorKind::AlreadyExists;
        if exists { already_exists(path, what) } else { write_error(path, what, &error) }
    })
}

/// Writes `bytes` to `path`, over an existing file only with `force`.
///
/// # Errors
/// The file exists ([`io::ErrorKind::AlreadyExists`]), or another error of the file system.
pub(crate) fn write_all(path: &Path, bytes: &[u8], force: bool) -> io::Result<()> {
    open_regular(path, force)?.write_all(bytes)
}

/// Opens a file to write. `create_new` checks and creates in one step, so that no other process can be in between.
fn open_regular(path: &Path, force: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    if force { options.create(true).truncate(true) } else { options.create_new(true) }.open(path)
}

fn already_exists(path: &Path, what: &str) -> Diagnostic {
    Diagnostic::error(Status::Configuration, format!("cannot write {what}: the file exists"))
        .at(Location::File(path.display().to_string()))
        .with_help(Some("choose another name, or overwrite it with --force"))
}

fn write_error(path: &Path, what: &str, error: &dyn std::error::Error) -> Diagnostic {
    Diagnostic::error(Status::Host, format!("cannot write {what}: {error}"))
        .at(Location::File(path.display().to_string()))
}

/// A new file that is removed when dropped, unless [`keep`](Self::keep) was called.
#[derive(Debug)]
pub(crate) struct TempOutput {
    path: PathBuf,
    what: &'static str,
    file: File,
    is_kept: bool,
}

impl TempOutput {
    /// Creates an empty file for `what`, as [`create`] does.
    ///
    /// # Errors
    /// See [`create`].
    pub(crate) fn create(path: &Path, what: &'static str, force: bool) -> Result<Self, Diagnostic> {
        let file = create(path, what, force)?;
        Ok(Self { path: path.to_owned(), what, file, is_kept: false })
    }

    /// Returns the file to write to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Keeps the file: it is complete.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }

    /// Makes a diagnostic of an error that writing to the file ran into.
    pub(crate) fn write_error(&self, error: &dyn std::error::Error) -> Diagnostic {
        write_error(&self.path, self.what, error)
    }
}

impl Drop for TempOutput {
    fn drop(&mut self) {
        let is_regular = self.file.metadata().is_ok_and(|data| data.is_file());
        if !self.is_kept && is_regular {
            // Ignored: the error that led here is reported.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A file that gets its name when it is complete and on disk (`O_TMPFILE`, open(2); linkat(2)).
///
/// A process that is killed leaves no incomplete file. That is why this is not `tempfile::NamedTempFile`, which has a
/// name from the beginning. File systems without `O_TMPFILE` get a hidden name, `.NAME.PID.partial`, which a killed
/// process leaves.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    file: File,
    path: PathBuf,
    directory: PathBuf,
    what: &'static str,
    force: bool,
    /// Temporary name, where the file has one.
    partial: Option<PathBuf>,
}

impl AtomicFile {
    /// Creates a file for `what` that is to become `path`, and to replace an existing file only with `force`.
    ///
    /// # Errors
    /// The file exists ([`Status::Configuration`]), or none can be created in its directory ([`Status::Host`]).
    pub(crate) fn create(path: &Path, what: &'static str, force: bool) -> Result<Self, Diagnostic> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        if !force && path.symlink_metadata().is_ok() {
            return Err(already_exists(path, what));
        }
        let unnamed = open(&directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from(0o666));
        let (file, partial) = match unnamed {
            Ok(file) => (File::from(file), None),
            Err(_) => {
                let name = partial_name(&directory, path);
                let file = open_regular(&name, false);
                (file.map_err(|error| write_error(path, what, &error))?, Some(name))
            }
        };
        Ok(Self { file, path: path.to_owned(), directory, what, force, partial })
    }

    /// Returns the file to write to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes a diagnostic of an error that writing to the file ran into.
    pub(crate) fn write_error(&self, error: &io::Error) -> Diagnostic {
        write_error(&self.path, self.what, error)
    }

    /// Flushes the file to disk and gives it its name.
    ///
    /// # Errors
    /// A file of that name was created meanwhile, or the file system reports an error.
    pub(crate) fn persist(mut self) -> Result<(), Diagnostic> {
        self.sync_and_link().map_err(|error| {
            let exists = error.kind() == io::ErrorKind::AlreadyExists;
            if exists { already_exists(&self.path, self.what) } else { self.write_error(&error) }
        })
    }

    fn sync_and_link(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        let name = if let Some(name) = self.partial.take() {
            name
        } else {
            let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            if !self.force {
                linkat(CWD, &descriptor, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
                return self.sync_directory();
            }
            // linkat(2) never replaces a file, rename(2) does.
            let name = partial_name(&self.directory, &self.path);
            linkat(CWD, &descriptor, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
            name
        };
        self.partial = Some(name.clone());
        if self.force {
            fs::rename(&name, &self.path)?;
        } else {
            fs::hard_link(&name, &self.path)?;
            fs::remove_file(&name)?;
        }
        self.partial = None;
        self.sync_directory()
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(name) = &self.partial {
            // Ignored: the error that led here is reported.
            let _ = fs::remove_file(name);
        }
    }
}

/// Returns a hidden name beside `path` that tells which process wrote the file.
fn partial_name(directory: &Path, path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    directory.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn an_existing_file_survives_unless_forced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        create(&path, "the report", false).unwrap().write_all(b"first").unwrap();
        let refused = create(&path, "the report", false).unwrap_err();
        assert_eq!(refused.status, Status::Configuration);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        create(&path, "the report", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        create(Path::new("/dev/null"), "the report", false).unwrap().write_all(b"gone").unwrap();
        assert_eq!(create(directory.path(), "the report", false).unwrap_err().status, Status::Host);
    }

    #[test]
    fn only_a_complete_temporary_output_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("core");
        let mut file = TempOutput::create(&path, "the core file", false).unwrap();
        file.file().write_all(b"half").unwrap();
        drop(file);
        assert!(!path.exists());
        TempOutput::create(&path, "the core file", false).unwrap().keep();
        assert!(path.exists());
        assert!(TempOutput::create(&path, "the core file", false).is_err());
        assert!(path.exists(), "a file of the user is left alone");
    }

    #[test]
    fn an_atomic_file_has_no_name_before_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = AtomicFile::create(&path, "the file", false).unwrap();
        file.file().write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert!(names(directory.path()).is_empty());
        let mut file = AtomicFile::create(&path, "the file", false).unwrap();
        file.file().write_all(b"whole").unwrap();
        file.persist().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn an_atomic_file_replaces_another_only_if_forced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "mine").unwrap();
        assert_eq!(AtomicFile::create(&path, "the file", false).unwrap_err().status, Status::Configuration);
        AtomicFile::create(&path, "the file", true).unwrap().persist().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        // A file that appears after `create`.
        fs::remove_file(&path).unwrap();
        let file = AtomicFile::create(&path, "the file", false).unwrap();
        fs::write(&path, "mine").unwrap();
        assert_eq!(file.persist().unwrap_err().status, Status::Configuration);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(names(directory.path()), ["file"]);
    }
}
