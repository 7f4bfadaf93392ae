//! System calls and KVM's ioctls: their names, and the errors that the kernel documents for them.
//!
//! Sources: the manual pages of section 2, and api.rst for KVM. EFAULT and EBADF are left out: they tell of a mistake of the caller.

use libc::{
    EACCES, EAGAIN, EBUSY, ECONNABORTED, EDQUOT, EEXIST, EFAULT, EINTR, EINVAL, EIO, EMFILE, ENFILE, ENODEV,
    ENOENT, ENOMEM, ENOSPC, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, EPIPE, EROFS, EXDEV,
};

use vmm_core::kvm_sys_wrap::Call;

/// A system call that is named and, unless `errors` is empty, made to fail.
pub(crate) struct CallErrors {
    name: &'static str,
    number: libc::c_long,
    errors: &'static [i32],
}

const fn call(name: &'static str, number: libc::c_long, errors: &'static [i32]) -> CallErrors {
    CallErrors { name, number, errors }
}

/// Calls without errors are those that cannot fail with correct arguments, or whose failure nobody can report.
const CALLS: &[CallErrors] = &[
    call("accept4", libc::SYS_accept4, &[EMFILE, ENFILE, ENOMEM, ECONNABORTED, EINTR]),
    call("access", libc::SYS_access, &[ENOENT, EACCES]),
    call("bind", libc::SYS_bind, &[EACCES, ENOMEM]),
    call("brk", libc::SYS_brk, &[ENOMEM]),
    call("capset", libc::SYS_capset, &[EPERM]),
    call("clock_gettime", libc::SYS_clock_gettime, &[]),
    call("clock_nanosleep", libc::SYS_clock_nanosleep, &[EINTR]),
    call("clone", libc::SYS_clone, &[EAGAIN, ENOMEM]),
    call("clone3", libc::SYS_clone3, &[EAGAIN, ENOMEM]),
    call("close", libc::SYS_close, &[EINTR, EIO]),
    call("connect", libc::SYS_connect, &[]),
    call("epoll_create1", libc::SYS_epoll_create1, &[EMFILE, ENFILE, ENOMEM]),
    call("epoll_ctl", libc::SYS_epoll_ctl, &[ENOMEM, ENOSPC]),
    call("epoll_wait", libc::SYS_epoll_wait, &[EINTR]),
    call("eventfd2", libc::SYS_eventfd2, &[EMFILE, ENFILE, ENOMEM, ENODEV]),
    call("execve", libc::SYS_execve, &[]),
    call("exit", libc::SYS_exit, &[]),
    call("exit_group", libc::SYS_exit_group, &[]),
    call("fallocate", libc::SYS_fallocate, &[EIO, ENOSPC, EOPNOTSUPP]),
    call("fdatasync", libc::SYS_fdatasync, &[EIO, ENOSPC]),
    call("flock", libc::SYS_flock, &[EAGAIN, EINTR]),
    call("fork", libc::SYS_fork, &[EAGAIN, ENOMEM]),
    call("fstat", libc::SYS_fstat, &[ENOMEM]),
    call("fstatfs", libc::SYS_fstatfs, &[EIO, ENOSYS]),
    call("fsync", libc::SYS_fsync, &[EIO, ENOSPC]),
    call("ftruncate", libc::SYS_ftruncate, &[EIO, EINTR]),
    call("futex", libc::SYS_futex, &[]),
    call("getcwd", libc::SYS_getcwd, &[ENOENT, ENOMEM]),
    call("getdents64", libc::SYS_getdents64, &[ENOENT, EIO]),
    call("getpid", libc::SYS_getpid, &[]),
    call("getppid", libc::SYS_getppid, &[]),
    call("getrandom", libc::SYS_getrandom, &[]),
    call("getrusage", libc::SYS_getrusage, &[]),
    call("gettid", libc::SYS_gettid, &[]),
    call("getuid", libc::SYS_getuid, &[]),
    call("geteuid", libc::SYS_geteuid, &[]),
    call("kill", libc::SYS_kill, &[EPERM]),
    call("landlock_add_rule", libc::SYS_landlock_add_rule, &[ENOMEM, EPERM]),
    call("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, &[ENOSYS, EOPNOTSUPP, ENOMEM, EMFILE]),
    call("landlock_restrict_self", libc::SYS_landlock_restrict_self, &[EPERM, ENOMEM]),
    call("linkat", libc::SYS_linkat, &[EACCES, EEXIST, EIO, ENOSPC, EROFS]),
    call("listen", libc::SYS_listen, &[]),
    call("lseek", libc::SYS_lseek, &[]),
    call("madvise", libc::SYS_madvise, &[EAGAIN, EINVAL, ENOMEM]),
    call("memfd_create", libc::SYS_memfd_create, &[EMFILE, ENFILE, ENOMEM]),
    call("mkdir", libc::SYS_mkdir, &[EACCES, ENOSPC]),
    call("mkdirat", libc::SYS_mkdirat, &[EACCES, ENOSPC]),
    call("mmap", libc::SYS_mmap, &[ENOMEM, ENFILE]),
    call("mprotect", libc::SYS_mprotect, &[ENOMEM]),
    call("mremap", libc::SYS_mremap, &[ENOMEM]),
    call("munmap", libc::SYS_munmap, &[ENOMEM]),
    call("nanosleep", libc::SYS_nanosleep, &[EINTR]),
    call("newfstatat", libc::SYS_newfstatat, &[EACCES, ENOENT, ENOMEM]),
    call("open", libc::SYS_open, &[EACCES, EIO, EMFILE, ENFILE, ENOENT, ENOMEM]),
    call("openat", libc::SYS_openat, &[EACCES, EIO, EMFILE, ENFILE, ENOENT, ENOMEM]),
    call("openat2", libc::SYS_openat2, &[EACCES, EIO, EMFILE, ENFILE, ENOENT, ENOMEM, ENOSYS]),
    call("pipe2", libc::SYS_pipe2, &[EMFILE, ENFILE]),
    call("poll", libc::SYS_poll, &[EINTR, ENOMEM]),
    call("ppoll", libc::SYS_ppoll, &[EINTR, ENOMEM]),
    call("prctl", libc::SYS_prctl, &[]),
    call("pread64", libc::SYS_pread64, &[EINTR, EIO, ENOMEM]),
    call("preadv", libc::SYS_preadv, &[EINTR, EIO]),
    call("prlimit64", libc::SYS_prlimit64, &[]),
    call("process_vm_readv", libc::SYS_process_vm_readv, &[]),
    call("pwrite64", libc::SYS_pwrite64, &[EINTR, EIO, ENOSPC, EDQUOT]),
    call("pwritev", libc::SYS_pwritev, &[EINTR, EIO, ENOSPC]),
    call("read", libc::SYS_read, &[EINTR, EIO, ENOMEM]),
    call("readlink", libc::SYS_readlink, &[EACCES, EIO, ENOENT]),
    call("readlinkat", libc::SYS_readlinkat, &[EACCES, EIO, ENOENT]),
    call("readv", libc::SYS_readv, &[EINTR, EIO]),
    call("recvfrom", libc::SYS_recvfrom, &[EINTR, ENOMEM]),
    call("recvmsg", libc::SYS_recvmsg, &[EINTR, ENOMEM]),
    call("rename", libc::SYS_rename, &[EACCES, EIO, ENOSPC, EROFS, EXDEV]),
    call("renameat", libc::SYS_renameat, &[EACCES, EIO, ENOSPC, EROFS, EXDEV]),
    call("renameat2", libc::SYS_renameat2, &[EACCES, EIO, EINVAL, ENOSPC, EROFS]),
    call("restart_syscall", libc::SYS_restart_syscall, &[]),
    call("rmdir", libc::SYS_rmdir, &[EACCES]),
    call("rseq", libc::SYS_rseq, &[]),
    call("rt_sigaction", libc::SYS_rt_sigaction, &[]),
    call("rt_sigprocmask", libc::SYS_rt_sigprocmask, &[]),
    call("rt_sigreturn", libc::SYS_rt_sigreturn, &[]),
    call("sched_getaffinity", libc::SYS_sched_getaffinity, &[]),
    call("sched_yield", libc::SYS_sched_yield, &[]),
    call("seccomp", libc::SYS_seccomp, &[EACCES, EINVAL, ENOMEM, ENOSYS]),
    call("sendto", libc::SYS_sendto, &[EINTR, EPIPE, ENOMEM]),
    call("sendmsg", libc::SYS_sendmsg, &[EINTR, EPIPE, ENOMEM]),
    call("set_robust_list", libc::SYS_set_robust_list, &[]),
    call("set_tid_address", libc::SYS_set_tid_address, &[]),
    call("setpgid", libc::SYS_setpgid, &[EPERM]),
    call("setsockopt", libc::SYS_setsockopt, &[ENOMEM]),
    call("shutdown", libc::SYS_shutdown, &[]),
    call("sigaltstack", libc::SYS_sigaltstack, &[]),
    call("socket", libc::SYS_socket, &[EACCES, EMFILE, ENFILE, ENOMEM]),
    call("socketpair", libc::SYS_socketpair, &[EMFILE, ENFILE, ENOMEM]),
    call("stat", libc::SYS_stat, &[EACCES, ENOENT]),
    call("statx", libc::SYS_statx, &[EACCES, ENOENT, ENOMEM]),
    call("sysinfo", libc::SYS_sysinfo, &[]),
    call("tgkill", libc::SYS_tgkill, &[EAGAIN]),
    call("timer_create", libc::SYS_timer_create, &[EAGAIN, ENOMEM]),
    call("timer_delete", libc::SYS_timer_delete, &[]),
    call("timer_settime", libc::SYS_timer_settime, &[]),
    call("timerfd_create", libc::SYS_timerfd_create, &[EMFILE, ENFILE, ENODEV, ENOMEM]),
    call("timerfd_settime", libc::SYS_timerfd_settime, &[]),
    call("umask", libc::SYS_umask, &[]),
    call("uname", libc::SYS_uname, &[]),
    call("unlink", libc::SYS_unlink, &[EACCES, EIO]),
    call("unlinkat", libc::SYS_unlinkat, &[EACCES, EIO]),
    call("wait4", libc::SYS_wait4, &[EINTR]),
    call("waitid", libc::SYS_waitid, &[EINTR]),
    call("write", libc::SYS_write, &[EINTR, EIO, ENOSPC, EPIPE]),
    call("writev", libc::SYS_writev, &[EINTR, EIO, ENOSPC, EPIPE]),
];

/// Errors of KVM's ioctls: out of memory, a VM that the kernel gave up (EIO), and an argument that this kernel does not take.
const KVM_ERRORS: &[i32] = &[EINVAL, EIO, ENOMEM];

/// Further errors of some of KVM's ioctls.
const MORE_KVM_ERRORS: &[(Call, &[i32])] = &[
    (Call::GetApiVersion, &[ENOTTY]),
    (Call::CreateVm, &[EBUSY, EINTR, EMFILE, ENFILE]),
    (Call::CreateVcpu, &[EEXIST, EINTR, EMFILE]),
    (Call::GetDirtyLog, &[ENOENT]),
    (Call::SetUserMemoryRegion, &[EEXIST, EFAULT]),
    (Call::SetTssAddr, &[EEXIST]),
    (Call::CreateIrqchip, &[EEXIST]),
    (Call::CreatePit2, &[EEXIST]),
    (Call::RegisterCoalescedMmio, &[ENOSPC]),
    (Call::Irqfd, &[EBUSY]),
    (Call::Run, &[EAGAIN, EFAULT, EINTR]),
    (Call::SetGuestDebug, &[EBUSY]),
    (Call::GetVcpuStatsFd, &[EMFILE]),
];

/// Type of KVM's requests.
const KVMIO: u8 = 0xae;

/// Requests of terminals and of procfs.
const OTHER_REQUESTS: &[(u32, &str, &[i32])] = &[
    (0x5401, "TCGETS", &[ENOTTY]),
    (0x5402, "TCSETS", &[EIO]),
    (0x5403, "TCSETSW", &[EIO]),
    (0x5404, "TCSETSF", &[EIO]),
    (0x5413, "TIOCGWINSZ", &[ENOTTY]),
    (0x541b, "FIONREAD", &[ENOTTY]),
    (0x5421, "FIONBIO", &[]),
    (0xc060_6610, "PAGEMAP_SCAN", &[EINTR, ENOMEM, ENOTTY]),
];

/// Name of a call and its errors.
pub(crate) struct NamedCall {
    /// Name, such as `mmap` or `ioctl(KVM_RUN)`.
    pub(crate) name: String,
    pub(crate) errors: Vec<i32>,
}

/// Returns the name and the errors of a system call. An unknown one is named by its number, and has no errors.
pub(crate) fn describe(number: u64, arguments: [u64; 3]) -> NamedCall {
    let known = CALLS.iter().find(|call| u64::try_from(call.number) == Ok(number));
    let unknown = || NamedCall { name: format!("call {number}"), errors: Vec::new() };
    if u64::try_from(libc::SYS_ioctl) == Ok(number) {
        return ioctl(arguments[1]);
    }
    if u64::try_from(libc::SYS_fcntl) == Ok(number) {
        return fcntl(arguments[1]);
    }
    known.map_or_else(unknown, |call| NamedCall { name: call.name.to_owned(), errors: call.errors.to_vec() })
}

fn ioctl(request: u64) -> NamedCall {
    let named = |name: &str, errors: Vec<i32>| NamedCall { name: format!("ioctl({name})"), errors };
    let of_kvm = |call: &&Call| call.ioctl_request().map(u64::from) == Some(request);
    if request.to_le_bytes()[1] == KVMIO
        && let Some(call) = Call::ALL.iter().find(of_kvm)
    {
        // Answers with 0 where something is not supported.
        if *call == Call::CheckExtension {
            return named(call.name(), Vec::new());
        }
        let more = MORE_KVM_ERRORS.iter().find(|(known, _)| known == call).map_or(&[][..], |(_, more)| *more);
        return named(call.name(), [KVM_ERRORS, more].concat());
    }
    let other = OTHER_REQUESTS.iter().find(|(known, ..)| u64::from(*known) == request);
    other.map_or_else(
        || named(&format!("{request:#x}"), Vec::new()),
        |(_, name, errors)| named(name, errors.to_vec()),
    )
}

fn fcntl(command: u64) -> NamedCall {
    let (name, errors): (_, &[i32]) = match i32::try_from(command) {
        // std compares flags with EBADF where a descriptor is dropped.
        Ok(libc::F_GETFD) => ("F_GETFD", &[]),
        Ok(libc::F_SETFD) => ("F_SETFD", &[]),
        Ok(libc::F_GETFL) => ("F_GETFL", &[]),
        Ok(libc::F_SETFL) => ("F_SETFL", &[EPERM]),
        Ok(libc::F_SETLK) => ("F_SETLK", &[EACCES, EAGAIN]),
        Ok(libc::F_OFD_SETLK) => ("F_OFD_SETLK", &[EACCES, EAGAIN]),
        Ok(libc::F_DUPFD_CLOEXEC) => ("F_DUPFD_CLOEXEC", &[EMFILE]),
        Ok(libc::F_ADD_SEALS) => ("F_ADD_SEALS", &[EBUSY, EPERM]),
        Ok(libc::F_GET_SEALS) => ("F_GET_SEALS", &[]),
        Ok(libc::F_SETPIPE_SZ) => ("F_SETPIPE_SZ", &[EPERM]),
        _ => return NamedCall { name: format!("fcntl({command})"), errors: Vec::new() },
    };
    NamedCall { name: format!("fcntl({name})"), errors: errors.to_vec() }
}
