//! `run --trace`, `--trace-out`, `--stats` and `--timing`: lines, files and tables.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "the helpers of tests are tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const CLI: &str = env!("CARGO_BIN_EXE_vmm-cli");

/// 64-bit code that reads an unmapped port, writes to another one, to the console and to a device at an address, and halts.
#[rustfmt::skip]
const GUEST: &[u8] = &[
    0xb2, 0x60,                                     // mov $0x60, %dl
    0xec,                                           // in (%dx), %al
    0xe6, 0x80,                                     // out %al, $0x80
    0xb0, b'H',                                     // mov $'H', %al
    0xe6, 0xe9,                                     // out %al, $0xe9
    0xb0, b'\n',                                    // mov $'\n', %al
    0xe6, 0xe9,                                     // out %al, $0xe9
    0xc6, 0x04, 0x25, 7, 0, 0, 0x50, 0x12,          // movb $0x12, 0x50000007: the serial port's scratch register
    0xf4,                                           // hlt
];

const CONFIG: &str = "\
mode = \"long\"
memory = { size = \"2MiB\" }
guest = { flat = \"guest.bin\", address = 0x8000 }
devices.serial.mmio = 0x5000_0000
";

/// Directory with the guest and its configuration.
struct TestDirectory(tempfile::TempDir);

impl TestDirectory {
    /// Returns `None` if no guest can run.
    fn new() -> Option<Self> {
        if !Path::new(CLI).exists() {
            println!("skipped: the program is not on this host");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("guest.bin"), GUEST).unwrap();
        fs::write(directory.path().join("vmm.toml"), CONFIG).unwrap();
        Some(Self(directory))
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(CLI);
        command.args(["run", "vmm.toml"]).args(arguments).current_dir(&self.0).stdin(Stdio::null());
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    }

    /// Runs the guest, checks status and output, and returns the text on standard error.
    fn trace(&self, arguments: &[&str]) -> String {
        let (status, stdout, stderr) = self.run(arguments);
        assert_eq!((status, stdout.as_str()), (Some(0), "H\n"), "{stderr}");
        stderr
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap()
    }
}

/// Returns the lines of a trace without their times.
fn untimed(trace: &str) -> Vec<&str> {
    trace.lines().map(|line| line.split_once(' ').unwrap().1).collect()
}

#[test]
#[ignore = "needs /dev/kvm"]
fn exits_are_lines_with_location_value_device_and_changes() {
    let Some(directory) = TestDirectory::new() else { return };
    let trace = directory.trace(&["--trace=exits"]);
    let lines = untimed(&trace);
    let expected = [
        ("exit 1: pio-in port 0x60 (nothing there) -> 0xff at 0x8002 ", "rdx=0x60"),
        ("exit 2: pio-out port 0x80 (nothing there) <- 0xff at 0x8003 ", "rax=0xff"),
        ("exit 3: pio-out port 0xe9 (debug-console) <- 0x48 'H' at 0x8007 ", "rax=0x48"),
        ("exit 4: pio-out port 0xe9 (debug-console) <- 0xa at 0x800b ", "rax=0xa"),
        ("exit 5: mmio-write address 0x50000007 (serial) <- 0x12 at 0x800d ", ""),
        ("exit 6: hlt at 0x8015 ", ""),
    ];
    assert_eq!(lines.len(), expected.len(), "{trace}");
    for (line, (start, end)) in lines.iter().zip(expected) {
        assert!(line.starts_with(start) && line.contains(end), "{line}\nis not\n{start}...{end}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn calls_are_lines_like_those_of_strace() {
    let Some(directory) = TestDirectory::new() else { return };
    let trace = directory.trace(&["--trace=calls"]);
    let lines = untimed(&trace);
    assert!(lines[0].starts_with("call process: open(\"/dev/kvm\", O_RDWR | O_CLOEXEC) = fd "), "{trace}");
    assert!(
        lines.iter().any(|line| line.starts_with("call VM: KVM_SET_TSS_ADDR(0xfffbd000) = 0 <")),
        "{trace}"
    );
    let sregs = lines.iter().find(|line| line.contains("KVM_SET_SREGS")).unwrap();
    assert!(sregs.contains("cr0=0x80010033 +PE") && sregs.contains("efer=0x500 +LME +LMA"), "{sregs}");
    assert!(lines.iter().any(|line| line.contains("KVM_SET_REGS({rsp=")), "{trace}");
    // One for each exit: calls of the trace itself are not shown.
    assert_eq!(lines.iter().filter(|line| line.contains("KVM_RUN()")).count(), 6, "{trace}");
    let both = directory.trace(&["--trace"]);
    assert!(both.contains("call vCPU: KVM_RUN()") && both.contains("exit 6: hlt"), "{both}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn each_instruction_is_one_step() {
    let Some(directory) = TestDirectory::new() else { return };
    let trace = directory.trace(&["--trace=steps", "--report", "report.json"]);
    let steps: Vec<&str> = untimed(&trace);
    let expected = [
        "step 0x8000: mov dl,0x60; rdx=0x60",
        "step 0x8002: in al,dx; rax=0xff",
        "step 0x8003: out 0x80,al",
        "step 0x8005: mov al,0x48; rax=0x48",
        "step 0x8007: out 0xe9,al",
        "step 0x8009: mov al,0xa; rax=0xa",
        "step 0x800b: out 0xe9,al",
        "step 0x800d: mov byte [0x50000007],0x12",
        "step 0x8015: hlt",
    ];
    assert_eq!(steps, expected);
    // Stepping does not change the number of exits.
    let report: Value = serde_json::from_str(&directory.file("report.json")).unwrap();
    assert_eq!(report["exits"], 6);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn filters_and_trace_last_select_events() {
    let Some(directory) = TestDirectory::new() else { return };
    let count = |arguments: &[&str]| untimed(&directory.trace(arguments)).len();
    assert_eq!(count(&["--trace=exits", "--trace-filter", "port=0xe9"]), 2);
    assert_eq!(count(&["--trace=exits", "--trace-filter", "exit=pio-in,hlt"]), 2);
    assert_eq!(count(&["--trace=exits", "--trace-filter", "address=0x50000000-0x5fffffff"]), 1);
    assert_eq!(count(&["--trace=exits", "--trace-filter", "after=4"]), 2);
    assert_eq!(count(&["--trace=exits", "--trace-filter", "port=0-0xffff", "--trace-filter", "after=2"]), 2);
    assert_eq!(count(&["--trace=calls", "--trace-filter", "call=KVM_RUN"]), 6);
    let last = directory.trace(&["--trace=exits", "--trace-last", "2"]);
    assert!(last.starts_with("the last 2 events; 4 before them are left out\n"), "{last}");
    assert!(last.contains("exit 5: ") && last.contains("exit 6: ") && last.lines().count() == 3, "{last}");
    let beside = directory.trace(&["--trace=exits", "--trace-last", "2", "--trace-out", "trace.json"]);
    assert_eq!(untimed(&beside).len(), 3, "events for the file do not count for --trace-last: {beside}");
    let (status, _, stderr) = directory.run(&["--trace", "--trace-filter", "prot=1"]);
    assert!(status == Some(105) && stderr.contains("there are exit, port"), "{stderr}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn lines_are_json_with_format_json() {
    let Some(directory) = TestDirectory::new() else { return };
    let trace = directory.trace(&["--trace=calls,exits,steps", "--format", "json"]);
    let events: Vec<Value> = trace.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: BTreeSet<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["call", "exit", "step"]));
    let read = events.iter().find(|event| event["exit"] == "pio-in").unwrap();
    let access = serde_json::json!({
        "space": "port", "address": 0x60, "write": false, "width": 1, "count": 1, "bytes": [0xff],
    });
    assert_eq!((&read["access"], &read["rip"], &read["number"]), (&access, &0x8002.into(), &1.into()));
    let step = events.iter().find(|event| event["event"] == "step").unwrap();
    assert_eq!((&step["instruction"], &step["bits"]), (&"mov dl,0x60".into(), &64.into()));
    assert_eq!(step["changes"][0], serde_json::json!({ "register": "rdx", "old": 0, "new": 0x60 }));
}

/// Checks what a viewer of the Trace Event format needs: an array of objects with `ph`, `ts`, `pid`, `tid` and `name`, and `dur` if
/// `ph` is `X`. They are in the order of time, and two events of one track overlap only if one contains the other.
fn check_trace_events(events: &[Value]) {
    let mut latest = 0.0;
    let mut open: BTreeMap<(u64, u64), Vec<f64>> = BTreeMap::new();
    for event in events {
        let ts = event["ts"].as_f64().unwrap();
        let track = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        assert!(event["name"].as_str().is_some_and(|name| !name.is_empty()), "{event}");
        match event["ph"].as_str().unwrap() {
            "M" => assert!(event["args"]["name"].is_string(), "{event}"),
            "i" => assert!(ts >= latest, "{event} comes after {latest}"),
            "X" => {
                assert!(ts >= latest, "{event} comes after {latest}");
                latest = ts;
                let end = ts + event["dur"].as_f64().unwrap();
                assert!(event["args"].is_object(), "{event}");
                let ends = open.entry(track).or_default();
                ends.retain(|end| *end > ts + 1e-6);
                assert!(
                    ends.iter().all(|outer| end <= outer + 1e-6),
                    "{event} overlaps what ends at {ends:?}"
                );
                ends.push(end);
            }
            other => panic!("{other}: {event}"),
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_trace_file_is_in_the_trace_event_format() {
    let Some(directory) = TestDirectory::new() else { return };
    assert_eq!(directory.trace(&["--trace-out", "trace.json"]), "", "only the file is written");
    let events: Vec<Value> = serde_json::from_str(&directory.file("trace.json")).unwrap();
    check_trace_events(&events);
    let tracks: BTreeMap<u64, &str> = events
        .iter()
        .filter(|event| event["name"] == "thread_name")
        .map(|event| (event["tid"].as_u64().unwrap(), event["args"]["name"].as_str().unwrap()))
        .collect();
    let names: Vec<&str> = tracks.values().copied().collect();
    assert_eq!(names, ["VMM: calls to KVM", "guest: vCPU 0", "device: debug-console", "device: serial"]);
    let track = |name: &str| *tracks.iter().find(|(_, track)| **track == name).unwrap().0;
    let on = |name: &str| -> Vec<&Value> {
        let tid = track(name);
        events.iter().filter(|event| event["ph"] == "X" && event["tid"] == tid).collect()
    };
    assert_eq!(on("guest: vCPU 0").len(), 6);
    assert_eq!(on("device: debug-console").len(), 2);
    assert!(on("VMM: calls to KVM").iter().any(|event| event["name"] == "KVM_CREATE_VM"));
    let first = on("guest: vCPU 0")[0];
    assert_eq!((&first["name"], &first["args"]["value"]), (&"pio-in 0x60".into(), &"0xff".into()));
    assert_eq!(first["args"]["rip"], "0x8002");

    // `--trace-last` and steps give a file in the same format.
    let (all, file) = ("--trace=calls,exits,steps", "last.json");
    directory.trace(&[all, "--trace-last", "10", "--trace-out", file]);
    let events: Vec<Value> = serde_json::from_str(&directory.file(file)).unwrap();
    check_trace_events(&events);
    assert!(events.iter().any(|event| event["name"] == "hlt" && event["cat"] == "step"));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_existing_file_is_overwritten_only_with_force() {
    let Some(directory) = TestDirectory::new() else { return };
    for option in ["--trace-out", "--report"] {
        fs::write(directory.0.path().join("mine.txt"), "mine").unwrap();
        let (status, stdout, stderr) = directory.run(&[option, "mine.txt"]);
        assert_eq!((status, stdout.as_str()), (Some(105), ""), "{stderr}");
        assert!(stderr.contains("the file exists") && stderr.contains("--force"), "{stderr}");
        assert_eq!(directory.file("mine.txt"), "mine");
        directory.trace(&[option, "mine.txt", "--force"]);
        serde_json::from_str::<Value>(&directory.file("mine.txt")).unwrap();
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn statistics_are_tables_and_part_of_the_report() {
    let Some(directory) = TestDirectory::new() else { return };
    let text = directory.trace(&["--stats", "--report", "report.json"]);
    for part in [
        "guest, with the kernel's work",
        "KVM_RUN",
        "pio-out",
        "port 0xe9 (debug-console)",
        "exits by symbol",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let report: Value = serde_json::from_str(&directory.file("report.json")).unwrap();
    let stats = &report["stats"];
    let console = serde_json::json!({
        "space": "port", "address": 0xe9, "device": "debug-console", "reads": 0, "writes": 2, "bytes": 2,
    });
    assert_eq!(stats["accesses"][0], console);
    let run = stats["calls"].as_array().unwrap().iter().find(|call| call["call"] == "KVM_RUN").unwrap();
    assert_eq!(run["count"], 6);
    let time = |key: &str| stats["time"][key].as_u64().unwrap();
    assert_eq!(
        time("guest_ns") + time("calls_ns") + time("watching_ns") + time("asleep_ns") + time("own_ns"),
        time("total_ns"),
        "{stats}"
    );
    match stats["kernel"].as_array().unwrap().iter().find(|counter| counter["name"] == "exits") {
        Some(exits) => assert!(exits["of"] == "vCPU 0" && exits["values"][0].as_u64() >= Some(6), "{exits}"),
        None => assert!(stats["kernel_missing"].is_string(), "{stats}"),
    }
    let json = directory.trace(&["--stats", "--format", "json"]);
    assert!(serde_json::from_str::<Value>(&json).unwrap()["stats"]["time"].is_object());
    assert!(directory.trace(&[]).is_empty());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn timing_is_a_table_and_part_of_the_report() {
    let Some(directory) = TestDirectory::new() else { return };
    let text = directory.trace(&["--timing"]);
    assert!(text.starts_with("where the time went:\n") && text.ends_with(" in all\n"), "{text}");
    for line in
        ["configuration", "KVM_CREATE_VM", "KVM_RUN, the first", "KVM_RUN, 5 times", "end of the machine"]
    {
        assert!(text.lines().any(|shown| shown.ends_with(&format!("  {line}"))), "{line} in\n{text}");
    }
    let json = directory.trace(&["--timing", "--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let steps = json["timing"]["steps"].as_array().unwrap();
    let machine = steps.iter().find(|step| step["name"] == "machine").unwrap();
    let calls = machine["calls"].as_array().unwrap();
    let in_calls: u64 = calls.iter().map(|call| call["ns"].as_u64().unwrap()).sum();
    assert!(in_calls <= machine["ns"].as_u64().unwrap(), "{machine}");
}
