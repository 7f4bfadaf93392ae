//! `run --gdb` with gdb in batch mode, and with packets written by the test for what batch mode cannot do.
//!
//! These tests need gdb, the program and the guests. `cargo xtask test` copies all three to the nested host.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "support/gdb_packet.rs"]
mod gdb_packet;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gdb_packet::{is_complete, packet};

const CLI: &str = env!("CARGO_BIN_EXE_vmm-cli");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const GDB: &str = "/usr/bin/gdb";

/// Returns the reason to skip a test, if there is one.
fn skip_reason(needs_gdb: bool) -> Option<&'static str> {
    if !Path::new(CLI).exists() {
        return Some("the program is not on this host");
    }
    if needs_gdb && !Path::new(GDB).exists() {
        return Some("there is no /usr/bin/gdb");
    }
    None
}

macro_rules! needs {
    ($gdb:literal) => {
        if let Some(reason) = skip_reason($gdb) {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// `vmm-cli run --gdb` that waits for gdb.
struct Vmm {
    child: Child,
    directory: tempfile::TempDir,
    /// Path or address for gdb's `target remote`.
    at: String,
    errors: thread::JoinHandle<String>,
}

/// Exit status and output of the finished process.
struct ProcessResult {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Vmm {
    /// Starts the program with a socket, or with a TCP port if `tcp`. Returns `None` if this host cannot run the guest.
    fn start(config: &str, tcp: bool) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("gdb.sock");
        let address = if tcp { "127.0.0.1:0".to_owned() } else { socket.to_str().unwrap().to_owned() };
        let mut child = Command::new(CLI)
            .args(["run", &format!("configs/{config}.toml"), "--no-autopsy", "--gdb", &address])
            .current_dir(ROOT)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        errors.read_line(&mut first).unwrap();
        let errors = thread::spawn(move || {
            let mut rest = String::new();
            errors.read_to_string(&mut rest).unwrap();
            rest
        });
        let Some(at) = first.strip_prefix("gdb: waiting at ") else {
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(104), "{config}: {first}{}", errors.join().unwrap());
            println!("skipped: {config}: {}", first.trim());
            return None;
        };
        let at = at.trim().to_owned();
        Some(Self { child, directory, at, errors })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("gdb.sock")
    }

    /// Runs gdb with these commands and returns its output.
    fn gdb(&self, guest: &str, commands: &[&str]) -> String {
        let mut gdb = Command::new(GDB);
        gdb.args([
            "-nx",
            "-batch",
            "-iex",
            "set confirm off",
            "-iex",
            "set width 0",
            "-iex",
            "set style enabled off",
        ]);
        gdb.arg(format!("guests/build/{guest}.elf"));
        gdb.args(["-ex", &format!("target remote {}", self.at)]);
        for command in commands {
            gdb.args(["-ex", command]);
        }
        // Both streams in one file, in the order in which they were written.
        let output = self.directory.path().join("output");
        let file = File::create(&output).unwrap();
        gdb.stdout(file.try_clone().unwrap()).stderr(file);
        gdb.current_dir(ROOT).stdin(Stdio::null()).status().unwrap();
        let text = String::from_utf8_lossy(&std::fs::read(&output).unwrap()).into_owned();
        println!("{text}");
        text
    }

    /// Waits for the end of the program, for at most 120 s: it waits for gdb forever.
    fn wait(mut self) -> ProcessResult {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if started.elapsed() > Duration::from_secs(120) {
                self.child.kill().unwrap();
            }
            thread::sleep(Duration::from_millis(20));
        }
        let mut stdout = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        let status = self.child.wait().unwrap().code();
        let stderr = self.errors.join().unwrap();
        println!("{stderr}");
        ProcessResult { status, stdout, stderr }
    }
}

/// Without an address, the socket can be opened by its owner only, and is gone in the end.
#[test]
#[ignore = "needs /dev/kvm"]
fn the_default_address_is_a_private_socket() {
    needs!(false);
    let runtime = tempfile::tempdir().unwrap();
    let mut child = Command::new(CLI)
        .args(["run", "configs/long.toml", "--gdb"])
        .env("XDG_RUNTIME_DIR", runtime.path())
        .current_dir(ROOT)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    let socket = Path::new(line.trim().strip_prefix("gdb: waiting at ").unwrap());
    let mode = |path: &Path| std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    assert!(socket.starts_with(runtime.path()));
    assert_eq!((mode(socket), mode(socket.parent().unwrap())), (0o600, 0o700));
    let command = format!("-ex 'target remote {}'", socket.display());
    let mut second = String::new();
    errors.read_line(&mut second).unwrap();
    assert!(second.trim().ends_with(&command), "{second}");
    // gdb's packet to kill the guest.
    let mut gdb = UnixStream::connect(socket).unwrap();
    gdb.write_all(b"$k#6b").unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    errors.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("warning"), "{rest}");
    assert_eq!(std::fs::read_dir(runtime.path()).unwrap().count(), 0);
}

/// Asserts that `texts` occur in `all` in this order.
fn assert_order(all: &str, texts: &[&str]) {
    let mut rest = all;
    for text in texts {
        let found = rest.split_once(text);
        assert!(found.is_some(), "`{text}` is not there, or not in order:\n{all}");
        rest = found.unwrap().1;
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_session_goes_forward_and_back() {
    needs!(true);
    let Some(vmm) = Vmm::start("long", false) else { return };
    let output = vmm.gdb(
        "hello-long",
        &[
            "info registers rip",
            "info threads",
            "printf \"text is %s\", text",
            "break vmm_halt",
            "continue",
            "info registers rip",
            "stepi",
            "info registers rip rax cr0",
            "reverse-stepi",
            "info registers rip",
            "x/1dw 0x400",
            "reverse-stepi",
            "reverse-stepi",
            "x/1dw 0x400",
            "reverse-continue",
            "info registers rip",
            "delete",
            "break hello.c:17",
            "continue",
            "watch *(int *)0x400",
            "continue",
            "monitor exits",
            "delete 2",
            "reverse-continue",
            "p *(int *)0x400",
            "continue",
            "delete",
            "continue",
        ],
    );
    assert_order(
        &output,
        &[
            "0x100000 <_start>",
            "vCPU 0, long mode, 64-bit code, ring 0",
            "text is Hello, world!",
            "Breakpoint 1, vmm_halt",
            "0x100028 <_start+40>",
            "0x10002d <_start+45>",
            "0x2a",
            "[ PE MP ET NE WP PG ]",
            "Breakpoint 1, vmm_halt",
            "0x100028 <_start+40>",
            "0x400:\t42",
            "0x400:\t0",
            "No more reverse-execution history",
            "0x100000 <_start>",
            "Breakpoint 2, ",
            "Old value = 0",
            "New value = 42",
            "pio-out 14",
            "Old value = 42",
            "New value = 0",
            "= 0",
            "Old value = 0",
            "New value = 42",
            "exited normally",
        ],
    );
    let socket = vmm.socket();
    let result = vmm.wait();
    assert_eq!(result.status, Some(0), "{}", result.stderr);
    assert_eq!(
        result.stdout, "Hello, world!\n",
        "each byte is printed once, although parts of the run were repeated"
    );
    assert!(!socket.exists());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn every_mode_stops_steps_and_goes_back() {
    needs!(true);
    for (config, guest, symbol, words) in [
        ("real", "hello-real", "vmm_halt", "real mode, 16-bit code, ring 0"),
        ("paged", "hello-paged", "vmm_halt", "protected mode with paging, 32-bit code, ring 0"),
        ("ring3-long", "hello-ring3-long", "vmm_exit", "long mode, 64-bit code, ring 3"),
        ("ring3-protected", "hello-ring3-protected", "vmm_exit", "protected mode, 32-bit code, ring 3"),
        ("higher-half", "higher-half", "vmm_halt", "long mode, 64-bit code, ring 0"),
    ] {
        let Some(vmm) = Vmm::start(config, false) else { continue };
        let mut commands = vec!["info threads", "monitor where"];
        if config == "real" {
            // gdb takes a 32-bit file for 32-bit code.
            commands.extend(["set architecture i8086", "x/i $pc"]);
        }
        let at = format!("break {symbol}");
        commands.extend([
            at.as_str(),
            "continue",
            "p $first = $pc",
            "stepi",
            "p $pc != $first",
            "reverse-stepi",
        ]);
        commands.extend(["p $pc == $first", "monitor where", "continue"]);
        let output = vmm.gdb(guest, &commands);
        let hit = format!("Breakpoint 1, {symbol}");
        assert_order(&output, &[words, words, &hit, "= 1", "= 1", "in the past", "xited"]);
        if config == "real" {
            assert!(
                output.contains("mov    $0x48,%eax"),
                "16-bit code, with the prefix for 32 bits: {output}"
            );
        }
        assert_eq!(vmm.wait().status, Some(0), "{config}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_crashed_guest_can_be_inspected() {
    needs!(true);
    let Some(vmm) = Vmm::start("crash/triple-fault", false) else { return };
    let output = vmm.gdb(
        "crash-triple-fault",
        &["continue", "x/i $pc", "monitor where", "reverse-stepi", "x/i $pc", "set var $rax = 1", "continue"],
    );
    assert_order(
        &output,
        &[
            "Program received signal SIGSEGV",
            "<_start+7>:\tud2",
            "the run ended: the vCPU shut down",
            "<_start>:\tlidt",
            "Could not write register",
            "Program terminated with signal SIGSEGV",
        ],
    );
    assert_eq!(vmm.wait().status, Some(100));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn gdb_can_attach_again_after_a_mode_switch() {
    needs!(true);
    let Some(vmm) = Vmm::start("modeswitch", false) else { return };
    let again = format!("target remote {}", vmm.at);
    let output = vmm.gdb(
        "modeswitch",
        &[
            "break long",
            "continue",
            "info registers efer",
            "disconnect",
            "file",
            &again,
            "symbol-file guests/build/modeswitch.elf",
            "info registers rip",
            "show architecture",
            "reverse-stepi",
            "info threads",
            "delete",
            "continue",
        ],
    );
    assert_order(
        &output,
        &[
            "Breakpoint 1, long",
            "[ LME LMA ]",
            "<long>",
            "i386:x86-64",
            "long mode, 32-bit code",
            "exited normally",
        ],
    );
    assert_eq!(vmm.wait().status, Some(0));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_breakpoint_may_lie_on_a_page_that_is_not_mapped() {
    needs!(true);
    let Some(vmm) = Vmm::start("page-fault", false) else { return };
    // More breakpoints than debug registers, so the guest is single-stepped, through its page fault too.
    let addresses: Vec<String> = (0..5).map(|number| format!("hbreak *0x5000000{number}")).collect();
    let mut commands: Vec<&str> = addresses.iter().map(String::as_str).collect();
    commands.extend(["break handle_page_fault", "continue", "p/x address", "delete", "continue"]);
    let output = vmm.gdb("page-fault", &commands);
    assert_order(&output, &["Breakpoint 6, handle_page_fault", "= 0x40000400", "exited normally"]);
    let result = vmm.wait();
    assert_eq!(result.status, Some(0), "{}", result.stderr);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_detached_guest_runs_to_its_end() {
    needs!(true);
    let Some(vmm) = Vmm::start("long", true) else { return };
    vmm.gdb(
        "hello-long",
        &["set var $rbx = 7", "p $rbx", "break vmm_halt", "continue", "reverse-stepi", "detach"],
    );
    let result = vmm.wait();
    assert_eq!((result.status, result.stdout.as_str()), (Some(0), "Hello, world!\n"), "{}", result.stderr);
    assert!(result.stderr.contains("warning: gdb: every user of this host can connect to 127.0.0.1:"));
}

/// Reads up to the end of a packet that begins with `start`.
fn answer(stream: &mut UnixStream, start: &str) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut text = String::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
        if text.contains(&format!("${start}")) && is_complete(text.as_bytes()) {
            return text;
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ctrl_c_stops_a_guest_that_spins() {
    needs!(false);
    let Some(vmm) = Vmm::start("crash/infinite-loop", false) else { return };
    let mut gdb = UnixStream::connect(vmm.socket()).unwrap();
    for _ in 0..3 {
        gdb.write_all(&packet("vCont;c")).unwrap();
        // The guest should run when the request arrives; an earlier one has the same reply.
        thread::sleep(Duration::from_millis(200));
        gdb.write_all(&[3]).unwrap();
        assert!(answer(&mut gdb, "T02").contains("thread:"), "SIGINT");
        gdb.write_all(b"+").unwrap();
    }
    // After a broken connection the guest waits for the next one.
    drop(gdb);
    let mut gdb = UnixStream::connect(vmm.socket()).unwrap();
    gdb.write_all(&packet("?")).unwrap();
    answer(&mut gdb, "T05");
    gdb.write_all(b"+").unwrap();
    gdb.write_all(&packet("k")).unwrap();
    assert_eq!(vmm.wait().status, Some(130));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_existing_file_is_not_replaced() {
    needs!(false);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "precious").unwrap();
    let mut command = Command::new(CLI);
    command.args(["run", "configs/long.toml", "--gdb"]).arg(&path).current_dir(ROOT);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(106));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is a file already"));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn each_vcpu_is_a_thread() {
    needs!(true);
    let Some(vmm) = Vmm::start("timer-smp", false) else { return };
    let output = vmm.gdb(
        "timer-smp",
        &[
            "info threads",
            "break second_64",
            "continue",
            "info threads",
            "info registers rip",
            "p $second = $_thread",
            "thread 1",
            "info registers rip cr3",
            "thread 2",
            "set scheduler-locking on",
            "stepi",
            "p (long)$pc == (long)&second_64 + 5",
            "p $_thread",
            "set scheduler-locking off",
            "reverse-stepi",
            "delete",
            "monitor where",
            "continue",
        ],
    );
    // vCPU 0 waits in `_start`, or its timer has just fired.
    let first = output.split("[Switching to thread 1").nth(1).and_then(|rest| rest.split("cr3").next());
    let names = ["<_start+", "<timer_entry"];
    assert!(first.is_some_and(|first| names.iter().any(|name| first.contains(name))), "{output}");
    assert_order(
        &output,
        &[
            "* 1    Thread 1.1 (vCPU 0, runs, long mode, 64-bit code, ring 0)",
            "  2    Thread 1.2 (vCPU 1, waits for INIT)",
            "Thread 2 hit Breakpoint 1, ",
            "* 2    Thread 1.2 (vCPU 1, runs, long mode, 64-bit code, ring 0)",
            "<second_64>",
            "$1 = 2",
            "[Switching to thread 1",
            "rip ",
            "cr3",
            "[Switching to thread 2",
            "$2 = 1",
            "$3 = 2",
            "No more reverse-execution history",
            "vCPU 0, ",
            "second_64+0x5",
            "vCPU 1, runs, ",
            "exited normally",
        ],
    );
    let result = vmm.wait();
    assert_eq!(result.status, Some(0), "{}", result.stderr);
    assert_eq!(result.stdout, "both CPUs counted their ticks\n");
    assert!(
        result.stderr.contains("gdb: a machine with interrupts cannot be run again exactly"),
        "{}",
        result.stderr
    );
}

/// The breakpoint is first in a debug register, if the host has any. Then other breakpoints take all of them, and it is a byte.
#[test]
#[ignore = "needs /dev/kvm"]
fn an_interrupt_handler_can_be_stopped_and_stepped() {
    needs!(true);
    let Some(vmm) = Vmm::start("timer-smp", false) else { return };
    let mut commands = vec!["break timer_entry", "continue", "p (long)$pc == (long)&timer_entry"];
    // One instruction of the handler, which increments the counter.
    commands.extend(["set $ticks = *(int *)$rdi", "set scheduler-locking on", "stepi"]);
    commands.extend(["p *(int *)$rdi - $ticks", "set scheduler-locking off", "continue"]);
    // The guest does not execute these again.
    commands.extend(["hbreak *((long)&_start)", "hbreak *((long)&_start + 2)"]);
    commands.extend(["hbreak *((long)&_start + 4)", "hbreak *((long)&_start + 6)"]);
    for _ in 0..3 {
        commands.extend(["continue", "p (long)$pc == (long)&timer_entry"]);
    }
    // A step over the HLT between two ticks. The guest continues after it.
    commands.extend(["delete", "break *((long)&second_64 + 29)", "continue", "set scheduler-locking on"]);
    commands.extend(["stepi", "info threads", "info registers rip"]);
    commands.extend(["set scheduler-locking off", "delete", "continue"]);
    let output = vmm.gdb("timer-smp", &commands);
    let hits = output.matches("hit Breakpoint 1, ").count();
    assert_eq!(hits, 5, "{output}");
    assert_order(&output, &["$1 = 1", "$2 = 1", "$3 = 1", "$4 = 1", "$5 = 1", "Thread 2 hit Breakpoint 6, "]);
    assert_order(&output, &["* 2    Thread 1.2 (vCPU 1, halted, ", "<second_64+30>", "exited normally"]);
    let result = vmm.wait();
    assert_eq!(result.status, Some(0), "{}", result.stderr);
    assert_eq!(result.stdout, "both CPUs counted their ticks\n");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ctrl_c_stops_a_vcpu_that_waits() {
    needs!(false);
    let Some(vmm) = Vmm::start("timer-smp", false) else { return };
    let mut gdb = UnixStream::connect(vmm.socket()).unwrap();
    // Only the second vCPU runs: it waits for an INIT from the first one, which is held.
    gdb.write_all(&packet("vCont;c:2")).unwrap();
    // The vCPU should wait when the request arrives; an earlier one has the same reply.
    thread::sleep(Duration::from_millis(200));
    gdb.write_all(&[3]).unwrap();
    assert!(answer(&mut gdb, "T02").contains("thread:02"), "SIGINT");
    gdb.write_all(b"+").unwrap();
    // After the detach, both run to the end.
    gdb.write_all(&packet("D")).unwrap();
    let result = vmm.wait();
    assert_eq!((result.status, result.stdout.as_str()), (Some(0), "both CPUs counted their ticks\n"));
}
