//! Kernels without a configuration, and options for them: `check` and `explain`, which need no KVM.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use vmm_cli::config::{Config, Overrides, Start, StartChoice};
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{CpuidPolicy, HaltPolicy, Interrupts};
use vmm_loader::boot::Protocol;

use support::{CLI, ProcessResult, program_exists};

/// Builds a Multiboot kernel with load addresses at 2 MiB: the header, then HLT.
fn kernel(flags: u32) -> Vec<u8> {
    let (magic, at) = (0x1bad_b002_u32, 0x20_0000);
    let flags = flags | 1 << 16;
    let sum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let words = [magic, flags, sum, at, at, 0, 0, at + 0x20];
    [words.iter().flat_map(|word: &u32| word.to_le_bytes()).collect(), vec![0xf4; 16]].concat()
}

struct TestDirectory(tempfile::TempDir);

impl TestDirectory {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        Self(directory)
    }

    /// Returns exit status, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output =
            Command::new(CLI).args(arguments).current_dir(&self.0).stdin(Stdio::null()).output().unwrap();
        let ProcessResult { status, stdout, stderr } = ProcessResult::new(&output);
        (status, stdout, stderr)
    }

    fn explain(&self, arguments: &[&str]) -> Value {
        let arguments = [&["explain", "--format", "json"], arguments].concat();
        let (status, stdout, stderr) = self.run(&arguments);
        assert_eq!(status, Some(0), "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    }
}

#[test]
fn a_kernel_needs_no_configuration() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(&[("kernel", &kernel(0)), ("one", b"1"), ("two", b"22")]);
    let options = ["kernel", "--cmdline", "42", "--initrd", "one", "--module", "two=a=b", "--memory", "8MiB"];
    let explained = directory.explain(&options);
    assert_eq!(explained["machine"]["mode"], "protected");
    assert_eq!(explained["machine"]["entry"], "0x200020");
    assert_eq!(explained["boot"]["protocol"], "multiboot");
    let boot_info: Vec<&str> =
        explained["boot"]["told"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(boot_info[1], "mem_lower 639 KiB, mem_upper 7168 KiB");
    assert_eq!(boot_info[2], "command line \"kernel 42\"");
    assert_eq!(boot_info[4..], ["module 0x201000..0x201001 \"one\"", "module 0x202000..0x202002 \"a=b\""]);
    // The bytes for the kernel are files like any other.
    let names: Vec<&str> =
        explained["files"].as_array().unwrap().iter().filter_map(|file| file["name"].as_str()).collect();
    assert_eq!(names, ["kernel", "one", "two", "boot loader"]);
    let eax = explained["registers"].as_array().unwrap().iter().find(|register| register["name"] == "rax");
    assert_eq!(eax.unwrap()["value"], "0x2badb002");
    assert_eq!(eax.unwrap()["why"], "the boot protocol, multiboot");
}

#[test]
fn options_replace_and_extend_the_configuration() {
    if !program_exists() {
        return;
    }
    let config = b"memory = { size = \"8MiB\" }\nguest = { file = \"kernel\", cmdline = \"x\", module = { file = \"one\" } }\n";
    let directory =
        TestDirectory::new(&[("vm.toml", config), ("kernel", &kernel(0)), ("one", b"1"), ("two", b"2")]);
    let boot_info = |arguments: &[&str]| directory.explain(arguments)["boot"]["told"].to_string();
    assert!(boot_info(&["vm.toml"]).contains("kernel x"));
    let boot_info = boot_info(&["vm.toml", "--cmdline", "y", "--module", "two"]);
    assert!(
        boot_info.contains("kernel y") && boot_info.contains("one") && boot_info.contains("two"),
        "{boot_info}"
    );
    let (status, _, stderr) = directory.run(&["check", "vm.toml", "--module", "three"]);
    assert!(status == Some(105) && stderr.contains("three does not exist"), "{stderr}");
}

#[test]
fn options_override_the_detection() {
    if !program_exists() {
        return;
    }
    let directory = TestDirectory::new(&[("kernel", &kernel(1 << 2))]);
    let (status, _, stderr) = directory.run(&["check", "kernel"]);
    assert_eq!(status, Some(105));
    assert!(stderr.contains("the kernel demands a video mode"), "{stderr}");
    let flat = ["kernel", "--boot", "flat", "--mode", "protected", "--set", "guest.address=0x300000"];
    assert_eq!(directory.explain(&flat)["machine"]["entry"], "0x300000");
    let (status, _, stderr) = directory.run(&["check", "kernel", "--boot", "pvh"]);
    assert!(status == Some(105) && stderr.contains("not an ELF file"), "{stderr}");
    let (status, _, stderr) = directory.run(&["check", "kernel", "--boot", "multiboot", "--mode", "long"]);
    assert!(
        status == Some(105) && stderr.contains("multiboot starts the guest in protected mode, not long"),
        "{stderr}"
    );
}

#[test]
fn a_file_that_is_no_kernel_is_one_error() {
    if !program_exists() {
        return;
    }
    let object = Path::new("/proc/self/exe");
    let program = fs::read(object).unwrap();
    let directory = TestDirectory::new(&[
        ("empty", b""),
        ("text", b"Dear all,\nthis is no kernel.\n"),
        ("script", b"#!/bin/sh\nexit 0\n"),
        ("packed", b"\x1f\x8b\x08\0\0\0\0\0"),
        ("noise", &[0x0f, 0x0b, 0xff, 0x80]),
        ("program", &program),
        ("sector", &[vec![0xf4; 510], vec![0x55, 0xaa], vec![0; 512]].concat()),
    ]);
    for (file, what) in [
        ("empty", "an empty file"),
        ("text", "text, and no kernel"),
        ("script", "a script for /bin/sh"),
        ("packed", "gzip-compressed"),
        ("noise", "no format that is known here"),
        ("program", "a dynamically linked program"),
        ("sector", "a disk image of 1 KiB that begins with a boot sector"),
    ] {
        let (status, stdout, stderr) = directory.run(&["run", file]);
        assert_eq!((status, stdout.as_str()), (Some(105), ""), "{file}: {stderr}");
        assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
        assert!(stderr.contains(what) && stderr.contains(&format!("--> {file}")), "{stderr}");
    }
}

fn config(text: &str) -> Config {
    Config::from_text(text, Path::new("vm.toml"), &Overrides::new()).unwrap()
}

#[test]
fn a_configuration_decides_protocol_and_mode_or_leaves_them_open() {
    let memory = "memory = { size = \"2MiB\" }\n";
    let start = |text: &str| config(&format!("{text}{memory}")).start;
    let known = |protocol, mode| StartChoice { protocol: Some(protocol), mode };
    assert_eq!(start("guest.file = \"k\"\n"), StartChoice::default());
    assert_eq!(start("guest.elf = \"k\"\n"), StartChoice::default());
    assert_eq!(start("mode = \"pae\"\nguest.elf = \"k\"\n"), known(Protocol::Elf, Some(Mode::Pae)));
    assert_eq!(start("boot = \"elf\"\nguest.elf = \"k\"\n"), known(Protocol::Elf, None));
    assert_eq!(start("boot = \"linux\"\nguest.file = \"k\"\n"), known(Protocol::Linux, None));
    assert_eq!(
        start("boot = \"multiboot\"\nguest.file = \"k\"\n"),
        known(Protocol::Multiboot, Some(Mode::Protected))
    );
    assert_eq!(
        start("boot = \"boot-sector\"\nguest.file = \"k\"\n"),
        known(Protocol::BootSector, Some(Mode::Real))
    );
}

#[test]
fn a_boot_protocol_selects_a_pc() {
    let text = "memory = { size = \"2MiB\" }\nguest.file = \"k\"\n";
    let open = config(text);
    let decide = |protocol, mode| open.machine(Start { protocol, mode }).unwrap();
    let plain = decide(Protocol::Elf, Mode::Long);
    assert_eq!(
        (plain.interrupts, plain.halt, plain.cpuid),
        (Interrupts::None, HaltPolicy::Success, CpuidPolicy::None)
    );
    assert!(!plain.devices.platform.acpi);
    let pc = decide(Protocol::Multiboot, Mode::Protected);
    assert_eq!((pc.interrupts, pc.halt, pc.cpuid), (Interrupts::Pc, HaltPolicy::Hung, CpuidPolicy::Host));
    assert!(pc.devices.platform.acpi);
    // Keys in the file take precedence.
    let text = format!("halt = \"success\"\ninterrupts = \"none\"\ncpuid = \"none\"\n{text}");
    let start = Start { protocol: Protocol::Multiboot, mode: Mode::Protected };
    let pinned = config(&text);
    let pinned = pinned.machine(start).unwrap();
    assert_eq!(
        (pinned.interrupts, pinned.halt, pinned.cpuid),
        (Interrupts::None, HaltPolicy::Success, CpuidPolicy::None)
    );
    // An error that depends on the mode is reported when the mode is known.
    let wide = config("memory = { size = \"2MiB\" }\nguest.file = \"k\"\nregisters = { r8 = 1 }\n");
    let error = wide.machine(start).unwrap_err();
    assert!(error.0[0].message.contains("no register `r8`"), "{error}");
}
