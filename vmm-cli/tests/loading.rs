//! Segments that are mapped from their file or copied, and files that change during a run.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use support::{CLI, ProcessResult, program_exists};

const BASE: u64 = 0x20_0000;
const SIZE: u64 = 1 << 20;

/// Builds an ELF file with one segment of 1 MiB, which begins `skew` bytes after a page boundary of the file.
fn elf(code: &[u8], skew: u64) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1]);
    file.resize(16, 0);
    file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    file.extend([BASE, 64, 0].iter().flat_map(|long| long.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    file.extend([64_u16, 56, 1, 0, 0, 0].iter().flat_map(|half| half.to_le_bytes()));
    file.extend([1_u32, 7].iter().flat_map(|word| word.to_le_bytes()));
    let offset = 0x1000 + skew;
    file.extend([offset, BASE, BASE, SIZE, SIZE + 0x3000, 1].iter().flat_map(|long| long.to_le_bytes()));
    file.resize(usize::try_from(offset).unwrap(), 0);
    file.extend(code);
    // Each page begins with its number.
    let mut page = 1_u32;
    while file.len() < usize::try_from(offset + SIZE).unwrap() {
        file.resize(usize::try_from(offset).unwrap() + usize::try_from(page).unwrap() * 0x1000, 0x90);
        file.extend(page.to_le_bytes());
        page += 1;
    }
    file.truncate(usize::try_from(offset + SIZE).unwrap());
    file
}

/// Returns code that adds the numbers of all pages, writes to one page, and halts with the sum in RAX.
fn sums() -> Vec<u8> {
    let mut code = vec![0x31, 0xc0, 0xbe]; // xor eax, eax; mov esi, ...
    code.extend(u32::try_from(BASE + 0x1000).unwrap().to_le_bytes());
    code.extend([0xb9, 0xff, 0, 0, 0]); // mov ecx, 255
    // next: add eax, [rsi]; add rsi, 0x1000; dec ecx; jnz next
    code.extend([0x03, 0x06, 0x48, 0x81, 0xc6, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf3]);
    code.extend([0x89, 0x86, 0, 0xf0, 0xff, 0xff]); // mov [rsi-0x1000], eax
    code.extend([0x03, 0x06, 0xf4]); // add eax, [rsi]: of .bss; hlt
    code
}

/// Returns code that prints an empty line and reads all pages, again and again.
fn reads_forever() -> Vec<u8> {
    let mut code = vec![0xb0, b'\n', 0xe6, 0xe9]; // again: mov al, '\n'; out 0xe9, al
    code.push(0xbe); // mov esi, ...
    code.extend(u32::try_from(BASE + 0x1000).unwrap().to_le_bytes());
    code.extend([0xb9, 0xff, 0, 0, 0]); // mov ecx, 255
    code.extend([0x8a, 0x06, 0x48, 0x81, 0xc6, 0, 0x10, 0, 0, 0xff, 0xc9, 0x75, 0xf3]);
    code.extend([0xeb, 0xe3]); // jmp again
    code
}

struct TestDirectory(tempfile::TempDir);

impl TestDirectory {
    fn new(guest: &[u8], memory: &str, loading: &str) -> Self {
        let directory = Self(tempfile::tempdir().unwrap());
        fs::write(directory.guest(), guest).unwrap();
        let text = format!(
            "mode = \"long\"\n[memory]\nsize = \"4MiB\"\n{memory}\n[guest]\nelf = \"guest.elf\"\n\
             loading = \"{loading}\"\n[limits]\ntime = \"2m\"\n"
        );
        fs::write(directory.0.path().join("vm.toml"), text).unwrap();
        directory
    }

    fn guest(&self) -> PathBuf {
        self.0.path().join("guest.elf")
    }

    fn cli(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CLI);
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Returns how `explain` describes the loading of the segment.
    fn explain_loading(&self) -> Value {
        let output = self.cli(&["explain", "--format", "json", "vm.toml"]).output().unwrap();
        let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
        explained.pointer("/files/0/loading/0").unwrap().clone()
    }
}

#[test]
fn explain_shows_how_a_segment_is_loaded() {
    if !program_exists() {
        return;
    }
    let of =
        |skew, memory, loading| TestDirectory::new(&elf(&sums(), skew), memory, loading).explain_loading();
    let mapped = of(0, "", "map");
    assert_eq!(mapped["mapped"]["start"], "0x200000");
    assert_eq!(mapped["mapped"]["file_offset"], "0x1000");
    assert_eq!((&mapped["mapped"]["size"], &mapped["copied"]), (&SIZE.into(), &0.into()));
    for (skew, memory, loading, because) in [
        (0, "", "auto", "it is small"),
        (0, "", "copy", "the configuration wants it"),
        (16, "", "map", "its offset in the file and its address differ in the lowest 12 bits"),
        (0, "backing = \"memfd\"", "map", "the memory there is shared or made of huge pages"),
    ] {
        let copied = of(skew, memory, loading);
        assert_eq!((&copied["because"], &copied["copied"]), (&because.into(), &SIZE.into()));
    }
    let text = TestDirectory::new(&elf(&sums(), 0), "", "map").cli(&["explain", "vm.toml"]).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("  segment 0 is mapped: 1 MiB of the file from 0x1000 at 0x200000\n"), "{text}");
    assert!(text.contains("-> 0x100000 bytes of guest.elf from 0x1000, private, fixed\n"), "{text}");
}

#[test]
#[ignore = "needs /dev/kvm"]
fn mapped_and_copied_segments_have_the_same_contents() {
    if !program_exists() {
        return;
    }
    for (skew, memory, loading) in [
        (0, "", "copy"),
        (0, "", "map"),
        (16, "", "map"),
        (0, "huge-pages = true", "map"),
        (0, "backing = \"memfd\"", "auto"),
    ] {
        let guest = elf(&sums(), skew);
        let directory = TestDirectory::new(&guest, memory, loading);
        // 1 + 2 + ... + 255, and nothing from .bss.
        let expected = ["--set", "expect.registers.rax=32640"];
        let result = ProcessResult::new(
            &directory.cli(&[&["run", "vm.toml"], &expected[..]].concat()).output().unwrap(),
        );
        assert_eq!(
            (result.status, result.stdout.as_str()),
            (Some(0), ""),
            "{memory} {loading}: {}",
            result.stderr
        );
        assert!(fs::read(directory.guest()).unwrap() == guest, "the guest wrote to its file");
    }
}

/// Runs a guest that reads its pages forever, and calls `change` with its file when it runs. A guest that then still reads all its
/// pages several times is interrupted. The machine has interrupts: without them, a copy replaces mapped pages that are read
/// often, and a change after that is no error.
fn run_and_change(loading: &str, change: impl FnOnce(&Path)) -> ProcessResult {
    let directory = TestDirectory::new(&elf(&reads_forever(), 0), "", loading);
    let mut command = directory.cli(&["run", "vm.toml", "--set", "interrupts=\"split\""]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0]).unwrap();
    change(&directory.guest());
    if output.read_exact(&mut [0; 20]).is_ok() {
        let kill = format!("kill -INT {}", child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
    std::io::copy(&mut output, &mut std::io::sink()).unwrap();
    ProcessResult::new(&child.wait_with_output().unwrap())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_file_that_is_changed_while_its_guest_runs_is_an_error_of_the_host() {
    if !program_exists() {
        return;
    }
    let shorter = |path: &Path| File::options().write(true).open(path).unwrap().set_len(0x2000).unwrap();
    let other = |path: &Path| File::options().write(true).open(path).unwrap().write_all(b"new").unwrap();
    let replaced = |path: &Path| {
        let new = path.with_extension("new");
        fs::write(&new, b"another file").unwrap();
        fs::rename(new, path).unwrap();
    };
    for (result, problem) in [
        (run_and_change("map", shorter), "guest.elf became shorter while it was in use"),
        (run_and_change("map", other), "guest.elf was written to while it was in use"),
    ] {
        assert_eq!(result.status, Some(106), "{problem}: {}", result.stderr);
        assert!(result.stderr.contains(problem), "{}", result.stderr);
    }
    // A change of a copied file, and another file under the same name, are no errors.
    for result in [run_and_change("copy", shorter), run_and_change("map", replaced)] {
        assert_eq!(result.status, Some(130), "{}", result.stderr);
    }
}

/// A thread shortens and restores the file all the time, while commands plan and run it. Each command ends with one of its own
/// exit statuses, and is not killed by a signal.
#[test]
#[ignore = "needs /dev/kvm"]
fn a_file_that_changes_all_the_time_kills_no_process() {
    if !program_exists() {
        return;
    }
    let guest = elf(&sums(), 0);
    let directory = TestDirectory::new(&guest, "", "map");
    /// Ends the thread also after a failed assertion.
    struct SetOnDrop<'a>(&'a AtomicBool);
    impl Drop for SetOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = SetOnDrop(&done);
        scope.spawn(|| {
            let file = File::options().write(true).open(directory.guest()).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.set_len(0x1000).unwrap();
                file.write_all_at(&guest[0x1000..], 0x1000).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
        });
        let mut statuses = BTreeMap::new();
        for turn in 0..24 {
            let command = ["check", "explain", "run"][turn % 3];
            let result = ProcessResult::new(&directory.cli(&[command, "vm.toml"]).output().unwrap());
            assert!(matches!(result.status, Some(0 | 100 | 102 | 105 | 106)), "{command}: {result:?}");
            *statuses.entry(result.status).or_insert(0) += 1;
        }
        println!("statuses: {statuses:?}");
    });
}
