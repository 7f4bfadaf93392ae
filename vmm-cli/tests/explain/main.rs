//! `vmm-cli explain`: the explanation of every shipped configuration (golden files), its formats, and errors.
//!
//! The guests are replacements (`fake_guests.rs`), so the golden files do not depend on a compiler. `golden/` has the whole
//! explanation of the configurations of the five modes and of a PC. The other files there have only the differences to the
//! explanation of their mode, so that a changed sentence changes few files.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]
#![expect(clippy::cast_possible_truncation, reason = "the numbers in a replacement are small")]

mod fake_guests;
#[path = "../support/golden.rs"]
mod golden;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use fake_guests::{TestDirectory, shipped};
use golden::Goldens;

/// Exit status, standard output and standard error of a process.
struct ProcessResult(Option<i32>, String, String);

impl TestDirectory {
    fn run_explain(&self, arguments: &[&str]) -> ProcessResult {
        let output = Command::new(env!("CARGO_BIN_EXE_vmm-cli"))
            .arg("explain")
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        ProcessResult(output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn explain_ok(&self, arguments: &[&str]) -> String {
        let ProcessResult(status, stdout, stderr) = self.run_explain(arguments);
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        stdout
    }
}

/// Configurations with their whole explanation in a golden file: one for each mode, and the PC.
const FULL: [&str; 6] = ["real", "protected", "paged", "pae", "long", "platform"];

/// Explains all configurations: the whole text for those in [`FULL`], the differences to the mode's text for the others.
fn goldens(directory: &TestDirectory) -> Goldens {
    let mut goldens = Goldens::new("explain/golden");
    for path in shipped() {
        let config = Path::new("configs").join(&path).display().to_string();
        let is_full = FULL.iter().any(|name| path == Path::new(name).with_extension("toml"));
        goldens = if is_full {
            goldens.with(path.with_extension("txt"), directory.explain_ok(&[&config]))
        } else {
            // The mode's configuration is the left one, so that a plus marks what the other one adds.
            let base = format!("configs/{}.toml", mode(directory, &config));
            goldens.with(path.with_extension("diff"), directory.explain_ok(&[&base, "--diff", &config]))
        };
    }
    let long = "configs/long.toml";
    directory.explain_ok(&["configs/ring3-long.toml", "--svg", "ring3-long.svg"]);
    goldens
        .with("long-pae.diff", directory.explain_ok(&[long, "--diff", "configs/pae.toml"]))
        .with("long.json", directory.explain_ok(&[long, "--format", "json"]))
        .with("ring3-long.svg", fs::read_to_string(directory.path().join("ring3-long.svg")).unwrap())
}

/// Returns the CPU mode of a configuration, which a boot protocol may decide.
fn mode(directory: &TestDirectory, config: &str) -> String {
    let explained = directory.explain_ok(&[config, "--format", "json"]);
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    explained.pointer("/machine/mode").unwrap().as_str().unwrap().to_owned()
}

#[test]
fn explanations_match_their_golden_files() {
    goldens(&TestDirectory::new()).check(&["diff", "json", "svg", "txt"]);
}

#[test]
fn the_text_has_calls_and_control_bits_with_their_values() {
    let directory = TestDirectory::new();
    let text = directory.explain_ok(&["configs/long.toml"]);
    for words in [
        "KVM_SET_TSS_ADDR                         api.rst 4.36\n               -> 0xfffbd000\n",
        "memory_size      0x200000\n",
        "bit 5  PAE        = 1  8-byte page table entries\n",
        "0x0..=0x1fffff  -> 0x0  2 MiB  1 x 2MiB  rwx supervisor\n",
        "PML4[0] at 0x4000: 0x5007, table at 0x5000, P RW US\n",
        "entry 0x100000 <_start>",
    ] {
        assert!(text.contains(words), "{words}\nis not in\n{text}");
    }
    assert!(text.lines().all(|line| line.chars().count() <= 130), "a line is too long");
}

#[test]
fn json_has_fixed_keys_and_addresses_as_text() {
    let directory = TestDirectory::new();
    let json = directory.explain_ok(&["configs/higher-half.toml", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "config",
        "control_registers",
        "files",
        "flow",
        "gdt",
        "idt",
        "machine",
        "memory",
        "paging",
        "registers",
        "sandbox",
        "segments",
        "tss",
    ];
    assert_eq!(keys, expected);
    assert_eq!(value["machine"]["entry"], "0xffffffff80100000");
    assert_eq!(value["paging"]["ranges"][1]["start"], "0xffffffff80000000");
    assert_eq!(value["memory"]["slots"][0]["size"], 2 << 20);
    assert_eq!(value["flow"][0]["call"], "open(\"/dev/kvm\")");

    let real = directory.explain_ok(&["configs/real.toml", "--format", "json"]);
    let real: serde_json::Value = serde_json::from_str(&real).unwrap();
    assert!(real["paging"].is_null() && real["tss"].is_null());
}

#[test]
fn diff_compares_files_and_modes() {
    let directory = TestDirectory::new();
    let long = "configs/long.toml";
    let none = directory.explain_ok(&[long, "--diff", long]);
    assert_eq!(none, "--- configs/long.toml\n+++ configs/long.toml\n\nno difference\n");
    let other = directory.explain_ok(&[long, "--mode", "protected", "--diff", long, "--format", "json"]);
    let other: serde_json::Value = serde_json::from_str(&other).unwrap();
    let differences = other["differences"].as_array().unwrap();
    let paging = differences.iter().find(|entry| entry["name"] == "CR0.PG (paging)").unwrap();
    assert_eq!(paging["left"], "0: addresses are physical, there are no page tables");
    assert_eq!(paging["right"], "1: there is no long mode without paging");
}

#[test]
fn an_svg_file_is_overwritten_only_with_force() {
    let directory = TestDirectory::new();
    let arguments = ["configs/pae.toml", "--svg", "picture.svg"];
    let picture = directory.path().join("picture.svg");
    fs::write(&picture, "keep me").unwrap();
    let ProcessResult(status, _, stderr) = directory.run_explain(&arguments);
    assert_eq!(status, Some(105));
    assert!(stderr.contains("the file exists") && stderr.contains("overwrite it with --force"), "{stderr}");
    assert_eq!(fs::read_to_string(&picture).unwrap(), "keep me");
    directory.explain_ok(&[&arguments[..], &["--force"]].concat());
    assert!(fs::read_to_string(&picture).unwrap().starts_with("<svg "));
}

#[test]
fn errors_are_those_of_check() {
    let directory = TestDirectory::new();
    fs::write(directory.path().join("bad.toml"), "mode = \"lnog\"\n").unwrap();
    let ProcessResult(status, stdout, stderr) = directory.run_explain(&["bad.toml"]);
    assert_eq!((status, stdout.as_str()), (Some(105), ""));
    assert!(stderr.contains("did you mean `long`"), "{stderr}");
    let ProcessResult(status, ..) =
        directory.run_explain(&["configs/long.toml", "--svg", "x.svg", "--diff", "configs/pae.toml"]);
    assert_eq!(status, Some(105));
}
