//! Child processes that do one part of the work and end (`fork` without `exec`), and counters that they share with their parent.
//!
//! A child runs a closure. It never returns into the code of the parent: it ends by `_exit`, whatever the closure does. It has no
//! descriptors but the standard streams and those that it was given, and it does not outlive its parent.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU64;

use crate::kick;

/// Exit status of a child whose closure panicked: that of Rust.
const PANIC_STATUS: u8 = 101;
/// Exit status of a child that could not be set up.
const SETUP_STATUS: u8 = 106;
/// First descriptor after the standard streams.
const FIRST_DESCRIPTOR: RawFd = 3;

/// Child process that has not been waited for.
#[derive(Debug)]
pub struct ChildProcess {
    pid: libc::pid_t,
}

impl ChildProcess {
    /// Starts a child that runs `work` and exits with the returned status; 101 after a panic (fork(2)).
    ///
    /// In the child, all descriptors are closed but the standard streams and `keep`. Values of the parent that own other
    /// descriptors must not be used there. SIGTERM in the child has the effect that
    /// [`install_termination_handlers`](crate::install_termination_handlers) describes; SIGINT, SIGHUP and SIGQUIT are ignored,
    /// since a terminal sends them to parent and children alike. The kernel kills the child when the parent ends.
    ///
    /// # Errors
    /// The error of `fork`; or this process has several threads, or no `/proc` that shows their number.
    pub fn fork(keep: &[BorrowedFd<'_>], work: impl FnOnce() -> u8) -> io::Result<Self> {
        if threads()? != 1 {
            return Err(io::Error::other("a process with several threads cannot be copied"));
        }
        let mut keep: Vec<RawFd> = keep.iter().map(AsRawFd::as_raw_fd).collect();
        keep.sort_unstable();
        let parent = std::process::id();
        // SAFETY: this is the only thread, so no lock is held by another one, which the child would not have. The child
        // leaves this function only through `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                let status = catch_unwind(AssertUnwindSafe(|| match set_up(parent, &keep) {
                    Ok(()) => work(),
                    Err(_) => SETUP_STATUS,
                }));
                // SAFETY: ends the process without destructors and exit handlers, which are the parent's.
                unsafe { libc::_exit(status.unwrap_or(PANIC_STATUS).into()) }
            }
            -1 => Err(io::Error::last_os_error()),
            pid => Ok(Self { pid }),
        }
    }

    /// Returns the number of the process.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Requests the end of the child's run (SIGTERM). A second request ends the child.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Ends the child at once (SIGKILL).
    pub fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    fn signal(&self, number: libc::c_int) {
        // SAFETY: the child was not waited for, so the number is its own, even if it has ended.
        unsafe { libc::kill(self.pid, number) };
    }

    /// Waits for the end of the child (waitpid(2)).
    ///
    /// # Errors
    /// The error of `waitpid`.
    pub fn wait(self) -> io::Result<ExitStatus> {
        let mut status = 0;
        loop {
            // SAFETY: the pointer is to a live local. The child is this process' own and was not waited for.
            if unsafe { libc::waitpid(self.pid, &raw mut status, 0) } == self.pid {
                return Ok(ExitStatus::from_raw(status));
            }
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            }
        }
    }
}

/// Returns the number of threads of this process: of its directories in `/proc/self/task`, which has two links more.
fn threads() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// Prepares a new child. `keep` is sorted.
fn set_up(parent: u32, keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: prctl reads two integers.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have ended before that.
    // SAFETY: getppid has no arguments and cannot fail.
    if u32::try_from(unsafe { libc::getppid() }) != Ok(parent) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    kick::reset_in_child()?;
    close_others(keep)
}

/// Closes all descriptors that are not in `keep`, which is sorted, and no standard stream.
fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut first = FIRST_DESCRIPTOR;
    for kept in keep.iter().filter(|kept| **kept >= FIRST_DESCRIPTOR) {
        close_range(first, kept - 1)?;
        first = kept + 1;
    }
    close_range(first, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    let no_flags = 0;
    // SAFETY: the child uses and drops no value that owns one of these descriptors (contract of `fork`).
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, no_flags) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // Before Linux 5.9.
        error if error.raw_os_error() == Some(libc::ENOSYS) => close_listed(first, last),
        error => Err(error),
    }
}

fn close_listed(first: RawFd, last: RawFd) -> io::Result<()> {
    let names: Vec<_> = std::fs::read_dir("/proc/self/fd")?.collect::<Result<_, _>>()?;
    let numbers = names.iter().filter_map(|name| name.file_name().to_str()?.parse().ok());
    for number in numbers.filter(|number| (first..=last).contains(number)) {
        // SAFETY: as in `close_range`. The descriptor of the directory is closed already, which is harmless.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Counters in memory that a process shares with the children that it starts afterwards; zero at first.
#[derive(Debug)]
pub struct SharedCounters {
    first: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is only accessed through atomics, and unmapped by the owner alone.
unsafe impl Send for SharedCounters {}
// SAFETY: as for Send.
unsafe impl Sync for SharedCounters {}

impl SharedCounters {
    /// Creates `count` counters (mmap(2), `MAP_SHARED`).
    ///
    /// # Errors
    /// The error of `mmap`, or [`InvalidInput`](io::ErrorKind::InvalidInput) for more than there can be.
    pub fn new(count: usize) -> io::Result<Self> {
        let size = count.max(1).checked_mul(size_of::<AtomicU64>()).ok_or(io::ErrorKind::InvalidInput)?;
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
        let first = NonNull::new(start.cast()).filter(|_| start != libc::MAP_FAILED);
        first.map(|first| Self { first, count }).ok_or_else(io::Error::last_os_error)
    }

    /// Returns a counter, if `index` is less than their number.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&AtomicU64> {
        let counter = self.first.as_ptr().wrapping_add(index);
        // SAFETY: the address is inside of the mapping, which starts at a page boundary and lives as long as `self`. Bytes of
        // zero are valid atomics.
        (index < self.count).then(|| unsafe { &*counter })
    }
}

impl Drop for SharedCounters {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this size, unmapped only here; no reference outlives `self`.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.count.max(1) * size_of::<AtomicU64>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "/proc/self/task")]
    fn a_process_with_threads_is_not_copied() {
        std::thread::scope(|scope| {
            let refused = scope.spawn(|| ChildProcess::fork(&[], || 0).unwrap_err());
            assert!(refused.join().unwrap().to_string().contains("several threads"));
        });
    }

    #[test]
    #[cfg_attr(miri, ignore = "mmap with MAP_SHARED")]
    fn counters_are_zero_and_have_an_end() {
        let counters = SharedCounters::new(600).unwrap();
        let sum = |counters: &SharedCounters| {
            (0..600).map(|at| counters.get(at).unwrap().load(Ordering::SeqCst)).sum::<u64>()
        };
        assert_eq!(sum(&counters), 0);
        counters.get(599).unwrap().fetch_add(7, Ordering::SeqCst);
        assert_eq!(sum(&counters), 7);
        assert!(counters.get(600).is_none());
        assert!(SharedCounters::new(usize::MAX).is_err());
        assert!(SharedCounters::new(0).unwrap().get(0).is_none());
    }
}
