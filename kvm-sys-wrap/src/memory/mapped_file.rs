//! A file of the file system, mapped: its pages are read when they are touched, by us or by a guest.
//!
//! Nobody else can be kept from changing the file meanwhile. What has been touched by writing is a copy of ours; the rest is
//! the file as it is at that moment. So whoever has used a mapping asks it at the end whether the file was left alone
//! ([`MappedFile::check`]). A file that becomes shorter loses pages, which is survived as `guard.rs` says.
//!
//! A file that is replaced, as compilers and package managers do, is no trouble: the old one stays until nobody uses it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vm_memory::{FileOffset, MmapRegion};

use super::backing::mmap_error;
use super::sigbus::SigbusGuard;
use crate::error::{Error, Result};

/// A mapped file. Clones are handles to the same mapping.
#[derive(Debug, Clone)]
pub struct MappedFile(Arc<Inner>);

/// The guard goes before the mapping that it guards.
#[derive(Debug)]
struct Inner {
    guard: SigbusGuard,
    mapping: MmapRegion,
    file: Arc<File>,
    path: PathBuf,
    when_opened: State,
}

/// What shows that a file was written to.
#[derive(Debug, PartialEq, Eq)]
struct State {
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.size(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

impl MappedFile {
    /// Maps an open file, which `path` names in messages. `None` where that is not possible and the file has to be read: it is
    /// empty, or too many files are mapped already.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(file: File, path: &Path) -> io::Result<Option<Self>> {
        let when_opened = State::of(&file.metadata()?);
        let Ok(length) = usize::try_from(when_opened.size) else { return Ok(None) };
        if length == 0 {
            return Ok(None);
        }
        let file = Arc::new(file);
        let (place, flags) = (FileOffset::from_arc(Arc::clone(&file), 0), libc::MAP_PRIVATE);
        let mapping = MmapRegion::build(Some(place), length, libc::PROT_READ, flags).map_err(mmap_error)?;
        let start = mapping.as_ptr() as u64;
        let guard = SigbusGuard::new(start..start.saturating_add(when_opened.size));
        let path = path.to_owned();
        Ok(guard.map(|guard| Self(Arc::new(Inner { guard, mapping, file, path, when_opened }))))
    }

    /// Its bytes. Those of pages that the file has lost meanwhile are zero.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let mapping = &self.0.mapping;
        // SAFETY: the mapping is readable, has this size, and lives as long as `self`; we never write to it. Should somebody
        // else write to the file, a byte may change between two looks at it. No value of a byte is invalid, and whoever reads
        // them treats them as input: each offset found there is checked against the length of the slice, which never changes.
        unsafe { std::slice::from_raw_parts(mapping.as_ptr(), mapping.size()) }
    }

    /// Its size in bytes when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.when_opened.size
    }

    /// Its name in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Whether the file is still what it was when it was opened.
    ///
    /// # Errors
    /// [`Error::FileChanged`].
    pub fn check(&self) -> Result<()> {
        let Inner { guard, file, path, when_opened, .. } = &*self.0;
        let problem = match file.metadata().map(|metadata| State::of(&metadata)) {
            Ok(now) if now.size < when_opened.size => "became shorter",
            Ok(_) if guard.is_truncated() => "became shorter",
            Ok(now) if now == *when_opened => return Ok(()),
            Ok(_) => "was written to",
            Err(_) => "can no longer be read",
        };
        Err(Error::FileChanged { path: path.clone(), problem })
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.0.file
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(name: &str, pages: usize) -> (File, PathBuf) {
        let path = std::env::temp_dir().join(format!("vmm-mapped-{name}-{}", std::process::id()));
        std::fs::write(&path, vec![0x5a; pages * 4096]).unwrap();
        (File::options().read(true).write(true).open(&path).unwrap(), path)
    }

    #[test]
    fn what_the_file_loses_reads_as_zeros_and_is_told() {
        let (writer, path) = file("short", 3);
        let mapped = MappedFile::new(File::open(&path).unwrap(), &path).unwrap().unwrap();
        assert_eq!((mapped.bytes()[0], mapped.size()), (0x5a, 0x3000));
        mapped.check().unwrap();
        writer.set_len(0x1000).unwrap();
        assert_eq!((mapped.bytes()[0xfff], mapped.bytes()[0x1000], mapped.bytes()[0x2fff]), (0x5a, 0, 0));
        let error = mapped.check().unwrap_err().to_string();
        assert_eq!(error, format!("{} became shorter while it was in use", path.display()));
        // Grown back, and with the old time: what was read is still not what the file held.
        writer.set_len(0x3000).unwrap();
        assert!(mapped.check().is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_is_written_to_is_told_and_one_that_is_replaced_is_not() {
        let (writer, path) = file("written", 2);
        let mapped = MappedFile::new(File::open(&path).unwrap(), &path).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        mapped.check().unwrap();
        let later = std::time::SystemTime::now() + std::time::Duration::from_secs(1);
        writer.write_all_at(b"new", 0).unwrap();
        writer.set_modified(later).unwrap();
        assert!(mapped.check().unwrap_err().to_string().ends_with("was written to while it was in use"));
    }

    #[test]
    fn an_empty_file_is_not_mapped() {
        let (_, path) = file("empty", 0);
        assert!(MappedFile::new(File::open(&path).unwrap(), &path).unwrap().is_none());
        std::fs::remove_file(path).unwrap();
    }
}
