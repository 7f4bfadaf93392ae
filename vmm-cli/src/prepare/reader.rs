//! The bytes of files, read once each where many machines are made of the same ones.
//!
//! A suite of a thousand tests often has a handful of guests. A reader that keeps hands out the same bytes again, up to a
//! total, so that a suite with large kernels does not fill memory; what a file holds is decided when it is first read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The bytes of a file, shared by all machines that they go into.
pub(crate) type Bytes = Arc<Vec<u8>>;

/// No more is kept; further files are read each time.
const MOST_KEPT: usize = 256 << 20;

/// Reads files.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    kept: Option<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<PathBuf, Bytes>,
    total: usize,
}

impl Reader {
    /// Reads every time.
    pub(crate) const fn new() -> Self {
        Self { kept: None }
    }

    /// Keeps what it has read.
    pub(crate) fn keeping() -> Self {
        Self { kept: Some(Mutex::default()) }
    }

    /// The whole file.
    ///
    /// # Errors
    /// It cannot be read, or is no regular file.
    pub(super) fn read(&self, path: &Path) -> io::Result<Bytes> {
        let Some(kept) = &self.kept else { return read(path).map(Arc::new) };
        let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = lock().files.get(path) {
            return Ok(Arc::clone(bytes));
        }
        // Not under the lock: two threads that want the same file at first read it twice, and nobody waits.
        let bytes = Arc::new(read(path)?);
        let mut kept = lock();
        let total = kept.total.saturating_add(bytes.len());
        if total <= MOST_KEPT && !kept.files.contains_key(path) {
            kept.total = total;
            kept.files.insert(path.to_owned(), Arc::clone(&bytes));
        }
        Ok(bytes)
    }
}

/// Only a regular file: a device or a pipe may never end.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened: to open a pipe is to wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_keeping_reader_gives_the_same_bytes_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest");
        let (keeping, plain) = (Reader::keeping(), Reader::new());
        fs::write(&path, b"one").unwrap();
        let first = keeping.read(&path).unwrap();
        fs::write(&path, b"two").unwrap();
        assert!(Arc::ptr_eq(&first, &keeping.read(&path).unwrap()));
        assert_eq!(*plain.read(&path).unwrap(), b"two");
        assert!(keeping.read(directory.path()).is_err());
    }
}
