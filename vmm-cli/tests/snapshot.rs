//! `vmm-cli snapshot` and `run --from`: taking and resuming snapshots, refused snapshots, and a killed writer.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{CLI, ProcessResult, program_exists};

/// Prints `abcdefgh` by the debug console and ends with code 0:
/// `mov $'a', %al; 1: out %al, $0xe9; inc %al; cmp $'i', %al; jne 1b; xor %al, %al; out %al, $0xf4`, the same in all modes.
const GUEST: [u8; 14] = [0xb0, b'a', 0xe6, 0xe9, 0xfe, 0xc0, 0x3c, b'i', 0x75, 0xf8, 0x30, 0xc0, 0xe6, 0xf4];
const CONFIG: &str = "mode = \"long\"\nmemory.size = \"MEMORY\"\nguest = { flat = \"guest.bin\", address = 0x8000 }\n\
                      EXTRA\n[expect]\nend = \"exit\"\noutput = \"abcdefgh\"\n";

/// Directory with a guest and its configuration, `a.toml`.
struct TestDirectory {
    root: tempfile::TempDir,
}

impl TestDirectory {
    fn new(memory: &str, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("guest.bin"), GUEST).unwrap();
        let text = CONFIG.replace("MEMORY", memory).replace("EXTRA", extra);
        fs::write(directory.path().join("a.toml"), text).unwrap();
        Self { root: directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CLI);
        command.args(arguments).current_dir(self.root.path()).stdin(Stdio::null());
        command.env("NO_COLOR", "1");
        command
    }

    fn cli(&self, arguments: &[&str]) -> ProcessResult {
        ProcessResult::new(&self.command(arguments).output().unwrap())
    }

    fn take(&self, exits: &str) -> ProcessResult {
        self.cli(&["snapshot", "a.toml", "--exits", exits, "-o", "snap"])
    }

    fn resume(&self, config: &str) -> ProcessResult {
        self.cli(&["run", config, "--from", "snap"])
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_disk_that_is_named_by_a_relative_path_is_the_same_later() {
    if !program_exists() {
        return;
    }
    let disk = "[[devices.virtio]]\ntype = \"block\"\nfile = \"disk.img\"\n";
    let directory = TestDirectory::new("2MiB", disk);
    fs::write(directory.path("disk.img"), [0; 4096]).unwrap();
    let taken = directory.take("3");
    assert_eq!(taken.status, Some(0), "{}", taken.stderr);
    let resumed = directory.resume("a.toml");
    assert_eq!((resumed.status, resumed.stdout.as_str()), (Some(0), "defgh"), "{}", resumed.stderr);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_run_continues_from_the_snapshot() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new("2MiB", "");
    let taken = directory.take("3");
    assert_eq!((taken.status, taken.stdout.as_str()), (Some(0), "abc"), "{}", taken.stderr);
    assert!(taken.stderr.starts_with("snapshot snap: after 3 exits, "), "{}", taken.stderr);
    for _ in 0..2 {
        // `[expect]` checks the output of the whole run.
        let resumed = directory.resume("a.toml");
        assert_eq!(
            (resumed.status, resumed.stdout.as_str(), resumed.stderr.as_str()),
            (Some(0), "defgh", "")
        );
    }
    let refused = directory.take("4");
    assert_eq!(refused.status, Some(105), "{}", refused.stderr);
    assert!(refused.stderr.contains("the file exists"), "{}", refused.stderr);
    assert_eq!(directory.resume("a.toml").stdout, "defgh", "the file is unchanged");
    let after = directory.cli(&["snapshot", "a.toml", "--exits", "5", "-o", "snap", "--force"]);
    assert_eq!(after.status, Some(0), "{}", after.stderr);
    assert_eq!(directory.resume("a.toml").stdout, "fgh");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn an_ended_guest_has_no_snapshot() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new("2MiB", "");
    let early = directory.take("100");
    assert_eq!(early.status, Some(103), "{}", early.stderr);
    let end = directory.cli(&["snapshot", "a.toml", "--end", "-o", "snap"]);
    assert_eq!(end.status, Some(105));
    assert!(end.stderr.contains("the guest has ended, and cannot go on from a snapshot"), "{}", end.stderr);
    assert!(!directory.path("snap").exists());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn snapshots_of_another_machine_or_guest_are_refused() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new("2MiB", "");
    assert_eq!(directory.take("3").status, Some(0));
    let text = fs::read_to_string(directory.path("a.toml")).unwrap();
    fs::write(directory.path("b.toml"), text.replace("2MiB", "4MiB")).unwrap();
    let other = directory.resume("b.toml");
    assert_eq!((other.status, other.stdout.as_str()), (Some(105), ""));
    let line = r#"error: the snapshot cannot be used: it is of another machine: `memory.size` was "2MiB" then and is "4MiB" now
 --> b.toml:2:15
  |
2 | memory.size = "4MiB"
  |               ^^^^^^
  |
  = help: the snapshot snap was taken of "#;
    assert!(other.stderr.starts_with(line), "{}", other.stderr);
    let option = directory.cli(&["run", "a.toml", "--from", "snap", "--set", "memory.mergeable=false"]);
    let line = "`memory.mergeable` was true then and is false now\n --> command line:1:24";
    assert!(option.stderr.contains(line), "{}", option.stderr);
    assert!(other.stderr.contains("a.toml, after 3 exits"), "{}", other.stderr);
    // A limit is not part of the machine.
    let limited = directory.cli(&["run", "a.toml", "--from", "snap", "--timeout", "7s"]);
    assert_eq!((limited.status, limited.stdout.as_str()), (Some(0), "defgh"), "{}", limited.stderr);
    fs::write(directory.path("guest.bin"), [GUEST.as_slice(), &[0x90]].concat()).unwrap();
    let changed = directory.resume("a.toml");
    assert_eq!(changed.status, Some(105));
    assert!(
        changed.stderr.contains("the guest's files have changed since it was taken"),
        "{}",
        changed.stderr
    );
}

#[test]
#[ignore = "needs /dev/kvm"]
fn damaged_and_foreign_files_are_one_error_each() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new("2MiB", "");
    assert_eq!(directory.take("3").status, Some(0));
    let whole = fs::read(directory.path("snap")).unwrap();
    let refused = |bytes: &[u8], words: &str| {
        fs::write(directory.path("snap"), bytes).unwrap();
        let result = directory.resume("a.toml");
        let found = (result.status, result.stderr.matches("error: ").count(), result.stdout.as_str());
        assert_eq!(found, (Some(105), 1, ""), "{}", result.stderr);
        assert!(result.stderr.contains(words), "{words}: {}", result.stderr);
    };
    for length in [0, 1, 7] {
        refused(&whole[..length], "this is not a snapshot");
    }
    for length in [8, 11, 12, 31, 32, 33, 100, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..length], "the snapshot is cut off");
    }
    refused(&[whole.as_slice(), b"more"].concat(), "the snapshot is damaged");
    refused(b"mode = \"long\"\n", "this is not a snapshot");
    refused(&GUEST.repeat(9000), "this is not a snapshot");
    // One changed bit in each part: version, checksum, sizes, description, table, memory.
    let mut places: Vec<usize> = (8..40).collect();
    places.extend((0..60).map(|step| 40 + step * (whole.len() - 40) / 60));
    for (number, at) in places.into_iter().enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (number % 8);
        let words =
            if (8..12).contains(&at) { "and this vmm-cli reads format 2" } else { "the snapshot is " };
        refused(&bytes, words);
    }
    fs::write(directory.path("snap"), &whole).unwrap();
    assert_eq!(directory.resume("a.toml").status, Some(0));
    for (file, status) in [("/dev/null", 105), ("/", 105), ("nowhere", 105)] {
        let result = directory.cli(&["run", "a.toml", "--from", file]);
        assert_eq!(
            (result.status, result.stderr.matches("error: ").count()),
            (Some(status), 1),
            "{}",
            result.stderr
        );
    }
}

/// A snapshot in `tests/snapshots` that was written once with this format version. `UPDATE_GOLDEN=1` writes it only if it does not
/// exist: a change of the format needs a new version.
#[test]
#[ignore = "needs /dev/kvm"]
fn the_golden_snapshot_is_resumed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    if !program_exists() || !golden.exists() {
        return;
    }
    let directory = TestDirectory::new("2MiB", "");
    for name in ["golden.toml", "guest.bin"] {
        fs::copy(golden.join(name), directory.path(name)).unwrap();
    }
    let taken = directory.cli(&["snapshot", "golden.toml", "--exits", "3", "-o", "snap"]);
    assert_eq!(taken.status, Some(0), "{}", taken.stderr);
    let bytes = fs::read(directory.path("snap")).unwrap();
    let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
    let file = golden.join(format!("format-{version}.snap"));
    if !file.exists() {
        assert!(
            std::env::var_os("UPDATE_GOLDEN").is_some(),
            "{} is missing: run with UPDATE_GOLDEN=1",
            file.display()
        );
        fs::write(&file, bytes).unwrap();
    }
    let resumed = directory.cli(&["run", "golden.toml", "--from", file.to_str().unwrap()]);
    if resumed.status == Some(104) {
        // It was taken on another kind of host, which is detected after all of it was read.
        assert!(resumed.stderr.contains("it was taken "), "{}", resumed.stderr);
        println!("skipped: {}", resumed.stderr);
        return;
    }
    assert_eq!((resumed.status, resumed.stdout.as_str(), resumed.stderr.as_str()), (Some(0), "defgh", ""));
}

/// After `kill -9` at any time during writing, the old or the new file exists, and it is complete.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_killed_writer_leaves_a_complete_snapshot() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new("16MiB", "load = { file = \"noise\", address = 0x100000 }");
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 8
    };
    fs::write(directory.path("noise"), (0..8 << 20).map(|_| next().to_le_bytes()[0]).collect::<Vec<u8>>())
        .unwrap();
    assert_eq!(directory.take("3").status, Some(0));
    let arguments = ["snapshot", "a.toml", "--exits", "4", "-o", "snap", "--force"];
    let began = Instant::now();
    assert_eq!(directory.cli(&arguments).status, Some(0));
    let mut whole = began.elapsed();
    let (mut killed, mut leftovers) = (0, 0);
    for round in 0..100 {
        let exits = if round % 2 == 0 { "3" } else { "4" };
        let mut arguments = arguments;
        arguments[3] = exits;
        let mut child =
            directory.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(whole.mul_f64(f64::from(next() % 1000) / 900.0).max(Duration::from_micros(1)));
        // The writer may have finished already. The next ones then get less time, so that a changing load does not matter.
        let _ = child.kill();
        let done = child.wait().unwrap().success();
        whole = whole.mul_f64(if done { 0.9 } else { 1.02 });
        killed += u32::from(!done);
        let resumed = directory.resume("a.toml");
        assert!(
            resumed.status == Some(0) && ["defgh", "efgh"].contains(&resumed.stdout.as_str()),
            "round {round}: {resumed:?}"
        );
        // A writer that is killed between naming its file and renaming it leaves a complete file under the temporary name.
        for name in names(directory.root.path()) {
            if ["a.toml", "guest.bin", "noise", "snap"].contains(&name.as_str()) {
                continue;
            }
            assert!(name.starts_with(".snap.") && name.ends_with(".partial"), "round {round}: {name}");
            let left = directory.cli(&["run", "a.toml", "--from", &name]);
            assert_eq!(left.status, Some(0), "round {round}: {name}: {}", left.stderr);
            fs::remove_file(directory.path(&name)).unwrap();
            leftovers += 1;
        }
    }
    assert!(leftovers < 50, "{leftovers} of 100 writers left a file under another name");
    assert!(killed > 20, "only {killed} of 100 writers were killed before they were done");
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
