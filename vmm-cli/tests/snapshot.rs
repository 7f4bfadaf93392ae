//! Snapshots by the program: taken, taken up again, refused where they do not fit, and whole or not there at all.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{CLI, ProcessResult, program_is_here};

/// Prints `abcdefgh` by the debug console and ends with code 0:
/// `mov $'a', %al; 1: out %al, $0xe9; inc %al; cmp $'i', %al; jne 1b; xor %al, %al; out %al, $0xf4`, the same in all modes.
const GUEST: [u8; 14] = [0xb0, b'a', 0xe6, 0xe9, 0xfe, 0xc0, 0x3c, b'i', 0x75, 0xf8, 0x30, 0xc0, 0xe6, 0xf4];
const CONFIG: &str = "mode = \"long\"\nmemory.size = \"MEMORY\"\nguest = { flat = \"guest.bin\", address = 0x8000 }\n\
                      EXTRA\n[expect]\nend = \"exit\"\noutput = \"abcdefgh\"\n";

struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new(memory: &str, extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("guest.bin"), GUEST).unwrap();
        let text = CONFIG.replace("MEMORY", memory).replace("EXTRA", extra);
        fs::write(directory.path().join("a.toml"), text).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CLI);
        command.args(arguments).current_dir(self.directory.path()).stdin(Stdio::null());
        command.env("NO_COLOR", "1");
        command
    }

    fn cli(&self, arguments: &[&str]) -> ProcessResult {
        ProcessResult::new(&self.command(arguments).output().unwrap())
    }

    fn take(&self, exits: &str) -> ProcessResult {
        self.cli(&["snapshot", "a.toml", "--exits", exits, "-o", "snap"])
    }

    fn take_up(&self, config: &str) -> ProcessResult {
        self.cli(&["run", config, "--from", "snap"])
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_run_goes_on_where_the_snapshot_was_taken() {
    if !program_is_here() {
        return;
    }
    let place = Place::new("2MiB", "");
    let taken = place.take("3");
    assert_eq!((taken.status, taken.stdout.as_str()), (Some(0), "abc"), "{}", taken.stderr);
    assert!(taken.stderr.starts_with("snapshot snap: after 3 exits, "), "{}", taken.stderr);
    for _ in 0..2 {
        // What [expect] says of the output, it says of the whole run.
        let up = place.take_up("a.toml");
        assert_eq!((up.status, up.stdout.as_str(), up.stderr.as_str()), (Some(0), "defgh", ""));
    }
    let refused = place.take("4");
    assert_eq!(refused.status, Some(105), "{}", refused.stderr);
    assert!(refused.stderr.contains("the file exists"), "{}", refused.stderr);
    assert_eq!(place.take_up("a.toml").stdout, "defgh", "the file is as it was");
    let after = place.cli(&["snapshot", "a.toml", "--exits", "5", "-o", "snap", "--force"]);
    assert_eq!(after.status, Some(0), "{}", after.stderr);
    assert_eq!(place.take_up("a.toml").stdout, "fgh");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_guest_that_has_ended_leaves_no_snapshot() {
    if !program_is_here() {
        return;
    }
    let place = Place::new("2MiB", "");
    let early = place.take("100");
    assert_eq!(early.status, Some(103), "{}", early.stderr);
    let end = place.cli(&["snapshot", "a.toml", "--end", "-o", "snap"]);
    assert_eq!(end.status, Some(105));
    assert!(end.stderr.contains("the guest has ended, and cannot go on from a snapshot"), "{}", end.stderr);
    assert!(!place.path("snap").exists());
}

#[test]
#[ignore = "needs /dev/kvm"]
fn another_machine_and_another_guest_are_refused() {
    if !program_is_here() {
        return;
    }
    let place = Place::new("2MiB", "");
    assert_eq!(place.take("3").status, Some(0));
    let text = fs::read_to_string(place.path("a.toml")).unwrap();
    fs::write(place.path("b.toml"), text.replace("2MiB", "4MiB")).unwrap();
    let other = place.take_up("b.toml");
    assert_eq!((other.status, other.stdout.as_str()), (Some(105), ""));
    let line = r#"error: the snapshot cannot be used: it is of another machine: `memory.size` was "2MiB" then and is "4MiB" now
 --> b.toml:2:15
  |
2 | memory.size = "4MiB"
  |               ^^^^^^
  |
  = help: the snapshot snap was taken of "#;
    assert!(other.stderr.starts_with(line), "{}", other.stderr);
    let option = place.cli(&["run", "a.toml", "--from", "snap", "--set", "memory.mergeable=false"]);
    let line = "`memory.mergeable` was true then and is false now\n --> command line:1:24";
    assert!(option.stderr.contains(line), "{}", option.stderr);
    assert!(other.stderr.contains("a.toml, after 3 exits"), "{}", other.stderr);
    // A limit is not part of the machine.
    let limited = place.cli(&["run", "a.toml", "--from", "snap", "--timeout", "7s"]);
    assert_eq!((limited.status, limited.stdout.as_str()), (Some(0), "defgh"), "{}", limited.stderr);
    fs::write(place.path("guest.bin"), [GUEST.as_slice(), &[0x90]].concat()).unwrap();
    let changed = place.take_up("a.toml");
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
    if !program_is_here() {
        return;
    }
    let place = Place::new("2MiB", "");
    assert_eq!(place.take("3").status, Some(0));
    let whole = fs::read(place.path("snap")).unwrap();
    let refused = |bytes: &[u8], words: &str| {
        fs::write(place.path("snap"), bytes).unwrap();
        let ended = place.take_up("a.toml");
        let ours = (ended.status, ended.stderr.matches("error: ").count(), ended.stdout.as_str());
        assert_eq!(ours, (Some(105), 1, ""), "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
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
    // One bit in every part of it: the version, the checksum, the sizes, the description, the table, memory.
    let mut places: Vec<usize> = (8..40).collect();
    places.extend((0..60).map(|step| 40 + step * (whole.len() - 40) / 60));
    for (number, at) in places.into_iter().enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (number % 8);
        let words =
            if (8..12).contains(&at) { "and this vmm-cli reads format 2" } else { "the snapshot is " };
        refused(&bytes, words);
    }
    fs::write(place.path("snap"), &whole).unwrap();
    assert_eq!(place.take_up("a.toml").status, Some(0));
    for (file, status) in [("/dev/null", 105), ("/", 105), ("nowhere", 105)] {
        let ended = place.cli(&["run", "a.toml", "--from", file]);
        assert_eq!(
            (ended.status, ended.stderr.matches("error: ").count()),
            (Some(status), 1),
            "{}",
            ended.stderr
        );
    }
}

/// A snapshot that this version has written once, in `tests/snapshots`. It is written with `UPDATE_GOLDEN=1` if there is none,
/// and never again: what changes it needs a new version.
#[test]
#[ignore = "needs /dev/kvm"]
fn the_golden_snapshot_is_taken_up() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots");
    if !program_is_here() || !golden.exists() {
        return;
    }
    let place = Place::new("2MiB", "");
    for name in ["golden.toml", "guest.bin"] {
        fs::copy(golden.join(name), place.path(name)).unwrap();
    }
    let taken = place.cli(&["snapshot", "golden.toml", "--exits", "3", "-o", "snap"]);
    assert_eq!(taken.status, Some(0), "{}", taken.stderr);
    let bytes = fs::read(place.path("snap")).unwrap();
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
    let up = place.cli(&["run", "golden.toml", "--from", file.to_str().unwrap()]);
    if up.status == Some(104) {
        // It was taken on a host of another kind, which is found out when all of it has been read.
        assert!(up.stderr.contains("it was taken "), "{}", up.stderr);
        println!("skipped: {}", up.stderr);
        return;
    }
    assert_eq!((up.status, up.stdout.as_str(), up.stderr.as_str()), (Some(0), "defgh", ""));
}

/// `kill -9` at any moment of the writing: the old file is there or the new one, and no other.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_snapshot_survives_the_death_of_its_writer() {
    if !program_is_here() {
        return;
    }
    let place = Place::new("16MiB", "load = { file = \"noise\", address = 0x100000 }");
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed >> 8
    };
    fs::write(place.path("noise"), (0..8 << 20).map(|_| next().to_le_bytes()[0]).collect::<Vec<u8>>())
        .unwrap();
    assert_eq!(place.take("3").status, Some(0));
    let arguments = ["snapshot", "a.toml", "--exits", "4", "-o", "snap", "--force"];
    let began = Instant::now();
    assert_eq!(place.cli(&arguments).status, Some(0));
    let mut whole = began.elapsed();
    let (mut killed, mut leftovers) = (0, 0);
    for round in 0..100 {
        let exits = if round % 2 == 0 { "3" } else { "4" };
        let mut arguments = arguments;
        arguments[3] = exits;
        let mut child =
            place.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(whole.mul_f64(f64::from(next() % 1000) / 900.0).max(Duration::from_micros(1)));
        // One that is done by then is as good. The next ones get less time then, so that a changing load does not matter.
        let _ = child.kill();
        let done = child.wait().unwrap().success();
        whole = whole.mul_f64(if done { 0.9 } else { 1.02 });
        killed += u32::from(!done);
        let up = place.take_up("a.toml");
        assert!(
            up.status == Some(0) && ["defgh", "efgh"].contains(&up.stdout.as_str()),
            "round {round}: {up:?}"
        );
        // Between getting a name and taking the place of the old file there is a moment; what is left then is whole.
        for name in names(place.directory.path()) {
            if ["a.toml", "guest.bin", "noise", "snap"].contains(&name.as_str()) {
                continue;
            }
            assert!(name.starts_with(".snap.") && name.ends_with(".partial"), "round {round}: {name}");
            let left = place.cli(&["run", "a.toml", "--from", &name]);
            assert_eq!(left.status, Some(0), "round {round}: {name}: {}", left.stderr);
            fs::remove_file(place.path(&name)).unwrap();
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
