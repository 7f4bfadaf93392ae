//! `vmm-cli bench`: the number of runs, the form of the results, and guests that cannot be measured.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use support::{CLI, ProcessResult, program_exists};

/// Runs `bench` in a new directory with a guest and its configuration: `vmm.toml`, and `typed.toml` with console input.
fn bench(guest: &[u8], config: &str, arguments: &[&str]) -> ProcessResult {
    let directory = tempfile::tempdir().unwrap();
    let machine = "memory.size = \"2MiB\"\nguest = { flat = \"guest.bin\", address = 0x8000 }\n";
    fs::write(directory.path().join("guest.bin"), guest).unwrap();
    fs::write(directory.path().join("vmm.toml"), format!("{machine}{config}")).unwrap();
    fs::write(directory.path().join("typed.toml"), format!("{machine}{config}")).unwrap();
    fs::write(directory.path().join("typed.input"), "Z").unwrap();
    let mut command = Command::new(CLI);
    command.arg("bench").args(arguments).current_dir(&directory).stdin(Stdio::null());
    ProcessResult::new(&command.output().unwrap())
}

/// `mov $'A', %al; out %al, $0xe9; hlt`, the same in 16, 32 and 64 bits.
const PRINTS: &[u8] = &[0xb0, b'A', 0xe6, 0xe9, 0xf4];

fn json(result: &ProcessResult) -> Value {
    assert_eq!((result.status, result.stderr.as_str()), (Some(0), ""), "{result:?}");
    serde_json::from_str(&result.stdout).unwrap()
}

#[test]
fn zero_runs_and_a_missing_file_are_errors() {
    assert_eq!(bench(PRINTS, "mode = \"long\"\n", &["vmm.toml", "--runs", "0"]).status, Some(105));
    assert_eq!(bench(PRINTS, "mode = \"long\"\n", &["none.toml"]).status, Some(105));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_requested_number_of_runs_is_measured() {
    if !program_exists() {
        return;
    }
    let config = "mode = \"long\"\n[expect]\noutput = \"A\"\n";
    let results =
        json(&bench(PRINTS, config, &["vmm.toml", "-n", "20", "--warmup", "3", "--format", "json"]));
    assert_eq!(
        (&results["runs"], &results["warmup"], &results["end"]),
        (&20.into(), &3.into(), &"halt".into())
    );
    assert_eq!(results["begins"], "reset");
    let samples: Vec<u64> =
        results["samples_ns"].as_array().unwrap().iter().map(|time| time.as_u64().unwrap()).collect();
    assert_eq!(samples.len(), 20);
    let points =
        ["min", "q1", "median", "q3", "p99", "max"].map(|key| results["run_ns"][key].as_u64().unwrap());
    assert!(points.is_sorted() && points[0] > 0, "{points:?}");
    assert_eq!((points[0], points[5]), (*samples.iter().min().unwrap(), *samples.iter().max().unwrap()));
    assert!(results["runs_per_second"].as_f64().unwrap() > 0.0);

    let shown = bench(PRINTS, config, &["vmm.toml", "-n", "20"]);
    assert_eq!((shown.status, shown.stderr.as_str()), (Some(0), ""));
    assert!(
        shown.stdout.starts_with("vmm.toml: 20 runs after 10 to warm up, end: halt\n"),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.contains("\nreset ") && shown.stdout.contains('#'), "{}", shown.stdout);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn machines_with_interrupts_or_input_are_copied() {
    if !program_exists() {
        return;
    }
    // mov $0x3f8, %dx (0x3fd behind it in 32 and 64 bits); in (%dx), %al; out %al, $0xe9; hlt
    let echoes = &[0x66, 0xba, 0xf8, 0x03, 0xec, 0xe6, 0xe9, 0xf4];
    let short = ["-n", "5", "--format", "json"];
    let config = "mode = \"long\"\n[expect]\noutput = \"Z\"\n";
    let results = json(&bench(echoes, config, &[&["typed.toml"], &short[..]].concat()));
    assert_eq!((&results["begins"], &results["runs"]), (&"copy".into(), &5.into()));
    let config = "mode = \"long\"\ninterrupts = \"split\"\n[expect]\noutput = \"A\"\n";
    let results = json(&bench(PRINTS, config, &[&["vmm.toml"], &short[..]].concat()));
    assert_eq!((&results["begins"], &results["runs"]), (&"copy".into(), &5.into()));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_fails_is_not_measured() {
    if !program_exists() {
        return;
    }
    let failed = |guest: &[u8], config: &str, status: i32, message: &str| {
        let result = bench(guest, &format!("mode = \"long\"\n{config}"), &["vmm.toml", "-n", "5"]);
        assert_eq!((result.status, result.stdout.as_str()), (Some(status), ""), "{result:?}");
        assert!(result.stderr.contains(message), "{result:?}");
    };
    failed(PRINTS, "[expect]\noutput = \"B\"\n", 103, "expect.output: expected \"B\", found \"A\"");
    failed(&[0x0f, 0x0b], "", 100, "guest crashed");
    failed(&[0xeb, 0xfe], "limits.time = \"50ms\"\n", 102, "guest hung");
    // rdtsc; out %al, $0xf4: another code each time.
    let random = bench(&[0x0f, 0x31, 0xe6, 0xf4], "mode = \"long\"\n", &["vmm.toml", "-n", "500"]);
    assert_eq!((random.status, random.stdout.as_str()), (Some(103), ""), "{random:?}");
    assert!(
        random.stderr.contains("ended otherwise than the first: the guest ended with code"),
        "{random:?}"
    );
    // A guest with an expected crash can be measured.
    let crash =
        bench(&[0x0f, 0x0b], "mode = \"long\"\n[expect]\nend = \"shutdown\"\n", &["vmm.toml", "-n", "5"]);
    assert_eq!(crash.status, Some(0), "{crash:?}");
}
