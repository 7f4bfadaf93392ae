//! Describes the end of a worker process that crashed or was killed.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Returns a sentence for the report of the case that the worker was running.
pub(super) fn describe(status: ExitStatus) -> String {
    const SIGKILL: i32 = 9;
    match (status.signal(), status.code()) {
        (Some(SIGKILL), _) => "the worker process was killed by SIGKILL (out of memory?)".to_owned(),
        (Some(signal), _) => format!("the worker process crashed: {}", signal_name(signal)),
        (None, code) => format!("the worker process exited with status {}", code.unwrap_or_default()),
    }
}

/// Returns the name of a signal that ends a process (signal(7)).
fn signal_name(number: i32) -> String {
    let name = match number {
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        31 => "SIGSYS",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_is_named() {
        let line = |raw| describe(ExitStatus::from_raw(raw));
        assert_eq!(line(9), "the worker process was killed by SIGKILL (out of memory?)");
        // With a core file.
        assert_eq!(line(0x80 | 11), "the worker process crashed: SIGSEGV");
        assert_eq!(line(31), "the worker process crashed: SIGSYS");
        assert_eq!(line(50), "the worker process crashed: signal 50");
        assert_eq!(line(101 << 8), "the worker process exited with status 101");
    }
}
