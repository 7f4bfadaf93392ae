//! `vmm-cli explain` of every shipped configuration, against golden files, and what it does with files and mistakes.
//!
//! The guests are stand-ins (`fake_guests.rs`), so the files are the same with every compiler. The configurations of the five
//! modes and of a PC have their whole explanation in `golden/`; the others, only the differences to that of their mode, so that
//! a changed sentence rewrites few files.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]
#![expect(clippy::cast_possible_truncation, reason = "the numbers in a stand-in are small")]

mod fake_guests;
#[path = "../support/golden.rs"]
mod golden;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use fake_guests::{Workshop, shipped};
use golden::Goldens;

/// What a process came to: its status, standard output and standard error.
struct Ended(Option<i32>, String, String);

impl Workshop {
    fn explain(&self, arguments: &[&str]) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_vmm-cli"))
            .arg("explain")
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended(output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn explained(&self, arguments: &[&str]) -> String {
        let Ended(status, stdout, stderr) = self.explain(arguments);
        assert_eq!((status, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        stdout
    }
}

/// Configurations with their whole explanation in a golden file: one for each mode, and the PC.
const FULL: [&str; 6] = ["real", "protected", "paged", "pae", "long", "platform"];

/// Explains all configurations: the whole text of those in [`FULL`], the differences to that of the mode for the others.
fn goldens(workshop: &Workshop) -> Goldens {
    let mut goldens = Goldens::new("explain/golden");
    for path in shipped() {
        let config = Path::new("configs").join(&path).display().to_string();
        let is_full = FULL.iter().any(|name| path == Path::new(name).with_extension("toml"));
        goldens = if is_full {
            goldens.with(path.with_extension("txt"), workshop.explained(&[&config]))
        } else {
            // The base is the left one, so that what is special is marked with a plus.
            let base = format!("configs/{}.toml", mode(workshop, &config));
            goldens.with(path.with_extension("diff"), workshop.explained(&[&base, "--diff", &config]))
        };
    }
    let long = "configs/long.toml";
    workshop.explained(&["configs/ring3-long.toml", "--svg", "ring3-long.svg"]);
    goldens
        .with("long-pae.diff", workshop.explained(&[long, "--diff", "configs/pae.toml"]))
        .with("long.json", workshop.explained(&[long, "--format", "json"]))
        .with("ring3-long.svg", fs::read_to_string(workshop.path().join("ring3-long.svg")).unwrap())
}

/// Returns the CPU mode of a configuration, which a boot protocol may decide.
fn mode(workshop: &Workshop, config: &str) -> String {
    let explained = workshop.explained(&[config, "--format", "json"]);
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    explained.pointer("/machine/mode").unwrap().as_str().unwrap().to_owned()
}

#[test]
fn every_configuration_is_explained_as_before() {
    goldens(&Workshop::new()).check(&["diff", "json", "svg", "txt"]);
}

#[test]
fn the_flow_and_the_bits_of_long_mode_are_told_with_real_values() {
    let workshop = Workshop::new();
    let text = workshop.explained(&["configs/long.toml"]);
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
fn json_has_its_keys_and_addresses_are_text() {
    let workshop = Workshop::new();
    let json = workshop.explained(&["configs/higher-half.toml", "--format", "json"]);
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
        "segments",
        "tss",
    ];
    assert_eq!(keys, expected);
    assert_eq!(value["machine"]["entry"], "0xffffffff80100000");
    assert_eq!(value["paging"]["ranges"][1]["start"], "0xffffffff80000000");
    assert_eq!(value["memory"]["slots"][0]["size"], 2 << 20);
    assert_eq!(value["flow"][0]["call"], "open(\"/dev/kvm\")");

    let real = workshop.explained(&["configs/real.toml", "--format", "json"]);
    let real: serde_json::Value = serde_json::from_str(&real).unwrap();
    assert!(real["paging"].is_null() && real["tss"].is_null());
}

#[test]
fn a_machine_does_not_differ_from_itself_and_modes_of_one_file_can_be_compared() {
    let workshop = Workshop::new();
    let long = "configs/long.toml";
    let none = workshop.explained(&[long, "--diff", long]);
    assert_eq!(none, "--- configs/long.toml\n+++ configs/long.toml\n\nno difference\n");
    let other = workshop.explained(&[long, "--mode", "protected", "--diff", long, "--format", "json"]);
    let other: serde_json::Value = serde_json::from_str(&other).unwrap();
    let differences = other["differences"].as_array().unwrap();
    let paging = differences.iter().find(|entry| entry["name"] == "CR0.PG (paging)").unwrap();
    assert_eq!(paging["left"], "0: addresses are physical, there are no page tables");
    assert_eq!(paging["right"], "1: there is no long mode without paging");
}

#[test]
fn a_picture_is_never_written_over_a_file_unless_forced() {
    let workshop = Workshop::new();
    let arguments = ["configs/pae.toml", "--svg", "picture.svg"];
    let picture = workshop.path().join("picture.svg");
    fs::write(&picture, "keep me").unwrap();
    let Ended(status, _, stderr) = workshop.explain(&arguments);
    assert_eq!(status, Some(105));
    assert!(stderr.contains("add --force"), "{stderr}");
    assert_eq!(fs::read_to_string(&picture).unwrap(), "keep me");
    workshop.explained(&[&arguments[..], &["--force"]].concat());
    assert!(fs::read_to_string(&picture).unwrap().starts_with("<svg "));
}

#[test]
fn a_mistake_is_told_as_by_check() {
    let workshop = Workshop::new();
    fs::write(workshop.path().join("bad.toml"), "mode = \"lnog\"\n").unwrap();
    let Ended(status, stdout, stderr) = workshop.explain(&["bad.toml"]);
    assert_eq!((status, stdout.as_str()), (Some(105), ""));
    assert!(stderr.contains("did you mean `long`"), "{stderr}");
    let Ended(status, ..) =
        workshop.explain(&["configs/long.toml", "--svg", "x.svg", "--diff", "configs/pae.toml"]);
    assert_eq!(status, Some(105));
}
