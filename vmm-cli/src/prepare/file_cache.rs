//! The bytes of files, read once each where many machines are made of the same ones.
//!
//! A suite of a thousand tests often has a handful of guests. A reader that keeps hands out the same bytes again, up to a
//! total, so that a suite with large kernels does not fill memory; what a file holds is decided when it is first read.
//!
//! Large files are mapped, not read ([`Bytes`]): of a kernel with a gigabyte of debug information, a run looks at some
//! hundred kilobytes.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use vmm_core::kvm_sys_wrap::MappedFile;
use vmm_core::spec::HostFile;
use vmm_core::spec::host_file::HostFileError;

use super::file_bytes::FileBytes;

/// Files of this size in bytes and more are mapped. A buffer for so many would be mapped too, and then be filled.
const MAP_THRESHOLD: u64 = 128 << 10;

/// No more is kept; further files are read each time.
const MAX_CACHED: usize = 256 << 20;

/// Reads files.
#[derive(Debug, Default)]
pub(crate) struct FileCache {
    cache: Option<Mutex<CachedFiles>>,
}

#[derive(Debug, Default)]
struct CachedFiles {
    files: HashMap<HostFile, FileBytes>,
    total: usize,
}

impl FileCache {
    /// Reads every time.
    pub(crate) const fn new() -> Self {
        Self { cache: None }
    }

    /// Keeps what it has read.
    pub(crate) fn with_cache() -> Self {
        Self { cache: Some(Mutex::default()) }
    }

    /// The whole file.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, or is outside of the directory that it must be in.
    pub(super) fn read(&self, file: &HostFile) -> Result<FileBytes, HostFileError> {
        let Some(cache) = &self.cache else { return read(file) };
        let lock = || cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = lock().files.get(file) {
            return Ok(bytes.clone());
        }
        // Not under the lock: two threads that want the same file at first read it twice, and nobody waits.
        let bytes = read(file)?;
        let mut cache = lock();
        // What is mapped takes no memory of ours.
        let size = if bytes.mapped().is_some() { 0 } else { bytes.len() };
        let total = cache.total.saturating_add(size);
        if total <= MAX_CACHED && !cache.files.contains_key(file) {
            cache.total = total;
            cache.files.insert(file.clone(), bytes.clone());
        }
        Ok(bytes)
    }
}

fn read(name: &HostFile) -> Result<FileBytes, HostFileError> {
    let mut file = name.open(false)?;
    if file.metadata()?.len() >= MAP_THRESHOLD
        && let Some(mapped) = MappedFile::new(file.try_clone()?, name.as_path())?
    {
        return Ok(FileBytes::Mapped(mapped));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_keeping_reader_gives_the_same_bytes_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest");
        let file = HostFile::new(&path);
        let (with_cache, plain) = (FileCache::with_cache(), FileCache::new());
        fs::write(&path, b"one").unwrap();
        let first = with_cache.read(&file).unwrap();
        fs::write(&path, b"two").unwrap();
        assert_eq!(first.as_ptr(), with_cache.read(&file).unwrap().as_ptr());
        assert_eq!(*plain.read(&file).unwrap(), *b"two");
        assert!(with_cache.read(&HostFile::new(directory.path())).is_err());
        // Bytes that one configuration may read are not given to another one that may not.
        let elsewhere = directory.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let confined = HostFile::inside(&path, elsewhere.canonicalize().unwrap());
        assert!(matches!(with_cache.read(&confined), Err(HostFileError::Outside { .. })));
    }

    #[test]
    fn large_files_are_mapped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("guest");
        let limit = usize::try_from(MAP_THRESHOLD).unwrap();
        for (size, mapped) in [(0, false), (limit - 1, false), (limit, true), (limit + 1, true)] {
            let content: Vec<u8> = (0..=255).cycle().take(size).collect();
            fs::write(&path, &content).unwrap();
            let bytes = FileCache::new().read(&HostFile::new(&path)).unwrap();
            assert_eq!(bytes.mapped().is_some(), mapped, "{size}");
            assert!(*bytes == *content);
            bytes.check().unwrap();
        }
    }
}
