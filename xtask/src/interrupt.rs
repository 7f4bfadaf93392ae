//! SIGINT (Ctrl-C) while a child process runs.
//!
//! The terminal sends SIGINT to the whole foreground process group. vmm-cli then prints a report and QEMU exits. xtask has
//! to outlive them: otherwise the shell would take the terminal back before they are done.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::signal::register_signal_handler;

/// Exit status after Ctrl-C, as in shells: 128 + SIGINT.
pub(crate) const EXIT_STATUS: u8 = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);

/// Installs a handler, so that SIGINT ends the child processes but not xtask.
///
/// Children start with the default action, since handlers do not survive exec.
pub(crate) fn install_handler() {
    // Registration fails only for signals that allow no handler, and SIGINT does.
    let _ = register_signal_handler(libc::SIGINT, set_requested);
}

/// Returns true if SIGINT has been received.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Signal handler. It only stores to an atomic, which is async-signal-safe (signal-safety(7)).
extern "C" fn set_requested(_signal: c_int, _information: *mut libc::siginfo_t, _context: *mut c_void) {
    REQUESTED.store(true, Ordering::Relaxed);
}
