//! A file of the file system, for this process to parse and for guests to see: nothing is read before it is needed.
//!
//! [`MappedFile::bytes`] is a private copy that is made block by block when it is read (`private_copy.rs`).
//! [`Vm::map_file`](crate::Vm::map_file) maps the file itself over guest memory.
//!
//! Nobody else can be kept from changing the file: a block shows the file as it was when the block was first read. So callers
//! ask at the end whether the file is unchanged ([`MappedFile::check`]). Programs that replace a file by rename, as compilers
//! and package managers do, change nothing here: the old file stays until its last user is gone.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::private_copy::PrivateCopy;
use super::sigbus::SigbusGuard;
use crate::error::{Error, FileChange, Result};

/// File whose bytes are read when they are first used, for this process to parse and to be mapped over guest memory. Clones
/// are handles to the same file.
#[derive(Debug, Clone)]
pub struct MappedFile(Arc<Inner>);

/// Fields are dropped in this order: the guard before the copy that it guards.
#[derive(Debug)]
struct Inner {
    guard: SigbusGuard,
    copy: Arc<PrivateCopy>,
    file: Arc<File>,
    path: PathBuf,
    opened: FileStamp,
}

/// Metadata that change when a file is written to.
#[derive(Debug, PartialEq, Eq)]
struct FileStamp {
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl FileStamp {
    /// Reads the metadata with `fstat`. `File::metadata` makes another call (statx), which takes a path too: the sandbox of a run
    /// does not allow it.
    fn read(file: &File) -> io::Result<Self> {
        // SAFETY: `stat` is plain data, for which zeros are valid.
        let mut data: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open, and the pointer is to a live local of the size that the call writes on x86-64.
        if unsafe { libc::syscall(libc::SYS_fstat, file.as_raw_fd(), &raw mut data) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let size = u64::try_from(data.st_size).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(Self { size, modified: (data.st_mtime, data.st_mtime_nsec) })
    }
}

impl MappedFile {
    /// Prepares an open file for reading and mapping; messages name it by `path`. Returns `None` where the file has to be read
    /// by the caller: it is empty, or too many files (about a thousand) are mapped already.
    ///
    /// Installs the process's SIGBUS handler the first time (see the crate's documentation).
    ///
    /// # Errors
    /// The error of `fstat`, `memfd_create` or `mmap`.
    pub fn new(file: File, path: &Path) -> io::Result<Option<Self>> {
        let opened = FileStamp::read(&file)?;
        let Ok(size) = usize::try_from(opened.size) else { return Ok(None) };
        if size == 0 {
            return Ok(None);
        }
        let file = Arc::new(file);
        let copy = Arc::new(PrivateCopy::new(Arc::clone(&file), size)?);
        let guard = SigbusGuard::with_source(&copy, opened.size);
        let path = path.to_owned();
        Ok(guard.map(|guard| Self(Arc::new(Inner { guard, copy, file, path, opened }))))
    }

    /// Returns the bytes of the file: a private copy, which no change of the file reaches once it has been read. A block (16
    /// KiB or more) is copied when it is first accessed; where the file has lost it by then, its bytes are zero and
    /// [`MappedFile::check`] says so.
    ///
    /// The first access must come from this process itself: a system call that is given bytes which were never read before
    /// (`write`, for example) fails with EFAULT.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.copy.bytes()
    }

    /// Returns the size that the file had when it was opened, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.opened.size
    }

    /// Returns the name of the file in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Checks by size and modification time that the file has not changed since it was opened.
    ///
    /// # Errors
    /// [`Error::FileChanged`].
    pub fn check(&self) -> Result<()> {
        let Inner { guard, file, path, opened, .. } = &*self.0;
        let change = match FileStamp::read(file) {
            Ok(now) if now.size < opened.size => FileChange::Truncated,
            Ok(_) if guard.is_truncated() => FileChange::Truncated,
            Ok(now) if now == *opened => return Ok(()),
            Ok(_) => FileChange::Written,
            Err(_) => FileChange::Unreadable,
        };
        Err(Error::FileChanged { path: path.clone(), change })
    }

    pub(crate) fn file(&self) -> &Arc<File> {
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
    #[cfg_attr(miri, ignore = "memfd_create")]
    fn blocks_lost_before_they_were_read_are_zeros_and_reported() {
        let (writer, path) = file("short", 64);
        let mapped = MappedFile::new(File::open(&path).unwrap(), &path).unwrap().unwrap();
        assert_eq!((mapped.bytes()[0], mapped.size()), (0x5a, 0x4_0000));
        mapped.check().unwrap();
        writer.set_len(0x1_1000).unwrap();
        // Read before, read now from what is left, and gone.
        let at = |offset: usize| mapped.bytes()[offset];
        assert_eq!((at(0xfff), at(0x1_0fff), at(0x1_1000), at(0x3_ffff)), (0x5a, 0x5a, 0, 0));
        let error = mapped.check().unwrap_err().to_string();
        assert_eq!(error, format!("{} became shorter while it was in use", path.display()));
        // Grown back, and with the old time: what was read is still not what the file held.
        writer.set_len(0x4_0000).unwrap();
        assert!(mapped.check().is_err());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd_create")]
    fn bytes_that_were_read_never_change() {
        let (writer, path) = file("stable", 64);
        let mapped = MappedFile::new(File::open(&path).unwrap(), &path).unwrap().unwrap();
        assert_eq!((mapped.bytes()[0], mapped.bytes()[0x2_0000]), (0x5a, 0x5a));
        writer.write_all_at(&[0x77; 64 * 4096], 0).unwrap();
        assert!(mapped.bytes()[..0x4000].iter().all(|byte| *byte == 0x5a));
        writer.set_len(0).unwrap();
        assert!(mapped.bytes()[..0x4000].iter().all(|byte| *byte == 0x5a));
        assert_eq!((mapped.bytes()[0x2_3fff], mapped.bytes()[0x2_4000]), (0x5a, 0));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd_create")]
    fn all_bytes_are_the_files_whoever_reads_them_in_whatever_order() {
        let path = std::env::temp_dir().join(format!("vmm-mapped-order-{}", std::process::id()));
        let size = (3 << 20) + 4321;
        let content: Vec<u8> = (0..size).map(|i: usize| (i / 251).to_le_bytes()[0]).collect();
        std::fs::write(&path, &content).unwrap();
        let mapped = MappedFile::new(File::open(&path).unwrap(), &path).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_usize {
                let (mapped, content) = (&mapped, &content);
                scope.spawn(move || {
                    for round in 0..4000_usize {
                        let at = (round * 7919 * 4096 + thread * 65_521) % size;
                        assert_eq!(mapped.bytes()[at], content[at], "{at:#x}");
                    }
                });
            }
        });
        assert!(mapped.bytes() == content);
        mapped.check().unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd_create")]
    fn a_write_is_reported_and_a_replacement_is_not() {
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
    #[cfg_attr(miri, ignore = "fstat as a direct system call")]
    fn an_empty_file_is_not_mapped() {
        let (_, path) = file("empty", 0);
        assert!(MappedFile::new(File::open(&path).unwrap(), &path).unwrap().is_none());
        std::fs::remove_file(path).unwrap();
    }
}
