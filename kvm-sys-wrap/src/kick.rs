//! How a running vCPU is stopped: by a signal to its thread, without a race and without a helper thread.
//!
//! A signal ends `KVM_RUN` with EINTR, but one that comes just before the call would be lost. So the handler also sets
//! `kvm_run.immediate_exit` of the vCPU that its thread is running, or about to run: then `KVM_RUN` returns at once
//! (api.rst, section 5). A request that comes while the thread is outside of [`Vcpu::run`](crate::Vcpu::run) is kept,
//! and ends the next run before it begins.
//!
//! Three things send that signal: [`Kick::kick`] from another thread, an [`Alarm`], and Ctrl-C ([`watch_interrupts`]).
//! All three end in [`Exit::Interrupted`](crate::Exit::Interrupted); who asked is for the caller to know.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::time::Duration;

use vmm_sys_util::signal::{Error as SignalError, SIGRTMIN, block_signal, register_signal_handler};

use crate::error::{Error, Result};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread is running; null outside of `Vcpu::run`.
    static RUNNING: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
    /// A signal came since the last run.
    static SIGNALLED: Cell<bool> = const { Cell::new(false) };
}

/// What ends runs once [`watch_interrupts`] was called: Ctrl-C and its kin. A default action would leave a raw terminal.
const INTERRUPTS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Set by [`INTERRUPTS`] once [`watch_interrupts`] was called.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What a vCPU and its [`Kick`] handles share.
#[derive(Debug, Default)]
pub(crate) struct KickState {
    requested: AtomicBool,
    /// The thread that ran the vCPU last; 0 before the first run and after the vCPU is gone.
    thread: AtomicI32,
}

/// Stops one vCPU from any thread.
#[derive(Debug, Clone)]
pub struct Kick(Arc<KickState>);

impl Kick {
    pub(crate) fn new(state: Arc<KickState>) -> Result<Self> {
        register_signal_handler(SIGRTMIN(), on_signal)
            .map_err(|error| Error::Kick { source: io::Error::from(error) })?;
        Ok(Self(state))
    }

    /// Ends the current `KVM_RUN`, or the next one.
    pub fn kick(&self) {
        self.0.requested.store(true, Ordering::SeqCst);
        let thread = self.0.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: tgkill reaches only threads of this process, and the signal's handler is installed (`new`); if the
            // thread is gone it fails with ESRCH, which is right too.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, SIGRTMIN()) };
        }
    }
}

/// The time a thread spends inside `Vcpu::run`.
pub(crate) struct Running<'a>(&'a AtomicU8);

impl<'a> Running<'a> {
    /// Announces the vCPU to the signal handler of this thread; `None` if it was kicked already.
    #[inline]
    pub(crate) fn enter(state: &KickState, immediate_exit: &'a AtomicU8) -> Option<Self> {
        let thread = current_thread();
        if state.thread.load(Ordering::Relaxed) != thread {
            state.thread.store(thread, Ordering::SeqCst);
        }
        RUNNING.set(immediate_exit);
        let running = Self(immediate_exit);
        // From here on a signal sets `immediate_exit`. One that came before left its mark:
        let kicked = SIGNALLED.take() | state.requested.swap(false, Ordering::SeqCst);
        (!kicked).then_some(running)
    }
}

impl Drop for Running<'_> {
    #[inline]
    fn drop(&mut self) {
        RUNNING.set(ptr::null());
        // A signal that came after the guest's own exit has not been heard yet: SIGNALLED keeps it for the next run.
        self.0.store(0, Ordering::Relaxed);
    }
}

impl KickState {
    /// `KVM_RUN` has returned EINTR and the caller will be told: no need to end the next run for the same reason.
    pub(crate) fn heard(&self) {
        SIGNALLED.set(false);
        self.requested.store(false, Ordering::SeqCst);
    }

    /// The vCPU is gone: its thread is no longer to be disturbed.
    pub(crate) fn forget_thread(&self) {
        self.thread.store(0, Ordering::SeqCst);
    }
}

/// The kernel's number of this thread, asked for once.
fn current_thread() -> i32 {
    thread_local!(static THREAD: Cell<i32> = const { Cell::new(0) });
    if THREAD.get() == 0 {
        // SAFETY: gettid has no arguments and cannot fail.
        THREAD.set(unsafe { libc::gettid() });
    }
    THREAD.get()
}

/// Handles the kick signal and those of [`watch_interrupts`]. Everything in it is async-signal-safe: thread-locals
/// without destructor in the program itself, and atomics.
extern "C" fn on_signal(number: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if number != SIGRTMIN() {
        INTERRUPTED.store(true, Ordering::SeqCst);
    }
    SIGNALLED.set(true);
    let immediate_exit = RUNNING.get();
    if !immediate_exit.is_null() {
        // SAFETY: set by `Running::enter` on this thread and reset before the area can be unmapped (`Running` borrows it).
        unsafe { &*immediate_exit }.store(1, Ordering::Relaxed);
    }
}

/// Makes Ctrl-C (SIGINT), SIGTERM, SIGHUP and SIGQUIT end the run of the vCPU on the thread that gets the signal, instead of
/// killing the process. [`interrupted`] tells afterwards. One that is ignored stays so: whoever started the process wants
/// it to live on, as `nohup` does.
///
/// # Errors
/// [`Error::Kick`] where a handler cannot be installed.
pub fn install_termination_handlers() -> Result<()> {
    for signal in INTERRUPTS.into_iter().filter(|signal| !is_ignored(*signal)) {
        register_signal_handler(signal, on_signal)
            .map_err(|error| Error::Kick { source: io::Error::from(error) })?;
    }
    Ok(())
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction is plain data, for which zeros are valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a query; the pointer is to a live local.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Leaves kicks and Ctrl-C to the other threads, which run vCPUs: a signal that came to this one would stop nothing.
///
/// # Errors
/// [`Error::Kick`] where the kernel refuses.
pub fn block_vcpu_signals() -> Result<()> {
    for signal in INTERRUPTS {
        match block_signal(signal) {
            Ok(()) | Err(SignalError::SignalAlreadyBlocked(_)) => {}
            Err(error) => return Err(Error::Kick { source: io::Error::other(error.to_string()) }),
        }
    }
    Ok(())
}

/// Ends all runs of this process, as Ctrl-C does where [`watch_interrupts`] was called.
pub fn request_termination() {
    // Process numbers are positive and fit.
    let process = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
    // SAFETY: a signal to ourselves, whose handler, or default, ends the run.
    unsafe { libc::kill(process, libc::SIGINT) };
}

/// Whether a signal that [`watch_interrupts`] watches has come.
#[must_use]
pub fn termination_requested() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A timer that kicks the vCPU of the thread that made it.
#[derive(Debug)]
pub struct Alarm(libc::timer_t);

// SAFETY: a timer's identifier is a handle of the whole process: any thread may set or delete it (timer_create(2)).
unsafe impl Send for Alarm {}

impl Alarm {
    /// Kicks this thread's vCPU `after` that much time on the monotonic clock, once.
    ///
    /// # Errors
    /// [`Error::Kick`] where the kernel has no timer for us.
    pub fn set(after: Duration) -> Result<Self> {
        let alarm = Self::new()?;
        alarm.reset(after)?;
        Ok(alarm)
    }

    /// Kicks it again and again.
    ///
    /// # Errors
    /// As [`Alarm::set`].
    pub fn every(interval: Duration) -> Result<Self> {
        let alarm = Self::new()?;
        alarm.arm(interval, interval)?;
        Ok(alarm)
    }

    fn new() -> Result<Self> {
        let failed = |source| Error::Kick { source };
        register_signal_handler(SIGRTMIN(), on_signal).map_err(|error| failed(error.into()))?;
        // SAFETY: sigevent is plain data, for which zeros are valid.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGRTMIN();
        event.sigev_notify_thread_id = current_thread();
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both pointers are to live locals, and the thread is ours.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(Self(timer))
    }

    /// Sets it once more, to go off `after` that much time from now.
    ///
    /// # Errors
    /// [`Error::Kick`] where the kernel refuses.
    pub fn reset(&self, after: Duration) -> Result<()> {
        // A timer set to 0 would be off.
        self.arm(after.max(Duration::from_nanos(1)), Duration::ZERO)
    }

    fn arm(&self, after: Duration, interval: Duration) -> Result<()> {
        let timespec = |time: Duration| libc::timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        let when = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(after) };
        // SAFETY: the timer lives as long as `self`, and `when` until the call returns.
        if unsafe { libc::timer_settime(self.0, 0, &raw const when, ptr::null_mut()) } != 0 {
            return Err(Error::Kick { source: io::Error::last_os_error() });
        }
        Ok(())
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: made by `new`, deleted only here.
        unsafe { libc::timer_delete(self.0) };
    }
}
