//! Tests `guests/template-kernel` as a user does: copies it and runs `cargo run` and `cargo test` in the copy.
//!
//! Cargo runs the kernel with the runner of the template, `vmm-cli run`, or through `cargo xtask nested`. The exit status of
//! the kernel has to become that of cargo.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::outcome::{TestHost, TestKind, TestResult, Verdict};
use super::selection::Selection;
use crate::failure::{Failure, FileContext, Result};
use crate::guests;
use crate::process::capture;
use crate::workspace::Workspace;

/// Limit for one cargo command, which boots the nested host for each kernel.
const CARGO_TIMEOUT: Duration = Duration::from_secs(900);

/// Source of a failing test.
const FAILING: &str = "#![no_std]\n#![no_main]\n\n\
    template_kernel::tests! {\n    fn two_is_one() {\n        assert_eq!(2, 1);\n    }\n}\n";

/// cargo command with the expected exit status and output.
pub(super) struct CargoStep {
    arguments: &'static [&'static str],
    status: i32,
    /// Text in the output of cargo or the kernel.
    output: &'static str,
}

/// Commands, run in this order.
const CARGO_STEPS: [CargoStep; 3] = [
    CargoStep { arguments: &["run"], status: 0, output: "Hello from a kernel" },
    CargoStep {
        arguments: &["test", "--test", "basic", "--test", "should_panic"],
        status: 0,
        output: "test the_cpu_is_in_long_mode ... ok",
    },
    // The exit status of the kernel, which becomes that of vmm-cli and of the failed test program.
    CargoStep { arguments: &["test", "--test", "failing"], status: 3, output: "exit status: 3" },
];

/// Returns the selected steps.
pub(super) fn select(selection: &mut Selection<'_>) -> Vec<&'static CargoStep> {
    CARGO_STEPS.iter().filter(|step| selection.selects(&step.name())).collect()
}

/// Runs steps on one host. `refusal` is the reason why the host cannot be used.
pub(super) fn run(
    workspace: &Workspace,
    cli: &Path,
    (steps, host): (&[&CargoStep], TestHost),
    refusal: Option<&str>,
) -> Result<Vec<TestResult>> {
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let result = |step: &CargoStep, verdict| {
        let (kind, name) = (TestKind::Test, step.name());
        TestResult { kind, host, rerun: host.rerun(&name), name, verdict }
    };
    let refusal = match (refusal, guests::rust_target()) {
        (Some(reason), _) => Some(reason.to_owned()),
        (None, target) => target.err(),
    };
    if let Some(reason) = refusal {
        return Ok(steps.iter().map(|step| result(step, Verdict::Skipped(reason.clone()))).collect());
    }
    let folder = tempfile::tempdir().while_doing("create a directory in", &std::env::temp_dir())?;
    copy(&workspace.path("guests/template-kernel"), folder.path())?;
    add_failing_test(folder.path())?;
    let target = workspace.path("target/template-kernel");
    let mut results = Vec::new();
    for step in steps {
        let mut cargo = workspace.cargo();
        cargo.current_dir(folder.path()).args(step.arguments).arg("--target-dir").arg(&target);
        // Settings for the build of the workspace must not reach the build of the kernel.
        for name in ["CARGO_BUILD_TARGET", "CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS"] {
            cargo.env_remove(name);
        }
        set_runner(&mut cargo, cli, host)?;
        results.push(result(step, step.verdict(&mut cargo)));
    }
    Ok(results)
}

impl CargoStep {
    fn name(&self) -> String {
        format!("template-kernel: cargo {}", self.arguments.join(" "))
    }

    /// Runs the command and checks status and output.
    fn verdict(&self, cargo: &mut Command) -> Verdict {
        let captured = match capture(cargo, None, CARGO_TIMEOUT) {
            Ok(captured) => captured,
            Err(error) => return Verdict::Failed(format!("cannot run cargo: {error}")),
        };
        let output = captured.stdout + &captured.stderr;
        let wrong = match captured.status {
            None => format!("no end after {} s", CARGO_TIMEOUT.as_secs()),
            Some(status) if status.code() != Some(self.status) => {
                format!("cargo: {status} instead of {}", self.status)
            }
            Some(_) if !output.contains(self.output) => format!("no line `{}`", self.output),
            Some(_) => return Verdict::Passed,
        };
        Verdict::Failed(format!("{wrong}\n{output}"))
    }
}

/// Sets the runner: vmm-cli in `PATH` on this machine, `xtask nested` for the nested host.
fn set_runner(cargo: &mut Command, cli: &Path, host: TestHost) -> Result<()> {
    let trouble = |error: &dyn std::fmt::Display| {
        Failure::new(format!("cannot prepare the template's runner: {error}"))
    };
    match host {
        TestHost::Here => {
            let own = cli.parent().map(Path::to_owned).into_iter();
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::env::join_paths(own.chain(std::env::split_paths(&path)));
            cargo.env("PATH", path.map_err(|error| trouble(&error))?);
        }
        TestHost::Nested => {
            let xtask = std::env::current_exe().map_err(|error| trouble(&error))?;
            let runner = format!("{} nested -- vmm-cli run", xtask.display());
            cargo.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_RUNNER", runner);
        }
    }
    Ok(())
}

/// Copies a directory tree without `target`.
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

/// Adds a test program that fails.
fn add_failing_test(folder: &Path) -> Result<()> {
    let test = folder.join("tests/failing.rs");
    fs::write(&test, FAILING).while_doing("write", &test)?;
    let manifest: PathBuf = folder.join("Cargo.toml");
    let text = fs::read_to_string(&manifest).while_doing("read", &manifest)?;
    let text = format!("{text}\n[[test]]\nname = \"failing\"\nharness = false\n");
    fs::write(&manifest, text).while_doing("write", &manifest)
}
