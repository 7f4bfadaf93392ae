//! ELF files with their configuration in a note, with `run`, `check` and `test`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

#[path = "support/golden.rs"]
mod golden;
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use golden::Goldens;
use rustix::fs::{CWD, Mode, mkfifoat};
use support::{CLI, ProcessResult, program_exists};

/// Builds a 64-bit ELF file: `code` at 0x8000, and a note of `owner` with `text` (gABI, "ELF Header", "Program Header", "Note Section").
fn elf(code: &[u8], owner: &[u8; 4], text: &str) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let mut note = Vec::new();
    for word in [4, u32::try_from(text.len()).unwrap(), 1] {
        note.extend(u32::to_le_bytes(word));
    }
    note.extend(owner);
    note.extend(text.as_bytes());
    let (code_size, note_size) = (u64::try_from(code.len()).unwrap(), u64::try_from(note.len()).unwrap());

    // e_ident, ET_EXEC, EM_X86_64, version; entry, program headers, no section headers, flags; sizes and counts.
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for word in [0x8000_u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // PT_LOAD, readable and executable; PT_NOTE.
    for (kind, flags, offset, address, size) in
        [(1_u32, 5_u32, HEADERS, 0x8000, code_size), (4, 4, HEADERS + code_size, 0, note_size)]
    {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [offset, address, address, size, size, 1] {
            file.extend(word.to_le_bytes());
        }
    }
    file.extend(code);
    file.extend(note);
    file
}

/// `mov $'A', %al; out %al, $0xe9; hlt`
const PRINTS: &[u8] = &[0xb0, b'A', 0xe6, 0xe9, 0xf4];

fn cli(directory: &Path, arguments: &[&str]) -> ProcessResult {
    let mut command = Command::new(CLI);
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    ProcessResult::new(&command.output().unwrap())
}

#[test]
fn a_note_with_an_expect_makes_an_elf_file_a_test() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
    write(
        "a",
        &elf(PRINTS, b"vmm\0", "mode = \"long\"\n[expect]\n[matrix]\nmemory.size = [\"1MiB\", \"2MiB\"]\n"),
    );
    write("b.elf", &elf(PRINTS, b"vmm\0", "mode = \"long\"\n"));
    write("c.elf", &elf(PRINTS, b"GNU\0", "mode = \"long\"\n[expect]\n"));
    write("d.txt", b"mode = \"long\"\n[expect]\n");
    let listed = cli(directory.path(), &["test", "--list", "a", "."]);
    assert_eq!(
        (listed.status, listed.stdout.as_str()),
        (Some(0), "a[memory.size=1MiB]\na[memory.size=2MiB]\n")
    );
    // Found by a search only, it is counted and named.
    let unnamed = cli(directory.path(), &["test", "--list"]);
    let note = "note: 1 ELF file with a configuration inside was not run: a; name it, or use --trust-note\n";
    assert_eq!(unnamed.status, Some(105));
    assert!(unnamed.stderr.starts_with(note), "{unnamed:?}");
    let trusted = cli(directory.path(), &["test", "--list", "--trust-note"]);
    assert_eq!((trusted.status, trusted.stdout), (Some(0), listed.stdout));
    write("t.toml", b"mode = \"long\"\n[expect]\n");
    write("z", &elf(PRINTS, b"vmm\0", "mode = \"long\"\n[expect]\n"));
    let json = cli(directory.path(), &["test", "--list", "--format", "json"]);
    let lines: Vec<&str> = json.stdout.lines().collect();
    assert_eq!(lines[0], r#"{"type":"unnamed-notes","files":["a","z"]}"#);
    assert_eq!(lines[1..], [r#"{"type":"case","name":"t.toml","file":"t.toml"}"#]);
    let none = cli(directory.path(), &["test", "b.elf"]);
    assert!(none.stderr.contains("note: b.elf has no [expect]"), "{none:?}");
    assert_eq!(cli(directory.path(), &["check", "a", "b.elf", "c.elf"]).status, Some(0));
}

#[test]
fn errors_in_a_note_show_its_text() {
    let directory = tempfile::tempdir().unwrap();
    let check = |note: &str| {
        fs::write(directory.path().join("guest.elf"), elf(PRINTS, b"vmm\0", note)).unwrap();
        let result = cli(directory.path(), &["check", "guest.elf"]);
        assert_eq!(result.status, Some(105), "{result:?}");
        result.stderr
    };
    let shown = check("mode = \"long\"\nmemroy.size = \"2MiB\"\n");
    assert!(shown.contains("--> guest.elf:2:1") && shown.contains("did you mean `memory`?"), "{shown}");
    let shown = check("mode = \"long\"\nguest.elf = \"other.elf\"\n");
    assert!(shown.contains("named twice") && shown.contains("--> guest.elf:2:13"), "{shown}");
    // Generated text is not shown.
    let shown = check("mode = \"real\"\nmemory.size = \"4KiB\"\n");
    assert!(shown.contains("--> guest.elf") && !shown.contains("guest.file ="), "{shown}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_note_configures_run_and_test() {
    if !program_exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let with_output = |text: &str| {
        let note = format!("mode = \"long\"\n[expect]\nend = \"halt\"\noutput = \"{text}\"\n");
        fs::write(directory.path().join("guest"), elf(PRINTS, b"vmm\0", &note)).unwrap();
    };
    with_output("A");
    let ran = cli(directory.path(), &["run", "guest"]);
    assert_eq!((ran.status, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "A", ""));
    let tested = cli(directory.path(), &["test", "guest"]);
    assert_eq!(tested.status, Some(0), "{tested:?}");
    assert!(tested.stdout.starts_with("passed  guest ("), "{tested:?}");
    with_output("B");
    assert_eq!(cli(directory.path(), &["run", "guest"]).status, Some(103));
    assert_eq!(cli(directory.path(), &["run", "guest", "--set", "expect.output=A"]).status, Some(0));
    assert_eq!(cli(directory.path(), &["test", "--trust-note"]).status, Some(103));
}

/// Directory `own` with files that a note may name, beside files that it may not.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let own = place.own();
        fs::create_dir_all(own.join("sub")).unwrap();
        fs::create_dir(own.join("directory.bin")).unwrap();
        fs::write(own.join("../secret"), [b's'; 512]).unwrap();
        fs::write(own.join("../secret-long"), "s").unwrap();
        fs::write(own.join("disk"), [0; 512]).unwrap();
        fs::write(own.join("sub/file"), "f").unwrap();
        for (target, link) in [
            ("../secret", "link-out"),
            ("..", "link-top"),
            ("itself", "itself"),
            ("/dev/zero", "device"),
            ("sub/file", "link-in"),
        ] {
            symlink(target, own.join(link)).unwrap();
        }
        mkfifoat(CWD, own.join("fifo"), Mode::RUSR | Mode::WUSR).unwrap();
        place
    }

    fn own(&self) -> PathBuf {
        self.0.path().join("own")
    }

    /// Writes `guest.elf` with a note.
    fn with_note(&self, text: &str) -> &Self {
        fs::write(self.own().join("guest.elf"), elf(PRINTS, b"vmm\0", text)).unwrap();
        self
    }

    fn cli(&self, arguments: &[&str]) -> ProcessResult {
        cli(&self.own(), arguments)
    }
}

/// Every file in `bad-notes/` is a note that asks for more than it may. With `--trust-note` each is accepted, or fails for
/// another reason.
#[test]
fn each_note_that_asks_for_more_than_it_may_is_refused() {
    if !program_exists() {
        return;
    }
    let notes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-notes");
    let mut goldens = Goldens::new("bad-notes");
    let place = Place::new();
    for entry in fs::read_dir(notes).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        place.with_note(&text);
        let ProcessResult { status, stdout, stderr } = place.cli(&["check", "guest.elf"]);
        assert_eq!((status, stdout.as_str()), (Some(105), ""), "{}: {stderr}", path.display());
        let root = place.0.path().canonicalize().unwrap();
        goldens = goldens.with(path.with_extension("stderr"), stderr.replace(root.to_str().unwrap(), "ROOT"));
        let trusted = place.cli(&["check", "guest.elf", "--trust-note"]);
        assert!(!trusted.stderr.contains("--trust-note"), "{}: {trusted:?}", path.display());
    }
    goldens.check(&["stderr"]);
}

#[test]
fn options_of_the_command_line_are_not_confined() {
    let place = Place::new();
    place.with_note("mode = \"long\"\nload = { file = \"link-in\", address = 0x2_0000 }\n");
    let accepts = |options: &[&str]| {
        let checked = place.cli(&[&["check", "guest.elf"], options].concat());
        assert_eq!(checked.status, Some(0), "{options:?}: {checked:?}");
        checked.stdout
    };
    assert!(accepts(&[]).ends_with("  its own configuration; a run reads guest.elf, link-in\n"));
    let shown = accepts(&["--set", "load.file=/etc/passwd"]);
    assert!(shown.ends_with("  its own configuration; a run reads guest.elf, /etc/passwd\n"), "{shown}");
    accepts(&["--set", "load.file=../secret"]);
    accepts(&["--set", "devices.hypercall.host-addresses=true"]);
    accepts(&["--set", "devices.virtio=[{ type = \"block\", file = \"../secret\", writable = true }]"]);
    // An option for another key leaves the note's own value confined.
    place.with_note("mode = \"long\"\nload = { file = \"../secret\", address = 0x2_0000 }\n");
    let refused = place.cli(&["check", "guest.elf", "--set", "load.address=0x3_0000", "--mode", "long"]);
    assert_eq!(refused.status, Some(105));
    assert!(refused.stderr.contains("`load.file` names ../secret"), "{refused:?}");
}

#[test]
fn a_link_to_an_elf_file_is_confined_to_the_directory_of_its_target() {
    let place = Place::new();
    let top = place.0.path();
    symlink("own/guest.elf", top.join("link.elf")).unwrap();
    let check = |file: &str| {
        place.with_note(&format!("mode = \"long\"\nload = {{ file = \"{file}\", address = 0x2_0000 }}\n"));
        cli(top, &["check", "link.elf"])
    };
    assert_eq!(check("sub/file").status, Some(0));
    let refused = check("../secret");
    assert!(refused.stderr.contains("which is outside of"), "{refused:?}");
}

#[test]
fn commands_that_do_more_than_a_run_refuse_a_note() {
    let place = Place::new();
    place.with_note("mode = \"long\"\n");
    for command in ["check", "explain", "preflight"] {
        assert_eq!(place.cli(&[command, "guest.elf"]).status, Some(0), "{command}");
    }
    for command in [
        &["bench", "guest.elf"][..],
        &["snapshot", "guest.elf", "-o", "x"],
        &["translate", "guest.elf", "0"],
        &["pages", "guest.elf"],
        &["dump", "guest.elf", "0,64"],
    ] {
        let refused = place.cli(command);
        assert_eq!(refused.status, Some(105), "{command:?}: {refused:?}");
        assert!(refused.stderr.contains("if you trust it, add `--trust-note`"), "{command:?}: {refused:?}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn matrix_and_input_of_a_note_are_confined() {
    if !program_exists() {
        return;
    }
    let place = Place::new();
    let note =
        "mode = \"long\"\nload = { file = \"link-in\", address = 0x2_0000 }\n[expect]\nend = \"halt\"\n";
    let test = |more: &str, options: &[&str]| {
        place.with_note(&format!("{note}{more}"));
        place.cli(&[&["test", "guest.elf"], options].concat())
    };
    assert_eq!(test("", &[]).status, Some(0));
    let refused = test("[matrix]\nload.file = [\"../secret\"]\n", &[]);
    assert_eq!(refused.status, Some(103));
    assert!(refused.stdout.contains("`load.file` names ../secret"), "{refused:?}");
    symlink("../secret", place.own().join("guest.input")).unwrap();
    let refused = test("", &[]);
    assert_eq!(refused.status, Some(103));
    assert!(refused.stdout.contains("cannot read the case's input: it is outside of"), "{refused:?}");
    assert_eq!(test("", &["--trust-note"]).status, Some(0));
}
