//! System calls that a test makes on the thread of a vCPU, as a guest would that took over the process. Only in debug builds.
//!
//! The test arms one call ([`arm_sandbox_probe`]). [`Vcpu::run`](crate::Vcpu::run) makes it after the next exit, if a system call
//! filter is in force, and prints what the kernel returned. The arguments are harmless: a call that were allowed would fail, or
//! have no lasting effect.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Path of a file that nobody has.
const NO_FILE: &std::ffi::CStr = c"/nonexistent/file";
const SHADOW: &std::ffi::CStr = c"/etc/shadow";
const SHELL: &std::ffi::CStr = c"/bin/true";
/// Process that is not ours.
const INIT: libc::c_long = 1;
const PAGE: libc::c_long = 4096;
const PROT_READ_EXEC: libc::c_long = (libc::PROT_READ | libc::PROT_EXEC) as libc::c_long;
const ANONYMOUS: libc::c_long = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as libc::c_long;
const NEGATIVE: libc::c_long = -1;

/// Attempt to make a system call.
struct Attempt {
    name: &'static str,
    number: libc::c_long,
    arguments: fn(RawFd) -> [libc::c_long; 6],
}

fn path(path: &std::ffi::CStr) -> libc::c_long {
    path.as_ptr() as libc::c_long
}

macro_rules! attempts {
    ($($name:literal: $number:ident($($argument:expr),*);)*) => {
        const ATTEMPTS: &[Attempt] = &[$(Attempt {
            name: $name,
            number: libc::$number,
            arguments: |_kvm| {
                let given: &[libc::c_long] = &[$($argument),*];
                std::array::from_fn(|index| given.get(index).copied().unwrap_or_default())
            },
        },)*
        Attempt {
            name: "ioctl(KVM_CREATE_VM)",
            number: libc::SYS_ioctl,
            arguments: |kvm| [kvm.into(), 0xae01, 0, 0, 0, 0],
        }];
    };
}

attempts! {
    "open(/etc/shadow)": SYS_open(path(SHADOW), 0);
    "openat(/etc/shadow)": SYS_openat(libc::AT_FDCWD.into(), path(SHADOW), 0);
    "openat2": SYS_openat2(libc::AT_FDCWD.into(), path(SHADOW), 0, 0);
    "creat": SYS_creat(path(NO_FILE), 0o600);
    "socket(AF_INET)": SYS_socket(libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0);
    "socket(AF_UNIX)": SYS_socket(libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0);
    "socketpair": SYS_socketpair(libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0, 0);
    "connect": SYS_connect(0, 0, 0);
    "bind": SYS_bind(0, 0, 0);
    "listen": SYS_listen(0, 0);
    "sendmsg": SYS_sendmsg(0, 0, 0);
    "execve": SYS_execve(path(SHELL), 0, 0);
    "execveat": SYS_execveat(libc::AT_FDCWD.into(), path(SHELL), 0, 0, 0);
    "fork": SYS_fork();
    "clone(process)": SYS_clone(libc::SIGCHLD.into(), 0, 0, 0, 0);
    "clone(namespace)": SYS_clone((libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_NEWUSER).into(), 0, 0, 0, 0);
    "clone3": SYS_clone3(0, 0);
    "unshare": SYS_unshare(libc::CLONE_NEWUSER.into());
    "setns": SYS_setns(NEGATIVE, 0);
    "ptrace": SYS_ptrace(libc::c_long::from(libc::PTRACE_ATTACH), INIT, 0, 0);
    "process_vm_readv": SYS_process_vm_readv(INIT, 0, 0, 0, 0, 0);
    "process_vm_writev": SYS_process_vm_writev(INIT, 0, 0, 0, 0, 0);
    "kill(1)": SYS_kill(INIT, 0);
    "kill(-1)": SYS_kill(NEGATIVE, 0);
    "tgkill(1)": SYS_tgkill(INIT, INIT, 0);
    "tkill(1)": SYS_tkill(INIT, 0);
    "rt_sigqueueinfo": SYS_rt_sigqueueinfo(INIT, 0, 0);
    "pidfd_open": SYS_pidfd_open(INIT, 0);
    "pidfd_getfd": SYS_pidfd_getfd(NEGATIVE, 0, 0);
    "pidfd_send_signal": SYS_pidfd_send_signal(NEGATIVE, 0, 0, 0);
    "mmap(PROT_EXEC)": SYS_mmap(0, PAGE, PROT_READ_EXEC, ANONYMOUS, NEGATIVE, 0);
    "mprotect(PROT_EXEC)": SYS_mprotect(0, PAGE, PROT_READ_EXEC);
    "pkey_mprotect": SYS_pkey_mprotect(0, PAGE, PROT_READ_EXEC, NEGATIVE);
    "remap_file_pages": SYS_remap_file_pages(0, PAGE, 0, 0, 0);
    "memfd_create": SYS_memfd_create(path(NO_FILE), 0xffff_ffff);
    "shmget": SYS_shmget(0, 0, 0);
    "shmat": SYS_shmat(NEGATIVE, 0, 0);
    "msgget": SYS_msgget(1, 0);
    "semget": SYS_semget(1, 0, 0);
    "userfaultfd": SYS_userfaultfd(NEGATIVE);
    "io_uring_setup": SYS_io_uring_setup(0, 0);
    "io_setup": SYS_io_setup(0, 0);
    "bpf": SYS_bpf(NEGATIVE, 0, 0);
    "perf_event_open": SYS_perf_event_open(0, 0, NEGATIVE, NEGATIVE, 0);
    "keyctl": SYS_keyctl(NEGATIVE, 0, 0, 0, 0);
    "add_key": SYS_add_key(0, 0, 0, 0, 0);
    "mount": SYS_mount(0, path(NO_FILE), 0, 0, 0);
    "umount2": SYS_umount2(path(NO_FILE), 0);
    "open_tree": SYS_open_tree(NEGATIVE, 0, 0);
    "fsopen": SYS_fsopen(0, 0);
    "pivot_root": SYS_pivot_root(path(NO_FILE), path(NO_FILE));
    "chroot": SYS_chroot(path(NO_FILE));
    "chdir": SYS_chdir(path(NO_FILE));
    "unlink": SYS_unlink(path(NO_FILE));
    "rename": SYS_rename(path(NO_FILE), path(NO_FILE));
    "link": SYS_link(path(NO_FILE), path(NO_FILE));
    "symlink": SYS_symlink(path(NO_FILE), path(NO_FILE));
    "mkdir": SYS_mkdir(path(NO_FILE), 0o700);
    "rmdir": SYS_rmdir(path(NO_FILE));
    "mknod": SYS_mknod(path(NO_FILE), 0o600, 0);
    "chmod": SYS_chmod(path(NO_FILE), 0o600);
    "fchmodat": SYS_fchmodat(libc::AT_FDCWD.into(), path(NO_FILE), 0o600);
    "chown": SYS_chown(path(NO_FILE), 0, 0);
    "truncate": SYS_truncate(path(NO_FILE), 0);
    "utimensat": SYS_utimensat(libc::AT_FDCWD.into(), path(NO_FILE), 0, 0);
    "stat": SYS_stat(path(SHADOW), 0);
    "readlink": SYS_readlink(path(SHADOW), 0, 0);
    "getdents64": SYS_getdents64(NEGATIVE, 0, 0);
    "name_to_handle_at": SYS_name_to_handle_at(NEGATIVE, 0, 0, 0, 0);
    "open_by_handle_at": SYS_open_by_handle_at(NEGATIVE, 0, 0);
    "setxattr": SYS_setxattr(path(NO_FILE), 0, 0, 0, 0);
    "inotify_init1": SYS_inotify_init1(NEGATIVE);
    "fanotify_init": SYS_fanotify_init(0xffff, 0);
    "init_module": SYS_init_module(0, 0, 0);
    "finit_module": SYS_finit_module(NEGATIVE, 0, 0);
    "delete_module": SYS_delete_module(0, 0);
    "kexec_load": SYS_kexec_load(0, 0, 0, NEGATIVE);
    "reboot": SYS_reboot(0, 0, 0, 0);
    "swapon": SYS_swapon(path(NO_FILE), 0);
    "acct": SYS_acct(path(NO_FILE));
    "syslog": SYS_syslog(NEGATIVE, 0, 0);
    "iopl": SYS_iopl(NEGATIVE);
    "ioperm": SYS_ioperm(NEGATIVE, 0, 0);
    "modify_ldt": SYS_modify_ldt(NEGATIVE, 0, 0);
    "personality": SYS_personality(0xffff_ffff);
    "setuid": SYS_setuid(NEGATIVE);
    "setresuid": SYS_setresuid(NEGATIVE, NEGATIVE, NEGATIVE);
    "setgroups": SYS_setgroups(NEGATIVE, 0);
    "capset": SYS_capset(0, 0);
    "prctl(PR_SET_DUMPABLE)": SYS_prctl(libc::PR_SET_DUMPABLE.into(), 2);
    "prlimit64": SYS_prlimit64(0, 0, 0, 0);
    "setpriority": SYS_setpriority(NEGATIVE, 0, 0);
    "sched_setscheduler": SYS_sched_setscheduler(NEGATIVE, 0, 0);
    "sched_setaffinity": SYS_sched_setaffinity(NEGATIVE, 0, 0);
    "settimeofday": SYS_settimeofday(0, 0);
    "clock_settime": SYS_clock_settime(NEGATIVE, 0);
    "adjtimex": SYS_adjtimex(0);
    "sethostname": SYS_sethostname(0, NEGATIVE);
    "vhangup": SYS_vhangup();
    "landlock_create_ruleset": SYS_landlock_create_ruleset(0, 0, NEGATIVE);
    "ioctl(TIOCSTI)": SYS_ioctl(0, 0x5412, 0);
    "ioctl(TIOCLINUX)": SYS_ioctl(0, 0x541c, 0);
    "fcntl(F_SETOWN)": SYS_fcntl(0, libc::F_SETOWN.into(), INIT);
}

/// Number of the armed attempt, from 1; 0 if none is.
static ARMED: AtomicUsize = AtomicUsize::new(0);

/// Returns the names of the system calls that can be armed.
pub fn sandbox_probes() -> impl Iterator<Item = &'static str> {
    ATTEMPTS.iter().map(|attempt| attempt.name)
}

/// Makes the next exit of a vCPU be followed by a system call. Returns false if there is none of this name.
pub fn arm_sandbox_probe(name: &str) -> bool {
    let index = ATTEMPTS.iter().position(|attempt| attempt.name == name);
    ARMED.store(index.map_or(0, |index| index + 1), Ordering::SeqCst);
    index.is_some()
}

/// Makes the armed system call, once, if a filter is in force.
pub(crate) fn fire(kvm: &impl AsRawFd) {
    let index = ARMED.load(Ordering::SeqCst);
    let Some(attempt) = index.checked_sub(1).and_then(|index| ATTEMPTS.get(index)) else { return };
    // SAFETY: a query that has no other arguments. 2 is SECCOMP_MODE_FILTER.
    if unsafe { libc::prctl(libc::PR_GET_SECCOMP) } != 2 {
        eprintln!("sandbox probe: no filter is in force");
        return;
    }
    ARMED.store(0, Ordering::SeqCst);
    let [a, b, c, d, e, f] = (attempt.arguments)(kvm.as_raw_fd());
    // SAFETY: pointers are to static strings or null, lengths are 0 or wrong, descriptors and processes are not ours. No memory of
    // this process is read or written, and the test ends the process afterwards.
    let result = unsafe { libc::syscall(attempt.number, a, b, c, d, e, f) };
    let error = std::io::Error::last_os_error();
    let outcome = if result == -1 { error.to_string() } else { format!("allowed, returned {result}") };
    eprintln!("sandbox probe: {}: {outcome}", attempt.name);
}
