//! A file that is there whole or not at all, whatever happens while it is written.
//!
//! It is written without a name (`O_TMPFILE`, open(2)), made durable, and gets its name in one step: a process that is
//! killed leaves nothing behind, and who replaces a file replaces it at once. File systems that cannot do that get a name
//! that begins with a dot, which is what is left then.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Location};
use crate::status::Status;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

/// A file that has no name yet.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: File,
    path: PathBuf,
    directory: PathBuf,
    what: &'static str,
    force: bool,
    /// Its name for the time being, where it must have one.
    visible: Option<PathBuf>,
}

impl WholeFile {
    /// Begins one that is to become `path` and to hold `what`; in the place of another only with `force`.
    ///
    /// # Errors
    /// There is one already, or none can be made.
    pub(crate) fn create(path: &Path, what: &'static str, force: bool) -> Result<Self, Diagnostic> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        if !force && path.symlink_metadata().is_ok() {
            return Err(exists(path, what));
        }
        let unnamed = open(&directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from(0o666));
        let (file, visible) = match unnamed {
            Ok(file) => (File::from(file), None),
            Err(_) => {
                let name = partial(&directory, path);
                let file = OpenOptions::new().write(true).create_new(true).open(&name);
                (file.map_err(|error| trouble(path, what, &error))?, Some(name))
            }
        };
        Ok(Self { file, path: path.to_owned(), directory, what, force, visible })
    }

    /// To write to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// What went wrong with writing to it.
    pub(crate) fn trouble(&self, error: &io::Error) -> Diagnostic {
        trouble(&self.path, self.what, error)
    }

    /// Makes it durable, and gives it its name.
    ///
    /// # Errors
    /// There is a file of that name by now, or the file system cannot go on.
    pub(crate) fn finish(mut self) -> Result<(), Diagnostic> {
        self.name().map_err(|error| {
            let is_there = error.kind() == io::ErrorKind::AlreadyExists;
            if is_there { exists(&self.path, self.what) } else { self.trouble(&error) }
        })
    }

    fn name(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        let name = if let Some(name) = self.visible.take() {
            name
        } else {
            let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            if !self.force {
                linkat(CWD, &descriptor, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
                return self.sync_directory();
            }
            let name = partial(&self.directory, &self.path);
            linkat(CWD, &descriptor, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
            name
        };
        self.visible = Some(name.clone());
        if self.force {
            fs::rename(&name, &self.path)?;
        } else {
            fs::hard_link(&name, &self.path)?;
            fs::remove_file(&name)?;
        }
        self.visible = None;
        self.sync_directory()
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        if let Some(name) = &self.visible {
            // If even that fails, an incomplete file with a name of its own is left; there is nobody to tell.
            let _ = fs::remove_file(name);
        }
    }
}

/// A name beside the file that says whose it is.
fn partial(directory: &Path, path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    directory.join(name)
}

fn exists(path: &Path, what: &str) -> Diagnostic {
    Diagnostic::error(Status::Configuration, format!("cannot write {what}: the file exists"))
        .at(Location::File(path.display().to_string()))
        .with_help(Some("choose another name, or overwrite it with --force"))
}

fn trouble(path: &Path, what: &str, error: &io::Error) -> Diagnostic {
    Diagnostic::error(Status::Host, format!("cannot write {what}: {error}"))
        .at(Location::File(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn it_has_no_name_before_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mut file = WholeFile::create(&path, "the file", false).unwrap();
        file.file().write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert!(names(directory.path()).is_empty());
        let mut file = WholeFile::create(&path, "the file", false).unwrap();
        file.file().write_all(b"whole").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[test]
    fn another_file_stays_unless_it_is_to_be_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "mine").unwrap();
        assert_eq!(WholeFile::create(&path, "the file", false).unwrap_err().status, Status::Configuration);
        WholeFile::create(&path, "the file", true).unwrap().finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        // One that appears meanwhile.
        fs::remove_file(&path).unwrap();
        let file = WholeFile::create(&path, "the file", false).unwrap();
        fs::write(&path, "mine").unwrap();
        assert_eq!(file.finish().unwrap_err().status, Status::Configuration);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(names(directory.path()), ["file"]);
    }
}
