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

/// Installs the handler for each of the signals that tests send to their children and that is ignored here, as in a background job
/// of a shell script or under `nohup`: children would ignore it too.
pub(crate) fn restore_for_children() {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Signal 1 is the lowest bit (proc_pid_status(5)).
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        if mask >> (signal - 1) & 1 == 1 {
            let _ = register_signal_handler(signal, set_requested);
        }
    }
}

/// Returns true if SIGINT has been received.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Signal handler. It only stores to an atomic, which is async-signal-safe (signal-safety(7)).
extern "C" fn set_requested(_signal: c_int, _information: *mut libc::siginfo_t, _context: *mut c_void) {
    REQUESTED.store(true, Ordering::Relaxed);
}
