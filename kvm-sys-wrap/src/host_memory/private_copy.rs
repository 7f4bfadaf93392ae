//! A private copy of a file that is made block by block, when the bytes are first read.
//!
//! A `&[u8]` over a mapping of the file itself would be undefined behaviour: others can write to the file or truncate it,
//! and `MAP_PRIVATE` shows such changes in all pages that were not written. To read the whole file first takes too long
//! for a kernel with a gigabyte of debug information, of which a run looks at some hundred kilobytes.
//!
//! So the addresses are reserved with a mapping of an empty file, where each access raises SIGBUS (mmap(2)). The handler in
//! `sigbus.rs` calls [`PrivateCopy::fill`]: it reads the block into new anonymous memory and moves that to its address with
//! `mremap`, which takes effect at once for all threads. A byte that has been read once never changes.
//!
//! The first access to a block costs more than a fault of a mapped file. Measured on a busy host: 1 MiB took 0.8 to 1.6 ms instead of
//! 0.1 to 0.25 ms, and 512 MiB read as a whole about twice as long as `read`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::memory_file::MemoryFile;

const PAGE: usize = 4096;
/// Bytes that one fault copies at first.
const BLOCK: usize = 16 << 10;
/// A fault copies at least one block, and up to this part of what has been copied so far: a file that is read as a whole
/// takes some hundred faults, whatever its size.
const READ_AHEAD: usize = 8;

/// The private copy of a file. Its address never changes, so it is used through an `Arc`.
#[derive(Debug)]
pub(super) struct PrivateCopy {
    start: NonNull<u8>,
    size: usize,
    file: Arc<File>,
    /// True while a thread copies.
    locked: AtomicBool,
    /// One flag for each block that has been copied.
    copied: Box<[AtomicBool]>,
    count: AtomicUsize,
}

// SAFETY: the memory behind `start` belongs to this value, is only read through it, and stays mapped as long as it lives.
// `fill` replaces pages that nobody has read, one thread at a time.
unsafe impl Send for PrivateCopy {}
// SAFETY: see above.
unsafe impl Sync for PrivateCopy {}

impl PrivateCopy {
    /// Reserves addresses for `size` bytes of `file`. Reads nothing.
    pub(super) fn new(file: Arc<File>, size: usize) -> io::Result<Self> {
        // Sealed: nobody can give it pages, so each access to the mapping raises SIGBUS.
        let empty = MemoryFile::try_create(0)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let descriptor = empty.file().as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_READ, flags, descriptor, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        let copied = (0..size.div_ceil(BLOCK)).map(|_| AtomicBool::new(false)).collect();
        Ok(Self { start, size, file, locked: AtomicBool::new(false), copied, count: AtomicUsize::new(0) })
    }

    /// Address of the first byte.
    pub(super) fn address(&self) -> u64 {
        self.start.as_ptr().expose_provenance() as u64
    }

    /// The bytes. The caller must have registered the range with the SIGBUS handler, as [`MappedFile`](super::MappedFile) does.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the range is one mapping of ours, readable, of this size, and lives as long as `self`. The first access to
        // a block makes the handler copy it; from then on nothing writes to it, and a change of the file does not reach it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }

    /// Copies the block at `address`, which lies inside, and some blocks after it. Returns `None` where the kernel has no
    /// memory, otherwise true if the file had all of the bytes; those that it lacked are zero.
    ///
    /// Async-signal-safe: atomics and direct system calls. `errno` is changed.
    pub(super) fn fill(&self, address: u64) -> Option<bool> {
        let offset = usize::try_from(address.checked_sub(self.address())?).ok()?;
        while self.locked.swap(true, Ordering::Acquire) {
            // SAFETY: no arguments, no effect on memory.
            unsafe { libc::sched_yield() };
        }
        let result = self.fill_locked(offset / BLOCK);
        self.locked.store(false, Ordering::Release);
        result
    }

    fn fill_locked(&self, block: usize) -> Option<bool> {
        // Another thread may have copied it while this one waited.
        if self.copied.get(block)?.load(Ordering::Relaxed) {
            return Some(true);
        }
        let most = (self.count.load(Ordering::Relaxed) / READ_AHEAD).max(1);
        let missing = self.copied.iter().skip(block).take(most);
        let blocks = missing.take_while(|copied| !copied.load(Ordering::Relaxed)).count();
        let offset = block * BLOCK;
        let bytes = (blocks * BLOCK).min(self.size - offset);
        let length = bytes.next_multiple_of(PAGE);
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
        );
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let new = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, -1, 0) };
        if new == libc::MAP_FAILED {
            return None;
        }
        let complete = self.read(new.cast(), offset, bytes);
        let target = self.start.as_ptr().wrapping_add(offset).cast::<libc::c_void>();
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: `length` bytes from `target` on are whole pages inside the mapping of `self`. None of them has been read:
        // their blocks are not marked as copied, so an access faults and waits for the lock.
        let moved = unsafe { libc::mremap(new, length, length, flags, target) };
        if moved == libc::MAP_FAILED {
            // SAFETY: made above, and still there since the move failed; nobody else knows of it.
            unsafe { libc::munmap(new, length) };
            return None;
        }
        self.copied.iter().skip(block).take(blocks).for_each(|copied| copied.store(true, Ordering::Relaxed));
        self.count.fetch_add(blocks, Ordering::Relaxed);
        Some(complete)
    }

    /// Reads `bytes` bytes at `offset` of the file to `target`. Returns true if the file had all of them.
    fn read(&self, target: *mut u8, offset: usize, bytes: usize) -> bool {
        let mut done = 0;
        while done < bytes {
            let Ok(at) = libc::off_t::try_from(offset + done) else { return false };
            let rest = target.wrapping_add(done).cast();
            // SAFETY: the caller has mapped `bytes` writable bytes at `target`, which nobody else knows of.
            let count = unsafe { libc::pread(self.file.as_raw_fd(), rest, bytes - done, at) };
            match usize::try_from(count) {
                Ok(0) => return false,
                Ok(count) => done += count,
                // No allocation: only the number.
                Err(_) if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }
}

impl Drop for PrivateCopy {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size; no slice of it outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.size) };
    }
}
