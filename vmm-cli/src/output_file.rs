//! Files that `vmm-cli` writes: whole or not at all.
//!
//! A file gets its name when it is complete and on disk (`O_TMPFILE`, open(2); linkat(2)). A process that is killed leaves the
//! earlier file, and no incomplete one. That is why this is not `tempfile::NamedTempFile`, which has a name from the beginning.
//! Files are created before the guest runs, so that an unwritable path is reported early.
//!
//! Two processes that write the same file are both told, and no result is lost. Each has a lock on the name from its start
//! to its end, so the one that ends first sees the other. The other finds that the file is not the one it was to replace, and
//! leaves its own beside it, as `NAME.PID`.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, fsync, linkat, open, renameat, unlinkat};
use vmm_core::kvm_sys_wrap::{install_termination_handlers, is_byte_locked, lock_byte_shared};
use vmm_core::sandbox::DirectoryUse;

use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;

/// A file that is being written. [`OutputFile::persist`] makes it appear; dropped before, it leaves nothing.
#[derive(Debug)]
pub(crate) struct OutputFile {
    file: File,
    path: PathBuf,
    /// Directory of the file, opened before the run: afterwards no file can be opened. `None` for a special file.
    directory: Option<OwnedFd>,
    /// Noun for messages, such as "the report".
    what: &'static str,
    /// Existing file that this one replaces.
    earlier: Option<File>,
    state: NameState,
}

/// Name of a file before it is complete.
#[derive(Debug)]
enum NameState {
    /// None (`O_TMPFILE`).
    Unnamed,
    /// A hidden name in the directory, which a killed process leaves: `.NAME.PID.partial`.
    Partial(OsString),
    /// The final name: a pipe, a terminal or another special file, which is written directly.
    Special,
    /// The final name: the file is complete.
    Complete,
}

impl OutputFile {
    /// Creates a file for `what`, a noun such as "the report", that is to become `path`. It replaces an existing file only with
    /// `force`. A special file, such as a pipe or `/dev/null`, is opened instead. File systems without `O_TMPFILE` get a hidden
    /// name.
    ///
    /// # Errors
    /// The file exists ([`Status::Configuration`]), or it cannot be created or replaced ([`Status::Host`]).
    pub(crate) fn create(path: &Path, what: &'static str, force: bool) -> Result<Self, Diagnostic> {
        Self::open(path, what, force, true)
    }

    /// Creates a file as [`OutputFile::create`] does, but always with a hidden name: what a killed process wrote can be found.
    ///
    /// # Errors
    /// As [`OutputFile::create`].
    pub(crate) fn create_hidden(path: &Path, what: &'static str, force: bool) -> Result<Self, Diagnostic> {
        Self::open(path, what, force, false)
    }

    fn open(path: &Path, what: &'static str, force: bool, unnamed: bool) -> Result<Self, Diagnostic> {
        let failed = |error: io::Error| write_error(path, what, &error);
        let earlier = path.metadata().ok();
        if earlier.as_ref().is_some_and(|earlier| !earlier.is_file()) {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            let (path, state) = (path.to_owned(), NameState::Special);
            return Ok(Self { file, path, directory: None, what, earlier: None, state });
        }
        if !force && path.symlink_metadata().is_ok() {
            return Err(already_exists(path, what));
        }
        // Through a symbolic link the file that it names is replaced, not the link.
        let target = earlier.as_ref().and_then(|_| path.canonicalize().ok());
        let target = target.as_deref().unwrap_or(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            open(directory(target), flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        // A file system without locks has no warning.
        let _ = lock_byte_shared(&directory, lock_offset(target));
        let (file, state) = create_beside(target, unnamed).map_err(failed)?;
        let path = target.to_owned();
        let mut output = Self { file, path, directory: Some(directory), what, earlier: None, state };
        if let Some(earlier) = earlier {
            // A file that its owner made read-only is not replaced.
            output.earlier = Some(OpenOptions::new().write(true).open(target).map_err(failed)?);
            output.file.set_permissions(earlier.permissions()).map_err(failed)?;
        }
        Ok(output)
    }

    /// Returns the file to write to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes a diagnostic of an error that writing to the file ran into.
    pub(crate) fn write_error(&self, error: &dyn std::error::Error) -> Diagnostic {
        write_error(&self.path, self.what, error)
    }

    /// Flushes the file to disk and gives it its name. Prints a warning if another process is writing the same file.
    ///
    /// # Errors
    /// Another file has the name by now, or the file system reports an error.
    pub(crate) fn persist(mut self) -> Result<(), Diagnostic> {
        if let Some(directory) = &self.directory
            && is_byte_locked(directory, lock_offset(&self.path)).unwrap_or(false)
        {
            let message = format!("another process is writing {} to the same file", self.what);
            Diagnostics::from(Diagnostic::warning(message).at(location(&self.path))).eprint();
        }
        self.sync_and_link().map_err(|error| {
            let exists = error.kind() == io::ErrorKind::AlreadyExists;
            if exists { self.keep_beside() } else { self.write_error(&error) }
        })
    }

    /// Names the file after this process, since another file has the name that it was to get.
    fn keep_beside(&mut self) -> Diagnostic {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{}", std::process::id()));
        let kept = self.link(Path::new(&path).file_name().unwrap_or_default());
        let help = match kept {
            Ok(()) => format!("what this run wrote is in {}", path.display()),
            Err(_) => "choose another name".to_owned(),
        };
        let message =
            format!("cannot write {}: another file with this name was written meanwhile", self.what);
        Diagnostic::error(Status::Configuration, message).at(location(&self.path)).with_help(Some(help))
    }

    /// Writes all of the file's bytes, and gives it its name.
    ///
    /// # Errors
    /// Errors of writing, and those of [`OutputFile::persist`].
    pub(crate) fn persist_bytes(mut self, bytes: &[u8]) -> Result<(), Diagnostic> {
        self.file.write_all(bytes).map_err(|error| self.write_error(&error))?;
        self.persist()
    }

    fn sync_and_link(&mut self) -> io::Result<()> {
        if self.directory.is_none() {
            return Ok(());
        }
        self.file.sync_all()?;
        let name = self.path.file_name().unwrap_or_default().to_owned();
        if !self.replaces_earlier()? {
            return self.link(&name);
        }
        if matches!(self.state, NameState::Unnamed) {
            let partial = partial_name(&self.path);
            // Another file with the hidden name is none with the final one.
            self.link(&partial).map_err(io::Error::other)?;
            self.state = NameState::Partial(partial);
        }
        if let (NameState::Partial(partial), Some(directory)) = (&self.state, &self.directory) {
            renameat(directory, partial, directory, &name)?;
            fsync(directory)?;
        }
        self.state = NameState::Complete;
        Ok(())
    }

    /// Returns true if the file that this one replaces still has a name.
    fn replaces_earlier(&self) -> io::Result<bool> {
        self.earlier.as_ref().map_or(Ok(false), |earlier| Ok(fstat(earlier)?.st_nlink != 0))
    }

    /// Gives the file a name in its directory that no other file has (linkat(2) never replaces one).
    fn link(&mut self, name: &OsStr) -> io::Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        match &self.state {
            NameState::Unnamed => {
                let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(CWD, &descriptor, directory, name, AtFlags::SYMLINK_FOLLOW)?;
            }
            NameState::Partial(partial) => {
                linkat(directory, partial, directory, name, AtFlags::empty())?;
                unlinkat(directory, partial, AtFlags::empty())?;
            }
            NameState::Special | NameState::Complete => return Ok(()),
        }
        fsync(directory)?;
        self.state = NameState::Complete;
        Ok(())
    }

    /// Returns the directory that the file will be named in; `None` for a special file.
    pub(crate) fn directory(&self) -> Option<(&Path, DirectoryUse)> {
        self.directory.as_ref().map(|_| (directory(&self.path), DirectoryUse::OutputFiles))
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let (NameState::Partial(name), Some(directory)) = (&self.state, &self.directory) {
            // Ignored: the error that led here is reported.
            let _ = unlinkat(directory, name, AtFlags::empty());
        }
    }
}

/// Creates a file in the directory of `path`, without a name if `unnamed` is true and the file system can do that.
fn create_beside(path: &Path, unnamed: bool) -> io::Result<(File, NameState)> {
    if unnamed {
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        if let Ok(file) = open(directory(path), flags, Mode::from(0o666)) {
            return Ok((File::from(file), NameState::Unnamed));
        }
    }
    // The name has to be removed again: from here on a signal does not end the process.
    install_termination_handlers().map_err(io::Error::other)?;
    let name = partial_name(path);
    let file = OpenOptions::new().write(true).create_new(true).open(directory(path).join(&name))?;
    Ok((file, NameState::Partial(name)))
}

/// Returns the directory of a file.
fn directory(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Returns the byte of a directory whose lock tells that a process writes this file.
fn lock_offset(path: &Path) -> u32 {
    let mut hasher = DefaultHasher::new();
    path.file_name().hash(&mut hasher);
    u32::try_from(hasher.finish() >> 32).unwrap_or(0)
}

/// Returns a hidden name in the directory of `path` that tells which process wrote the file.
fn partial_name(path: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    name
}

fn location(path: &Path) -> Location {
    Location::File(path.display().to_string())
}

fn already_exists(path: &Path, what: &str) -> Diagnostic {
    Diagnostic::error(Status::Configuration, format!("cannot write {what}: the file exists"))
        .at(location(path))
        .with_help(Some("choose another name, or overwrite it with --force"))
}

fn write_error(path: &Path, what: &str, error: &dyn std::error::Error) -> Diagnostic {
    Diagnostic::error(Status::Host, format!("cannot write {what}: {error}")).at(location(path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    type Create = fn(&Path, &'static str, bool) -> Result<OutputFile, Diagnostic>;
    const BOTH: [Create; 2] = [OutputFile::create, OutputFile::create_hidden];

    #[test]
    fn a_file_appears_when_it_is_complete() {
        for create in BOTH {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            let mut file = create(&path, "the file", false).unwrap();
            file.write_all(b"half").unwrap();
            assert!(!path.exists());
            drop(file);
            assert!(names(directory.path()).is_empty());
            create(&path, "the file", false).unwrap().persist_bytes(b"whole").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"whole");
            assert_eq!(names(directory.path()), ["file"]);
        }
    }

    #[test]
    fn another_file_is_replaced_only_if_forced() {
        for create in BOTH {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            fs::write(&path, "mine").unwrap();
            assert_eq!(create(&path, "the file", false).unwrap_err().status, Status::Configuration);
            let mut file = create(&path, "the file", true).unwrap();
            file.write_all(b"half").unwrap();
            drop(file);
            assert_eq!(fs::read(&path).unwrap(), b"mine");
            create(&path, "the file", true).unwrap().persist_bytes(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            // A file that is removed meanwhile.
            let file = create(&path, "the file", true).unwrap();
            fs::remove_file(&path).unwrap();
            file.persist_bytes(b"newer").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"newer");
            assert_eq!(names(directory.path()), ["file"]);
        }
    }

    #[test]
    fn what_two_processes_write_to_one_name_is_all_kept() {
        let kept = format!("file.{}", std::process::id());
        // One process has one hidden name for a file, so not both writers can use it here.
        for (create, exists) in [(BOTH[0], false), (BOTH[1], false), (BOTH[0], true)] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            if exists {
                fs::write(&path, "earlier").unwrap();
            }
            let second = create(&path, "the file", exists).unwrap();
            let mut first = OutputFile::create(&path, "the file", exists).unwrap();
            let locked = |file: &OutputFile| {
                is_byte_locked(file.directory.as_ref().unwrap(), lock_offset(&path)).unwrap()
            };
            assert!(locked(&first) && locked(&second));
            first.write_all(b"first").unwrap();
            first.persist().unwrap();
            assert!(!locked(&second));
            let error = second.persist_bytes(b"second").unwrap_err();
            assert_eq!(error.status, Status::Configuration);
            assert!(error.help.unwrap().contains(&kept));
            assert_eq!(fs::read(&path).unwrap(), b"first");
            assert_eq!(fs::read(directory.path().join(&kept)).unwrap(), b"second");
            assert_eq!(names(directory.path()).len(), 2);
        }
    }

    #[test]
    fn the_target_of_a_symbolic_link_is_replaced_with_its_permissions() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&path, "mine").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("file", &link).unwrap();
        OutputFile::create(&link, "the file", true).unwrap().persist_bytes(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert!(link.symlink_metadata().unwrap().is_symlink());
    }

    #[test]
    fn special_files_are_written_directly() {
        let directory = tempfile::tempdir().unwrap();
        OutputFile::create(Path::new("/dev/null"), "the report", false)
            .unwrap()
            .persist_bytes(b"gone")
            .unwrap();
        assert!(Path::new("/dev/null").exists());
        let refused = OutputFile::create(directory.path(), "the report", false).unwrap_err();
        assert_eq!(refused.status, Status::Host);
    }
}
