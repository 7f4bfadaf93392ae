//! Compares the calls of confined threads with the tables of the sandbox.
//!
//! A call that is not in a table ends the process, so only the other direction is left to check: each entry is used by some run.

use std::collections::BTreeSet;

use vmm_core::sandbox::system_calls::{IOCTLS, SYSTEM_CALLS};

use crate::judge::Outcome;

/// Entries that none of the scenarios uses on some host, and the reason why they are needed.
const USED_ELSEWHERE: &[(&str, &str)] = &[
    ("clock_gettime", "a host whose clock the vDSO cannot read"),
    ("fdatasync", "a guest that flushes its disk (virtio.rs)"),
    ("getrusage", "guest files that are mapped (loading.rs)"),
    ("clock_nanosleep", "a kick that cannot be queued"),
    ("ioctl(KVM_GET_DIRTY_LOG)", "Linux before 6.7, which has no PAGEMAP_SCAN"),
    ("ioctl(TCSETS)", "a terminal"),
    ("ioctl(TCSETS2)", "a terminal"),
    ("ioctl(TIOCGWINSZ)", "a terminal"),
    ("ioctl(KVM_GET_CLOCK)", "an interrupt storm, if the guest got to it within its time limit"),
    ("ioctl(KVM_SET_CLOCK)", "an interrupt storm, if the guest got to it within its time limit"),
    ("ioctl(KVM_NMI)", "a guest that sends a non-maskable interrupt to a vCPU"),
    ("mremap", "guest files that are mapped (loading.rs), large vectors"),
    ("restart_syscall", "SIGSTOP and SIGCONT during a wait"),
    ("rmdir", "a socket of gdb in a directory of its own (gdb.rs)"),
    ("sched_yield", "guest files that are mapped, and two threads that touch them"),
    ("sendto", "gdb through TCP (gdb.rs)"),
    ("setsockopt", "gdb through TCP (gdb.rs)"),
];

/// Returns a line for each entry that no run used, and for each one of [`USED_ELSEWHERE`] that no table has.
pub(crate) fn differences(runs: &[Outcome]) -> Vec<String> {
    let used: BTreeSet<&str> = runs
        .iter()
        .flat_map(|run| &run.end.calls)
        .filter(|call| call.is_confined)
        .map(|call| if call.name.starts_with("fcntl(") { "fcntl" } else { &call.name })
        .collect();
    let calls = SYSTEM_CALLS.iter().map(|rule| rule.name.to_owned()).filter(|name| name != "ioctl");
    let requests = IOCTLS.iter().map(|rule| format!("ioctl({})", rule.name));
    compare(&calls.chain(requests).collect(), &used, USED_ELSEWHERE)
}

fn compare(
    entries: &BTreeSet<String>,
    used: &BTreeSet<&str>,
    elsewhere: &[(&'static str, &'static str)],
) -> Vec<String> {
    let is_elsewhere = |name: &str| elsewhere.iter().any(|(known, _)| *known == name);
    let unused = entries.iter().filter(|name| !used.contains(name.as_str()) && !is_elsewhere(name));
    let stale = elsewhere.iter().filter(|(name, _)| !entries.contains(*name));
    let unused = unused.map(|name| format!("the sandbox allows {name}, which no run uses"));
    unused.chain(stale.map(|(name, _)| format!("{name} is used elsewhere, but not allowed"))).collect()
}

#[test]
fn unused_and_stale_entries_are_found() {
    let entries = ["brk", "ioctl(KVM_RUN)", "socket", "poll"].map(str::to_owned).into();
    let used = ["brk", "ioctl(KVM_RUN)"].into();
    let lines = compare(&entries, &used, &[("kill", ""), ("poll", "")]);
    assert_eq!(
        lines,
        ["the sandbox allows socket, which no run uses", "kill is used elsewhere, but not allowed"]
    );
}
