//! Output of the program, and the exit status of each class of errors and ends.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::process::{Child, Command, Stdio};

use support::{CLI, ProcessResult, program_exists};

/// Directory with a guest of a few bytes and its configuration.
struct TestDirectory(tempfile::TempDir);

impl TestDirectory {
    fn new(guest: &[u8], config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("guest.bin"), guest).unwrap();
        fs::write(directory.path().join("vmm.toml"), config).unwrap();
        Self(directory)
    }

    fn run(&self, arguments: &[&str]) -> ProcessResult {
        let output = Command::new(CLI).args(arguments).current_dir(&self.0).stdin(Stdio::null()).output();
        ProcessResult::new(&output.unwrap())
    }
}

/// A flat guest at 0x8000 in long mode.
const CONFIG: &str = "\
mode = \"long\"
memory = { size = \"2MiB\" }
guest = { flat = \"guest.bin\", address = 0x8000 }
";

/// `hlt`
const HALTS: &[u8] = &[0xf4];

#[test]
fn usage_errors_have_the_status_of_the_configuration_class() {
    let directory = TestDirectory::new(HALTS, CONFIG);
    for arguments in [&["rnu"][..], &[], &["run"], &["run", "vmm.toml", "--no-such-option"], &["check"]] {
        let result = directory.run(arguments);
        assert_eq!(result.status, Some(105), "{arguments:?}: {result:?}");
        assert_eq!(result.stdout, "", "{arguments:?}");
    }
    assert!(directory.run(&["run", "--tiemout"]).stderr.contains("a similar argument exists: '--timeout'"));
    let help = directory.run(&["--help"]);
    assert_eq!(help.status, Some(0));
    assert!(help.stdout.contains("104    this host's KVM cannot do what was asked"));
}

#[test]
fn the_documentation_has_every_subcommand() {
    let help = TestDirectory::new(HALTS, CONFIG).run(&["--help"]).stdout;
    let list = help.split_once("Commands:\n").unwrap().1.split_once("\n\n").unwrap().0;
    let rows = list.lines().filter_map(|line| line.strip_prefix("  ")).filter(|row| !row.starts_with(' '));
    let names: Vec<&str> = rows.filter_map(|row| row.split_whitespace().next()).collect();
    assert!(names.contains(&"run") && names.contains(&"man"), "{names:?}");
    let docs = include_str!("../../docs/commands.md");
    for name in names.into_iter().filter(|name| *name != "help") {
        let is_there = ["`", " "].iter().any(|end| docs.contains(&format!("`vmm-cli {name}{end}")));
        assert!(is_there, "docs/commands.md has no row of `vmm-cli {name}`");
    }
}

#[test]
fn a_missing_configuration_or_guest_has_advice() {
    let directory = TestDirectory::new(HALTS, CONFIG);
    let result = directory.run(&["run", "none.toml"]);
    assert_eq!(result.status, Some(105));
    assert!(
        result.stderr.contains("--> none.toml") && result.stderr.contains("`vmm-cli init`"),
        "{result:?}"
    );

    fs::remove_file(directory.0.path().join("guest.bin")).unwrap();
    let result = directory.run(&["check", "vmm.toml"]);
    assert_eq!(result.status, Some(105));
    assert!(result.stderr.contains("the guest file guest.bin does not exist"), "{result:?}");
    assert!(result.stderr.contains("--> vmm.toml:3"), "{result:?}");

    let built_by_us = CONFIG.replace("guest.bin", "guests/build/guest.bin");
    let result = TestDirectory::new(HALTS, &built_by_us).run(&["check", "vmm.toml"]);
    assert!(result.stderr.contains("build it: `cargo xtask guests`"), "{result:?}");
}

#[test]
fn a_build_for_another_mode_is_suggested() {
    let config = "mode = \"pae\"\nmemory = { size = \"2MiB\" }\nguest = { elf = \"hello-{mode}.elf\" }\n";
    let directory = TestDirectory::new(HALTS, config);
    fs::write(directory.0.path().join("hello-long.elf"), b"").unwrap();
    let result = directory.run(&["check", "vmm.toml"]);
    assert_eq!(result.status, Some(105));
    assert!(result.stderr.contains("the guest file hello-pae.elf does not exist"), "{result:?}");
    assert!(result.stderr.contains("there is hello-long.elf"), "{result:?}");
}

#[test]
fn check_reports_valid_and_invalid_files() {
    let directory = TestDirectory::new(HALTS, CONFIG);
    fs::write(directory.0.path().join("bad.toml"), "mode = \"lnog\"\n").unwrap();
    let result = directory.run(&["check", "vmm.toml", "bad.toml"]);
    assert_eq!((result.status, result.stdout.as_str()), (Some(105), "vmm.toml: ok, mode long\n"));
    assert!(result.stderr.contains("did you mean `long`"), "{result:?}");

    let result = directory.run(&["check", "--format", "json", "vmm.toml"]);
    assert_eq!((result.status, result.stdout.trim()), (Some(0), "[]"));
    let result = directory.run(&["check", "--format", "json", "vmm.toml", "bad.toml"]);
    assert_eq!(result.status, Some(105));
    assert!(result.stdout.contains("\"file\": \"bad.toml\""), "{result:?}");
}

#[test]
fn check_shows_layout_conflicts_at_their_keys() {
    let config = "\
mode = \"long\"
memory = { size = \"1MiB\" }
tss-address = 0x1000
guest = { flat = \"guest.bin\", address = 0x200000 }
layout = { gdt = 0x2000 }
";
    let result = TestDirectory::new(HALTS, config).run(&["check", "vmm.toml"]);
    assert_eq!(result.status, Some(105));
    assert!(result.stderr.contains("--> vmm.toml:3:"), "the TSS pages in memory: {result:?}");
}

#[test]
fn init_writes_a_valid_file_and_never_overwrites() {
    let directory = TestDirectory::new(HALTS, "keep me");
    let result = directory.run(&["init", "vmm.toml"]);
    assert_eq!(result.status, Some(105));
    assert_eq!(fs::read_to_string(directory.0.path().join("vmm.toml")).unwrap(), "keep me");

    assert_eq!(directory.run(&["init", "new.toml"]).status, Some(0));
    let result = directory.run(&["check", "new.toml"]);
    // The only error is that its guest does not exist.
    assert!(result.stderr.contains("guest-long.elf does not exist"), "{result:?}");
    assert_eq!(result.stderr.matches("error").count(), 1, "{result:?}");
}

#[test]
fn schema_completions_and_manual_are_printed() {
    let directory = TestDirectory::new(HALTS, CONFIG);
    assert!(directory.run(&["schema"]).stdout.contains("\"$schema\""));
    assert!(directory.run(&["completions", "bash"]).stdout.contains("_vmm__cli"));
    assert!(directory.run(&["man"]).stdout.contains(".TH vmm-cli"));
    assert!(directory.run(&["man", "run"]).stdout.contains("Write a report of the run"));
    assert_eq!(directory.run(&["man", "nothing"]).status, Some(105));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn each_end_has_its_status() {
    if !program_exists() {
        return;
    }
    let expect = |text: &str| format!("{CONFIG}{text}\n");
    // A guest that leaves 3 in AL and writes it to the exit port: code 7.
    let exits: &[u8] = &[0xb0, 3, 0xe6, 0xf4];
    // mov $0x538, %dx; mov $300, %eax; out %eax, %dx: the hypercall to end with a code.
    let big: &[u8] = &[0x66, 0xba, 0x38, 0x05, 0xb8, 0x2c, 0x01, 0, 0, 0xef];
    // mov $0x604, %dx; mov $0x2000, %ax; out %ax, %dx: SLP_EN.
    let off: &[u8] = &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef];
    // mov $0xcf9, %dx; mov $6, %al; out %al, %dx: what the FADT says. And mov $0xfe, %al; out %al, $0x64.
    let reset: &[u8] = &[0x66, 0xba, 0xf9, 0x0c, 0xb0, 6, 0xee];
    // mov $0x604, %dx; mov $0x2400, %ax; out %ax, %dx: type 1 is S3.
    let sleep: &[u8] = &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x24, 0x66, 0xef];
    let pulse: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64];
    let cases: &[(&str, &[u8], String, i32, &str)] = &[
        ("halt", HALTS, CONFIG.to_owned(), 0, ""),
        ("code", exits, CONFIG.to_owned(), 7, "the guest ended with code 7"),
        ("expected code", exits, expect("expect.exit-code = 7"), 0, ""),
        ("big code", big, CONFIG.to_owned(), 99, "code 300, reported as status 99"),
        ("unexpected code", exits, expect("expect.exit-code = 8"), 103, "expected 8, found 7"),
        ("unexpected output", HALTS, expect("expect.output = \"hi\""), 103, "expected \"hi\", found \"\""),
        ("triple fault", &[0x0f, 0x0b], CONFIG.to_owned(), 100, "guest crashed"),
        ("expected triple fault", &[0x0f, 0x0b], expect("expect.end = \"shutdown\""), 100, "[expect] is met"),
        ("endless", &[0xeb, 0xfe], expect("limits.time = \"50ms\""), 102, "still running after 50ms"),
        ("hung", HALTS, expect("halt = \"hung\""), 102, "guest hung"),
        ("power-off", off, expect("devices.power.enabled = true"), 0, ""),
        ("reset", reset, expect("devices.power.enabled = true"), 100, "the guest asked for a reset"),
        ("wanted reset", reset, expect("devices.power.enabled = true\nreset = \"success\""), 0, ""),
        (
            "sleep",
            sleep,
            expect("devices.power.enabled = true"),
            102,
            "suspended the machine, and no alarm is on",
        ),
        ("keyboard reset", pulse, expect("devices.i8042.enabled = true"), 100, "the guest asked for a reset"),
    ];
    for (name, guest, config, status, words) in cases {
        let result = TestDirectory::new(guest, config).run(&["run", "vmm.toml"]);
        assert_eq!(result.status, Some(*status), "{name}: {result:?}");
        assert!(result.stderr.contains(words), "{name}: {result:?}");
        if *status == 0 {
            assert_eq!(result.stderr, "", "{name}");
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_report_has_status_end_and_exits() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(&[0x0f, 0x0b], CONFIG);
    let result = directory.run(&["run", "vmm.toml", "--report", "report.json"]);
    assert_eq!(result.status, Some(100));
    let report: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(directory.0.path().join("report.json")).unwrap()).unwrap();
    assert_eq!((&report["status"], &report["end"]), (&100.into(), &"shutdown".into()));
    assert_eq!((&report["exits"], &report["exits_by_type"]["shutdown"]), (&1.into(), &1.into()));
    assert!(report["cpu"]["registers"].is_array());
}

/// `mov al, 'x'; out 0xe9, al; mov al, '\n'; out 0xe9, al`, then `jmp $`
const SPINS: &[u8] = &[0xb0, b'x', 0xe6, 0xe9, 0xb0, b'\n', 0xe6, 0xe9, 0xeb, 0xfe];

/// Run of a guest that spins.
struct SpinningRun {
    child: Child,
    first_byte: u8,
}

impl SpinningRun {
    /// Starts the run and waits for its first output: then the guest runs and the handler of signals is installed.
    fn start(directory: &TestDirectory, arguments: &[&str]) -> Self {
        let mut child = Command::new(CLI)
            .args(arguments)
            .current_dir(&directory.0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        Self { child, first_byte: first[0] }
    }

    fn interrupt(self) -> ProcessResult {
        // The shell's built-in kill: a small system may have no program `kill`.
        let kill = format!("kill -INT {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
        ProcessResult::new(&self.child.wait_with_output().unwrap())
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ctrl_c_ends_a_guest_with_a_report() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(SPINS, CONFIG);
    let run = SpinningRun::start(&directory, &["run", "vmm.toml"]);
    assert_eq!(run.first_byte, b'x');
    let result = run.interrupt();
    assert_eq!(result.status, Some(130));
    assert!(result.stderr.contains("interrupted") && result.stderr.contains("rip"), "{result:?}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn two_runs_that_write_the_same_file_are_both_told_and_lose_nothing() {
    if !program_exists() {
        return;
    }
    for (option, arguments) in [("", &[][..]), ("--force", &["--force"])] {
        let directory = TestDirectory::new(SPINS, CONFIG);
        let path = |name: &str| directory.0.path().join(name);
        fs::write(path("halts.bin"), HALTS).unwrap();
        fs::write(path("halts.toml"), CONFIG.replace("guest.bin", "halts.bin")).unwrap();
        if !option.is_empty() {
            fs::write(path("report.json"), "earlier").unwrap();
        }
        let report = |config| [&["run", config, "--report", "report.json"], arguments].concat();
        let second = SpinningRun::start(&directory, &report("vmm.toml"));
        let process = second.child.id();

        let first = directory.run(&report("halts.toml"));
        assert_eq!(first.status, Some(0), "{first:?}");
        assert!(first.stderr.contains("warning: another process is writing the report"), "{first:?}");
        let written = fs::read_to_string(path("report.json")).unwrap();
        assert!(written.contains("\"halt\""), "{written}");

        let second = second.interrupt();
        let message = "cannot write the report: another file with this name was written meanwhile";
        assert!(second.stderr.contains(message), "{option}: {second:?}");
        assert_eq!(second.status, Some(105), "{second:?}");
        assert_eq!(fs::read_to_string(path("report.json")).unwrap(), written);
        let kept = fs::read_to_string(path(&format!("report.json.{process}"))).unwrap();
        assert!(kept.contains("\"interrupted\""), "{kept}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(
        &[0xb0, b'x', 0xe6, 0xe9, 0xeb, 0xfe],
        &format!("{CONFIG}limits.time = \"500ms\"\n"),
    );
    // SIGHUP is ignored, as by nohup. `kill` runs after the guest's first output.
    let script = format!(
        "trap '' HUP; {{ {CLI} run vmm.toml & echo $! >pid; wait $!; echo $? >status; }} | {{ head -c 1; kill -HUP $(cat pid); cat; }}"
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(&directory.0).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("still running after 500ms"), "{stderr}");
    assert_eq!(fs::read_to_string(directory.0.path().join("status")).unwrap(), "102\n");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_closed_output_is_a_host_error() {
    if !program_exists() {
        return;
    }
    // A guest that prints without end into a pipe that nobody reads.
    let directory = TestDirectory::new(&[0xb0, b'\n', 0xe6, 0xe9, 0xeb, 0xfc], CONFIG);
    let script = format!("{{ {CLI} run vmm.toml; echo $? >&2; }} | head -n 1 >/dev/null");
    let output = Command::new("sh").args(["-c", &script]).current_dir(&directory.0).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("the guest's console failed: Broken pipe") && stderr.ends_with("106\n"),
        "{stderr}"
    );
}

#[test]
fn a_directory_as_guest_is_an_error_of_the_configuration() {
    let result = TestDirectory::new(HALTS, &CONFIG.replace("guest.bin", ".")).run(&["check", "vmm.toml"]);
    assert_eq!(result.status, Some(105), "{result:?}");
    assert!(result.stderr.contains("it is not a regular file"), "{result:?}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn memory_beyond_that_of_the_host_is_refused() {
    if !program_exists() {
        return;
    }
    let result = TestDirectory::new(HALTS, &CONFIG.replace("2MiB", "64TiB")).run(&["run", "vmm.toml"]);
    assert_eq!(result.status, Some(106), "{result:?}");
    assert!(
        result.stderr.contains("this host has") && result.stderr.contains("memory.overcommit"),
        "{result:?}"
    );
}

/// A guest that prints lines forever: mov $'\\n', %al; out %al, $0xe9; jmp to the second.
const PRINTS: &[u8] = &[0xb0, b'\n', 0xe6, 0xe9, 0xeb, 0xfc];

#[test]
#[ignore = "needs /dev/kvm"]
fn limits_hold_while_a_reader_does_not_read() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(PRINTS, CONFIG);
    // The pipe is full before the run, and its reader sleeps longer than the test may take. Trace and report go to the same pipe.
    for what in ["2>err", "--trace 2>&1 >out", "--trace 2>&1"] {
        let script = format!(
            "{{ head -c 65536 /dev/zero; {CLI} run vmm.toml --timeout 500ms {what}; echo $? >status; }} | {{ sleep 60 & echo $! >pid; wait; }}"
        );
        let started = std::time::Instant::now();
        let mut shell = Command::new("sh").args(["-c", &script]).current_dir(&directory.0).spawn().unwrap();
        let status = directory.0.path().join("status");
        while fs::read(&status).unwrap_or_default().is_empty() && started.elapsed().as_secs() < 50 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let result = fs::read_to_string(&status).unwrap_or_default();
        let stop = "kill $(cat pid)";
        assert!(Command::new("sh").args(["-c", stop]).current_dir(&directory.0).status().unwrap().success());
        shell.wait().unwrap();
        fs::remove_file(&status).unwrap();
        assert_eq!(result, "102\n", "{what}");
    }
    let stderr = fs::read_to_string(directory.0.path().join("err")).unwrap();
    assert!(stderr.contains("were not read from standard output"), "{stderr}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_second_signal_ends_the_process_at_once() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(PRINTS, CONFIG);
    // Both signals are pending when the process continues.
    let script = format!(
        "{CLI} run vmm.toml >out & pid=$!; until [ -s out ]; do :; done; kill -STOP $pid; kill -HUP $pid; kill -TERM $pid; kill -CONT $pid; wait $pid; echo $?"
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(&directory.0).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    // A shell reports a process that was killed by a signal as 128 plus the number of the signal. A normal end has 130.
    assert!(["129\n", "143\n"].contains(&&*stdout), "{output:?}");
}
