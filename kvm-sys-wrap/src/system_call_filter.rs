//! The kernel's means to confine a process: which of them it has, and the end of a process that makes a system call which its filter
//! refuses (seccomp(2), `SECCOMP_RET_TRAP`).
//!
//! The kernel sends SIGSYS to the thread instead of making the call. The handler writes one line to standard error, which names
//! the call, and ends the process with a status of the caller's choice.

use std::io::{self, Write};
use std::sync::atomic::{AtomicI32, Ordering};

use vmm_sys_util::signal::register_signal_handler;

use crate::error::{Error, Result};

/// Exit status of a process that makes a refused system call.
static EXIT_STATUS: AtomicI32 = AtomicI32::new(1);

/// `siginfo_t` of a SIGSYS: the fields that all signals have, then `_sigsys` of asm-generic/siginfo.h.
#[repr(C)]
struct SigsysInfo {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    padding: libc::c_int,
    address: *const libc::c_void,
    system_call: libc::c_int,
    architecture: libc::c_uint,
}

/// Installs the process's SIGSYS handler: a refused system call ends the process with `exit_status`, after a line on standard error.
///
/// # Errors
/// [`Error::Kick`] where `sigaction` fails.
pub fn install_system_call_handler(exit_status: u8) -> Result<()> {
    EXIT_STATUS.store(exit_status.into(), Ordering::Relaxed);
    register_signal_handler(libc::SIGSYS, on_sigsys)
        .map_err(|error| Error::Kick { source: io::Error::from(error) })
}

/// Returns true if the kernel has system call filters (`SECCOMP_GET_ACTION_AVAIL` of seccomp(2), Linux 4.14).
#[must_use]
pub fn has_system_call_filters() -> bool {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: a query; the pointer is to a live local.
    unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) == 0 }
}

/// Returns the version of Landlock that the kernel has (`LANDLOCK_CREATE_RULESET_VERSION` of landlock_create_ruleset(2)); `None`
/// if it has none, or if it is off.
#[must_use]
pub fn landlock_version() -> Option<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    let null = std::ptr::null::<libc::c_void>();
    // SAFETY: a query without arguments.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, null, 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}

/// Handles SIGSYS. Async-signal-safe: it formats into a buffer on the stack, writes it, and ends the process.
extern "C" fn on_sigsys(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t, which is longer than this struct and as much aligned; for SIGSYS the union holds
    // `_sigsys`. Any bytes are valid for the fields.
    let info = unsafe { &*info.cast::<SigsysInfo>() };
    // SAFETY: with SA_SIGINFO the third argument is a ucontext_t of the interrupted thread (sigaction(2)).
    let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let mut line = [0_u8; 192];
    let mut rest = &mut line[..];
    let request = registers.get(usize::try_from(libc::REG_RSI).unwrap_or_default());
    let call = info.system_call;
    // What does not fit is dropped.
    let _ = write!(rest, "vmm: the sandbox refused system call {call}");
    if let (true, Some(request)) = (libc::c_long::from(call) == libc::SYS_ioctl, request) {
        let _ = write!(rest, " (ioctl, request {})", request.cast_unsigned() & 0xffff_ffff);
    }
    let _ = writeln!(rest, ": the guest has taken over this process, or it is a bug");
    let left = rest.len();
    // SAFETY: the bytes are a live local. `write` is async-signal-safe, and allowed by every filter.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len() - left) };
    // SAFETY: `_exit` is async-signal-safe and does not return.
    unsafe { libc::_exit(EXIT_STATUS.load(Ordering::Relaxed)) };
}
