//! Coalesced output of the debug console (key `collect`): the run is the same, with fewer calls of `KVM_RUN`.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use serde_json::Value;

use support::{CLI, ProcessResult, program_exists};

const COLLECT: [&str; 2] = ["--set", "devices.debug-console.collect=true"];

fn command(directory: &tempfile::TempDir, guest: &[u8], options: &[&str]) -> Command {
    let config =
        "mode = \"long\"\nmemory = { size = \"2MiB\" }\nguest = { flat = \"guest.bin\", address = 0x8000 }\n";
    fs::write(directory.path().join("guest.bin"), guest).unwrap();
    fs::write(directory.path().join("vmm.toml"), config).unwrap();
    let mut command = Command::new(CLI);
    command.args(["run", "vmm.toml"]).args(options).current_dir(directory).stdin(Stdio::null());
    command
}

fn run(guest: &[u8], options: &[&str]) -> (ProcessResult, Value) {
    let directory = tempfile::tempdir().unwrap();
    let output = command(&directory, guest, &["--stats", "--format", "json"]).args(options).output().unwrap();
    let result = ProcessResult::new(&output);
    let report = serde_json::from_str(&result.stderr).unwrap();
    (result, report)
}

/// Returns the number of `KVM_RUN` calls, without those that the timer for flushing the output interrupted.
fn kvm_run_count(report: &Value) -> u64 {
    let calls = report["stats"]["calls"].as_array().unwrap();
    let runs = calls.iter().find(|call| call["call"] == "KVM_RUN").unwrap();
    runs["count"]
        .as_u64()
        .unwrap()
        .saturating_sub(report["exits_by_type"]["interrupted"].as_u64().unwrap_or(0))
}

/// The guest writes more bytes than the ring has entries, with a serial write and a read in between. The order of all output is
/// kept, and each byte counts as an exit.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_run_with_coalesced_output_is_the_same() {
    if !program_exists() {
        return;
    }
    #[rustfmt::skip]
    let guest = [
        0xb9, 0x02, 0, 0, 0,            // mov $2, %ecx
        0xbb, 0xf4, 0x01, 0, 0,         // 1: mov $500, %ebx
        0x88, 0xd8, 0xe6, 0xe9,         // 2: mov %bl, %al; out %al, $0xe9
        0xff, 0xcb, 0x75, 0xf8,         // dec %ebx; jnz 2b
        0x66, 0xba, 0xf8, 0x03,         // mov $0x3f8, %dx
        0xb0, b'S', 0xee,               // mov $'S', %al; out %al, %dx
        0xe4, 0xe9, 0xe6, 0xe9,         // in $0xe9, %al; out %al, $0xe9: reads 0xe9 if the console exists
        0xff, 0xc9, 0x75, 0xe4,         // dec %ecx; jnz 1b
        0xb0, 0x05, 0xe6, 0xf4,         // mov $5, %al; out %al, $0xf4
    ];
    let (plain, plain_report) = run(&guest, &[]);
    let (collected, report) = run(&guest, &COLLECT);
    assert_eq!((plain.status, collected.status), (Some(11), Some(11)), "{plain:?}");
    assert_eq!(plain.stdout, collected.stdout);
    assert_eq!(plain.stdout.matches('S').count(), 2 + 4, "the letter is printed by both");
    // The kick that flushes the output is not an exit of the guest.
    for kind in ["pio-out", "pio-in"] {
        assert_eq!(plain_report["exits_by_type"][kind], report["exits_by_type"][kind], "{kind}");
    }
    assert!(kvm_run_count(&plain_report) > 1000, "{plain_report}");
    assert!(kvm_run_count(&report) < 100, "{report}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn output_is_flushed_while_the_guest_spins() {
    if !program_exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let guest = [0xb0, b'x', 0xe6, 0xe9, 0xb0, b'\n', 0xe6, 0xe9, 0xeb, 0xfe];
    let mut command = command(&directory, &guest, &["--set", "limits.time=60s"]);
    let mut child = command.args(COLLECT).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = [0; 2];
    let read = child.stdout.as_mut().unwrap().read_exact(&mut line);
    let is_running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    read.unwrap();
    assert!(is_running);
    assert_eq!(&line, b"x\n");
}

/// The replay of the autopsy has the same exits.
#[test]
#[ignore = "needs /dev/kvm"]
fn the_autopsy_replays_coalesced_writes() {
    if !program_exists() {
        return;
    }
    // 300 bytes printed, then UD2 without an IDT.
    let guest = [0xbb, 0x2c, 1, 0, 0, 0xb0, b'x', 0xe6, 0xe9, 0xff, 0xcb, 0x75, 0xf8, 0x0f, 0x0b];
    let directory = tempfile::tempdir().unwrap();
    let result = ProcessResult::new(&command(&directory, &guest, &COLLECT).output().unwrap());
    assert_eq!((result.status, result.stdout.len()), (Some(100), 300), "{result:?}");
    assert!(
        result.stderr.contains("ud2") && result.stderr.contains("300 exits replayed"),
        "{}",
        result.stderr
    );
}
