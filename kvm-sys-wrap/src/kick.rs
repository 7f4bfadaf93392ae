//! Making a running vCPU return: by a signal to its thread, without a race and without a helper thread.
//!
//! A signal ends `KVM_RUN` with EINTR, but one that comes just before the call would be lost. So the handler also sets
//! `kvm_run.immediate_exit` of the vCPU that its thread is running or about to run: then `KVM_RUN` returns at once
//! (api.rst, section 5). A request that comes while the thread is outside of [`Vcpu::run`](crate::Vcpu::run) is kept,
//! and ends the next run before it begins.
//!
//! Three things send such a signal: [`Kick::kick`] from another thread, a [`KickTimer`], and Ctrl-C
//! ([`install_termination_handlers`]). All three end in [`Exit::Interrupted`](crate::Exit::Interrupted), which does not say
//! which one it was.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::time::Duration;

use vmm_sys_util::signal::{Error as SignalError, SIGRTMIN, block_signal, register_signal_handler};

use crate::error::{Error, Result};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread is running; null outside of a [`RunScope`].
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
    /// True if a signal came since the last run.
    static SIGNALLED: Cell<bool> = const { Cell::new(false) };
    /// Thread ID of this thread; 0 before it is known.
    static TID: Cell<i32> = const { Cell::new(0) };
}

/// Interval between the kicks of [`KickTimer::with_retries`].
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Number of attempts to send a kick, and time between them.
const MAX_KICK_ATTEMPTS: u32 = 1000;
const KICK_RETRY_DELAY: Duration = Duration::from_millis(1);

/// Signals of [`install_termination_handlers`].
const TERMINATION_SIGNALS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// True once one of [`TERMINATION_SIGNALS`] came.
static TERMINATION_REQUESTED: AtomicBool = AtomicBool::new(false);

/// State shared by a vCPU and its [`Kick`] handles.
#[derive(Debug, Default)]
pub(crate) struct KickState {
    requested: AtomicBool,
    /// Thread that ran the vCPU last; 0 before the first run and after the vCPU was dropped.
    thread: AtomicI32,
}

/// Handle that makes one vCPU return from `KVM_RUN`, from any thread ([`Vcpu::kicker`](crate::Vcpu::kicker)).
#[derive(Debug, Clone)]
pub struct Kick(Arc<KickState>);

impl Kick {
    pub(crate) fn new(state: Arc<KickState>) -> Result<Self> {
        install_kick_handler()?;
        Ok(Self(state))
    }

    /// Ends the current `KVM_RUN`, or the next one (`tgkill` with SIGRTMIN). If the signal cannot be queued for a second, only the
    /// next run ends.
    pub fn kick(&self) {
        self.0.requested.store(true, Ordering::SeqCst);
        let thread = self.0.thread.load(Ordering::SeqCst);
        if thread != 0 {
            // EAGAIN: the user's queue of signals is full (RLIMIT_SIGPENDING).
            for _ in 0..MAX_KICK_ATTEMPTS {
                // SAFETY: tgkill reaches only threads of this process, and the signal's handler is installed (`new`); if the
                // thread is gone it fails with ESRCH, which is right too.
                let result =
                    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, SIGRTMIN()) };
                if result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN) {
                    break;
                }
                std::thread::sleep(KICK_RETRY_DELAY);
            }
        }
    }
}

/// Span of time in which the signal handler of this thread knows a vCPU's `immediate_exit`.
pub(crate) struct RunScope<'a>(&'a AtomicU8);

impl<'a> RunScope<'a> {
    /// Registers the vCPU with the signal handler of this thread. Returns `None` if the vCPU was kicked before.
    #[inline]
    pub(crate) fn enter(state: &KickState, immediate_exit: &'a AtomicU8) -> Option<Self> {
        let thread = current_tid();
        if state.thread.load(Ordering::Relaxed) != thread {
            state.thread.store(thread, Ordering::SeqCst);
        }
        IMMEDIATE_EXIT.set(immediate_exit);
        let scope = Self(immediate_exit);
        // From here on a signal sets `immediate_exit`. One that came before has set a flag:
        let kicked = SIGNALLED.take() | state.requested.swap(false, Ordering::SeqCst);
        (!kicked).then_some(scope)
    }
}

impl Drop for RunScope<'_> {
    #[inline]
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null());
        // A signal that came after the guest's own exit is not lost: SIGNALLED keeps it for the next run.
        self.0.store(0, Ordering::Relaxed);
    }
}

impl KickState {
    /// Clears all requests, after `KVM_RUN` returned EINTR: the caller learns of them from this exit.
    pub(crate) fn clear_requests(&self) {
        SIGNALLED.set(false);
        self.requested.store(false, Ordering::SeqCst);
    }

    /// Makes later kicks send no signal, because the vCPU is dropped.
    pub(crate) fn clear_thread(&self) {
        self.thread.store(0, Ordering::SeqCst);
    }
}

/// Thread ID of this thread (`gettid`), cached.
fn current_tid() -> i32 {
    if TID.get() == 0 {
        // SAFETY: gettid has no arguments and cannot fail.
        TID.set(unsafe { libc::gettid() });
    }
    TID.get()
}

fn install_kick_handler() -> Result<()> {
    register_signal_handler(SIGRTMIN(), on_signal)
        .map_err(|error| Error::Kick { source: io::Error::from(error) })
}

/// Handles the kick signal and [`TERMINATION_SIGNALS`]. Async-signal-safe: it uses atomics, and thread-locals that need no
/// initialization and have no destructor.
extern "C" fn on_signal(number: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if number != SIGRTMIN() && TERMINATION_REQUESTED.swap(true, Ordering::SeqCst) {
        // SAFETY: the default action of a signal needs no handler; `signal` is async-signal-safe (signal-safety(7)).
        unsafe { libc::signal(number, libc::SIG_DFL) };
        // SAFETY: gettid has no arguments and cannot fail.
        let thread = unsafe { libc::gettid() };
        // SAFETY: it reaches only this thread. The signal is blocked while this handler runs, and ends the process when it
        // returns. (`raise` of musl calls tkill, which the sandbox of a run refuses.)
        unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, number) };
    }
    note_signal();
}

/// Makes the current or the next run of this thread end.
fn note_signal() {
    SIGNALLED.set(true);
    let immediate_exit = IMMEDIATE_EXIT.get();
    if !immediate_exit.is_null() {
        // SAFETY: set by `RunScope::enter` on this thread and reset before the area can be unmapped (the scope borrows it).
        unsafe { &*immediate_exit }.store(1, Ordering::Relaxed);
    }
}

/// Installs handlers for SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGQUIT: such a signal ends the run of the vCPU on the thread that
/// gets it, instead of killing the process, and [`termination_requested`] returns true afterwards. A signal that is ignored
/// stays ignored, as `nohup` expects. A second signal ends the process by its default action, in case that the first one does not.
///
/// # Errors
/// [`Error::Kick`] where `sigaction` fails.
pub fn install_termination_handlers() -> Result<()> {
    for signal in TERMINATION_SIGNALS.into_iter().filter(|signal| !is_ignored(*signal)) {
        register_signal_handler(signal, on_signal)
            .map_err(|error| Error::Kick { source: io::Error::from(error) })?;
    }
    Ok(())
}

fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: sigaction is plain data, for which zeros are valid.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a query; the pointer is to a live local.
    let result = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Prepares the state of this module in a child process: of its signals, only SIGTERM requests termination. Kicks that the
/// parent got are forgotten.
pub(crate) fn reset_in_child() -> io::Result<()> {
    TID.set(0);
    SIGNALLED.set(false);
    for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: ignoring a signal needs no handler.
        if unsafe { libc::signal(signal, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    register_signal_handler(libc::SIGTERM, on_signal).map_err(io::Error::from)
}

/// Blocks SIGINT, SIGTERM, SIGHUP and SIGQUIT on this thread, so that they go to threads that run vCPUs (`pthread_sigmask`).
///
/// # Errors
/// [`Error::Kick`] where the kernel refuses.
pub fn block_vcpu_signals() -> Result<()> {
    for signal in TERMINATION_SIGNALS {
        match block_signal(signal) {
            Ok(()) | Err(SignalError::SignalAlreadyBlocked(_)) => {}
            Err(error) => return Err(Error::Kick { source: io::Error::other(error.to_string()) }),
        }
    }
    Ok(())
}

/// Ends the runs of this process as Ctrl-C does: sends SIGINT to the process. Without [`install_termination_handlers`], SIGINT
/// ends the process.
pub fn request_termination() {
    // Process numbers are positive and fit.
    let process = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
    // SAFETY: a signal to this process, whose handler or default action ends the run.
    unsafe { libc::kill(process, libc::SIGINT) };
}

/// Returns true if SIGINT, SIGTERM, SIGHUP or SIGQUIT has arrived since their handlers were installed.
#[must_use]
pub fn termination_requested() -> bool {
    TERMINATION_REQUESTED.load(Ordering::SeqCst)
}

/// Timer that kicks the vCPU of the thread that created it (`timer_create` on the monotonic clock, with SIGRTMIN to that thread).
/// Dropping it stops it.
#[derive(Debug)]
pub struct KickTimer(libc::timer_t);

// SAFETY: a timer's identifier is a handle of the whole process: any thread may set or delete it (timer_create(2)).
unsafe impl Send for KickTimer {}

impl KickTimer {
    /// Creates a timer that expires once, after `delay`.
    ///
    /// # Errors
    /// [`Error::Kick`] where the kernel has no timer for this process.
    pub fn new(delay: Duration) -> Result<Self> {
        let timer = Self::create()?;
        timer.reset(delay)?;
        Ok(timer)
    }

    /// Creates a timer that expires after `delay`, and then again every 10 ms. Another vCPU that this thread runs in
    /// between, such as that of a probe, may take the first kick.
    ///
    /// # Errors
    /// [`Error::Kick`] where the kernel has no timer for this process.
    pub fn with_retries(delay: Duration) -> Result<Self> {
        let timer = Self::create()?;
        timer.arm(delay, RETRY_INTERVAL)?;
        Ok(timer)
    }

    /// Creates a timer that expires again and again.
    ///
    /// # Errors
    /// [`Error::Kick`] where the kernel has no timer for this process.
    pub fn with_interval(interval: Duration) -> Result<Self> {
        let timer = Self::create()?;
        timer.arm(interval, interval)?;
        Ok(timer)
    }

    fn create() -> Result<Self> {
        install_kick_handler()?;
        // SAFETY: sigevent is plain data, for which zeros are valid.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = SIGRTMIN();
        event.sigev_notify_thread_id = current_tid();
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both pointers are to live locals, and the thread is the calling one.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) } != 0 {
            return Err(Error::Kick { source: io::Error::last_os_error() });
        }
        Ok(Self(timer))
    }

    /// Sets the timer to expire once, `delay` from now. Replaces the time set before.
    ///
    /// # Errors
    /// [`Error::Kick`] where `timer_settime` fails.
    pub fn reset(&self, delay: Duration) -> Result<()> {
        self.arm(delay, Duration::ZERO)
    }

    fn arm(&self, delay: Duration, interval: Duration) -> Result<()> {
        let timespec = |time: Duration| libc::timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        };
        // Zero would disarm the timer.
        let delay = delay.max(Duration::from_nanos(1));
        let value = libc::itimerspec { it_interval: timespec(interval), it_value: timespec(delay) };
        // SAFETY: the timer lives as long as `self`, and `value` until the call returns.
        if unsafe { libc::timer_settime(self.0, 0, &raw const value, ptr::null_mut()) } != 0 {
            return Err(Error::Kick { source: io::Error::last_os_error() });
        }
        Ok(())
    }
}

impl Drop for KickTimer {
    fn drop(&mut self) {
        // SAFETY: made by `create`, deleted only here.
        unsafe { libc::timer_delete(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm_run::RunArea;

    /// Enters a scope, and calls `inside` in it, where a signal may come. Returns false if the vCPU was kicked before.
    fn run(state: &KickState, area: &mut RunArea, inside: impl FnOnce(&AtomicU8)) -> bool {
        let scope = RunScope::enter(state, area.immediate_exit());
        let entered = scope.is_some();
        if entered {
            inside(area.immediate_exit());
        }
        drop(scope);
        // The kernel's answer is read, and the next run prepared.
        area.run_mut().exit_reason = 1;
        assert_eq!(area.run().immediate_exit, 0);
        entered
    }

    #[test]
    fn a_signal_ends_the_run_in_which_it_comes_or_the_next_one() {
        let (state, mut area) = (KickState::default(), RunArea::for_test(0));
        assert!(run(&state, &mut area, |immediate_exit| {
            note_signal();
            assert_eq!(immediate_exit.load(Ordering::Relaxed), 1);
        }));
        // The guest may have made an exit of its own: the signal is kept.
        assert!(!run(&state, &mut area, |_| {}));
        assert!(run(&state, &mut area, |_| {}));
        note_signal();
        assert!(!run(&state, &mut area, |_| {}));
        state.requested.store(true, Ordering::SeqCst);
        assert!(!run(&state, &mut area, |_| {}));
        assert!(run(&state, &mut area, |_| note_signal()));
        state.clear_requests();
        assert!(run(&state, &mut area, |_| {}));
    }

    #[test]
    fn a_signal_after_the_area_is_gone_touches_nothing() {
        let state = KickState::default();
        let mut area = RunArea::for_test(0);
        assert!(run(&state, &mut area, |_| {}));
        drop(area);
        note_signal();
        state.clear_requests();
    }
}
