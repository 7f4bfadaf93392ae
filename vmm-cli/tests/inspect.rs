//! `translate`, `pages`, `dump` and core files. gdb opens the core files.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use support::{CLI, ProcessResult, program_exists};

/// Prints `AB` and halts: `mov $'A', %al; out %al, $0xe9; mov $'B', %al; out %al, $0xe9; hlt`.
const GUEST: &[u8] = &[0xb0, b'A', 0xe6, 0xe9, 0xb0, b'B', 0xe6, 0xe9, 0xf4];
const CONFIG: &str = "\
mode = \"long\"
memory = { size = \"2MiB\" }
guest = { flat = \"guest.bin\", address = 0x8000 }
";

/// Directory with a guest and its configuration, `vmm.toml`.
struct TestDirectory(tempfile::TempDir);

impl ProcessResult {
    fn json(&self) -> Value {
        assert_eq!(self.status, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl TestDirectory {
    fn new(config: &str) -> Self {
        Self::with_guest(GUEST, config)
    }

    fn with_guest(guest: &[u8], config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("guest.bin"), guest).unwrap();
        fs::write(directory.path().join("vmm.toml"), config).unwrap();
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program with arguments that are separated by spaces.
    fn run(&self, arguments: &str) -> ProcessResult {
        let mut command = Command::new(CLI);
        command.args(arguments.split(' ')).current_dir(&self.0).stdin(Stdio::null());
        let output = command.output().unwrap();
        ProcessResult::new(&output)
    }
}

#[test]
fn usage_errors_are_found_without_kvm() {
    let directory = TestDirectory::new(CONFIG);
    fs::write(directory.path("there"), "keep me").unwrap();
    for (arguments, words) in [
        ("translate vmm.toml 12zz", "neither an address nor a symbol"),
        ("translate vmm.toml 0x1000 --at 0x1 --exits 2", "cannot be used with"),
        ("translate vmm.toml 0x1000 --at main", "no symbol `main`"),
        ("dump vmm.toml", "RANGE"),
        ("dump vmm.toml 0x1000", "write `0x1000,64`"),
        ("dump vmm.toml 0x1000,4XB", "4XB"),
        ("dump vmm.toml 0x1000,16 --output there", "the file exists"),
        ("dump vmm.toml --core there", "the file exists"),
        ("run vmm.toml --core there", "the file exists"),
    ] {
        let result = directory.run(arguments);
        assert_eq!(result.status, Some(105), "{arguments}: {result:?}");
        assert!(result.stderr.contains(words), "{arguments}: {result:?}");
    }
    assert_eq!(fs::read_to_string(directory.path("there")).unwrap(), "keep me");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn the_guest_runs_to_the_stop_point_without_output() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(CONFIG);
    for (at, words) in [
        ("", "at the start"),
        (" --at 0x8004", "at 0x8004"),
        (" --exits 1", "after 1 exit"),
        (" --end", "at the end: HLT"),
    ] {
        let result = directory.run(&format!("translate vmm.toml 0x8000{at}"));
        assert_eq!(result.status, Some(0), "{result:?}");
        let (title, rest) = result.stdout.split_once('\n').unwrap();
        assert!(title.starts_with("four-level paging, ") && title.contains(words), "{title}");
        assert!(
            rest.contains("physical 0x8000: ") && rest.contains("KVM_TRANSLATE says 0x8000 too"),
            "{rest}"
        );
        assert_eq!(result.stderr, "");
    }
    let result = directory.run("translate vmm.toml 0x8000 --exits 2 --show-output");
    assert_eq!(result.stderr, "AB");

    // If the stop point is not reached, the status is that of the end.
    let result = directory.run("pages vmm.toml --exits 9");
    assert_eq!((result.status, result.stdout.as_str()), (Some(103), ""));
    assert!(result.stderr.contains("the guest ended before 9 exits, after 3 exits: HLT"), "{result:?}");
    let crash = TestDirectory::with_guest(&[0x0f, 0x0b], CONFIG);
    assert_eq!(crash.run("pages vmm.toml --at 0x8002").status, Some(100));
    let spin = TestDirectory::with_guest(&[0xeb, 0xfe], &format!("{CONFIG}limits.time = \"100ms\"\n"));
    assert_eq!(spin.run("pages vmm.toml --at 0x8002").status, Some(102));
    // The limit may pass while the host's debug features are probed, before the guest runs.
    let short = TestDirectory::with_guest(&[0xeb, 0xfe], &format!("{CONFIG}limits.time = \"1ms\"\n"));
    for _ in 0..5 {
        assert_eq!(short.run("pages vmm.toml --at 0x8002").status, Some(102));
    }
    // With `--end`, a limit is an end like any other.
    assert_eq!(spin.run("pages vmm.toml --end").status, Some(0));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn translate_as_json() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(CONFIG);
    let answer = directory.run("translate vmm.toml 0x8004 0x40000000 0x800000000000 --format json").json();
    assert_eq!((&answer["point"], &answer["scheme"]), (&"at the start".into(), &"four-level paging".into()));
    let walks = answer["walks"].as_array().unwrap();
    let steps = walks[0]["steps"].as_array().unwrap();
    let tables: Vec<_> = steps.iter().map(|step| step["table"].as_str().unwrap()).collect();
    assert_eq!(tables, ["PML4", "PDPT", "PD"]);
    assert_eq!(steps[0]["flags"], serde_json::json!(["P", "RW", "US"]));
    assert_eq!(steps[1]["at"], steps[0]["next"]);
    assert_eq!((&steps[2]["page"], &steps[2]["page_size"]), (&0.into(), &(2 << 20).into()));
    assert_eq!((&walks[0]["physical"], &walks[0]["kvm"]), (&0x8004.into(), &0x8004.into()));
    assert_eq!((&walks[0]["agrees"], &walks[0]["access"]["user"]), (&true.into(), &false.into()));
    assert_eq!((&walks[1]["end"], &walks[1]["physical"]), (&"not-present".into(), &Value::Null));
    assert_eq!((&walks[1]["agrees"], &walks[1]["kvm"]), (&true.into(), &Value::Null));
    assert_eq!((&walks[2]["end"], &walks[2]["agrees"]), (&"unaddressable".into(), &Value::Null));
}

#[test]
#[ignore = "needs /dev/kvm"]
fn pages_with_findings() {
    if !program_exists() {
        return;
    }
    let maps = "\
[[paging.map]]
gva = 0x40000000
gpa = 0
size = \"8KiB\"
user = true
executable = false
";
    // A guest that gives ring 3 access to the page of the GDT: orb $4, ENTRY; hlt.
    let opens = |entry: u32| [&[0x80, 0x0c, 0x25][..], &entry.to_le_bytes(), &[4, 0xf4]].concat();
    let config = format!("{CONFIG}{maps}");
    let walk = TestDirectory::with_guest(&opens(0), &config)
        .run("translate vmm.toml 0x40001000 --format json")
        .json();
    let entry = &walk["walks"][0]["steps"][3]["at"];
    let directory =
        TestDirectory::with_guest(&opens(u32::try_from(entry.as_u64().unwrap()).unwrap()), &config);

    let kinds = |at: &str| -> Vec<String> {
        let answer = directory.run(&format!("pages vmm.toml --format json{at}")).json();
        let findings = answer["findings"].as_array().unwrap();
        findings.iter().map(|finding| finding["kind"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(""), ["writable-executable", "alias", "alias"]);
    assert_eq!(kinds(" --end"), ["writable-executable", "user-visible", "alias"]);

    let result = directory.run("pages vmm.toml --end");
    assert!(result.stdout.contains("0x40000000-0x40001fff"), "{result:?}");
    assert!(result.stdout.contains("user-visible: ring 3 can write the GDT at 0x40001000"), "{result:?}");
    let answer = directory.run("pages vmm.toml --end --format json").json();
    let mapped =
        answer["ranges"].as_array().unwrap().iter().find(|range| range["gva"] == 0x4000_0000).unwrap();
    assert_eq!((&mapped["gpa"], &mapped["bytes"], &mapped["pages"]), (&0.into(), &0x2000.into(), &2.into()));
    assert_eq!(mapped["access"], serde_json::json!({ "writable": true, "user": true, "executable": false }));

    let none = TestDirectory::new(CONFIG).run("pages vmm.toml --mode protected");
    assert_eq!(none.stdout, "no paging, at the start: each address is its own physical address\n");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn dump_in_every_format() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(CONFIG);
    let line = "00008000  b0 41 e6 e9 b0 42 e6 e9  f4                       |.A...B...|\n00008009\n";
    for range in ["0x8000,9", "0x8000..0x8009", "0x8000..0x8009 --virtual", "0x8000,9 --end"] {
        assert_eq!(directory.run(&format!("dump vmm.toml {range}")).stdout, line, "{range}");
    }
    let rows = directory.run("dump vmm.toml 0x8000,2 0x8008,1 --format json").json();
    assert_eq!(rows[1], serde_json::json!({ "address": 0x8008, "virtual": false, "length": 1, "hex": "f4" }));
    assert_eq!(rows[0]["hex"], "b041");

    let result = directory.run("dump vmm.toml 0x0,2MiB --raw --output all.bin");
    assert_eq!((result.status, result.stdout.as_str()), (Some(0), ""));
    let bytes = fs::read(directory.path("all.bin")).unwrap();
    assert_eq!((bytes.len(), &bytes[0x8000..][..GUEST.len()]), (2 << 20, GUEST));

    for (range, words) in [
        ("0x1fffff,2", "cannot read physical 0x200000: no memory is there"),
        ("0x1ff000..0x40000000 --virtual --output part", "cannot read 0x200000: not present"),
        ("0x2000..0x1000", "ends at 0x1000, before its start"),
        ("0xffffffffffffffff,2", "not a range"),
    ] {
        let result = directory.run(&format!("dump vmm.toml {range}"));
        assert_eq!((result.status, result.stdout.as_str()), (Some(105), ""), "{result:?}");
        assert!(result.stderr.contains(words), "{result:?}");
    }
    assert!(!directory.path("part").exists(), "a failed dump leaves no file");
}

/// Returns the path of a built guest. If it is not built, prints that the test is skipped and returns `None`.
fn built_guest(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/build").join(name);
    if !path.exists() {
        println!("skipped: {name} is not built");
        return None;
    }
    Some(path)
}

fn gdb(guest: &Path, core: &Path, commands: &[&str]) -> Option<String> {
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch"]).env("DEBUGINFOD_URLS", "");
    for line in commands {
        command.args(["-ex", line]);
    }
    match command.arg(guest).arg(core).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            // Without locales, gdb's Python warns about the encoding of names. That has nothing to do with the core file.
            let lines = text.lines().filter(|line| !line.contains("from the host encoding"));
            Some(lines.flat_map(|line| [line, "\n"]).collect())
        }
        Err(_) => {
            println!("skipped: there is no gdb");
            None
        }
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn gdb_opens_the_core_of_a_run() {
    let Some(guest) = built_guest("higher-half.elf").filter(|_| program_exists()) else { return };
    let directory = TestDirectory::new(CONFIG);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/higher-half.toml");
    let result = directory.run(&format!("run {} --core core", config.display()));
    assert_eq!((result.status, result.stderr.as_str()), (Some(0), ""));

    let core = directory.path("core");
    let data = fs::metadata(&core).unwrap();
    assert!(data.len() > 2 << 20 && data.blocks() * 512 < 1 << 20, "it is sparse: {} blocks", data.blocks());
    let commands = [
        "info registers rip rax cs",
        "x/i $rip - 1",
        "print answer",
        "x/s 0xffffffff80101000",
        "info line *$rip",
        "x/1xb 0x102000",
    ];
    let Some(text) = gdb(&guest, &core, &commands) else { return };
    for words in [
        // The guest halted in the upper half, with its result in RAX and in memory at both virtual addresses.
        "rip            0xffffffff8010",
        "rax            0x2b                43",
        "cs             0x8                 8",
        "hlt",
        "$1 = 43",
        "\"running in page \"",
        "vmm.h",
        "0x102000:\t0x2b",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(!text.contains("warning"), "{text}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn gdb_opens_the_core_of_a_stopped_32_bit_guest() {
    let Some(guest) = built_guest("hello-protected.elf").filter(|_| program_exists()) else { return };
    let directory = TestDirectory::new(CONFIG);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/protected.toml");
    let result = directory.run(&format!("dump {} --core core --exits 3", config.display()));
    assert_eq!((result.status, result.stdout.as_str()), (Some(0), ""), "{result:?}");
    // Three letters are printed: the third is in AL.
    let Some(text) =
        gdb(&guest, &directory.path("core"), &["print/c $al", "x/i $eip - 2", "info line *$eip"])
    else {
        return;
    };
    assert!(text.contains("$1 = 108 'l'"), "{text}");
    assert!(text.contains("out    %al,$0xe9"), "{text}");
    assert!(!text.contains("warning"), "{text}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_crash_writes_a_core_file_and_a_refused_run_does_not() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::with_guest(&[0x0f, 0x0b], CONFIG);
    assert_eq!(directory.run("run vmm.toml --core core").status, Some(100));
    assert_eq!(&fs::read(directory.path("core")).unwrap()[..4], b"\x7fELF");
    assert_eq!(directory.run("run vmm.toml --core core --force").status, Some(100));
    // The layout is impossible, which is found before the run.
    let result = directory.run("run vmm.toml --core none --set memory.size=\"4KiB\"");
    assert_eq!(result.status, Some(105), "{result:?}");
    assert!(!directory.path("none").exists());
}
