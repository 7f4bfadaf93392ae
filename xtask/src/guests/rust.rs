//! Builds guests in Rust, for `x86_64-unknown-none`.
//!
//! If the target is not installed and rustup cannot add it, these guests are left out and reported by name.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::manifest::CargoGuest;
use crate::failure::{Failure, Result};
use crate::progress::say;
use crate::workspace::Workspace;

/// Rust target for kernels: soft-float code without a red zone.
const TARGET: &str = "x86_64-unknown-none";

/// Availability of the Rust target, checked at most once.
#[derive(Default)]
pub(super) struct RustTarget {
    missing: Option<std::result::Result<(), String>>,
}

impl RustTarget {
    /// Checks that the target is installed, and adds it if possible. The error is the reason.
    pub(super) fn require(&mut self) -> std::result::Result<(), String> {
        self.missing.get_or_insert_with(|| if is_installed() { Ok(()) } else { add() }).clone()
    }
}

/// Builds a package in the guest's `folder` and returns the path of its program.
pub(super) fn build(package: &CargoGuest, folder: &Path, workspace: &Workspace) -> Result<PathBuf> {
    let target = workspace.path("target/guests");
    let mut cargo = workspace.cargo();
    cargo.current_dir(folder.join(&package.folder)).args([
        "build",
        "--quiet",
        "--release",
        "--target",
        TARGET,
    ]);
    cargo.args(["--package", &package.name, "--target-dir"]).arg(&target);
    let status = cargo.status().map_err(|error| Failure::new(format!("cannot start cargo: {error}")))?;
    if !status.success() {
        return Err(Failure::new(format!(
            "cannot build the guest {}: cargo ended with {status}",
            package.name
        )));
    }
    Ok(target.join(TARGET).join("release").join(&package.name))
}

fn is_installed() -> bool {
    let output = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

fn add() -> std::result::Result<(), String> {
    say(format_args!("adding the Rust target {TARGET}"));
    let added =
        Command::new("rustup").args(["--quiet", "target", "add", TARGET]).stdin(Stdio::null()).output();
    match added {
        Ok(output) if output.status.success() => Ok(()),
        Ok(_) | Err(_) => Err(format!("there is no Rust target {TARGET}; try: rustup target add {TARGET}")),
    }
}
