//! `vmm-cli test` on directories of generated cases that pass, fail, hang or cannot be read.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "the helpers of tests are tests")]

mod support;

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use support::{CLI, ProcessResult, program_exists};

/// Returns the start of a configuration in a mode that every host has, with the flat guest `guest`.
fn machine(guest: &str) -> String {
    format!("mode = \"long\"\nmemory.size = \"2MiB\"\nguest = {{ flat = \"{guest}\", address = 0x8000 }}\n")
}

/// Guests of a few bytes, valid in 16-, 32- and 64-bit code.
const GUESTS: [(&str, &[u8]); 4] = [
    // mov al, 'A'; out 0xe9, al; hlt
    ("prints.bin", &[0xb0, b'A', 0xe6, 0xe9, 0xf4]),
    // jmp $
    ("spins.bin", &[0xeb, 0xfe]),
    // ud2, without an IDT
    ("dies.bin", &[0x0f, 0x0b]),
    // mov dx, 0x3f8 (0x3fd behind it in 32 and 64 bits); in al, dx; out 0xe9, al; hlt
    ("echoes.bin", &[0x66, 0xba, 0xf8, 0x03, 0xec, 0xe6, 0xe9, 0xf4]),
];

/// Creates a directory with the guests and these configurations.
fn suite(cases: &[(&str, String)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in GUESTS {
        fs::write(directory.path().join(name), bytes).unwrap();
    }
    for (name, text) in cases {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

impl ProcessResult {
    /// Parses the output of `--format json`: the cases, sorted by name, and the summary.
    fn json(&self) -> (Vec<Value>, Value) {
        let mut rows: Vec<Value> =
            self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let summary = rows.pop().unwrap();
        assert_eq!(summary["type"], "summary");
        rows.sort_by_key(|row| row["name"].as_str().unwrap().to_owned());
        (rows, summary)
    }
}

fn test(directory: &Path, arguments: &[&str]) -> ProcessResult {
    let mut command = Command::new(CLI);
    command.arg("test").args(arguments).current_dir(directory).stdin(Stdio::null());
    let output = command.output().unwrap();
    ProcessResult::new(&output)
}

#[test]
fn cases_are_listed_filtered_and_partitioned_without_kvm() {
    let expect = "[expect]\n";
    let directory = suite(&[
        ("a.toml", machine("prints.bin") + expect),
        ("b/c.toml", machine("prints.bin") + expect + "[matrix]\nmode = [\"real\", \"long\"]\n"),
        ("no-test.toml", machine("prints.bin")),
    ]);
    let list = |arguments: &[&str]| {
        let result = test(directory.path(), &[&["--list"], arguments].concat());
        assert_eq!((result.status, result.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        result.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = ["a.toml", "b/c.toml[mode=real]", "b/c.toml[mode=long]"];
    assert_eq!(list(&[]), all);
    assert_eq!(list(&["--filter", "real", "--filter", "^a"]), all[..2]);
    assert_eq!(list(&["--partition", "1/2"]), [all[0], all[2]]);
    assert_eq!(list(&["--partition", "count:2/2"]), [all[1]]);
    assert_eq!(list(&["--partition", "9/9"]), [""; 0]);
    let mut partitioned: Vec<String> =
        ["hash:1/2", "hash:2/2"].iter().flat_map(|part| list(&["--partition", part])).collect();
    partitioned.sort();
    assert_eq!(partitioned, ["a.toml", "b/c.toml[mode=long]", "b/c.toml[mode=real]"]);
    assert_eq!(list(&["--shuffle", "1"]), list(&["--shuffle", "1"]));
    assert_eq!(list(&["b"]), all[1..]);
}

#[test]
fn empty_suites_and_usage_errors_have_status_105() {
    let directory = suite(&[("no-test.toml", machine("prints.bin"))]);
    let nothing = test(directory.path(), &[]);
    assert_eq!(nothing.status, Some(105));
    assert!(nothing.stderr.contains("there is no test here"), "{nothing:?}");
    assert!(test(directory.path(), &["no-test.toml"]).stderr.contains("no-test.toml has no [expect]"));
    for wrong in [
        &["gone"][..],
        &["--partition", "3/2"],
        &["--filter", "("],
        &["--shuffle", "x"],
        &["--merge", "a.xml"],
        &["-j0"],
    ] {
        assert_eq!(test(directory.path(), wrong).status, Some(105), "{wrong:?}");
    }
}

/// Returns one case of each kind.
fn one_of_each() -> Vec<(&'static str, String)> {
    vec![
        ("broken.toml", "mode = \"long\nmemory = 1\n".to_owned()),
        ("dies.toml", machine("dies.bin") + "[expect]\noutput = \"\"\n"),
        ("echo.input", "Z".to_owned()),
        ("echo.toml", machine("echoes.bin") + "[expect]\noutput = \"Z\"\n"),
        ("hangs.toml", machine("spins.bin") + "limits.time = \"200ms\"\n[expect]\nend = \"halt\"\n"),
        ("is-to-die.toml", machine("dies.bin") + "[expect]\nend = \"shutdown\"\ncause = [\"#UD\"]\n"),
        (
            "prints.toml",
            machine("prints.bin") + "[expect]\noutput = \"A\"\n[matrix]\nmode = [\"real\", \"long\"]\n",
        ),
        ("unknown.toml", machine("prints.bin") + "[expect]\n[matrix]\nmoed = [\"long\"]\n"),
        ("wrong.toml", machine("prints.bin") + "[expect]\noutput = \"B\"\nregisters = { rax = 0x42 }\n"),
    ]
}

#[test]
#[ignore = "needs /dev/kvm"]
fn each_case_has_its_verdict() {
    if !program_exists() {
        return;
    }
    let directory = suite(&one_of_each());
    let result = test(directory.path(), &["--format", "json", "--junit", "report.xml"]);
    assert_eq!(result.status, Some(103), "{result:?}");
    let (rows, summary) = result.json();
    let verdicts: Vec<_> =
        rows.iter().map(|row| (row["name"].as_str().unwrap(), row["verdict"].as_str().unwrap())).collect();
    let expected = [
        ("broken.toml", "failed"),
        ("dies.toml", "failed"),
        ("echo.toml", "passed"),
        ("hangs.toml", "failed"),
        ("is-to-die.toml", "passed"),
        ("prints.toml[mode=long]", "passed"),
        ("prints.toml[mode=real]", "passed"),
        ("unknown.toml[moed=long]", "failed"),
        ("wrong.toml", "failed"),
    ];
    assert_eq!(verdicts, expected);
    let counts =
        ["passed", "failed", "skipped", "flaky", "not_run"].map(|key| summary[key].as_u64().unwrap());
    assert_eq!(counts, [4, 5, 0, 0, 0]);

    let failure = |name: &str| &rows.iter().find(|row| row["name"] == name).unwrap()["failure"];
    let statuses = ["broken.toml", "dies.toml", "hangs.toml", "unknown.toml[moed=long]", "wrong.toml"]
        .map(|name| failure(name)["status"].as_u64().unwrap());
    assert_eq!(statuses, [105, 100, 102, 105, 103]);
    assert!(failure("dies.toml")["cause"].as_str().unwrap().contains("#UD"));
    assert_eq!(failure("wrong.toml")["output"], "A");
    let lines = failure("wrong.toml")["lines"].as_array().unwrap();
    assert_eq!(lines[0], "expect.output: expected \"B\", found \"A\"");
    assert_eq!(lines[1], "expect.registers.rax: expected 0x42, found 0x41");
    assert_eq!(failure("unknown.toml[moed=long]")["diagnostics"][0]["help"], "did you mean `mode`?");

    let xml = fs::read_to_string(directory.path().join("report.xml")).unwrap();
    assert!(xml.contains("tests=\"9\" skipped=\"0\" failures=\"3\" errors=\"2\""), "{xml}");
    let again = test(directory.path(), &["--junit", "report.xml"]);
    assert_eq!(again.status, Some(105));
    assert!(again.stderr.contains("the file exists"), "{again:?}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_text_report_shows_differences_and_causes() {
    if !program_exists() {
        return;
    }
    let directory = suite(&one_of_each());
    let result = test(directory.path(), &["-j1"]);
    assert_eq!((result.status, result.stderr.as_str()), (Some(103), ""));
    let shows = |text: &str| assert!(result.stdout.contains(text), "{text}: {}", result.stdout);
    shows("passed  echo.toml (");
    shows("): guest crashed: the vCPU shut down");
    shows("raised #UD");
    shows("): guest hung: ");
    shows(
        "): expect.output: expected \"B\", found \"A\"\n        expect.registers.rax: expected 0x42, found 0x41\n",
    );
    shows("        it printed:\n          A\n");
    shows("did you mean `mode`?");
    shows("\n4 passed, 5 failed, 0 skipped in ");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn fail_fast_stops_and_retries_are_counted() {
    if !program_exists() {
        return;
    }
    let directory = suite(&[
        ("a.toml", machine("prints.bin") + "[expect]\noutput = \"B\"\n"),
        ("b.toml", machine("prints.bin") + "[expect]\noutput = \"A\"\n"),
        ("c.toml", "mode = \n".to_owned()),
    ]);
    let (rows, summary) = test(directory.path(), &["-j1", "--fail-fast", "--format", "json"]).json();
    assert_eq!((rows.len(), &summary["not_run"]), (1, &2.into()));
    let (rows, _) = test(directory.path(), &["--retry", "2", "--format", "json"]).json();
    let attempts: Vec<_> = rows.iter().map(|row| row["attempts"].as_u64().unwrap()).collect();
    // A file with an error is not tried again.
    assert_eq!(attempts, [3, 1, 1]);
}

/// `run` shows which modes this host does not support.
#[test]
#[ignore = "needs /dev/kvm"]
fn unsupported_modes_are_skipped_or_fail() {
    if !program_exists() {
        return;
    }
    let modes = "[expect]\n[matrix]\nmode = [\"real\", \"protected\", \"paged\", \"pae\", \"long\"]\n";
    let directory = suite(&[("modes.toml", machine("prints.bin") + modes)]);
    let run_status = |mode: &str| {
        let mut command = Command::new(CLI);
        command.args(["run", "modes.toml", "--mode", mode]).current_dir(&directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().unwrap().code()
    };
    let (rows, summary) = test(directory.path(), &["--format", "json"]).json();
    for row in &rows {
        let name = row["name"].as_str().unwrap();
        let mode = name.split(['=', ']']).nth(1).unwrap();
        let expected = if run_status(mode) == Some(104) { "skipped" } else { "passed" };
        assert_eq!(row["verdict"], expected, "{row}");
        assert_eq!(row["reason"].is_string(), expected == "skipped");
    }
    let strict = test(directory.path(), &["--no-skip", "--format", "json"]);
    assert_eq!(strict.json().1["failed"], summary["skipped"]);
    assert_eq!(strict.status, Some(if summary["skipped"] == 0 { 0 } else { 103 }));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn reports_of_partitions_merge_to_one() {
    if !program_exists() {
        return;
    }
    let directory = suite(&one_of_each());
    for part in ["1", "2"] {
        let result =
            test(directory.path(), &["--partition", &format!("{part}/2"), "--junit", &format!("{part}.xml")]);
        assert_eq!(result.status, Some(103));
    }
    let merged = test(directory.path(), &["--merge", "1.xml", "2.xml", "-o", "all.xml"]);
    assert_eq!((merged.status, merged.stdout.as_str()), (Some(103), "4 passed, 5 failed, 0 skipped\n"));
    let xml = fs::read_to_string(directory.path().join("all.xml")).unwrap();
    assert_eq!(xml.matches("<testcase ").count(), 9);
    assert_eq!(test(directory.path(), &["--merge", "1.xml", "1.xml", "-o", "b.xml"]).status, Some(105));
}

/// Process of `vmm-cli test`, which ends when a test fails.
struct Suite(Option<Child>);

impl Suite {
    /// Starts `vmm-cli test`.
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(CLI);
        command.arg("test").args(arguments).current_dir(directory).stdin(Stdio::null());
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    fn wait_with_output(mut self) -> io::Result<Output> {
        self.0.take().unwrap().wait_with_output()
    }
}

impl Drop for Suite {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Its workers end with it.
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// Returns the fields of proc_pid_stat(5) that follow the name in parentheses: from the third one, the state.
fn stat(process: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

/// Returns the CPU time of a process: fields 14 and 15, user and system time in ticks of 10 ms.
fn ticks(process: u32) -> u64 {
    stat(process).map_or(0, |fields| fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum())
}

/// Returns the children of a process that have not ended.
fn workers(process: u32) -> Vec<u32> {
    let all =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let parent = process.to_string();
    all.filter(|number| stat(*number).is_some_and(|fields| fields[1] == parent && fields[0] != "Z")).collect()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// CPU time of a worker, in ticks of 10 ms, after which its guest is taken to spin.
const SPINNING_TICKS: u64 = 200;

/// Waits until `count` workers of a process have each used 2 s of CPU time, which is far more than the cases take whose guests do
/// not spin. Returns them.
fn wait_until_guests_run(process: u32, count: usize) -> Vec<u32> {
    let running = RefCell::new(Vec::new());
    wait_until("the guests do not run", || {
        *running.borrow_mut() =
            workers(process).into_iter().filter(|worker| ticks(*worker) >= SPINNING_TICKS).collect();
        running.borrow().len() == count
    });
    running.into_inner()
}

fn signal(process: u32, name: &str) {
    Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status().unwrap();
}

/// Sends a signal until the process has ended. The first SIGSEGV only removes Rust's handler.
fn end_by_signal(process: u32, name: &str) {
    wait_until("the worker does not end", || {
        let is_there = stat(process).is_some_and(|fields| fields[0] != "Z");
        if is_there {
            signal(process, name);
        }
        !is_there
    });
}

/// Ends each worker that has used 2 s of CPU time until the suite has ended, with signals in turn. Returns the number of workers.
///
/// It is one for each case that spins. On a busy host, it can be more: one that has not got to its case that spins.
fn end_spinning_workers(mut child: Suite, signals: &[&str]) -> (usize, ProcessResult) {
    let mut count = 0;
    let process = child.0.as_mut().unwrap();
    while process.try_wait().unwrap().is_none() {
        let spinning = workers(process.id()).into_iter().find(|worker| ticks(*worker) >= SPINNING_TICKS);
        if let Some(worker) = spinning {
            end_by_signal(worker, signals[count % signals.len()]);
            count += 1;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    (count, ProcessResult::new(&child.wait_with_output().unwrap()))
}

/// Returns the file of a case that spins until it is stopped.
fn spins() -> String {
    machine("spins.bin") + "limits.time = \"10m\"\n[expect]\nend = \"halt\"\n"
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_worker_that_dies_costs_one_case() {
    if !program_exists() {
        return;
    }
    let prints = machine("prints.bin") + "[expect]\noutput = \"A\"\n";
    let directory = suite(&[
        ("a.toml", prints.clone()),
        ("b-spins.toml", spins()),
        ("c.toml", prints.clone()),
        ("d-spins.toml", spins()),
        ("e.toml", prints),
    ]);
    let child = Suite::start(directory.path(), &["-j1", "--format", "json", "--junit", "report.xml"]);
    let (count, result) = end_spinning_workers(child, &["KILL", "SEGV"]);
    assert_eq!(result.status, Some(103), "{result:?}");
    let (rows, summary) = result.json();
    assert_eq!(rows.len(), 5, "{result:?}");
    let failed: Vec<_> = rows.iter().filter(|row| row["verdict"] == "failed").collect();
    assert!(rows[1]["verdict"] == "failed" && rows[3]["verdict"] == "failed", "{result:?}");
    assert!(failed.len() <= count, "{count} workers ended: {result:?}");
    assert_eq!((&summary["failed"], &summary["not_run"]), (&failed.len().into(), &0.into()));
    let reasons =
        ["the worker process was killed by SIGKILL (out of memory?)", "the worker process crashed: SIGSEGV"];
    assert!(failed.iter().all(|row| reasons.iter().any(|reason| row["reason"] == *reason)), "{result:?}");
    if count == 2 {
        assert_eq!((&rows[1]["reason"], &rows[3]["reason"]), (&reasons[0].into(), &reasons[1].into()));
    }
    assert_eq!(rows[1]["failure"]["status"], 101);
    let xml = fs::read_to_string(directory.path().join("report.xml")).unwrap();
    let counts = format!("tests=\"5\" skipped=\"0\" failures=\"0\" errors=\"{}\"", failed.len());
    assert!(xml.contains(&counts), "{xml}");
}

/// Case 2 of 6 spins. All start from one boot snapshot; the guest printed an A before it.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_worker_that_dies_costs_one_case_of_a_booted_guest() {
    if !program_exists() {
        return;
    }
    let case =
        |(name, address): (usize, &&str)| format!("[[test.case]]\nname = \"{name}\"\njump = \"{address}\"\n");
    let cases = ["0x8004", "0x8004", "0x8007", "0x8004", "0x8004", "0x8004"];
    let cases: String = cases.iter().enumerate().map(case).collect();
    let text = machine("boots.bin")
        + "limits.time = \"10m\"\n[expect]\nend = \"halt\"\noutput = \"AA\"\n[test]\nsnapshot-at = \"0x8004\"\n"
        + &cases;
    let directory = suite(&[("booted.toml", text)]);
    // 0x8000: mov al, 'A'; out 0xe9, al; 0x8004: out 0xe9, al; hlt; 0x8007: jmp $
    let boots = [0xb0, b'A', 0xe6, 0xe9, 0xe6, 0xe9, 0xf4, 0xeb, 0xfe];
    fs::write(directory.path().join("boots.bin"), boots).unwrap();
    for jobs in ["-j1", "-j2"] {
        let child = Suite::start(directory.path(), &[jobs, "--format", "json", "--retry", "0"]);
        let (count, result) = end_spinning_workers(child, &["KILL"]);
        assert_eq!(result.status, Some(103), "{result:?}");
        let (rows, _) = result.json();
        assert_eq!(rows.len(), 6, "{result:?}");
        let failed: Vec<_> = rows.iter().filter(|row| row["verdict"] == "failed").collect();
        assert!((1..=count).contains(&failed.len()), "{count} workers ended: {result:?}");
        assert_eq!(rows[2]["verdict"], "failed", "{result:?}");
        assert!(failed.iter().all(|row| row["failure"]["status"] == 101), "{result:?}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_suite_that_is_killed_leaves_the_earlier_report_and_a_journal() {
    if !program_exists() {
        return;
    }
    let prints = machine("prints.bin") + "[expect]\n[matrix]\n\"guest.address\" = [0x8000, 0x9000, 0xa000]\n";
    let directory = suite(&[("a.toml", prints), ("b-spins.toml", spins())]);
    let report = directory.path().join("report.xml");
    fs::write(&report, "earlier").unwrap();
    let journals = || {
        let names =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(".report.xml.journal.")).collect::<Vec<_>>()
    };
    let child = Suite::start(directory.path(), &["-j1", "--junit", "report.xml", "--force"]);
    wait_until("the journal has no case", || {
        journals().iter().any(|name| {
            let text = fs::read_to_string(directory.path().join(name)).unwrap();
            text.matches("<testcase ").count() == 3
        })
    });
    drop(child);
    assert_eq!(fs::read_to_string(&report).unwrap(), "earlier");
    let [journal] = &journals()[..] else { panic!("{:?}", journals()) };
    let merged = test(directory.path(), &["--merge", journal, "-o", "merged.xml"]);
    assert_eq!((merged.status, merged.stdout.as_str()), (Some(0), "3 passed, 0 failed, 0 skipped\n"));

    // A suite that ends leaves no journal.
    fs::remove_file(directory.path().join(journal)).unwrap();
    assert_eq!(test(directory.path(), &["a.toml", "--junit", "report.xml", "--force"]).status, Some(0));
    assert!(journals().is_empty());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn workers_end_with_their_parent() {
    if !program_exists() {
        return;
    }
    let directory = suite(&[("a.toml", spins()), ("b.toml", spins())]);
    let child = Suite::start(directory.path(), &["-j2"]);
    let workers = wait_until_guests_run(child.id(), 2);
    drop(child);
    wait_until("the workers go on", || {
        workers.iter().all(|worker| stat(*worker).is_none_or(|fields| fields[0] == "Z"))
    });
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ctrl_c_ends_all_guests_at_once() {
    if !program_exists() {
        return;
    }
    let spins = machine("spins.bin")
        + "limits.time = \"10m\"\n[expect]\n[matrix]\n\"guest.address\" = [0x8000, 0x9000, 0xa000]\n";
    let directory = suite(&[("spins.toml", spins)]);
    let child = Suite::start(directory.path(), &["-j2", "--junit", "report.xml"]);
    wait_until_guests_run(child.id(), 2);
    signal(child.id(), "INT");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.starts_with("0 passed, 0 failed, 0 skipped, 3 not run in "), "{shown}");
    assert!(directory.path().join("report.xml").exists());
}
