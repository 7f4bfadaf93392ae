//! SIGBUS handler for mappings of files: supplies pages that a mapping does not have.
//!
//! An access to a mapped page that the file no longer has raises SIGBUS (mmap(2)), which by default ends the process. Each
//! mapping of this crate that can raise it has a [`SigbusGuard`], an entry in a table that the handler searches. For an
//! address in one of them the handler maps a page of zeros and marks the entry ([`SigbusGuard::is_truncated`]), or, for a
//! [`PrivateCopy`], copies a block of the file. For all other addresses the previous action is restored.
//!
//! The handler is async-signal-safe (signal-safety(7)): it reads atomics, makes direct system calls and keeps `errno`. The
//! kernel's own accesses on behalf of a system call raise no signal: the call fails with EFAULT.

use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use super::private_copy::PrivateCopy;

const PAGE_BITS: u32 = 12;
const PAGE: u64 = 1 << PAGE_BITS;

/// A user-space address has 47 bits, so the number of a page has 35; 29 are left for the number of pages: 2 TiB.
const COUNT_BITS: u32 = 29;

/// Mappings that can be guarded at the same time. Without an entry, a file is copied instead of mapped.
const MAX_GUARDS: usize = 1024;

/// A guarded range of addresses.
struct GuardEntry {
    /// First page and number of pages in one word, so that the handler never sees half a change; 0 is a free entry.
    pages: AtomicU64,
    /// True if a page was missing when it was accessed.
    is_truncated: AtomicBool,
    /// Supplies the pages; null for pages of zeros.
    source: AtomicPtr<PrivateCopy>,
}

static TABLE: [GuardEntry; MAX_GUARDS] = [const {
    GuardEntry {
        pages: AtomicU64::new(0),
        is_truncated: AtomicBool::new(false),
        source: AtomicPtr::new(ptr::null_mut()),
    }
}; MAX_GUARDS];

/// Action for SIGBUS before this handler; `None` where the handler could not be installed. A signal that comes before this is
/// set finds nothing here, and the access that raised it raises it again.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// Guard of one mapping. Drop it before the mapping: a later mapping at the same address must not inherit the guard.
#[derive(Debug)]
pub(crate) struct SigbusGuard {
    index: usize,
}

impl SigbusGuard {
    /// Guards a mapping of whole pages, and installs the handler the first time. Returns `None` where all entries are in use,
    /// the mapping is larger than an entry can say, or the kernel takes no handler.
    pub(crate) fn new(addresses: Range<u64>) -> Option<Self> {
        (*PREVIOUS.get_or_init(install))?;
        let packed = pack(&addresses)?;
        let take = |entry: &GuardEntry| {
            entry.pages.compare_exchange(0, packed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        TABLE.iter().position(take).map(|index| Self { index })
    }

    /// Guards a private copy, whose pages come from its file. Nothing may read the copy before this returns, and the guard is
    /// dropped before the copy.
    pub(super) fn with_source(copy: &PrivateCopy, size: u64) -> Option<Self> {
        let start = copy.address();
        let guard = Self::new(start..start.saturating_add(size))?;
        if let Some(entry) = TABLE.get(guard.index) {
            entry.source.store(ptr::from_ref(copy).cast_mut(), Ordering::Release);
        }
        Some(guard)
    }

    /// Returns true if a page was missing when it was accessed. Its bytes have read as zeros since.
    pub(super) fn is_truncated(&self) -> bool {
        TABLE.get(self.index).is_some_and(|entry| entry.is_truncated.load(Ordering::Acquire))
    }
}

impl Drop for SigbusGuard {
    fn drop(&mut self) {
        if let Some(entry) = TABLE.get(self.index) {
            entry.is_truncated.store(false, Ordering::Relaxed);
            entry.source.store(ptr::null_mut(), Ordering::Relaxed);
            entry.pages.store(0, Ordering::Release);
        }
    }
}

fn pack(addresses: &Range<u64>) -> Option<u64> {
    let count = addresses.end.checked_sub(addresses.start)?.div_ceil(PAGE);
    let first = addresses.start >> PAGE_BITS;
    (count > 0 && count < 1 << COUNT_BITS && first < 1 << (u64::BITS - COUNT_BITS))
        .then_some(first << COUNT_BITS | count)
}

fn contains(packed: u64, page: u64) -> bool {
    let (first, count) = (packed >> COUNT_BITS, packed & ((1 << COUNT_BITS) - 1));
    page.checked_sub(first).is_some_and(|offset| offset < count)
}

/// Installs the handler. Returns the previous action; `None` where the kernel refused.
fn install() -> Option<libc::sigaction> {
    // SAFETY: sigaction is plain data, for which zeros are valid.
    let (mut previous, mut action): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and is async-signal-safe; both pointers are to live
    // locals.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) };
    (result == 0).then_some(previous)
}

extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo_t.
    let info = unsafe { &*info };
    let from_kernel = info.si_code > 0;
    // SAFETY: the address of a SIGBUS; without meaning, but readable, where a process sent the signal.
    let address = unsafe { info.si_addr() } as u64;
    // SAFETY: always gives a pointer.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it points to this thread's own errno.
    let saved = unsafe { *errno };
    let supplied = from_kernel && supply_page(address);
    // SAFETY: as above.
    unsafe { *errno = saved };
    if supplied {
        return;
    }
    // Another address: the previous action takes over. An access happens again then; a signal that was sent is sent again.
    if let Some(Some(previous)) = PREVIOUS.get() {
        // SAFETY: what the kernel gave us as the action for this signal.
        unsafe { libc::sigaction(libc::SIGBUS, ptr::from_ref(previous), ptr::null_mut()) };
    }
    if !from_kernel {
        // SAFETY: it is delivered when this handler returns.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

/// Maps pages where a guarded mapping has none. Returns true if it did.
fn supply_page(address: u64) -> bool {
    let page = address >> PAGE_BITS;
    let Some(entry) = TABLE.iter().find(|entry| contains(entry.pages.load(Ordering::Acquire), page)) else {
        return false;
    };
    let source = entry.source.load(Ordering::Acquire);
    // SAFETY: null, or a copy that lives: its guard is dropped before it, and it is being read by this thread.
    let source = unsafe { source.as_ref() };
    let complete = match source {
        Some(copy) => copy.fill(address),
        None => map_zeros(page).then_some(false),
    };
    if complete == Some(false) {
        entry.is_truncated.store(true, Ordering::Release);
    }
    complete.is_some()
}

/// Maps one page of zeros. Returns true if the kernel did.
fn map_zeros(page: u64) -> bool {
    let at = (page << PAGE_BITS) as *mut libc::c_void;
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    // SAFETY: the page is inside a live mapping of guest memory, since its guard is dropped before it, and the mapping has no
    // page there: nothing is lost. Guest memory is only ever accessed as volatile (vm-memory's contract).
    let mapped = unsafe { libc::mmap(at, 1 << PAGE_BITS, protection, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_guards_exactly_its_pages() {
        let packed = pack(&(0x7fff_ffff_0000..0x7fff_ffff_2001)).unwrap();
        for (page, inside) in [(0x7_ffff_ffef, false), (0x7_ffff_fff0, true), (0x7_ffff_fff2, true)] {
            assert_eq!(contains(packed, page), inside, "{page:#x}");
        }
        assert!(!contains(packed, 0x7_ffff_fff3));
        assert!(!contains(0, 0));
        for refused in [0x1000..0x1000, 0..1 << 41, 1 << 48..(1 << 48) + 1] {
            assert_eq!(pack(&refused), None, "{refused:x?}");
        }
        assert!(pack(&(0x1000..0x1000 + (1 << 41) - PAGE)).is_some());
    }

    #[test]
    #[cfg_attr(miri, ignore = "sigaction")]
    fn a_dropped_guard_leaves_a_free_entry_without_marks() {
        let guard = SigbusGuard::new(0x1000..0x2000).unwrap();
        TABLE[guard.index].is_truncated.store(true, Ordering::Relaxed);
        assert!(guard.is_truncated());
        let index = guard.index;
        drop(guard);
        assert!(!TABLE[index].is_truncated.load(Ordering::Relaxed));
    }
}
