//! Every file in `bad-toml/` is a configuration with an error; the file beside it has the expected messages. The errors in
//! `bad-layout/` are found by `vmm-cli check` after it has read the guest's file.
//!
//! A comment at the top of a file describes the error. This test reads two forms of comments: `# mistakes: 3` for a file with
//! another number of errors than one, and `# option: --set key=value` for options of the command line. `UPDATE_GOLDEN=1` writes
//! the expected texts; read the difference before a commit.

#![expect(clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests")]

#[path = "support/golden.rs"]
mod golden;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use golden::Goldens;
use support::{CLI, ProcessResult, program_exists};
use vmm_cli::config::{Config, Overrides};
use vmm_cli::diagnostic::{Diagnostics, Location, json};
use vmm_cli::status::Status;

fn files_in(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let entries = fs::read_dir(directory).expect("the directory can be read");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    paths
}

fn files() -> Vec<PathBuf> {
    files_in("bad-toml")
}

/// Returns the values of comments of the form `# name: value`.
fn comments<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let marked =
        text.lines().filter_map(|line| line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(": "));
    marked.collect()
}

fn overrides(text: &str) -> Overrides {
    let mut overrides = Overrides::new();
    for option in comments(text, "option") {
        match option.split_once(' ') {
            Some(("--set", assignment)) => overrides.set(assignment),
            Some(("--mode", name)) => overrides.mode(name),
            Some(("--timeout", duration)) => overrides.timeout(duration),
            _ => panic!("unknown option `{option}`"),
        }
    }
    overrides
}

fn mistakes(path: &Path, text: &str) -> Diagnostics {
    let name = PathBuf::from(path.file_name().expect("a file name"));
    match Config::from_text(text, &name, &overrides(text)) {
        Ok(_) => panic!("{} is accepted", path.display()),
        Err(mistakes) => mistakes,
    }
}

#[test]
fn each_mistake_is_shown_as_expected() {
    let mut goldens = Goldens::new("bad-toml");
    for path in files() {
        let text = fs::read_to_string(&path).expect("UTF-8");
        goldens = goldens.with(path.with_extension("stderr"), mistakes(&path, &text).to_plain());
    }
    goldens.check(&["stderr"]);
}

/// Returns the number of errors that a comment in the file gives.
fn number_of_mistakes(path: &Path, text: &str) -> usize {
    match comments(text, "mistakes").as_slice() {
        [] => 1,
        [number] => number.parse().expect("a number of mistakes"),
        _ => panic!("two numbers of mistakes in {}", path.display()),
    }
}

/// Builds an ELF file of one HLT instruction at 1 MiB, without symbols.
fn elf() -> Vec<u8> {
    let (address, header, program) = (0x10_0000_u64, 64_u16, 56_u16);
    let code = u64::from(header + program);
    let halves = |values: &[u16]| values.iter().flat_map(|half| half.to_le_bytes()).collect::<Vec<_>>();
    let words = |values: &[u32]| values.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let longs = |values: &[u64]| values.iter().flat_map(|long| long.to_le_bytes()).collect::<Vec<_>>();
    let identification = [b"\x7fELF\x02\x01\x01".as_slice(), &[0; 9]].concat();
    [
        identification,
        halves(&[2, 62]),
        words(&[1]),
        longs(&[address, u64::from(header), 0]),
        words(&[0]),
        halves(&[header, program, 1, 0, 0, 0]),
        words(&[1, 5]),
        longs(&[code, address, address, 1, 1, 1]),
        vec![0xf4],
    ]
    .concat()
}

/// Guests of the configurations: `guest.bin`, a page of HLT instructions, and `guest.elf`.
#[test]
fn each_mistake_in_a_layout_is_shown_as_expected() {
    if !program_exists() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("guest.bin"), [0xf4; 0x1000]).expect("the guest is written");
    fs::write(directory.path().join("guest.elf"), elf()).expect("the guest is written");
    let mut goldens = Goldens::new("bad-layout");
    for path in files_in("bad-layout") {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let name = path.file_name().expect("a file name");
        fs::write(directory.path().join(name), &text).expect("the configuration is written");
        let mut check = Command::new(CLI);
        let output = check.arg("check").arg(name).current_dir(&directory).stdin(Stdio::null()).output();
        let ProcessResult { status, stdout, stderr } = ProcessResult::new(&output.expect("the program runs"));
        assert_eq!((status, stdout.as_str()), (Some(105), ""), "{}: {stderr}", path.display());
        let count = stderr.lines().filter(|line| line.starts_with("error: ")).count();
        assert_eq!(count, number_of_mistakes(&path, &text), "{}:\n{stderr}", path.display());
        goldens = goldens.with(path.with_extension("stderr"), stderr);
    }
    goldens.check(&["stderr"]);
}

#[test]
fn each_file_has_the_number_of_mistakes_in_its_comment() {
    for path in files() {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let expected = number_of_mistakes(&path, &text);
        let mistakes = mistakes(&path, &text);
        assert_eq!(mistakes.0.len(), expected, "{}:\n{mistakes}", path.display());
        assert_eq!(mistakes.status(), Status::Configuration);
    }
}

#[test]
fn messages_have_one_form() {
    for path in files() {
        let text = fs::read_to_string(&path).expect("UTF-8");
        for mistake in mistakes(&path, &text).0 {
            let syntax = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("syntax"));
            let texts = [Some(&mistake.message), mistake.help.as_ref()];
            for shown in texts.into_iter().flatten().filter(|_| !syntax) {
                assert!(!shown.ends_with(['.', '!']), "{}: {shown}", path.display());
                assert!(!shown.contains('\n'), "{}: {shown}", path.display());
                assert!(!shown.starts_with(|c: char| c.is_uppercase()), "{}: {shown}", path.display());
            }
            if let Location::Text(place) = &mistake.location {
                assert!(place.span.start <= place.source.text.len(), "{}", path.display());
            }
        }
    }
}

#[test]
fn the_json_form_has_the_same_mistakes() {
    for path in files() {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let mistakes = mistakes(&path, &text);
        let value: serde_json::Value = serde_json::from_str(&json::render(&mistakes)).expect("JSON");
        let rows = value.as_array().expect("an array");
        assert_eq!(rows.len(), mistakes.0.len());
        for (row, mistake) in rows.iter().zip(&mistakes.0) {
            assert_eq!(row["message"], mistake.message.as_str());
            assert_eq!(row["status"], 105);
            let has_place = matches!(mistake.location, Location::Text(_));
            assert_eq!(row["line"].as_u64().is_some_and(|line| line >= 1), has_place, "{}", path.display());
        }
    }
}
