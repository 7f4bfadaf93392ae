//! `guests/template-kernel` as its user sees it: copied elsewhere, then `cargo run` and `cargo test`.
//!
//! Cargo starts what it has built with the runner that the template names, `vmm-cli run`. On the nested host the same
//! runner works through `cargo xtask nested`. What counts is the exit status that reaches cargo, and through it us.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::record::{Place, Record, Subject, Verdict};
use crate::failure::{Failure, Result, While};
use crate::guests;
use crate::process::capture;
use crate::workspace::Workspace;

/// One cargo command builds in seconds; on the nested host each kernel takes a boot of it.
const WATCHDOG: Duration = Duration::from_secs(180);

/// A test that fails: cargo has to hear of it.
const FAILING: &str = "#![no_std]\n#![no_main]\n\n\
    template_kernel::tests! {\n    fn two_is_one() {\n        assert_eq!(2, 1);\n    }\n}\n";

/// A cargo command and what has to come of it.
struct Step {
    arguments: &'static [&'static str],
    status: i32,
    /// What cargo or the kernel has to say.
    says: &'static str,
}

const STEPS: [Step; 3] = [
    Step { arguments: &["run"], status: 0, says: "Hello from a kernel" },
    Step {
        arguments: &["test", "--test", "basic", "--test", "should_panic"],
        status: 0,
        says: "test the_cpu_is_in_long_mode ... ok",
    },
    // The status of the one test program that failed, which is that of vmm-cli, and that is the kernel's.
    Step { arguments: &["test", "--test", "failing"], status: 3, says: "exit status: 3" },
];

/// Runs all steps on one host; `refusal` says why that host cannot be used, if so.
pub(super) fn run(
    workspace: &Workspace,
    cli: &Path,
    place: Place,
    refusal: Option<&str>,
) -> Result<Vec<Record>> {
    let record = |step: &Step, verdict| Record {
        subject: Subject::Test,
        place,
        name: format!("template-kernel: cargo {}", step.arguments.join(" ")),
        verdict,
    };
    let refusal = match (refusal, guests::rust_target()) {
        (Some(reason), _) => Some(reason.to_owned()),
        (None, target) => target.err(),
    };
    if let Some(reason) = refusal {
        return Ok(STEPS.iter().map(|step| record(step, Verdict::Skipped(reason.clone()))).collect());
    }
    let folder = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
    copy(&workspace.path("guests/template-kernel"), folder.path())?;
    add_failing_test(folder.path())?;
    let target = workspace.path("target/template-kernel");
    let mut records = Vec::new();
    for step in &STEPS {
        let mut cargo = workspace.cargo();
        cargo.current_dir(folder.path()).args(step.arguments).arg("--target-dir").arg(&target);
        // What is set for our own build is not meant for the kernel's.
        for name in ["CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
            cargo.env_remove(name);
        }
        set_runner(&mut cargo, cli, place)?;
        records.push(record(step, step.judge(&mut cargo)));
    }
    Ok(records)
}

impl Step {
    fn judge(&self, cargo: &mut Command) -> Verdict {
        let captured = match capture(cargo, None, WATCHDOG) {
            Ok(captured) => captured,
            Err(error) => return Verdict::Failed(format!("cannot run cargo: {error}")),
        };
        let said = captured.stdout + &captured.stderr;
        let wrong = match captured.status {
            None => format!("no end after {} s", WATCHDOG.as_secs()),
            Some(status) if status.code() != Some(self.status) => {
                format!("cargo: {status} instead of {}", self.status)
            }
            Some(_) if !said.contains(self.says) => format!("nobody said `{}`", self.says),
            Some(_) => return Verdict::Passed,
        };
        Verdict::Failed(format!("{wrong}\n{said}"))
    }
}

/// Here the runner is found in PATH, as on a user's machine. For the nested host another takes its place.
fn set_runner(cargo: &mut Command, cli: &Path, place: Place) -> Result<()> {
    let trouble = |error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot prepare the template's runner: {error}"))
    };
    match place {
        Place::Here => {
            let own = cli.parent().map(Path::to_owned).into_iter();
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::env::join_paths(own.chain(std::env::split_paths(&path)));
            cargo.env("PATH", path.map_err(|error| trouble(&error))?);
        }
        Place::Nested => {
            let xtask = std::env::current_exe().map_err(|error| trouble(&error))?;
            let runner = format!("{} nested -- vmm-cli run", xtask.display());
            cargo.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_RUNNER", runner);
        }
    }
    Ok(())
}

/// Copies a tree, but for what cargo has built in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).while_doing("create", to)?;
    for entry in from.read_dir().while_doing("list", from)? {
        let source = entry.while_doing("list", from)?.path();
        let destination = to.join(source.file_name().unwrap_or_default());
        if source.is_file() {
            fs::copy(&source, &destination).while_doing("copy", &source)?;
        } else if !source.ends_with("target") {
            copy(&source, &destination)?;
        }
    }
    Ok(())
}

fn add_failing_test(folder: &Path) -> Result<()> {
    let test = folder.join("tests/failing.rs");
    fs::write(&test, FAILING).while_doing("write", &test)?;
    let manifest: PathBuf = folder.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).while_doing("read", &manifest)?;
    let text = format!("{text}\n[[test]]\nname = \"failing\"\nharness = false\n");
    fs::write(&manifest, text).while_doing("write", &manifest)
}
