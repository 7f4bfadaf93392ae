//! A file that is removed again if it cannot be completed.
//!
//! It is made before the guest runs, since that it cannot be made is better known before than after; and a core file of
//! a run that never began would only mislead.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Location};
use crate::status::Status;

use crate::output_file;

/// A new file, removed when dropped unless it was kept.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    what: &'static str,
    file: File,
    kept: bool,
}

impl NewFile {
    /// Makes an empty one, which is to hold `what`; in the place of another only with `force`.
    ///
    /// # Errors
    /// As [`output_file::create`].
    pub(crate) fn create(path: &Path, what: &'static str, force: bool) -> Result<Self, Diagnostic> {
        let file = output_file::create(path, what, force)?;
        Ok(Self { path: path.to_owned(), what, file, kept: false })
    }

    /// To write to.
    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Leaves it where it is.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }

    /// What went wrong with writing to it.
    pub(crate) fn trouble(&self, error: &dyn std::error::Error) -> Diagnostic {
        Diagnostic::error(Status::Host, format!("cannot write {}: {error}", self.what))
            .at(Location::File(self.path.display().to_string()))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        let is_file = self.file.metadata().is_ok_and(|data| data.is_file());
        if !self.kept && is_file {
            // If even that fails, an incomplete file is left; there is nobody to tell.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_a_complete_file_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("core");
        let mut file = NewFile::create(&path, "the core file", false).unwrap();
        file.file().write_all(b"half").unwrap();
        drop(file);
        assert!(!path.exists());
        NewFile::create(&path, "the core file", false).unwrap().keep();
        assert!(path.exists());
        assert!(NewFile::create(&path, "the core file", false).is_err());
        assert!(path.exists(), "one that is not ours is left alone");
    }
}
