//! Tracing of another process and its system calls (ptrace(2)), for tests that make system calls fail. Only in debug builds.
//!
//! The numbers of threads and signals are plain integers: signals of KVM's kicks are real-time signals, which have no names.

use std::io;
use std::ptr;

use libc::{c_int, c_long, pid_t, user_regs_struct};

/// Type of ptrace's requests in the C library.
#[cfg(target_env = "musl")]
type Request = c_int;
#[cfg(not(target_env = "musl"))]
type Request = libc::c_uint;

/// Report of a traced thread. All but the first two have stopped it, until [`resume_thread`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceStop {
    /// The thread, or the process of a first thread, ended with a status.
    Exited(i32),
    /// A signal ended the thread.
    Killed(i32),
    /// The thread enters or leaves a system call.
    SystemCall,
    /// The thread gets a signal, which [`resume_thread`] has to pass on.
    Signal(i32),
    /// `PTRACE_EVENT_EXEC`: the process executes another program.
    Exec,
    /// Any other event: a new thread, or a stop of the whole process.
    Event,
}

/// Starts to trace a child process that has stopped (`PTRACE_SEIZE`). What it starts is traced too. All of it is killed when this
/// thread ends.
///
/// # Errors
/// EPERM: it is no child of this process, or is traced already. ESRCH: there is no such process.
pub fn trace_process(pid: i32) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_EXITKILL;
    call(libc::PTRACE_SEIZE, pid, options.into())
}

/// Waits until a child process has stopped or ended. Stops are reported once.
///
/// # Errors
/// ECHILD: there is no such child.
pub fn wait_for_stop(pid: i32) -> io::Result<()> {
    wait(pid, libc::WUNTRACED).map(|_| ())
}

/// Waits for the next report of any thread that this thread traces. Returns its number and the report, or `None` if all have ended.
///
/// # Errors
/// EINTR: a signal came.
pub fn wait_for_thread() -> io::Result<Option<(i32, TraceStop)>> {
    let (thread, status) = match wait(-1, libc::__WALL | libc::__WNOTHREAD) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
        result => result?,
    };
    let stop = if libc::WIFEXITED(status) {
        TraceStop::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        TraceStop::Killed(libc::WTERMSIG(status))
    } else {
        match (status >> 16, libc::WSTOPSIG(status)) {
            (0, signal) if signal == libc::SIGTRAP | 0x80 => TraceStop::SystemCall,
            (0, signal) => TraceStop::Signal(signal),
            (libc::PTRACE_EVENT_EXEC, _) => TraceStop::Exec,
            _ => TraceStop::Event,
        }
    };
    Ok(Some((thread, stop)))
}

/// Continues a thread that has stopped: to its next system call (`PTRACE_SYSCALL`), or without such stops (`PTRACE_CONT`). It gets
/// a signal unless the number is 0.
///
/// # Errors
/// ESRCH: the thread has not stopped, or was killed meanwhile.
pub fn resume_thread(thread: i32, to_system_call: bool, signal: i32) -> io::Result<()> {
    call(if to_system_call { libc::PTRACE_SYSCALL } else { libc::PTRACE_CONT }, thread, signal.into())
}

/// Returns the registers of a thread that has stopped.
///
/// # Errors
/// ESRCH: the thread has not stopped, or was killed meanwhile.
pub fn thread_registers(thread: i32) -> io::Result<user_regs_struct> {
    // SAFETY: integers, for which zeroes are valid.
    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `user_regs_struct`, which lives through the call.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETREGS, thread, NO_ADDRESS, &raw mut registers) };
    check(result).map(|()| registers)
}

/// Sets the registers of a thread that has stopped.
///
/// # Errors
/// ESRCH: the thread has not stopped, or was killed meanwhile. EIO: a register has an invalid value.
pub fn set_thread_registers(thread: i32, registers: &user_regs_struct) -> io::Result<()> {
    // SAFETY: the kernel reads one `user_regs_struct`, which lives through the call. It changes only the traced process.
    let result = unsafe { libc::ptrace(libc::PTRACE_SETREGS, thread, NO_ADDRESS, ptr::from_ref(registers)) };
    check(result)
}

const NO_ADDRESS: *const libc::c_void = ptr::null();

/// Makes a request whose data is a number.
fn call(request: Request, thread: pid_t, data: c_long) -> io::Result<()> {
    // SAFETY: the requests of this file that come here take no address and a number as data, so no memory of this process is used.
    check(unsafe { libc::ptrace(request, thread, NO_ADDRESS, data) })
}

fn check(result: c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn wait(pid: pid_t, options: c_int) -> io::Result<(pid_t, c_int)> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer, which lives through the call.
    let thread = unsafe { libc::waitpid(pid, &raw mut status, options) };
    if thread == -1 { Err(io::Error::last_os_error()) } else { Ok((thread, status)) }
}
