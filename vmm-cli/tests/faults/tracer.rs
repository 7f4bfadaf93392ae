//! Runs a program under ptrace(2), lists its system calls, and makes one of them fail.
//!
//! A call but close(2) fails without being made: at its entry its number is replaced by that of getpid(2), which has no effect and which every
//! filter allows, and at its exit its result is replaced. Processes and threads that the program starts are traced too.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use vmm_core::kvm_sys_wrap::ptrace::{self, TraceStop};

use crate::calls::{self, NamedCall};

/// Program that is traced.
#[derive(Debug, Clone)]
pub(crate) struct Traced<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: &'a [String],
    pub(crate) directory: &'a Path,
    /// Calls count from the first one that names this path: those before are of the C library and of std.
    pub(crate) first_path: &'a str,
    /// File that is standard input.
    pub(crate) stdin: PathBuf,
    /// Files that take standard output and standard error.
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
    pub(crate) time_limit: Duration,
}

/// System call that the program made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TracedCall {
    /// Number of the thread or process, in the order of their start, from 0.
    pub(crate) thread: usize,
    /// Name, such as `mmap` or `ioctl(KVM_RUN)`.
    pub(crate) name: String,
    /// Index among the calls of this name in this thread, from 0.
    pub(crate) index: usize,
    /// Errors that the kernel documents for it.
    pub(crate) errors: Vec<i32>,
    /// True if the process had a filter of system calls before.
    pub(crate) is_confined: bool,
}

/// Failure of one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) thread: usize,
    pub(crate) name: String,
    pub(crate) index: usize,
    pub(crate) error: i32,
}

/// End of a traced program.
#[derive(Debug)]
pub(crate) struct TracedEnd {
    /// Exit status; `None` if a signal ended it.
    pub(crate) status: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) timed_out: bool,
    /// True if the call that was to fail was made.
    pub(crate) fault_happened: bool,
    /// Calls up to the fault; all without one.
    pub(crate) calls: Vec<TracedCall>,
}

/// A thread between two stops.
#[derive(Debug, Default)]
struct ThreadState {
    number: usize,
    /// Process of the thread.
    process: i32,
    in_call: bool,
    /// Result that replaces that of the current call.
    replaced_result: Option<u64>,
    counts: HashMap<String, usize>,
}

struct Tracer<'a> {
    traced: &'a Traced<'a>,
    fault: Option<&'a Fault>,
    threads: HashMap<i32, ThreadState>,
    /// Processes that have a filter of system calls.
    confined: HashSet<i32>,
    started: bool,
    end: TracedEnd,
}

/// Runs a program, with at most one failing call.
///
/// # Errors
/// ptrace(2) or the start of the program failed.
pub(crate) fn trace(traced: &Traced, fault: Option<&Fault>) -> io::Result<TracedEnd> {
    // The shell stops itself, so that the program's first instruction is traced.
    let mut child = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""])
        .arg(traced.program)
        .args(traced.arguments)
        .current_dir(traced.directory)
        .stdin(File::open(&traced.stdin)?)
        .stdout(File::create(&traced.stdout)?)
        .stderr(File::create(&traced.stderr)?)
        .process_group(0)
        .spawn()?;
    let pid = Pid::from_child(&child);
    ptrace::wait_for_stop(pid.as_raw_pid())?;
    ptrace::trace_process(pid.as_raw_pid())?;
    kill_process(pid, Signal::CONT)?;

    let (done, is_done) = channel::<()>();
    let limit = traced.time_limit;
    let watchdog = thread::spawn(move || {
        let timed_out = is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if timed_out {
            // Fails if all have ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        timed_out
    });
    let mut tracer = Tracer {
        traced,
        fault,
        threads: HashMap::new(),
        confined: HashSet::new(),
        started: false,
        end: TracedEnd {
            status: None,
            signal: None,
            timed_out: false,
            fault_happened: false,
            calls: Vec::new(),
        },
    };
    let result = tracer.follow(pid.as_raw_pid());
    drop(done);
    tracer.end.timed_out = watchdog.join().unwrap_or(true);
    // Reaped already, unless tracing failed.
    let _ = child.try_wait();
    result?;
    Ok(tracer.end)
}

impl Tracer<'_> {
    /// Continues the program until it and all that it started have ended.
    fn follow(&mut self, first: i32) -> io::Result<()> {
        loop {
            let (thread, stop) = match ptrace::wait_for_thread() {
                Ok(Some(report)) => report,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let mut signal = 0;
            match stop {
                TraceStop::Exited(status) => {
                    if thread == first {
                        self.end.status = Some(status);
                    }
                    continue;
                }
                TraceStop::Killed(signal) => {
                    if thread == first {
                        self.end.signal = Some(signal);
                    }
                    continue;
                }
                TraceStop::SystemCall => gone_is_fine(self.at_call(thread))?,
                TraceStop::Signal(number) => signal = number,
                TraceStop::Exec => {
                    self.started = false;
                    self.thread(thread).counts.clear();
                }
                TraceStop::Event => {
                    self.thread(thread);
                }
            }
            // After the fault, threads go on without stops.
            let in_call = self.threads.get(&thread).is_some_and(|thread| thread.in_call);
            let to_call = in_call || !self.end.fault_happened;
            gone_is_fine(ptrace::resume_thread(thread, to_call, signal))?;
        }
    }

    fn thread(&mut self, thread: i32) -> &mut ThreadState {
        let number = self.threads.len();
        self.threads.entry(thread).or_insert_with(|| ThreadState {
            number,
            process: process_of(thread).unwrap_or(thread),
            ..ThreadState::default()
        })
    }

    /// Looks at a thread that enters or leaves a system call.
    fn at_call(&mut self, pid: i32) -> io::Result<()> {
        let thread = self.thread(pid);
        thread.in_call = !thread.in_call;
        if !thread.in_call {
            if let Some(result) = thread.replaced_result.take() {
                let mut registers = ptrace::thread_registers(pid)?;
                registers.rax = result;
                ptrace::set_thread_registers(pid, &registers)?;
            }
            return Ok(());
        }
        let mut registers = ptrace::thread_registers(pid)?;
        let arguments = [registers.rdi, registers.rsi, registers.rdx];
        let path =
            path_argument(registers.orig_rax).and_then(|index| read_string(pid, *arguments.get(index)?));
        if path.as_deref() == Some(self.traced.first_path) {
            self.started = true;
        }
        if !self.started {
            return Ok(());
        }
        let NamedCall { name, errors } = calls::describe(registers.orig_rax, arguments);
        let thread = self.thread(pid);
        let number = thread.number;
        let count = thread.counts.entry(name.clone()).or_default();
        let index = *count;
        *count += 1;
        let process = thread.process;
        let is_confined = self.confined.contains(&process);
        if name == "seccomp" {
            self.confined.insert(process);
        }
        self.end.calls.push(TracedCall { thread: number, name: name.clone(), index, errors, is_confined });
        let Some(fault) = self.fault.filter(|_| !self.end.fault_happened) else { return Ok(()) };
        if (fault.thread, fault.index) == (number, index) && fault.name == name {
            self.end.fault_happened = true;
            // brk(2) returns the end of the heap; it fails by returning another one than asked for.
            let result =
                if name == "brk" { 0 } else { i64::from(fault.error).wrapping_neg().cast_unsigned() };
            self.thread(pid).replaced_result = Some(result);
            // close(2) closes the descriptor also where it fails.
            if name == "close" {
                return Ok(());
            }
            registers.orig_rax = libc::SYS_getpid.cast_unsigned();
            ptrace::set_thread_registers(pid, &registers)?;
        }
        Ok(())
    }
}

/// A thread may end, by the death of its process, while it is stopped.
fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}

/// Returns the process of a thread (`Tgid` of proc_pid_status(5)).
fn process_of(thread: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// Returns the index of the argument that is a path.
fn path_argument(number: u64) -> Option<usize> {
    match libc::c_long::try_from(number).ok()? {
        libc::SYS_open | libc::SYS_stat | libc::SYS_access => Some(0),
        libc::SYS_openat | libc::SYS_openat2 | libc::SYS_newfstatat | libc::SYS_statx => Some(1),
        _ => None,
    }
}

/// Reads a string of at most 255 bytes from the memory of a stopped thread.
fn read_string(pid: i32, address: u64) -> Option<String> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = [0; 256];
    let count = memory.read_at(&mut bytes, address).ok()?;
    let end = bytes.get(..count)?.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(bytes.get(..end)?).into_owned())
}
