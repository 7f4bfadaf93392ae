//! File in memory (memfd_create(2)), which several mappings can show.
//!
//! Its size is sealed, so no mapping of it can lose pages.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vm_memory::VolatileSlice;

use crate::call::Call;
use crate::error::{Result, call_failed};

/// File in memory with a fixed size (`memfd_create`). Clones are handles to the same file; the kernel frees it with the last handle
/// and the last mapping.
#[derive(Debug, Clone)]
pub struct MemoryFile {
    file: Arc<File>,
    size: u64,
}

impl MemoryFile {
    /// Creates a file of `size` bytes, all zero (`memfd_create`, `F_ADD_SEALS`). Pages that were never written take no memory.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn create(size: u64) -> Result<Self> {
        Self::try_create(size).map_err(call_failed(Call::MemfdCreate, format!("{size:#x} bytes")))
    }

    pub(crate) fn try_create(size: u64) -> io::Result<Self> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a string that ends with NUL; nothing else is read or written.
        let descriptor = unsafe { libc::memfd_create(c"guest memory".as_ptr(), flags) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor, which nothing else owns.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
        file.set_len(size)?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        // SAFETY: F_ADD_SEALS takes an integer; the descriptor is open.
        if unsafe { libc::fcntl(descriptor, libc::F_ADD_SEALS, seals) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file: Arc::new(file), size })
    }

    /// Returns the size of the file in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Fills `bytes` from `offset` of the file on (`pread`).
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end, or the error of `pread`.
    pub fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Writes all of `bytes` at `offset` of the file (`pwrite`). All mappings show it, except pages of private mappings that
    /// were written before.
    ///
    /// # Errors
    /// `PermissionDenied` beyond the end, which is sealed, or the error of `pwrite`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(crate) const fn file(&self) -> &Arc<File> {
        &self.file
    }
}

/// Fills guest memory from `offset` of a file on (`pread`).
///
/// # Errors
/// `UnexpectedEof` beyond the end of the file, or the error of `pread`.
pub(crate) fn pread_volatile(file: &File, memory: &VolatileSlice<'_>, offset: u64) -> io::Result<()> {
    let guard = memory.ptr_guard_mut();
    let mut done = 0;
    while done < memory.len() {
        let at =
            i64::try_from(offset.saturating_add(done as u64)).map_err(|_| io::ErrorKind::InvalidInput)?;
        let rest = memory.len() - done;
        let start = guard.as_ptr().wrapping_add(done).cast();
        // SAFETY: `rest` bytes at `start` are the end of `memory`, which is mapped and writable as long as the guard
        // lives. Nothing but volatile accesses touches it besides (vm-memory's contract).
        let count = unsafe { libc::pread(file.as_raw_fd(), start, rest, at) };
        match usize::try_from(count) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_fixed() {
        let file = MemoryFile::create(0x3000).unwrap();
        file.write_at(b"page", 0x1ffe).unwrap();
        let mut bytes = [0; 6];
        file.read_at(&mut bytes, 0x1ffd).unwrap();
        assert_eq!(&bytes, b"\0page\0");
        for length in [0, 0x2000, 0x4000] {
            let error = file.file.set_len(length).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
        assert!(file.write_at(b"12", 0x2fff).is_err());
        assert!(file.read_at(&mut bytes, 0x2fff).is_err());
        assert_eq!(file.size(), 0x3000);
    }
}
