//! Surviving a file that becomes shorter while it is mapped.
//!
//! An access to a mapped page that the file no longer has raises SIGBUS (mmap(2)), whose default is the end of the process.
//! Each mapping of ours has a [`SigbusGuard`], an entry in a table that the signal's handler looks through: an address in one of them
//! gets a page of zeros instead, and a mark, which whoever uses the mapping looks at ([`SigbusGuard::has_holes`]). For any other
//! address the signal is what it was before.
//!
//! The handler does only what is async-signal-safe (signal-safety(7)): it reads atomics, calls `mmap`, which is one system call
//! on Linux, and keeps `errno`. The kernel's own accesses on our behalf, such as those of `KVM_RUN`, raise no signal: they fail
//! with EFAULT.

use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PAGE_BITS: u32 = 12;
const PAGE: u64 = 1 << PAGE_BITS;

/// A user-space address has 47 bits, so the number of a page has 35; 29 are left for the number of pages: 2 TiB.
const COUNT_BITS: u32 = 29;

/// Mappings that can be guarded at the same time. Who finds no place copies instead of mapping.
const MAX_GUARDS: usize = 1024;

/// A guarded range of addresses.
struct Entry {
    /// First page and number of pages in one word, so that the handler never sees half a change; 0 is a free place.
    pages: AtomicU64,
    /// Whether a page of it was missing.
    has_holes: AtomicBool,
}

static TABLE: [Entry; MAX_GUARDS] =
    [const { Entry { pages: AtomicU64::new(0), has_holes: AtomicBool::new(false) } }; MAX_GUARDS];

/// What SIGBUS did before our handler; `None` where that could not be installed. A signal that comes before this is set finds
/// nothing here, and an access that raised it raises it again.
static BEFORE: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// The guard of one mapping. It must go before the mapping does, lest it guards what is mapped there next.
#[derive(Debug)]
pub(super) struct SigbusGuard {
    place: usize,
}

impl SigbusGuard {
    /// Guards a mapping of whole pages. `None` where all places are taken, the mapping is larger than a place can say, or the
    /// kernel takes no handler.
    pub(super) fn new(addresses: Range<u64>) -> Option<Self> {
        (*BEFORE.get_or_init(install))?;
        let packed = pack(&addresses)?;
        let take = |entry: &Entry| {
            entry.pages.compare_exchange(0, packed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        TABLE.iter().position(take).map(|place| Self { place })
    }

    /// Whether a page was missing when it was accessed. Its bytes have read as zeros since.
    pub(super) fn is_truncated(&self) -> bool {
        TABLE.get(self.place).is_some_and(|entry| entry.has_holes.load(Ordering::Acquire))
    }
}

impl Drop for SigbusGuard {
    fn drop(&mut self) {
        if let Some(entry) = TABLE.get(self.place) {
            entry.has_holes.store(false, Ordering::Relaxed);
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

fn holds(packed: u64, page: u64) -> bool {
    let (first, count) = (packed >> COUNT_BITS, packed & ((1 << COUNT_BITS) - 1));
    page.checked_sub(first).is_some_and(|offset| offset < count)
}

/// Installs the handler, once. Returns what SIGBUS did before; `None` where the kernel refused.
fn install() -> Option<libc::sigaction> {
    // SAFETY: sigaction is plain data, for which zeros are valid.
    let (mut before, mut action): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_bus_error as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler has the signature that SA_SIGINFO asks for, and is async-signal-safe; both pointers are to live
    // locals.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) };
    (result == 0).then_some(before)
}

extern "C" fn on_bus_error(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a valid siginfo_t.
    let info = unsafe { &*info };
    let from_kernel = info.si_code > 0;
    // SAFETY: the address of a SIGBUS; without meaning, but readable, where a process sent the signal.
    let address = unsafe { info.si_addr() } as u64;
    if from_kernel && fill_hole(address) {
        return;
    }
    // Not ours: as it was before. An access happens again then; what was sent is sent once more.
    if let Some(Some(before)) = BEFORE.get() {
        // SAFETY: what the kernel gave us as the action for this signal.
        unsafe { libc::sigaction(libc::SIGBUS, ptr::from_ref(before), ptr::null_mut()) };
    }
    if !from_kernel {
        // SAFETY: it is delivered when this handler returns.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}

/// Puts a page of zeros where a guarded mapping has none. Whether it did.
fn fill_hole(address: u64) -> bool {
    let page = address >> PAGE_BITS;
    let Some(entry) = TABLE.iter().find(|entry| holds(entry.pages.load(Ordering::Acquire), page)) else {
        return false;
    };
    let at = (page << PAGE_BITS) as *mut libc::c_void;
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    // SAFETY: always gives a pointer.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: it points to this thread's own errno.
    let before = unsafe { *errno };
    // SAFETY: the page is inside a live mapping of ours, since its guard goes before it does, and the mapping has no page
    // there: nothing is lost. The bytes that appear are zeros, which any type that lives in mapped files allows.
    let mapped = unsafe { libc::mmap(at, 1 << PAGE_BITS, protection, flags, -1, 0) };
    // SAFETY: as above.
    unsafe { *errno = before };
    entry.has_holes.store(true, Ordering::Release);
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_exactly_which_pages_it_guards() {
        let packed = pack(&(0x7fff_ffff_0000..0x7fff_ffff_2001)).unwrap();
        for (page, inside) in [(0x7_ffff_ffef, false), (0x7_ffff_fff0, true), (0x7_ffff_fff2, true)] {
            assert_eq!(holds(packed, page), inside, "{page:#x}");
        }
        assert!(!holds(packed, 0x7_ffff_fff3));
        assert!(!holds(0, 0));
        for refused in [0x1000..0x1000, 0..1 << 41, 1 << 48..(1 << 48) + 1] {
            assert_eq!(pack(&refused), None, "{refused:x?}");
        }
        assert!(pack(&(0x1000..0x1000 + (1 << 41) - PAGE)).is_some());
    }

    #[test]
    fn a_place_is_free_again_without_marks() {
        let guard = SigbusGuard::new(0x1000..0x2000).unwrap();
        TABLE[guard.place].has_holes.store(true, Ordering::Relaxed);
        assert!(guard.is_truncated());
        let place = guard.place;
        drop(guard);
        assert!(!TABLE[place].has_holes.load(Ordering::Relaxed));
    }
}
