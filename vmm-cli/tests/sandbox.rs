//! Confinement: a vCPU's thread that makes system calls of its own choice, as a guest would that took over the process, gets nothing.
//!
//! The program makes the call that `VMM_SANDBOX_PROBE` names after the guest's first exit, in debug builds only.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{CLI, ProcessResult, program_exists};
use vmm_core::kvm_sys_wrap::sandbox_probes;

const CONFIG: &str = "\
mode = \"long\"
memory = { size = \"2MiB\" }
guest = { flat = \"guest.bin\", address = 0x8000 }
limits = { time = \"20s\" }
";

/// Twice `mov $'\n', %al; out %al, $0xe9`, then `hlt`.
const GUEST: &[u8] = &[0xb0, b'\n', 0xe6, 0xe9, 0xb0, b'\n', 0xe6, 0xe9, 0xf4];

/// Exit status of a process that makes a refused system call.
const REFUSED: i32 = 101;

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("guest.bin"), GUEST).unwrap();
    fs::write(directory.path().join("vmm.toml"), CONFIG).unwrap();
    directory
}

fn run(arguments: &[&str], probe: &str) -> ProcessResult {
    run_in(&directory(), arguments, probe)
}

fn run_in(directory: &tempfile::TempDir, arguments: &[&str], probe: &str) -> ProcessResult {
    let mut command = Command::new(CLI);
    command.args(arguments).current_dir(directory).stdin(Stdio::null()).env("VMM_SANDBOX_PROBE", probe);
    ProcessResult::new(&command.output().unwrap())
}

/// Asserts that a call was refused: the process ended, which led to `status`, or the call failed with EPERM (ENOSYS for clone3).
fn assert_refused(result: &ProcessResult, status: i32, probe: &str, arguments: &[&str]) {
    let failed = ["Operation not permitted", "Function not implemented"]
        .iter()
        .any(|error| result.stderr.contains(&format!("sandbox probe: {probe}: {error}")));
    let ended = result.status == Some(status) && result.stderr.contains("the sandbox refused system call ");
    assert!(failed || ended, "{probe}, {arguments:?}: {result:?}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn every_other_system_call_is_refused() {
    if !program_exists() {
        return;
    }
    let mut count = 0;
    for probe in sandbox_probes() {
        let arguments = ["run", "vmm.toml"];
        assert_refused(&run(&arguments, probe), REFUSED, probe, &arguments);
        count += 1;
    }
    println!("{count} system calls refused");
}

/// Calls that are tried in each kind of run. What one kind is allowed, such as threads, must not allow more.
const PROBES: [&str; 12] = [
    "openat(/etc/shadow)",
    "socket(AF_INET)",
    "execve",
    "fork",
    "clone(process)",
    "clone3",
    "ptrace",
    "mmap(PROT_EXEC)",
    "kill(1)",
    "unlink",
    "memfd_create",
    "ioctl(KVM_CREATE_VM)",
];

#[test]
#[ignore = "needs /dev/kvm"]
fn each_kind_of_run_is_confined() {
    if !program_exists() {
        return;
    }
    let kinds: [&[&str]; 8] = [
        &["run", "vmm.toml", "--set", "interrupts=\"split\""],
        &["run", "vmm.toml", "--report", "report.json", "--core", "core"],
        &["run", "vmm.toml", "--trace", "--trace-out", "trace"],
        &["bench", "vmm.toml", "-n", "2"],
        &["snapshot", "vmm.toml", "--exits", "1", "-o", "snapshot"],
        &["translate", "vmm.toml", "0x8000", "--exits", "1"],
        &["pages", "vmm.toml", "--exits", "1"],
        &["dump", "vmm.toml", "0x8000,16", "--exits", "1"],
    ];
    for arguments in kinds {
        for probe in PROBES {
            if probe == "memfd_create" && ["bench", "snapshot"].contains(&arguments[0]) {
                // The memory of snapshots is in such files.
                continue;
            }
            assert_refused(&run(arguments, probe), REFUSED, probe, arguments);
        }
        // Without an attempt each of them does its work.
        let result = run(arguments, "");
        assert_eq!(result.status, Some(0), "{arguments:?}: {result:?}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn workers_of_a_suite_are_confined() {
    if !program_exists() {
        return;
    }
    /// Exit status of a suite with a case that failed.
    const FAILED: i32 = 103;
    let run = |test: &str, probe: &str| {
        let directory = directory();
        let text = format!("{CONFIG}[expect]\nend = \"halt\"\n{test}");
        fs::write(directory.path().join("vmm.toml"), text).unwrap();
        run_in(&directory, &["test", "vmm.toml"], probe)
    };
    // A case with a machine of its own, and cases that start from a snapshot, which a worker of its own takes.
    for test in [
        "",
        "[test]\nsnapshot-at = \"0x8004\"\n[[test.case]]\nname = \"one\"\n[[test.case]]\nname = \"two\"\n",
    ] {
        for probe in PROBES {
            if probe == "memfd_create" && !test.is_empty() {
                continue;
            }
            let result = run(test, probe);
            assert_refused(&result, FAILED, probe, &["test", test]);
            if result.status == Some(FAILED) {
                assert!(
                    result.stdout.contains("the worker process exited with status 101"),
                    "{probe}: {result:?}"
                );
            }
        }
        let result = run(test, "");
        assert_eq!(result.status, Some(0), "{test}: {result:?}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_debugged_run_is_confined() {
    if !program_exists() {
        return;
    }
    for probe in PROBES {
        let directory = directory();
        let socket = directory.path().join("gdb.sock");
        let mut command = Command::new(CLI);
        command.args(["run", "vmm.toml", "--gdb"]).arg(&socket).current_dir(&directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.env("VMM_SANDBOX_PROBE", probe).spawn().unwrap();
        let started = Instant::now();
        let mut gdb = loop {
            match UnixStream::connect(&socket) {
                Ok(gdb) => break gdb,
                Err(_) if started.elapsed() < Duration::from_secs(60) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("{error}"),
            }
        };
        // Continue, and the end of the session.
        gdb.write_all(b"+$c#63").unwrap();
        let result = ProcessResult::new(&child.wait_with_output().unwrap());
        assert_refused(&result, REFUSED, probe, &["run", "--gdb"]);
    }
}

/// The autopsy builds the machine again, when no file can be opened any more.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_crash_of_a_machine_with_a_disk_is_examined() {
    if !program_exists() {
        return;
    }
    for overlay in ["", "overlay = true\n"] {
        let directory = directory();
        let disk = format!("[[devices.virtio]]\ntype = \"block\"\nfile = \"disk.img\"\n{overlay}");
        fs::write(directory.path().join("disk.img"), [0; 4096]).unwrap();
        // ud2
        fs::write(directory.path().join("guest.bin"), [0x0f, 0x0b]).unwrap();
        fs::write(directory.path().join("vmm.toml"), format!("{CONFIG}{disk}")).unwrap();
        let result = run_in(&directory, &["run", "vmm.toml"], "");
        assert_eq!(result.status, Some(100), "{result:?}");
        assert!(result.stderr.contains("found by running the guest again"), "{overlay}: {result:?}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_run_that_is_not_confined_says_so_to_the_probe() {
    if !program_exists() {
        return;
    }
    let result = run(&["run", "vmm.toml", "--sandbox=off"], "execve");
    assert_eq!((result.status, result.stdout.as_str()), (Some(0), "\n\n"), "{result:?}");
    assert!(result.stderr.contains("sandbox probe: no filter is in force"), "{result:?}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn strict_runs_where_all_parts_are_there() {
    if !program_exists() {
        return;
    }
    let result = run(&["run", "vmm.toml", "--sandbox=strict"], "");
    match result.status {
        Some(0) => {}
        Some(104) => assert!(result.stderr.contains("this host cannot confine the run"), "{result:?}"),
        _ => panic!("{result:?}"),
    }
}
