//! ELF files with their configuration in a note, with `run`, `check` and `test`.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

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
    let listed = cli(directory.path(), &["test", "--list"]);
    assert_eq!(
        (listed.status, listed.stdout.as_str()),
        (Some(0), "a[memory.size=1MiB]\na[memory.size=2MiB]\n")
    );
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
    let tested = cli(directory.path(), &["test"]);
    assert_eq!(tested.status, Some(0), "{tested:?}");
    assert!(tested.stdout.starts_with("passed  guest ("), "{tested:?}");
    with_output("B");
    assert_eq!(cli(directory.path(), &["run", "guest"]).status, Some(103));
    assert_eq!(cli(directory.path(), &["run", "guest", "--set", "expect.output=A"]).status, Some(0));
    assert_eq!(cli(directory.path(), &["test"]).status, Some(103));
}
