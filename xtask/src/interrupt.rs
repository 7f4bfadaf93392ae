//! Ctrl-C while a guest runs.
//!
//! The terminal sends SIGINT to all of us at once. vmm-cli answers it with a report and QEMU ends; xtask has to stay
//! until they have, or the shell would take the terminal back in the midst of it.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::signal::register_signal_handler;

/// The exit status after Ctrl-C, as shells have it.
pub(crate) const STATUS: u8 = 130;

static SEEN: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C ends our children but not us. They do not inherit this: a handler does not survive exec.
pub(crate) fn outlive() {
    // It fails for signals that have no handler, which SIGINT is not; and without it all works but the tidy end.
    let _ = register_signal_handler(libc::SIGINT, remember);
}

/// Whether Ctrl-C came.
pub(crate) fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}

/// Storing to an atomic is all that is done, and allowed, in a signal handler (signal-safety(7)).
extern "C" fn remember(_signal: c_int, _information: *mut libc::siginfo_t, _context: *mut c_void) {
    SEEN.store(true, Ordering::Relaxed);
}
