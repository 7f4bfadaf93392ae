//! The system calls that a run may make once its guest has started, each with its reason.
//!
//! A call that is not here ends the process. What a run does not use is not allowed in it: [`Features`] says what it uses, and
//! [`ThreadKind`] which of its threads makes the call. Tests run all guests under these tables, and compare them with the calls that
//! runs really make.

use bitflags::bitflags;
use kvm_sys_wrap::Call;

/// Kind of thread of a process that runs a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadKind {
    /// First thread: it runs the first vCPU, and evaluates the run.
    Main,
    /// Thread that runs another vCPU of a machine with interrupts.
    Vcpu,
    /// Thread that waits for console input and timers of a machine with interrupts.
    Io,
}

impl ThreadKind {
    /// All kinds of threads.
    pub const ALL: &'static [Self] = &[Self::Main, Self::Vcpu, Self::Io];

    /// Returns the name of the kind, such as `main`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Vcpu => "vcpu",
            Self::Io => "io",
        }
    }
}

bitflags! {
    /// Things that a run uses, which need more system calls than a plain run.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Features: u16 {
        /// Interrupt controllers in the kernel, a thread for each vCPU, and one for input.
        const INTERRUPTS = 1 << 0;
        /// A second machine: autopsy, reverse execution, and waking from suspend with interrupt controllers in the kernel.
        const REPLAY = 1 << 1;
        /// Files that get their names at the end: report, trace, core file, snapshot.
        const OUTPUT_FILES = 1 << 2;
        /// A debugger that is connected to a socket.
        const GDB = 1 << 3;
        /// Disks, an entropy source or a virtio console.
        const VIRTIO = 1 << 4;
        /// Snapshots of the machine: `snapshot`, and machines that are reset.
        const SNAPSHOT = 1 << 5;
        /// New machines after the first guest ran: `bench`.
        const MACHINES = 1 << 6;
        /// The test device of kvm-unit-tests, which makes KVM forget a page.
        const KVM_TESTDEV = 1 << 7;
    }
}

/// System call that is allowed.
#[derive(Debug, Clone, Copy)]
pub struct SystemCallRule {
    /// Name in the manual pages.
    pub name: &'static str,
    /// Number on x86-64.
    pub number: libc::c_long,
    /// Arguments that are allowed.
    pub arguments: ArgumentRule,
    /// Threads that make the call.
    pub threads: &'static [ThreadKind],
    /// Features that need the call. Any of them is enough; empty if every run does.
    pub features: Features,
    /// Reason why the call is needed.
    pub reason: &'static str,
}

/// Arguments that a system call is allowed with.
#[derive(Debug, Clone, Copy)]
pub enum ArgumentRule {
    /// Any arguments.
    Any,
    /// `ioctl` requests of [`IOCTLS`].
    Ioctls,
    /// An argument, by number, that has this value in the bits of the mask.
    Masked {
        /// Number of the argument, from 0.
        argument: u8,
        /// Bits that are compared.
        mask: u32,
        /// Value of these bits.
        value: u32,
    },
    /// An argument, by number, that is one of these values.
    OneOf {
        /// Number of the argument, from 0.
        argument: u8,
        /// Allowed values.
        values: &'static [u32],
    },
    /// The first argument is the number of this process.
    ThisProcess,
}

/// `ioctl` request that is allowed.
#[derive(Debug, Clone, Copy)]
pub struct IoctlRule {
    /// Name in the kernel's headers.
    pub name: &'static str,
    /// Request number.
    pub request: u32,
    /// Threads that make the call.
    pub threads: &'static [ThreadKind],
    /// Features that need the request. Any of them is enough; empty if every run does.
    pub features: Features,
    /// Reason why the request is needed.
    pub reason: &'static str,
}

const ALL: &[ThreadKind] = ThreadKind::ALL;
const MAIN: &[ThreadKind] = &[ThreadKind::Main];
const VCPUS: &[ThreadKind] = &[ThreadKind::Main, ThreadKind::Vcpu];
const EVERY_RUN: Features = Features::empty();
/// Runs with threads of machines with interrupts, or with the one that reads packets of gdb.
const THREADS: Features = Features::INTERRUPTS.union(Features::GDB);

const PROT_EXEC: u32 = 4;
/// `CLONE_VM | CLONE_SIGHAND | CLONE_THREAD`: a thread of this process.
const THREAD_FLAGS: u32 = 0x100 | 0x800 | 0x1_0000;
/// The above, and the flags of new namespaces (clone(2)).
const THREAD_OR_NAMESPACE: u32 = THREAD_FLAGS | 0x7e02_0000;

const fn rule(
    name: &'static str,
    number: libc::c_long,
    threads: &'static [ThreadKind],
    features: Features,
    reason: &'static str,
) -> SystemCallRule {
    SystemCallRule { name, number, arguments: ArgumentRule::Any, threads, features, reason }
}

const fn checked(mut rule: SystemCallRule, arguments: ArgumentRule) -> SystemCallRule {
    rule.arguments = arguments;
    rule
}

/// System calls that are allowed, by name.
pub const SYSTEM_CALLS: &[SystemCallRule] = &[
    rule("accept4", libc::SYS_accept4, MAIN, Features::GDB, "a connection of gdb"),
    rule("brk", libc::SYS_brk, ALL, EVERY_RUN, "memory of the allocator"),
    rule("clock_gettime", libc::SYS_clock_gettime, ALL, EVERY_RUN, "time, where the vDSO cannot tell it"),
    rule("clock_nanosleep", libc::SYS_clock_nanosleep, ALL, THREADS, "wait before a kick is tried again"),
    checked(
        rule("clone", libc::SYS_clone, MAIN, THREADS, "threads, no processes"),
        ArgumentRule::Masked { argument: 0, mask: THREAD_OR_NAMESPACE, value: THREAD_FLAGS },
    ),
    rule("close", libc::SYS_close, ALL, EVERY_RUN, "descriptors of the machine at its end"),
    rule(
        "eventfd2",
        libc::SYS_eventfd2,
        MAIN,
        Features::INTERRUPTS,
        "interrupt lines; the end of the I/O thread",
    ),
    rule("exit", libc::SYS_exit, ALL, THREADS, "end of a thread"),
    rule("exit_group", libc::SYS_exit_group, ALL, EVERY_RUN, "end of the process"),
    checked(
        rule("fcntl", libc::SYS_fcntl, ALL, EVERY_RUN, "flags, copies and locks of descriptors"),
        // F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_SETLK, F_SETLKW, F_OFD_GETLK, F_DUPFD_CLOEXEC, F_ADD_SEALS and F_GET_SEALS (of a memfd).
        ArgumentRule::OneOf { argument: 1, values: &[1, 2, 3, 4, 6, 7, 36, 1030, 1033, 1034] },
    ),
    rule("fdatasync", libc::SYS_fdatasync, VCPUS, Features::VIRTIO, "flushes of a disk"),
    rule("flock", libc::SYS_flock, MAIN, Features::VIRTIO, "disk of a second machine"),
    rule("fstat", libc::SYS_fstat, ALL, EVERY_RUN, "check that a mapped file is unchanged"),
    rule("fsync", libc::SYS_fsync, MAIN, Features::OUTPUT_FILES.union(Features::VIRTIO), "files on disk"),
    rule(
        "ftruncate",
        libc::SYS_ftruncate,
        MAIN,
        Features::OUTPUT_FILES.union(Features::SNAPSHOT).union(Features::VIRTIO),
        "size of a file",
    ),
    rule("futex", libc::SYS_futex, ALL, EVERY_RUN, "locks, and waits for threads"),
    rule("getcwd", libc::SYS_getcwd, MAIN, Features::SNAPSHOT, "absolute path of a disk in a snapshot"),
    rule("getpid", libc::SYS_getpid, ALL, EVERY_RUN, "receiver of a kick"),
    rule("getrandom", libc::SYS_getrandom, ALL, EVERY_RUN, "hash tables; entropy for the guest"),
    rule(
        "getrusage",
        libc::SYS_getrusage,
        VCPUS,
        EVERY_RUN,
        "page faults, which tell when a mapped file is to be copied",
    ),
    rule("gettid", libc::SYS_gettid, ALL, EVERY_RUN, "receiver of a kick"),
    checked(
        rule("ioctl", libc::SYS_ioctl, ALL, EVERY_RUN, "KVM, and settings of the terminal"),
        ArgumentRule::Ioctls,
    ),
    checked(
        rule("kill", libc::SYS_kill, ALL, EVERY_RUN, "the end of the run by Ctrl-A x"),
        ArgumentRule::ThisProcess,
    ),
    rule("linkat", libc::SYS_linkat, MAIN, Features::OUTPUT_FILES, "name of a complete file"),
    rule("lseek", libc::SYS_lseek, MAIN, Features::OUTPUT_FILES.union(Features::SNAPSHOT), "holes of a file"),
    rule(
        "madvise",
        libc::SYS_madvise,
        ALL,
        EVERY_RUN,
        "pages of guest memory and of stacks that are given back",
    ),
    rule(
        "memfd_create",
        libc::SYS_memfd_create,
        MAIN,
        Features::SNAPSHOT.union(Features::VIRTIO),
        "memory of a snapshot; overlay of a disk of a second machine",
    ),
    checked(
        rule("mmap", libc::SYS_mmap, ALL, EVERY_RUN, "memory, never executable"),
        ArgumentRule::Masked { argument: 2, mask: PROT_EXEC, value: 0 },
    ),
    checked(
        rule("mprotect", libc::SYS_mprotect, ALL, EVERY_RUN, "guard pages of stacks, never executable"),
        ArgumentRule::Masked { argument: 2, mask: PROT_EXEC, value: 0 },
    ),
    rule(
        "mprotect",
        libc::SYS_mprotect,
        VCPUS,
        Features::KVM_TESTDEV,
        "another protection of a page of guest memory, and back",
    ),
    rule(
        "mremap",
        libc::SYS_mremap,
        ALL,
        EVERY_RUN,
        "growth of large vectors; blocks of private copies of files",
    ),
    rule("munmap", libc::SYS_munmap, ALL, EVERY_RUN, "guest memory at the end"),
    rule("ppoll", libc::SYS_ppoll, ALL, EVERY_RUN, "waits for readers, and for input"),
    checked(
        rule("prctl", libc::SYS_prctl, ALL, THREADS, "name and filter of a thread"),
        // PR_SET_NAME, PR_SET_NO_NEW_PRIVS.
        ArgumentRule::OneOf { argument: 0, values: &[15, 38] },
    ),
    rule("pread64", libc::SYS_pread64, ALL, EVERY_RUN, "blocks of mapped files; sectors of a disk"),
    rule(
        "pwrite64",
        libc::SYS_pwrite64,
        ALL,
        Features::VIRTIO.union(Features::OUTPUT_FILES).union(Features::SNAPSHOT),
        "sectors of a disk; pages of a core file",
    ),
    rule("read", libc::SYS_read, ALL, EVERY_RUN, "input of the guest"),
    rule("recvfrom", libc::SYS_recvfrom, MAIN, Features::GDB, "packets of gdb"),
    rule(
        "renameat",
        libc::SYS_renameat,
        MAIN,
        Features::OUTPUT_FILES,
        "a complete file replaces an earlier one",
    ),
    rule(
        "restart_syscall",
        libc::SYS_restart_syscall,
        ALL,
        EVERY_RUN,
        "a wait that was stopped and continued",
    ),
    rule("rmdir", libc::SYS_rmdir, MAIN, Features::GDB, "the directory of gdb's socket"),
    rule("rseq", libc::SYS_rseq, ALL, THREADS, "start of a thread in glibc"),
    rule("rt_sigaction", libc::SYS_rt_sigaction, ALL, EVERY_RUN, "handlers of signals"),
    rule("rt_sigprocmask", libc::SYS_rt_sigprocmask, ALL, EVERY_RUN, "signals of threads"),
    rule("rt_sigreturn", libc::SYS_rt_sigreturn, ALL, EVERY_RUN, "return from a signal handler"),
    rule("sched_getaffinity", libc::SYS_sched_getaffinity, ALL, THREADS, "start of a thread in glibc"),
    rule("sched_yield", libc::SYS_sched_yield, ALL, EVERY_RUN, "waits for a lock"),
    rule("seccomp", libc::SYS_seccomp, ALL, THREADS, "filter of a new thread, in addition to this one"),
    rule("sendto", libc::SYS_sendto, MAIN, Features::GDB, "packets to gdb"),
    rule("set_robust_list", libc::SYS_set_robust_list, ALL, THREADS, "start of a thread"),
    rule("setsockopt", libc::SYS_setsockopt, MAIN, Features::GDB, "TCP_NODELAY of a connection of gdb"),
    rule("shutdown", libc::SYS_shutdown, MAIN, Features::GDB, "end of a connection of gdb"),
    rule("sigaltstack", libc::SYS_sigaltstack, ALL, EVERY_RUN, "end of a thread in std"),
    rule("statx", libc::SYS_statx, MAIN, Features::GDB, "is the socket of gdb still the same file?"),
    rule("sysinfo", libc::SYS_sysinfo, MAIN, SECOND_MACHINE, "memory of the host, for a second machine"),
    checked(rule("tgkill", libc::SYS_tgkill, ALL, EVERY_RUN, "kicks of vCPUs"), ArgumentRule::ThisProcess),
    rule("timer_create", libc::SYS_timer_create, VCPUS, EVERY_RUN, "time limits"),
    rule("timer_delete", libc::SYS_timer_delete, VCPUS, EVERY_RUN, "time limits"),
    rule("timer_settime", libc::SYS_timer_settime, VCPUS, EVERY_RUN, "time limits"),
    rule(
        "timerfd_create",
        libc::SYS_timerfd_create,
        VCPUS,
        Features::INTERRUPTS,
        "alarm of the real-time clock",
    ),
    rule(
        "timerfd_settime",
        libc::SYS_timerfd_settime,
        ALL,
        Features::INTERRUPTS,
        "alarm of the real-time clock",
    ),
    rule("unlink", libc::SYS_unlink, MAIN, Features::GDB, "the socket of gdb"),
    rule(
        "unlinkat",
        libc::SYS_unlinkat,
        MAIN,
        Features::OUTPUT_FILES.union(Features::GDB),
        "an incomplete file; the socket of gdb",
    ),
    rule("write", libc::SYS_write, ALL, EVERY_RUN, "output and messages"),
];

/// Calls that fail with EPERM instead of ending the process: a panic looks for files to print its backtrace, and the C library for
/// its configuration.
pub const QUIETLY_REFUSED: &[(&str, libc::c_long)] = &[
    ("open", libc::SYS_open),
    ("openat", libc::SYS_openat),
    ("openat2", libc::SYS_openat2),
    ("access", libc::SYS_access),
    ("readlink", libc::SYS_readlink),
    ("readlinkat", libc::SYS_readlinkat),
    ("stat", libc::SYS_stat),
    ("newfstatat", libc::SYS_newfstatat),
    ("statx", libc::SYS_statx),
    ("getcwd", libc::SYS_getcwd),
];

const fn kvm(
    call: Call,
    threads: &'static [ThreadKind],
    features: Features,
    reason: &'static str,
) -> IoctlRule {
    // 0 is no request of KVM; a test makes sure that none is 0.
    let request = match call.ioctl_request() {
        Some(request) => request,
        None => 0,
    };
    IoctlRule { name: call.name(), request, threads, features, reason }
}

const fn terminal(name: &'static str, request: u32, reason: &'static str) -> IoctlRule {
    IoctlRule { name, request, threads: ALL, features: EVERY_RUN, reason }
}

const SECOND_MACHINE: Features = Features::REPLAY.union(Features::SNAPSHOT).union(Features::MACHINES);
const STATE: Features =
    SECOND_MACHINE.union(Features::INTERRUPTS).union(Features::GDB).union(Features::OUTPUT_FILES);

/// `ioctl` requests that are allowed. Those of terminals are written as numbers: their type depends on the C library.
pub const IOCTLS: &[IoctlRule] = &[
    kvm(Call::Run, VCPUS, EVERY_RUN, "runs the guest"),
    kvm(Call::GetRegs, VCPUS, EVERY_RUN, "registers in the report"),
    kvm(Call::GetSregs, VCPUS, EVERY_RUN, "registers in the report"),
    kvm(Call::SetRegs, VCPUS, EVERY_RUN, "answers of hypercalls; corrections of steps"),
    kvm(Call::Translate, VCPUS, EVERY_RUN, "the hypercall that translates an address"),
    kvm(Call::SetSregs, VCPUS, STATE, "start of a second machine; wake-up from S3"),
    kvm(Call::SetGuestDebug, VCPUS, EVERY_RUN, "stop points, single steps"),
    kvm(Call::CheckExtension, VCPUS, EVERY_RUN, "abilities of the host"),
    kvm(Call::RegisterCoalescedMmio, MAIN, EVERY_RUN, "output ports without exits"),
    kvm(Call::UnregisterCoalescedMmio, MAIN, EVERY_RUN, "end of the above"),
    kvm(Call::GetVcpuEvents, VCPUS, STATE, "state of a second machine"),
    kvm(Call::SetVcpuEvents, VCPUS, STATE, "state of a second machine"),
    kvm(Call::GetDebugregs, VCPUS, STATE, "state of a second machine"),
    kvm(Call::SetDebugregs, VCPUS, STATE, "state of a second machine"),
    kvm(Call::GetXsave, VCPUS, STATE, "state of a second machine, core file"),
    kvm(Call::SetXsave, VCPUS, STATE, "state of a second machine"),
    kvm(Call::GetXcrs, VCPUS, STATE, "state of a second machine"),
    kvm(Call::SetXcrs, VCPUS, STATE, "state of a second machine"),
    kvm(Call::GetMsrs, VCPUS, STATE, "state of a second machine, GS base in the report"),
    kvm(Call::SetMsrs, VCPUS, STATE, "state of a second machine"),
    kvm(Call::GetMpState, VCPUS, STATE, "is the vCPU halted?"),
    kvm(Call::SetMpState, VCPUS, STATE, "state of a second machine; wake-up from S3"),
    kvm(Call::SetUserMemoryRegion, MAIN, EVERY_RUN, "memory of a second machine; copies of mapped files"),
    kvm(Call::GetDirtyLog, MAIN, SECOND_MACHINE, "pages that a reset has to restore"),
    kvm(Call::PagemapScan, MAIN, SECOND_MACHINE, "pages that a reset has to restore"),
    kvm(Call::SetTssAddr, MAIN, SECOND_MACHINE, "start of a second machine"),
    kvm(Call::CreateVcpu, MAIN, SECOND_MACHINE, "vCPU of a second machine, on a VM that exists"),
    kvm(Call::GetVcpuMmapSize, MAIN, SECOND_MACHINE, "vCPU of a second machine"),
    kvm(Call::SetCpuid2, MAIN, SECOND_MACHINE, "vCPU of a second machine"),
    kvm(Call::GetSupportedCpuid, MAIN, SECOND_MACHINE, "vCPU of a second machine"),
    kvm(Call::GetMsrIndexList, MAIN, SECOND_MACHINE, "MSRs of a snapshot"),
    kvm(Call::CreateVm, MAIN, Features::MACHINES, "a new machine for each run that is measured"),
    kvm(Call::CreateIrqchip, MAIN, SECOND_MACHINE, "start of a second machine with interrupts"),
    kvm(Call::CreatePit2, MAIN, SECOND_MACHINE, "start of a second machine with interrupts"),
    kvm(Call::EnableCapVm, MAIN, SECOND_MACHINE, "start of a second machine with interrupts"),
    kvm(Call::IrqLine, ALL, Features::INTERRUPTS, "interrupts of devices"),
    kvm(Call::Irqfd, ALL, Features::INTERRUPTS, "interrupts of devices"),
    kvm(Call::GetIrqchip, VCPUS, Features::INTERRUPTS, "can the machine wake up?"),
    kvm(Call::SetIrqchip, MAIN, Features::INTERRUPTS, "state of a second machine; wake-up from S3"),
    kvm(Call::GetPit2, VCPUS, Features::INTERRUPTS, "can the machine wake up?"),
    kvm(Call::SetPit2, MAIN, Features::INTERRUPTS, "state of a second machine; wake-up from S3"),
    kvm(Call::Interrupt, VCPUS, Features::INTERRUPTS, "interrupt controllers in this process"),
    kvm(Call::Nmi, VCPUS, Features::INTERRUPTS, "interrupt controllers in this process"),
    kvm(Call::GetLapic, VCPUS, Features::INTERRUPTS, "can the machine wake up?"),
    kvm(Call::SetLapic, VCPUS, Features::INTERRUPTS, "state of a second machine; wake-up from S3"),
    kvm(Call::GetClock, MAIN, STATE, "state of a second machine"),
    kvm(Call::SetClock, MAIN, STATE, "state of a second machine"),
    kvm(Call::GetVcpuStatsFd, MAIN, EVERY_RUN, "number of interrupts in the report; --stats"),
    terminal("TCGETS", 0x5401, "is it a terminal?"),
    terminal("TCSETS", 0x5402, "the terminal's settings at the end, on kernels without TCSETS2"),
    terminal("TCSETS2", 0x402c_542b, "the terminal's settings at the end"),
    terminal("TIOCGWINSZ", 0x5413, "width of the report"),
];

/// Returns the rules for a kind of thread in a run with these features.
#[must_use]
pub fn rules(kind: ThreadKind, features: Features) -> Vec<&'static SystemCallRule> {
    let applies = |rule: &&SystemCallRule| rule.threads.contains(&kind) && is_needed(rule.features, features);
    SYSTEM_CALLS.iter().filter(applies).collect()
}

/// Returns the `ioctl` requests for a kind of thread in a run with these features.
#[must_use]
pub fn ioctls(kind: ThreadKind, features: Features) -> Vec<&'static IoctlRule> {
    IOCTLS.iter().filter(|rule| rule.threads.contains(&kind) && is_needed(rule.features, features)).collect()
}

/// Returns the numbers of [`ioctls`].
pub(super) fn ioctl_requests(kind: ThreadKind, features: Features) -> Vec<u32> {
    ioctls(kind, features).into_iter().map(|rule| rule.request).collect()
}

fn is_needed(by: Features, features: Features) -> bool {
    by.is_empty() || by.intersects(features)
}

/// Returns the sets of no feature, one, all but one, and all.
#[cfg(test)]
pub(super) fn feature_sets() -> impl Iterator<Item = Features> {
    let one = || Features::all().iter();
    [Features::empty(), Features::all()].into_iter().chain(one()).chain(one().map(|feature| !feature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted() {
        let names: Vec<_> = SYSTEM_CALLS.iter().map(|rule| rule.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        assert!(SYSTEM_CALLS.iter().all(|rule| !rule.reason.is_empty() && !rule.threads.is_empty()));
    }

    #[test]
    fn requests_are_those_of_the_kernel() {
        let request = |name| IOCTLS.iter().find(|rule| rule.name == name).unwrap().request;
        // As strace shows them.
        for (name, number) in [
            ("KVM_RUN", 0xae80),
            ("KVM_GET_REGS", 0x8090_ae81),
            ("KVM_SET_SREGS", 0x4138_ae84),
            ("KVM_SET_USER_MEMORY_REGION", 0x4020_ae46),
            ("KVM_GET_MSRS", 0xc008_ae88),
            ("TCGETS", 0x5401),
            ("TCSETS2", 0x402c_542b),
            ("PAGEMAP_SCAN", 0xc060_6610),
        ] {
            assert_eq!(request(name), number, "{name}");
        }
        assert!(IOCTLS.iter().all(|rule| rule.request != 0));
    }

    #[test]
    fn a_plain_run_can_create_nothing() {
        let rules = rules(ThreadKind::Main, Features::REPLAY);
        for name in ["clone", "execve", "socket", "linkat", "memfd_create", "seccomp"] {
            assert!(rules.iter().all(|rule| rule.name != name), "{name}");
        }
        let ioctls = ioctls(ThreadKind::Main, Features::REPLAY);
        assert!(ioctls.iter().all(|rule| rule.name != "KVM_CREATE_VM"));
    }
}
