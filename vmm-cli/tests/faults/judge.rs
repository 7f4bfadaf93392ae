//! Decides if a run with a failing system call ended as it should.

use std::collections::BTreeSet;
use std::io;

use crate::scenarios::Scenario;
use crate::tracer::{Fault, TracedEnd};

/// Exit statuses of vmm-cli (docs/commands.md).
const BUG: i32 = 101;
const MISTAKE: i32 = 105;
const UNSUPPORTED: i32 = 104;
const HOST: i32 = 106;
const INTERRUPTED: i32 = 130;

/// Exit status of a suite with a failed case.
const CASE_FAILED: i32 = 103;

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) end: TracedEnd,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// Names of the files in the run's directory.
    pub(crate) files: BTreeSet<String>,
}

/// Judgement of a run with a failing call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// The run ended as without the failure.
    Tolerated,
    /// The run ended with an error that names the failure.
    Reported,
    /// The call was not made this time.
    NotReached,
    /// The run ended otherwise.
    Wrong(String),
}

/// Compares a run with the same run without a failing call.
pub(crate) fn judge(run: &Outcome, normal: &Outcome, fault: &Fault, scenario: &Scenario) -> Judgement {
    if run.end.timed_out {
        return Judgement::Wrong("it did not end".to_owned());
    }
    if !run.end.fault_happened {
        return Judgement::NotReached;
    }
    if run.stderr.contains("panicked at") {
        return Judgement::Wrong(format!("a panic: {}", first_line(&run.stderr)));
    }
    let Some(status) = run.end.status else {
        return Judgement::Wrong(format!(
            "{} ended it: {}",
            run.end.signal.map_or_else(|| "a signal".to_owned(), |signal| format!("signal {signal}")),
            first_line(&run.stderr)
        ));
    };
    // std ends a thread that gets no signal stack before any code of ours runs, and with it the process.
    let is_cut_off = run.stderr.contains("alternative stack");
    // A socket that cannot be compared with the one that was made is not removed.
    let is_removal =
        fault.name.starts_with("unlink") || (fault.name == "statx" && !scenario.packets.is_empty());
    // Another file has the name: the run's own is kept beside it.
    let is_kept = fault.name == "linkat" && run.stderr.contains("what this run wrote is in");
    if let Some(left) = run.files.difference(&normal.files).next()
        && !is_removal
        && !is_kept
        && !is_cut_off
    {
        return Judgement::Wrong(format!("the file {left} was left"));
    }
    let normal_status = normal.end.status.unwrap_or(BUG);
    let same_output = !scenario.has_stable_output || run.stdout == normal.stdout;
    // The reader of a result may leave early; that of a guest's output may not.
    let is_cut_short = fault.error == libc::EPIPE && !scenario.arguments.starts_with(&["run"]);
    if status == normal_status {
        if is_cut_short && normal.stdout.starts_with(&run.stdout) {
            return Judgement::Tolerated;
        }
        if !same_output {
            return Judgement::Wrong(format!("status {status}, but another output: {:?}", run.stdout));
        }
        if normal.files.difference(&run.files).next().is_some() && !names_failure(&run.stderr, fault) {
            return Judgement::Wrong(format!("status {status}, but a file is missing"));
        }
        return Judgement::Tolerated;
    }
    // After a broken connection the run waits for the next debugger, and that ends it.
    if !scenario.packets.is_empty() && status == INTERRUPTED {
        return Judgement::Tolerated;
    }
    // A disk that cannot be read or written is the guest's to handle: it gets VIRTIO_BLK_S_IOERR.
    let is_disk_call = ["pread64", "pwrite64", "fdatasync"].contains(&fault.name.as_str());
    // KVM_TRANSLATE serves hypercalls: the guest gets the answer for an address that is not mapped.
    let is_hypercall = fault.name == "ioctl(KVM_TRANSLATE)" && status == CASE_FAILED;
    if (scenario.has_disk && is_disk_call || is_hypercall) && status != 0 && status != BUG {
        return Judgement::Reported;
    }
    let may_be = match fault.error {
        libc::EIO | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC | libc::EAGAIN => &[HOST][..],
        libc::EINVAL | libc::ENOSYS | libc::ENOTTY | libc::EOPNOTSUPP | libc::EPERM => {
            &[HOST, UNSUPPORTED, MISTAKE]
        }
        _ => &[HOST, MISTAKE, UNSUPPORTED],
    };
    let case_failed = scenario.arguments.starts_with(&["test"]) && status == CASE_FAILED;
    if !may_be.contains(&status) && !case_failed {
        return Judgement::Wrong(format!("status {status}: {}", first_line(&run.stderr)));
    }
    // A message that could not be written is no message.
    if !fault.name.starts_with("write") && !names_failure(&(run.stderr.clone() + &run.stdout), fault) {
        return Judgement::Wrong(format!(
            "the message does not name the failure: {}",
            first_line(&run.stderr)
        ));
    }
    Judgement::Reported
}

/// Returns true if a message has the name of the call or the text of the error.
fn names_failure(message: &str, fault: &Fault) -> bool {
    let call = fault.name.trim_start_matches("ioctl(").trim_end_matches(')');
    let other_words = match (fault.name.as_str(), fault.error) {
        // A snapshot of a host with another KVM module.
        (_, libc::ENOENT) => &["does not exist", "it was taken with"][..],
        (_, libc::EEXIST) => &["exists", "another file with this name"],
        ("flock", _) => &["in use by another machine"],
        // The C library says EAGAIN, whatever it lacks for a thread.
        ("clone" | "clone3" | "mmap" | "mprotect", _) => &["cannot start a thread"],
        _ => &[],
    };
    message.contains(call)
        || message.contains(error_text(fault.error).as_str())
        || other_words.iter().any(|words| message.contains(words))
}

/// Returns the text of an error number, such as `Cannot allocate memory`.
pub(crate) fn error_text(error: i32) -> String {
    let text = io::Error::from_raw_os_error(error).to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// Returns the name of an error number, such as `ENOMEM`.
pub(crate) fn error_name(error: i32) -> String {
    let name = ERROR_NAMES.iter().find(|(number, _)| *number == error);
    name.map_or_else(|| error.to_string(), |(_, name)| (*name).to_owned())
}

macro_rules! error_names {
    ($($name:ident)*) => {
        const ERROR_NAMES: &[(i32, &str)] = &[$((libc::$name, stringify!($name)),)*];
    };
}

error_names! {
    EACCES EAGAIN EBUSY ECONNABORTED EDQUOT EEXIST EFAULT EINTR EINVAL EIO EMFILE ENFILE ENODEV ENOENT ENOMEM ENOSPC ENOSYS
    ENOTTY EOPNOTSUPP EPERM EPIPE EROFS ESRCH EXDEV
}

fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| line.contains("error") || line.contains("panicked"));
    format!("{:?}", line.or_else(|| text.lines().next()).unwrap_or_default())
}
