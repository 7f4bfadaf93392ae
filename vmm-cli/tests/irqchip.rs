//! Interrupt controllers in this process: the shipped guests that use interrupts do there what they do with those in the kernel.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

mod support;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use support::{CLI, ProcessResult, program_exists};

/// Configurations of machines with interrupts that end by themselves.
const CONFIGS: [&str; 5] = ["echo", "platform", "rust-kernel", "suspend", "timer-smp"];

fn run(directory: &Path, name: &str, irqchip: &str) -> ProcessResult {
    let config = format!("configs/{name}.toml");
    let input = directory.join(format!("configs/{name}.input"));
    let stdin = File::open(input).map_or_else(|_| Stdio::null(), Stdio::from);
    let output = Command::new(CLI)
        .args(["run", &config, "--set", "interrupts=pc", "--set", &format!("irqchip={irqchip}")])
        .args(["--timeout", "120s"])
        .current_dir(directory)
        .stdin(stdin)
        .output();
    ProcessResult::new(&output.unwrap())
}

#[test]
#[ignore = "needs /dev/kvm"]
fn guests_do_the_same_on_both_kinds_of_interrupt_controllers() {
    if !program_exists() {
        return;
    }
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in CONFIGS {
        let [kernel, userspace] = ["kernel", "userspace"].map(|irqchip| run(&directory, name, irqchip));
        assert_eq!(kernel.status, Some(0), "{name}: {kernel:?}");
        assert_eq!((userspace.status, &userspace.stdout), (Some(0), &kernel.stdout), "{name}: {userspace:?}");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn a_debugger_is_refused_with_a_reason() {
    if !program_exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("gdb");
    let output = Command::new(CLI)
        .args(["run", "configs/timer-smp.toml", "--set", "irqchip=userspace", "--gdb"])
        .arg(&socket)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null())
        .output();
    let result = ProcessResult::new(&output.unwrap());
    assert_eq!(result.status, Some(104), "{result:?}");
    assert!(result.stderr.contains("interrupt controllers in this process cannot be debugged"), "{result:?}");
}
