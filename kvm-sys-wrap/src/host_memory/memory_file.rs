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
        Self::try_with_size(memfd()?, size)
    }

    /// Creates a file without a size yet, for [`MemoryFile::with_size`] (`memfd_create`). A process can make it for another one.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn reserve() -> Result<File> {
        memfd().map_err(call_failed(Call::MemfdCreate, "no bytes"))
    }

    /// Gives a file of [`MemoryFile::reserve`] its size, all zero (`ftruncate`, `F_ADD_SEALS`).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), such as for a file that has a size already.
    pub fn with_size(file: File, size: u64) -> Result<Self> {
        Self::try_with_size(file, size).map_err(call_failed(Call::MemfdCreate, format!("{size:#x} bytes")))
    }

    fn try_with_size(file: File, size: u64) -> io::Result<Self> {
        file.set_len(size)?;
        add_seals(&file, SIZE_SEALS)?;
        Ok(Self { file: Arc::new(file), size })
    }

    /// Takes a file that another process has given its size.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call) where the size is not sealed.
    pub fn from_sealed(file: File) -> Result<Self> {
        let take = || {
            // SAFETY: F_GET_SEALS takes no argument; the descriptor is open.
            let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
            if seals < 0 {
                return Err(io::Error::last_os_error());
            }
            let sealed = seals & SIZE_SEALS == SIZE_SEALS;
            let size = file.metadata()?.len();
            sealed.then_some(size).ok_or_else(|| io::Error::other("the size of the file is not sealed"))
        };
        let size = take().map_err(call_failed(Call::MemfdCreate, "a file of another process"))?;
        Ok(Self { file: Arc::new(file), size })
    }

    /// Seals the contents: nobody can write to the file from now on (`F_SEAL_WRITE`). Private mappings can still be written.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call) where a shared mapping of the file is writable.
    pub fn seal_contents(&self) -> Result<()> {
        add_seals(&self.file, libc::F_SEAL_WRITE).map_err(call_failed(Call::MemfdCreate, "F_SEAL_WRITE"))
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

/// Seals that fix the size.
const SIZE_SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

fn memfd() -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a string that ends with NUL; nothing else is read or written.
    let descriptor = unsafe { libc::memfd_create(c"guest memory".as_ptr(), flags) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nothing else owns.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

fn add_seals(file: &File, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: F_ADD_SEALS takes an integer; the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
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
    #[cfg_attr(miri, ignore = "memfd_create")]
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

    #[test]
    #[cfg_attr(miri, ignore = "memfd_create")]
    fn another_process_fills_a_reserved_file() {
        let reserved = MemoryFile::reserve().unwrap();
        let copy = || reserved.try_clone().unwrap();
        assert!(MemoryFile::from_sealed(copy()).is_err());
        let file = MemoryFile::with_size(copy(), 0x1000).unwrap();
        file.write_at(b"page", 4).unwrap();
        file.seal_contents().unwrap();
        assert!(file.write_at(b"more", 4).is_err());
        let other = MemoryFile::from_sealed(copy()).unwrap();
        let mut bytes = [0; 4];
        other.read_at(&mut bytes, 4).unwrap();
        assert_eq!((&bytes, other.size()), (b"page", 0x1000));
        assert!(MemoryFile::with_size(copy(), 0x2000).is_err());
    }
}
